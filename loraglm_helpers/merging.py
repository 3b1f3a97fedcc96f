"""Base + adapter → one model without an adapter, written a tensor at a time and then compared.

    base shards ── tensor ── + ΔW in float32 ── rounded once ──> shards ≤ 2 GB of the merged model
                                                                 │
    logits of base + adapter on fixed texts  ──  compared with  ─┘  its own

Neither model nor adapter is ever copied as a whole. An official base stays in the official
layout, a native one in its own. The folder appears complete, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GlmConfig

from .checkpoints import choose_dtype
from .comparison import compare
from .deltas import Delta
from .locate import NotFoundHere, local_folder
from .mapping import FusedRows, to_native, to_official, weight_table
from .official_config import CheckpointError, is_official, native_config, official_config
from .shard_writer import ShardWriter
from .weight_files import copy_file, find_shards, read_json, read_shard, write_json
from .whole_folder import refuse_target, whole_folder

SIDE_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt")
SIDE_FILES += ("chat_template*", "*LICENSE*")


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: ``str()`` says it in three lines.

    ``kept``: 1 − ‖stored ΔW − ΔW‖ / ‖ΔW‖, the share of the delta that the rounding to ``dtype``
    left. ``difference``: max |Δlogit| between base + adapter and the merged model on fixed
    texts; ``effect``: the same between base and base + adapter. Both None when not verified.
    """

    folder: Path
    layers: int
    dtype: str
    kept: float
    difference: float | None = None
    effect: float | None = None

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.layers} layers merged, stored as {self.dtype}"]
        lines += [f"{self.kept:.1%} of the adapter's change is left after rounding"]
        if self.difference is not None:
            lines += [
                f"logits: the adapter changes them by up to {self.effect:.3g}; the merged model "
                f"differs from base + adapter by up to {self.difference:.3g}"
            ]
        return "\n".join(lines)


def merge(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    verify: bool = True,
    rope: str = "auto",
) -> MergeReport:
    """Write the model that ``base`` with the LoRA ``adapter`` is into the folder ``out``.

    ``base``: a folder or hub name. ``dtype`` None keeps that of each stored weight. ``out`` must
    be absent or empty; ``overwrite`` replaces a model there. ``verify`` loads both and compares
    their logits (memory for one model). ``rope`` as in ``load_glm``. Raises CheckpointError.
    """
    adapter, out = Path(adapter), Path(out)
    delta = Delta.read(adapter)
    try:
        source = local_folder(base)
    except NotFoundHere as error:
        raise CheckpointError(str(error)) from error
    refuse_target(out, (source, adapter), overwrite)
    name = f"{Path(base).name} {source.resolve().name}".lower()
    config = read_json(source / "config.json")
    native = native_config(config, rope, name) if is_official(config) else None
    with whole_folder(out) as draft:
        stored = write_merged(source, delta, draft, native, dtype)
        _write_side_files(source, draft, native, config, stored, dtype is not None)
        compared = compare(source, adapter, draft, rope) if verify else (None, None)
    return MergeReport(out, len(delta.used), stored, delta.kept, *compared)


def write_merged(
    source: Path,
    delta: Delta,
    folder: Path,
    native: GlmConfig | None,
    dtype: str | torch.dtype | None,
) -> str:
    """Write the merged weights into ``folder``; returns the name of the dtype most of them have.

    ``native`` is the config of a base in the official layout, whose fused weights are merged by
    their q, k and v rows; None for a base with the native names.
    """
    target = None if dtype is None else choose_dtype(dtype, torch.device("cpu"))
    table = weight_table(native) if native else {}
    rows = FusedRows.of(native) if native else None
    files, _ = find_shards(source)
    writer, bytes_of = ShardWriter(folder), {}
    with tqdm(total=len(delta.modules), desc="merging", unit="layer") as bar:
        for file in files:
            for name, weight in read_shard(file):
                stored = target if target and weight.is_floating_point() else weight.dtype
                merged = _merged(name, weight, delta, table.get(name, (name,)), rows, stored)
                writer.add(name, merged)
                bytes_of[stored] = bytes_of.get(stored, 0) + merged.nbytes
                bar.update(len(delta.used) - bar.n)
    delta.check_all_used()
    writer.close()
    return str(max(bytes_of, key=bytes_of.get)).removeprefix("torch.")


def _merged(
    name: str,
    weight: Tensor,
    delta: Delta,
    names: tuple[str, ...],
    rows: FusedRows | None,
    dtype: torch.dtype,
) -> Tensor:
    """One stored weight, merged where the adapter changes it or its q, k or v rows."""
    if not any(delta.changes(part) for part in names):
        return weight.to(dtype)
    parts = to_native(names, weight, rows) if rows else {name: weight}
    merged = [
        delta.merged(part, rows_of, dtype) if delta.changes(part) else rows_of.to(dtype)
        for part, rows_of in parts.items()
    ]
    return to_official(merged, rows)


def _write_side_files(
    source: Path,
    folder: Path,
    native: GlmConfig | None,
    config: dict[str, Any],
    dtype: str,
    recast: bool,
) -> None:
    """Tokenizer, licence and generation settings as they were; config.json last."""
    for pattern in SIDE_FILES:
        for file in source.glob(pattern):
            copy_file(file, folder / file.name)
    if (source / "generation_config.json").is_file():
        settings = read_json(source / "generation_config.json")
        write_json(folder / "generation_config.json", settings | {"use_cache": True})
    if native is not None:
        tied = {"tie_word_embeddings": native.tie_word_embeddings}
        config = official_config(native, dtype) | tied
    elif recast:
        config = config | {"dtype": dtype}
        config.pop("torch_dtype", None)
    write_json(folder / "config.json", config | {"use_cache": True})
