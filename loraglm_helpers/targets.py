"""Which layers of a GLM get an adapter.

    choice             dense (glm, glm4)             mixture of experts (glm4_moe, glm4_moe_lite)
    query_key_value    q, k, v                       q, k, v, or the latent ones that make them
    attention          and the output projection     and the output projection
    all-linear         and gate_up_proj, down_proj   the same as attention
    experts            –                             the routed experts

In a mixture of experts PEFT takes the names gate_proj, up_proj and down_proj for the routed
experts, as they were called before transformers 5 stacked them, and never reaches the linears of
that name in dense layers and shared experts. So these names are refused there: an adapter on the
routed experts, most of the model's weights, is asked for by "experts".
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj", "query_key_value", "qkv_proj")
# Multi-head latent attention (GLM-4.7-Flash, GLM-5) makes q, k and v in two steps.
LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
ATTENTION = (*QUERY_KEY_VALUE, *LATENT, "o_proj", "dense")
CHOICES = {"query_key_value": (*QUERY_KEY_VALUE, *LATENT), "attention": ATTENTION}
EXPERTS = "experts"
TAKEN_FOR_EXPERTS = {"gate_proj", "up_proj", "down_proj"}


def linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of a model's linear layers that can have an adapter.

    The output layer is left out, and in a mixture of experts the feed-forward layers.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    names = {name.rpartition(".")[2] for name, layer in layers if layer is not output}
    return names - TAKEN_FOR_EXPERTS if expert_parameters(model) else names


def expert_parameters(model: nn.Module) -> list[str]:
    """Names, within a layer, of the routed experts' weights; empty for a dense model.

    transformers keeps the experts of a layer in tensors of shape (experts, out, in), which are
    no linear layers.
    """
    names = (name.split(".") for name, p in model.named_parameters() if p.ndim == 3)
    return sorted({".".join(parts[-3:]) for parts in names if EXPERTS in parts})


def target_modules(model: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt, as PEFT wants them.

    ``choice``: "query_key_value" (q, k and v, the seed's default), "attention" (the output
    projection too), "all-linear" (all but the output layer), names of layers, or several of
    these; "experts" adds none here. Raises ValueError listing the linear layers otherwise.
    """
    present = linear_names(model)
    names = [choice] if isinstance(choice, str) else list(choice)
    groups = CHOICES | {"all-linear": tuple(present), EXPERTS: ()}
    found = present.intersection(n for name in names for n in groups.get(name, (name,)))
    missing = set(names) - set(groups) - present
    if missing or not (found or target_parameters(model, choice)):
        more = " or experts" if expert_parameters(model) else ""
        raise ValueError(
            f"target_modules: no linear layer {sorted(missing) or choice!r} in this model; "
            f"choose query_key_value, attention, all-linear{more} or among {sorted(present)}"
        )
    return sorted(found)


def target_parameters(model: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the routed experts' weights, if ``choice`` has "experts"; else an empty list.

    Each expert gets matrices of its own: experts × rank numbers a row and column.
    Raises ValueError when the model has no such experts.
    """
    if EXPERTS not in ([choice] if isinstance(choice, str) else choice):
        return []
    found = expert_parameters(model)
    if not found:
        raise ValueError("target_modules: this model has no routed experts; leave 'experts' out")
    return found
