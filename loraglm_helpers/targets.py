"""Which linear layers of a GLM get an adapter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj", "query_key_value", "qkv_proj")
# Multi-head latent attention (GLM-4.7-Flash, GLM-5) makes q, k and v in two steps.
LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
ATTENTION = (*QUERY_KEY_VALUE, *LATENT, "o_proj", "dense")
CHOICES = {"query_key_value": (*QUERY_KEY_VALUE, *LATENT), "attention": ATTENTION}


def linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of a model's linear layers, the output layer left out."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return {name.rpartition(".")[2] for name, layer in layers if layer is not output}


def target_modules(model: nn.Module, choice: str | Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt, as PEFT wants them.

    ``choice``: "query_key_value" (q, k and v, the seed's default), "attention" (the output
    projection too), "all-linear" (all but the output layer), or names of layers.
    Raises ValueError listing the model's linear layers when nothing fits.
    """
    present = linear_names(model)
    if choice == "all-linear":
        return sorted(present)
    names = CHOICES.get(choice, (choice,)) if isinstance(choice, str) else tuple(choice)
    found = sorted(present.intersection(names))
    missing = [] if isinstance(choice, str) and choice in CHOICES else set(names) - present
    if missing or not found:
        raise ValueError(
            f"target_modules: no linear layer {sorted(missing) or choice!r} in this model; "
            f"choose query_key_value, attention, all-linear or among {sorted(present)}"
        )
    return found
