"""A folder that is written: never over another one unasked, and whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .official_config import CheckpointError

MARKS = {"model": "config.json", "adapter": "adapter_config.json"}


def refuse_target(
    out: Path, sources: tuple[Path, ...], overwrite: bool, kind: str = "model"
) -> None:
    """CheckpointError unless ``out`` may be written: it is absent or empty.

    With ``overwrite`` it may be a folder of this ``kind`` too, "model" or "adapter", but never one
    of the ``sources``, from which it is made.
    """
    if any(out.resolve() == source.resolve() for source in sources):
        raise CheckpointError(f"{out}: holds what is to be read; choose another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    same = (out / MARKS[kind]).is_file() and not any(p.is_dir() for p in out.iterdir())
    if overwrite and same:
        return
    remedy = "overwrite=True (--overwrite) replaces it"
    if not same:
        remedy = f"no {kind}: choose another folder"
    raise CheckpointError(f"{out}: exists and is not empty; {remedy}")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A draft beside ``out`` to write into; it becomes ``out`` at the end, or goes on an error."""
    draft = out.parent / f".{out.name}.{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        yield draft
        _put(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put(draft: Path, out: Path) -> None:
    """Move a finished folder to its place; an older one goes only then."""
    old = draft.with_name(f"{draft.name}.old")
    if out.exists():
        os.replace(out, old)
    os.replace(draft, out)
    shutil.rmtree(old, ignore_errors=True)
