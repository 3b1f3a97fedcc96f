"""The speed that matrix products alone would allow: the bar that a training step is held to.

LoRA needs 2N operations a token forward and 2N backward, to the activations: the frozen weights
ask for no gradient. N counts the layers' matrices at every token, the output layer at targets.
The products are made with the model's own weights, one after the other, into tensors that
stand ready, each direction in float32 on a CPU and in bfloat16 on a GPU.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from contenders import synchronize
from torch import Tensor, nn

from loraglm_helpers.head import chunk_rows, even_rows, tile_columns


@dataclass
class Limit:
    """For an average batch of ``tokens`` and ``targets``: operations, and the fewest seconds."""

    tokens: float
    targets: float
    operations: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        speed, rate = self.tokens / self.seconds, self.operations / self.seconds
        return asdict(self) | {"tokens_per_second": speed, "operations_per_second": rate}


def measure_limit(model: Any, tokens: int, targets: int, repeats: int = 5) -> Limit:
    """The limit of a model with an adapter, at these tokens and targets a batch."""
    base = model.get_base_model()
    head = base.get_output_embeddings().weight
    layers = frozen_matrices(base, head)
    numbers = sum(w.numel() for w in layers) * tokens + head.numel() * targets
    chunk = even_rows(targets, chunk_rows(head.shape[0], head.device.type))
    with torch.no_grad():
        body = best(Products(layers, tokens), repeats)
        # The output layer in pieces, as our loss takes it, or whole: whichever is faster.
        tiles = list(head.split(tile_columns(targets)))
        whole = Products([head], targets), Products([head], targets, chunk)
        top = min(best(products, repeats) for products in (*whole, Products(tiles, targets)))
    return Limit(tokens, targets, 4 * numbers, body + top)


def frozen_matrices(base: nn.Module, head: Tensor) -> list[Tensor]:
    """Weights (out, in) of the linear layers under the adapters, in the model's order."""
    linear = (m.weight for m in base.modules() if type(m) is nn.Linear)
    return [w for w in linear if not w.requires_grad and w is not head]


class Products:
    """x Wᵀ and dy W for each weight, at ``count`` tokens, ``rows`` of them at a time."""

    def __init__(self, weights: list[Tensor], count: int, rows: int | None = None) -> None:
        self.weights, self.count, self.rows = weights, count, rows or count
        self.device = weights[0].device
        widths = {width for w in weights for width in w.shape}
        make = {"device": self.device, "dtype": weights[0].dtype}
        self.given = {width: torch.randn(self.rows, width, **make) for width in widths}
        self.made = {width: torch.empty(self.rows, width, **make) for width in widths}

    def __call__(self) -> None:
        """One pass over the weights."""
        for weight in self.weights:
            out, width = weight.shape
            for start in range(0, self.count, self.rows):
                n = min(self.rows, self.count - start)
                torch.mm(self.given[width][:n], weight.T, out=self.made[out][:n])
                torch.mm(self.given[out][:n], weight, out=self.made[width][:n])


def best(work: Products, repeats: int) -> float:
    """Fewest seconds of a call, the first one left out."""
    work()
    seconds = []
    for _ in range(repeats):
        synchronize(work.device.type)
        began = time.perf_counter()
        work()
        synchronize(work.device.type)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
