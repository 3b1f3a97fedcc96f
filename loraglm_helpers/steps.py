"""One training step in parts: the loss of a batch, the optimizer's groups, the schedule."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .attention import segment_lengths


def reuse_memory() -> bool:
    """Let glibc keep freed blocks, once a process, before training on a CPU.

    By default each large tensor is mapped anew and its pages faulted in one by one, which
    doubles the time of every element-wise operation. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim, top_pad, mmap = -1, -2, -3  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
    settings = {mmap: 32 << 20, trim: 2**31 - 1, top_pad: 64 << 20}
    return all([mallopt(name, size) for name, size in settings.items()])


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
