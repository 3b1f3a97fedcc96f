"""One training step in parts: the loss of a batch, the optimizer's groups, the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .attention import Segments, segment_lengths
from .head import loss_at_head, plain_head
from .sequences import IGNORED


def batch_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of a batch's target tokens (float32), and their number.

    ``batch`` comes from ``collate``, padded or padding-free. The logits at position i predict
    token i + 1, so they are computed only where the next token is a target. Divide by the
    number of targets of the whole optimizer step, over all its batches and processes.
    """
    labels = batch["labels"]
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][keep[:, :-1]]
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if labels.shape[0] == 1 and "position_ids" in inputs:
        inputs["segments"] = Segments(tuple(segment_lengths(inputs["position_ids"])))
    inputs |= {"logits_to_keep": keep, "use_cache": False}
    head = plain_head(model)
    if head is None:
        logits = model(**inputs).logits
        return cross_entropy(logits.float(), targets, reduction="sum"), targets.numel()
    with loss_at_head(head, targets):
        return model(**inputs).logits, targets.numel()


def optimizer_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: matrices decay, biases and norms do not.

    Told apart by kind, not by name: everything with fewer than two dimensions, and everything
    that a normalisation layer owns, is left undecayed.
    """
    norms = (m for m in model.modules() if "norm" in type(m).__name__.lower())
    of_norms = {id(p) for norm in norms for p in norm.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in of_norms]
    known = {id(p) for p in decayed}
    rest = [p for p in trained if id(p) not in known]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> Any:
    """AdamW (betas 0.9 and 0.999) in one fused kernel where the device has it."""
    groups = optimizer_groups(model, weight_decay)
    if not groups:
        raise ValueError("nothing to train: no parameter of this model asks for a gradient")
    fused = groups[0]["params"][0].device.type in ("cuda", "cpu")
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def schedule_factor(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Share of the learning rate at a step counted from 1: linear up, then linear down.

    It is 1 at the last step of the warm-up, and would be 0 one step after the last.
    """
    warmup = round(total_steps * warmup_ratio)
    if step <= warmup:
        return step / warmup
    return max(0.0, (total_steps + 1 - step) / (total_steps + 1 - max(warmup, 1)))
