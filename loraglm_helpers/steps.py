"""One training step in parts: the loss of a batch, the optimizer's groups, the schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .attention import segment_lengths


def batch_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of a batch's target tokens (float32), and their number.

    ``batch`` comes from ``collate``, padded or padding-free. The logits at position i predict
    token i + 1, so they are computed only where the next token is a target. Divide by the
    number of targets of the whole optimizer step, over all its batches and processes.
    """
    labels = batch["labels"]
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    targets = labels[:, 1:][keep[:, :-1]]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if labels.shape[0] == 1 and "position_ids" in inputs:
        inputs["segments"] = segment_lengths(inputs["position_ids"])
    logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits
    loss = cross_entropy(logits.float(), targets, reduction="sum")
    return loss, targets.numel()
