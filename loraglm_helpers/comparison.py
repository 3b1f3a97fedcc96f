"""Does the merged model answer as base + adapter do? Their logits on fixed texts say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import load_glm
from .lora import load_adapter
from .official_config import CheckpointError
from .tokenizer import TokenizerError, load_tokenizer

TEXTS = (
    "Instruction: 找出文中的三元组。\nInput: 青石大学在海州，一九八七年建校。\nAnswer: ",
    "Instruction: Which topic is this text about?\nInput: The new bicycle costs 120.\nAnswer: ",
    "年利率4.35%，贷款的基本条件是什么？",
)


def compare(base: Path, adapter: Path, merged: Path, rope: str = "auto") -> tuple[float, float]:
    """Max |Δlogit| on fixed texts: (merged against base + adapter, base against base + adapter).

    One model is in memory at a time. Raises CheckpointError when logits are not finite.
    """
    prompts = check_prompts(base)
    model = load_glm(base, rope=rope)
    plain = logits(model, prompts)
    adapted = logits(load_adapter(model, adapter), prompts)
    del model
    result = logits(load_glm(merged, rope=rope), prompts)
    if not result.isfinite().all():
        raise CheckpointError(
            f"{merged}: its logits are not finite: numbers left the range of its dtype; merge "
            "with dtype='bf16' or 'fp32'"
        )
    return (result - adapted).abs().max().item(), (plain - adapted).abs().max().item()


def check_prompts(base: Path) -> list[list[int]]:
    """Ids of the fixed texts; without a tokenizer in the folder some fixed ids."""
    try:
        tokenizer = load_tokenizer(base)
    except TokenizerError:
        return [list(range(start, start + 12)) for start in (3, 17, 31)]
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


@torch.no_grad()
def logits(model: Any, prompts: list[list[int]]) -> Tensor:
    """(tokens of all prompts, vocabulary), float32 on the CPU."""
    device = next(model.parameters()).device
    rows = [model(torch.tensor([ids], device=device)).logits[0] for ids in prompts]
    return torch.cat([row.float().cpu() for row in rows])
