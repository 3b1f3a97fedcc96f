"""Whole models between the official ChatGLM layout and transformers' own, folder to folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from .checkpoints import CheckpointError, export_adapter, import_adapter, load_glm, save_official
from .locate import local_folder
from .tokenizer import load_tokenizer
from .weight_files import copy_file, read_json

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json")


def convert_model(
    model: str | Path, to: str, out: str | Path, dtype: str | None = None, rope: str = "auto"
) -> Path:
    """Write ``model`` to ``out`` in the layout ``to`` ("native" or "official").

    The weights keep the dtype that config.json names, unless ``dtype`` is given; then, and in
    any case between layouts, no number changes but by that rounding. A folder without tokenizer
    files gives one without. Raises CheckpointError.
    """
    source, out = local_folder(model), Path(out)
    if out.resolve() == source.resolve():
        raise CheckpointError(f"{out}: the model itself; choose another folder to write to")
    config = read_json(source / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype") or "auto"
    tokenizer = load_tokenizer(source) if has_tokenizer(source) else None
    loaded = load_glm(source, dtype=dtype or stored, device="cpu", rope=rope)
    if to == "official":
        return save_official(loaded, tokenizer, out)
    return save_native(loaded, tokenizer, out)


def convert_adapter(adapter: str | Path, base: str | Path, to: str, out: str | Path) -> Path:
    """Write an adapter to ``out`` under the names of the layout ``to``; ``base`` is its model."""
    if Path(out).resolve() == Path(adapter).resolve():
        raise CheckpointError(f"{out}: the adapter itself; choose another folder to write to")
    carry = import_adapter if to == "native" else export_adapter
    return carry(adapter, out, local_folder(base, weights=False))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def save_native(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """A model and its tokenizer as transformers writes them, config.json the last of the files.

    tokenizer.model comes along where there is one: the way back to the official layout needs it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as part:
        model.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        for file in sorted(Path(part).iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, directory / file.name)
    source = getattr(tokenizer, "sentencepiece_file", None)
    if source is not None and Path(source).is_file():
        copy_file(Path(source), directory / "tokenizer.model")
    return directory
