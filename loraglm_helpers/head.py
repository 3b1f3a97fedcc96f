"""Cross-entropy at the output layer, a chunk of tokens at a time.

With 65,024 rows in the vocabulary the logits are the largest tensor of a step, kept three times:
as computed, in float32, and as their gradient. Here a chunk's logits are made, turned into the
loss and into the gradient of the hidden states at once, and forgotten.

    loss = Σ (log Σ exp z − z[target])    z = h Wᵀ    dh = (softmax(z) − onehot(target)) W

One exponential a logit serves both: softmax(z) is at most 1 / Σ exp(z − max z), where z is
largest, so log Σ exp z = max z − log max softmax(z).

A frozen output layer on a CPU is walked over the vocabulary instead, as flash attention walks over
keys: a tile's logits are used up while they lie in the cache, a quarter faster. A trained layer
needs the normalised softmax for its own gradient, which is known only after the last tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK = {"cpu": 1 << 24, "cuda": 1 << 27}  # float32 logits in a chunk: 64 MB, 512 MB
TILE = 1 << 22  # float32 logits in a tile: 16 MB
NARROWEST = 256  # vocabulary entries in a tile
FEWEST = 64  # tokens in a chunk: with fewer, reading the weights takes longer than the product


def chunk_rows(vocabulary: int, device_type: str = "cuda") -> int:
    """Most tokens in a chunk."""
    return max(FEWEST, CHUNK.get(device_type, 1 << 24) // vocabulary)


def even_rows(count: int, most: int) -> int:
    """Tokens in each of the fewest, equally long chunks of ``count``; at least 1."""
    return max(1, math.ceil(count / max(1, math.ceil(count / most))))


def tile_columns(count: int) -> int:
    """Vocabulary entries in a tile of logits for ``count`` tokens."""
    return max(NARROWEST, TILE // max(1, count))


def buffers(hidden: Tensor, rows: int, vocabulary: int) -> tuple[Tensor | None, Tensor | None]:
    """Room for a chunk's products and their softmax (rows, vocabulary), used by every chunk.

    On a CPU, where fresh memory costs more than the softmax; elsewhere allocating is cheap.
    """
    if hidden.device.type != "cpu":
        return None, None
    products = hidden.new_empty(rows, vocabulary)
    return products, torch.empty_like(products, dtype=torch.float32)


def first(buffer: Tensor | None, count: int) -> Tensor | None:
    """Its first rows, as an ``out`` argument."""
    return None if buffer is None else buffer[:count]


class HeadLoss(torch.autograd.Function):
    """Sum of cross-entropies (float32) of hidden (n, width), weight (vocabulary, width)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """``targets`` (n,) are ids. The gradients are made here, chunk by chunk."""
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        ctx.dtype = weight.dtype
        if hidden.device.type == "cpu" and not wants_weight:
            loss, d_hidden = by_tiles(hidden, weight.to(hidden.dtype), targets, wants_hidden)
            ctx.save_for_backward(d_hidden, None)
            return loss
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        matrix = weight.to(hidden.dtype)
        loss = torch.zeros((), device=hidden.device)
        rows = even_rows(len(targets), chunk_rows(weight.shape[0], hidden.device.type))
        products, room = buffers(hidden, rows, weight.shape[0])
        for start in range(0, len(targets), rows):
            h, index = hidden[start : start + rows], targets[start : start + rows, None]
            logits = torch.mm(h, matrix.T, out=first(products, len(h))).float()
            slope = torch.softmax(logits, -1, out=first(room, len(h)))
            below = logits.amax(-1, keepdim=True) - logits.gather(1, index)
            loss += (below - slope.amax(-1, keepdim=True).log()).sum()
            del logits
            slope = slope.scatter_add_(1, index, slope.new_full(index.shape, -1.0)).to(h.dtype)
            if wants_hidden:
                torch.mm(slope, matrix, out=d_hidden[start : start + rows])
            if wants_weight:
                d_weight += slope.T @ h
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients made in the forward pass, scaled."""
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else d_hidden * d_loss.to(d_hidden.dtype),
            None if d_weight is None else (d_weight * d_loss).to(ctx.dtype),
            None,
        )


def by_tiles(
    hidden: Tensor, matrix: Tensor, targets: Tensor, wants_hidden: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss, and its gradient for ``hidden`` (n, width), a tile of the vocabulary at a time.

    Sums are kept relative to the largest logit so far, and scaled when a larger one comes.
    """
    count, dtype = len(hidden), hidden.dtype
    tile = tile_columns(count)
    room = hidden.new_empty(count * min(tile, len(matrix)))
    top = hidden.new_full((count, 1), -torch.inf, dtype=torch.float32)
    total, mean = torch.zeros_like(top), torch.zeros_like(hidden, dtype=torch.float32)
    for part in matrix.split(tile):
        products = room[: count * len(part)].view(count, len(part))
        logits = torch.mm(hidden, part.T, out=products).float()
        largest = torch.maximum(top, logits.amax(1, keepdim=True))
        weights, fade = logits.sub_(largest).exp_(), (top - largest).exp_()
        total.mul_(fade).add_(weights.sum(1, keepdim=True))
        if wants_hidden:
            mean.mul_(fade).add_(weights.to(dtype) @ part)
        top = largest
    wanted = matrix[targets].float()
    loss = (top + total.log() - (hidden.float() * wanted).sum(1, keepdim=True)).sum()
    return loss, mean.div_(total).sub_(wanted).to(dtype) if wants_hidden else None


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of ``targets`` (n,) under hidden states (n, width), float32.

    Products are in the autocast region's dtype, else in that of ``hidden``.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        return HeadLoss.apply(hidden.to(dtype), weight, targets)


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The output layer under PEFT's, DDP's and FSDP's wrappers, when it is a plain matrix."""
    inner = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    return head if plain and head.bias is None else None


@contextmanager
def loss_at_head(head: nn.Linear, targets: Tensor) -> Iterator[None]:
    """The model's "logits" are ``head_loss``, made inside the output layer's own call.

    Only there does a process of FSDP have the whole of the layer's weight.
    """
    # An attribute of this one layer, removed again.
    head.forward = lambda hidden: head_loss(hidden, head.weight, targets)
    try:
        yield
    finally:
        del head.forward
