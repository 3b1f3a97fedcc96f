"""Weights written in shards, one in memory at a time: as they come, or by a plan of their sizes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .weight_files import INDEXES, SINGLE, write_json, write_tensors


class ShardWriter:
    """Collects tensors in an empty folder; at most ``max_shard_size`` and one tensor in memory.

    A shard is closed when it is full, and named when all are there.
    """

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


def write_shards(
    folder: Path,
    sizes: dict[str, int],
    make: Callable[[str], Tensor],
    max_shard_size: int | str = "2GB",
) -> list[Path]:
    """Write weights as safetensors, one shard in memory at a time; older weight files go.

    ``sizes`` maps each name to its bytes, in the order to be written; ``make(name)`` returns the
    tensor. One file ``model.safetensors`` when all fits in ``max_shard_size``, else shards and an
    index. Returns the files.
    """
    plan = plan_shards(sizes, size_in_bytes(max_shard_size))
    names = [f"model-{i:05}-of-{len(plan):05}.safetensors" for i in range(1, len(plan) + 1)]
    names = ["model.safetensors"] if len(plan) == 1 else names
    folder.mkdir(parents=True, exist_ok=True)
    for file, group in zip(names, plan, strict=True):
        write_tensors(folder / file, {name: make(name).contiguous().cpu() for name in group})
    keep = set(names)
    if len(plan) > 1:
        where = {name: file for file, group in zip(names, plan, strict=True) for name in group}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        write_json(folder / INDEXES[0], index)
        keep.add(INDEXES[0])
    for old in [*folder.glob("model*.safetensors"), folder / INDEXES[0]]:
        if old.name not in keep:
            old.unlink(missing_ok=True)
    return [folder / name for name in names]


def plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in groups of at most ``limit`` bytes, in order; a larger tensor stands alone."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def size_in_bytes(size: int | str) -> int:
    """ "2GB" → 2,000,000,000; a number is already bytes."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    if isinstance(size, int):
        return size
    number, unit = size[:-2], size[-2:].upper()
    if unit not in units or not number.isdigit():
        raise ValueError(f"max_shard_size is {size!r}; write bytes, or like '500MB', '2GB'")
    return int(number) * units[unit]


def _draft(number: int) -> str:
    return f"shard-{number:05}.part"
