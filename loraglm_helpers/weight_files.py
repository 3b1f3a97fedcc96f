"""Weight files of a checkpoint folder, read a shard at a time; files written whole or not at all.

A folder holds ``model.safetensors`` or ``pytorch_model.bin``, or several shards with an index
that says which file has which weight. Reading never executes what a file holds (``.bin`` with
``weights_only=True``); what is written is safetensors, each file complete or absent.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .advice import is_out_of_memory
from .official_config import CheckpointError
from .whole_file import whole_file, write_text

PICKLED = (b"PK", b"\x80")  # how torch.save's files begin: a zip since torch 1.6, a pickle before
SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def find_shards(folder: Path) -> tuple[list[Path], set[str] | None]:
    """The weight files of a folder, and the weights that its index promises (None: no index).

    safetensors go before .bin. Raises CheckpointError naming the files that are not there.
    """
    for index_name, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index_name).is_file():
            where = read_json(folder / index_name).get("weight_map", {})
            files = [folder / name for name in sorted(set(where.values()))]
            absent = [file.name for file in files if not file.is_file()]
            if absent or not files:
                raise CheckpointError(
                    f"{folder / index_name}: shards missing: {', '.join(absent) or 'all'}; "
                    "download them into the same folder"
                )
            return files, set(where)
        if (folder / single).is_file():
            return [folder / single], None
    raise CheckpointError(
        f"{folder}: no weights; expected {', '.join(SINGLE)} or shards with an index"
    )


def holder(folder: Path, name: str) -> Path:
    """The file that holds a weight, or ought to by the index; the folder when nothing tells."""
    for index_name, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index_name).is_file():
            where = read_json(folder / index_name).get("weight_map", {})
            return folder / where[name] if name in where else folder
        if (folder / single).is_file():
            return folder / single
    return folder


def check_whole(file: Path) -> None:
    """CheckpointError for a pointer, or for a safetensors file whose length is not its header's."""
    _refuse_pointer(file)
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise _not_whole(file, error) from error


def read_shard(file: Path, device: str | torch.device = "cpu") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) for every weight of a file; safetensors go straight to ``device``.

    Raises CheckpointError for a file that is cut short, a pointer, or holds more than tensors.
    """
    _refuse_pointer(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt", device=str(device)) as shard:
                for name in shard.keys():  # noqa: SIM118 (not a dict)
                    yield name, shard.get_tensor(name)
        else:
            yield from _read_bin(file).items()
    except pickle.UnpicklingError as error:
        with file.open("rb") as stream:
            start = stream.read(16)
        if not start.startswith(PICKLED):
            raise _not_whole(file, ValueError(f"it begins with {start!r}")) from error
        raise CheckpointError(
            f"{file}: holds Python objects beside tensors, which could run code; use the "
            "safetensors files of this model"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        if is_out_of_memory(error):  # a RuntimeError too, and the file may be whole
            raise
        raise _not_whole(file, error) from error


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, complete or not there."""
    with whole_file(file) as draft:
        save_file(tensors, draft, metadata={"format": "pt"})


def write_json(file: Path, content: dict[str, Any]) -> None:
    """A JSON file, complete or not there."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """A copy, complete or not there; nothing to do when both are one file."""
    if target.exists() and target.samefile(source):
        return
    with whole_file(target) as draft:
        shutil.copyfile(source, draft)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError naming the file when it is absent or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: not there") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a JSON object was expected, found {type(content).__name__}")
    return content


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:  # mapped: only the weights in use take memory
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):  # files older than torch 1.6 cannot be mapped
            raise
        return torch.load(file, map_location="cpu", weights_only=True)


def first_line(error: Exception, length: int) -> str:
    """The first line of what an error says, else its type; at most ``length`` characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:length]


def _not_whole(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file}: not a whole weight file ({file.stat().st_size:,} bytes; "
        f"{first_line(error, 120)}); download it again"
    )


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{file}: a Git LFS pointer, not the weights; run `git lfs pull` in its folder"
            )
