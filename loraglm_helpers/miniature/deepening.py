"""A trained model made deeper: it answers as before, and has more to learn with.

A copy of a layer is put after it, with zeros for what the copy writes into the residual stream:
the output projections of its attention and its MLP. Training then fills them.
Source: Wu et al. 2024, "LLaMA Pro: Progressive LLaMA with Block Expansion".
"""

from __future__ import annotations

from torch import Tensor

LAYERS = "model.layers."
WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def depth(weights: dict[str, Tensor]) -> int:
    """How many layers a state_dict has."""
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(LAYERS))


def deepen(weights: dict[str, Tensor], added: int) -> dict[str, Tensor]:
    """A new state_dict with `added` silent layers, spread evenly over the depth.

    Six layers and two more, silent ones in brackets: 0 1 (1) 2 3 (3) 4 5.
    """
    count = depth(weights)
    silent = [-(-count * (i + 1) // (added + 1)) - 1 for i in range(added)]
    order = sorted([(n, False) for n in range(count)] + [(n, True) for n in silent])
    deeper = {name: w.clone() for name, w in weights.items() if not name.startswith(LAYERS)}
    for place, (layer, is_silent) in enumerate(order):
        prefix = f"{LAYERS}{layer}."
        for name in [name for name in weights if name.startswith(prefix)]:
            part = name.removeprefix(prefix)
            keep = 0.0 if is_silent and part in WRITERS else 1.0
            deeper[f"{LAYERS}{place}.{part}"] = keep * weights[name]
    return deeper
