"""Weights written as they come: a shard is closed when it is full, named when all are there."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from .weight_files import INDEXES, SINGLE, size_in_bytes, write_json, write_tensors


class ShardWriter:
    """Collects tensors in an empty folder; at most ``max_shard_size`` and one tensor in memory."""

    def __init__(self, folder: Path, max_shard_size: int | str = "2GB") -> None:
        self.folder, self.limit = folder, size_in_bytes(max_shard_size)
        self.open: dict[str, Tensor] = {}
        self.shards: list[list[str]] = []
        self.total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; it is copied where it is a view of a larger one."""
        if sum(t.nbytes for t in self.open.values()) + tensor.nbytes > self.limit:
            self._flush()
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        own = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
        self.open[name] = own
        self.total += tensor.nbytes

    def close(self) -> None:
        """Write what is left and give the shards their names: one file, or shards and an index."""
        self._flush()
        count, where = len(self.shards), {}
        for number, names in enumerate(self.shards):
            final = f"model-{number + 1:05}-of-{count:05}.safetensors" if count > 1 else SINGLE[0]
            os.replace(self.folder / _draft(number), self.folder / final)
            where |= dict.fromkeys(names, final)
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": where}
            write_json(self.folder / INDEXES[0], index)

    def _flush(self) -> None:
        if self.open:
            write_tensors(self.folder / _draft(len(self.shards)), self.open)
            self.shards.append(list(self.open))
            self.open = {}


def _draft(number: int) -> str:
    return f"shard-{number:05}.part"
