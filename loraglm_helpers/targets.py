"""Which linear layers of a GLM get an adapter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj", "query_key_value", "qkv_proj")
# Multi-head latent attention (GLM-4.7-Flash, GLM-5) makes q, k and v in two steps.
LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
ATTENTION = (*QUERY_KEY_VALUE, *LATENT, "o_proj", "dense")
EXPERTS = "experts"
CHOICES = {"query_key_value": (*QUERY_KEY_VALUE, *LATENT), "attention": ATTENTION}


def linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of a model's linear layers, the output layer left out."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return {name.rpartition(".")[2] for name, layer in layers if layer is not output}


def target_modules(model: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt, as PEFT wants them.

    ``choice``: "query_key_value" (q, k and v, the seed's default), "attention" (the output
    projection too), "all-linear" (all but the output layer), names of layers, or several of
    these. Routed experts are left out unless "experts" is named, see ``target_parameters``.
    Raises ValueError listing the model's linear layers when nothing fits.
    """
    present = linear_names(model)
    names = [choice] if isinstance(choice, str) else list(choice)
    groups = CHOICES | {"all-linear": tuple(present), EXPERTS: ()}
    found = present.intersection(n for name in names for n in groups.get(name, (name,)))
    missing = set(names) - set(groups) - present
    nothing = not found and not target_parameters(model, choice)
    if missing or nothing:
        raise ValueError(
            f"target_modules: no linear layer {sorted(missing) or choice!r} in this model; "
            f"choose query_key_value, attention, all-linear or among {sorted(present)}"
        )
    return sorted(found)


def target_parameters(model: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the routed experts' weights, if ``choice`` has "experts"; else an empty list.

    transformers keeps the experts of a layer in tensors of shape (experts, out, in), which are
    no linear layers. They are most of a mixture-of-experts model, and each sees few of the
    tokens, so an adapter on them costs experts × rank and is asked for by name.
    Raises ValueError when the model has no such experts.
    """
    if EXPERTS not in ([choice] if isinstance(choice, str) else choice):
        return []
    names = (name.split(".") for name, p in model.named_parameters() if p.ndim == 3)
    found = {".".join(parts[-3:]) for parts in names if EXPERTS in parts}
    if not found:
        raise ValueError("target_modules: this model has no routed experts; leave 'experts' out")
    return sorted(found)
