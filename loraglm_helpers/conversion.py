"""Whole models between the official ChatGLM layout and transformers' own, folder to folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoints import export_adapter, import_adapter, load_glm, save_official
from .locate import local_folder
from .tokenizer import load_tokenizer
from .weight_files import copy_file, read_json
from .whole_folder import refuse_target, whole_folder

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json")


def convert_model(
    model: str | Path,
    to: str,
    out: str | Path,
    dtype: str | None = None,
    rope: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write ``model`` to ``out`` in the layout ``to`` ("native" or "official").

    The weights keep the dtype that config.json names, unless ``dtype`` is given; then, and in
    any case between layouts, no number changes but by that rounding. A folder without tokenizer
    files gives one without. ``out`` must be absent or empty; ``overwrite`` replaces a model there.
    Raises CheckpointError.
    """
    source, out = local_folder(model), Path(out)
    refuse_target(out, (source,), overwrite)
    config = read_json(source / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype") or "auto"
    tokenizer = load_tokenizer(source) if has_tokenizer(source) else None
    loaded = load_glm(model, dtype=dtype or stored, device="cpu", rope=rope)
    save = save_official if to == "official" else save_native
    with whole_folder(out) as draft:
        save(loaded, tokenizer, draft)
    return out


def convert_adapter(
    adapter: str | Path,
    base: str | Path,
    to: str,
    out: str | Path,
    rope: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write an adapter to ``out`` under the names of the layout ``to``; ``base`` is its model.

    ``rope`` as in ``load_glm``: a prefix is rotated by it. ``out`` as in ``convert_model``, but an
    adapter is replaced.
    """
    source, out = local_folder(base, weights=False), Path(out)
    refuse_target(out, (source, Path(adapter)), overwrite, "adapter")
    carry = import_adapter if to == "native" else export_adapter
    with whole_folder(out) as draft:
        carry(adapter, draft, base, rope)
    return out


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def save_native(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """A model and its tokenizer as transformers writes them.

    A SentencePiece tokenizer.model comes along: the way back to the official layout needs it.
    """
    directory = Path(directory)
    model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    source = getattr(tokenizer, "sentencepiece_file", None)
    if source is not None and Path(source).is_file():
        copy_file(Path(source), directory / "tokenizer.model")
    return directory
