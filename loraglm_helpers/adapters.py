"""Adapters between the official ChatGLM names and the native ones: LoRA, rsLoRA, DoRA, prefixes.

    official → native, same rank r               native → official, rank n·r (n of q, k, v)
    query_key_value: A (r, in), B (rows, r)      A_q ┐         ┌ B_q  0   0  ┐
      q_proj: A, B[q rows]                       A_k ├ stacked │  0  B_k  0  │ block-diagonal
      k_proj: A, B[k rows]                       A_v ┘         └  0   0  B_v ┘
      v_proj: A, B[v rows]                       alpha × n (rsLoRA: × √n), so the scale stays

Both give ΔW = scale · B · A exactly as it was. DoRA's magnitude is one number a row: split or
joined like the rows. Every other layer is only renamed. A P-Tuning v2 prefix: see ``prefix.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GlmConfig

from .adapter_files import Modules, rank_alpha, read_adapter, write_adapter
from .mapping import FusedRows, module_table
from .official_config import CheckpointError, is_official, native_config
from .prefix import import_prefix, is_prefix
from .weight_files import read_json

# What PEFT of the published code's age knows; its LoraConfig stops at any other key.
OLD_KEYS = """alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode
init_lora_weights layer_replication layers_pattern layers_to_transform loftq_config lora_alpha
lora_dropout megatron_config megatron_core modules_to_save peft_type r rank_pattern revision
target_modules task_type use_dora use_rslora""".split()
SHARED_PARTS = ("lora_A.weight", "lora_embedding_A")
Config = GlmConfig | dict[str, Any] | str | Path


def import_adapter(
    src_dir: str | Path, dst_dir: str | Path, config: Config, rope: str = "auto"
) -> Path:
    """An adapter trained on the published ChatGLM code, for the native model; same rank.

    ``config`` is the base model's: a GlmConfig, an official config or its folder; ``rope`` as in
    ``load_glm``, for the last two. A folder with a P-Tuning v2 ``prefix_encoder`` becomes a PEFT
    prefix adapter, its keys rotated by it. Writes ``dst_dir`` and returns it. Raises
    CheckpointError for adapters that cannot be carried over exactly.
    """
    source, config = Path(src_dir), _glm_config(config, rope)
    if is_prefix(source):
        return import_prefix(source, Path(dst_dir), config)
    settings, modules = read_adapter(source)
    table, rows = module_table(config), FusedRows.of(config)
    native: Modules = {}
    scales: dict[str, tuple[int, float]] = {}
    for name, parts in modules.items():
        if name not in table:
            raise CheckpointError(
                f"{source}: {name} is no layer of the official layout of this base"
            )
        for part, tensor in parts.items():
            for new, piece in _pieces(table[name], part, tensor, rows).items():
                native.setdefault(new, {})[part] = piece.contiguous().clone()
        scales |= {new: rank_alpha(settings, name, parts) for new in table[name]}
    names = [name for group in table.values() for name in group]
    return write_adapter(Path(dst_dir), settings, native, scales, names)


def export_adapter(
    src_dir: str | Path, dst_dir: str | Path, config: Config, rope: str = "auto"
) -> Path:
    """A native adapter under the official names, for the published ChatGLM code and its tools.

    Layers that were separate here are one there, so query_key_value gets the sum of the ranks.
    ``config`` and ``rope`` as in ``import_adapter``. Raises CheckpointError, also for DoRA on only
    some of q, k, v: the rows of the others have a magnitude that only the base weights know.
    """
    source, config = Path(src_dir), _glm_config(config, rope)
    settings, modules = read_adapter(source)
    table, rows = module_table(config), FusedRows.of(config)
    unknown = set(modules) - {name for group in table.values() for name in group}
    if unknown:
        raise CheckpointError(f"{source}: {min(unknown)} has no place in the official layout")
    official: Modules = {}
    scales: dict[str, tuple[int, float]] = {}
    for name, group in table.items():
        present = {new: modules[new] for new in group if new in modules}
        if len(group) == 1 and present:
            official[name] = present[group[0]]
            scales[name] = rank_alpha(settings, group[0], official[name])
        elif present:
            ranks = {new: rank_alpha(settings, new, parts) for new, parts in present.items()}
            official[name] = _join(group, present, ranks, rows, bool(settings.get("use_rslora")))
            scales[name] = _joined_scale(list(ranks.values()), bool(settings.get("use_rslora")))
    kept = {key: value for key, value in settings.items() if key in OLD_KEYS}
    return write_adapter(Path(dst_dir), kept, official, scales, list(table))


def _pieces(
    names: tuple[str, ...], part: str, tensor: Tensor, rows: FusedRows
) -> dict[str, Tensor]:
    if len(names) == 1 or part in SHARED_PARTS:
        return dict.fromkeys(names, tensor)
    return dict(zip(names, rows.split(tensor), strict=True))


def _join(
    group: tuple[str, ...],
    present: Modules,
    ranks: dict[str, tuple[int, float]],
    rows: FusedRows,
    rslora: bool,
) -> dict[str, Tensor]:
    """q, k, v adapters → one: A stacked, B block-diagonal with zero rows for untouched layers."""
    width = sum(rank for rank, _ in ranks.values())
    any_b = next(iter(present.values()))["lora_B.weight"]
    blocks = {n: any_b.new_zeros(s, width) for n, s in zip(group, rows.sizes, strict=True)}
    common, at = _scale(next(iter(ranks.values())), rslora), 0
    for name, parts in present.items():
        rank, ratio = ranks[name][0], _scale(ranks[name], rslora) / common
        b = parts["lora_B.weight"]
        blocks[name][:, at : at + rank] = b if ratio == 1 else b * ratio
        at += rank
    joined = {
        "lora_A.weight": torch.cat([parts["lora_A.weight"] for parts in present.values()]),
        "lora_B.weight": rows.fuse(*blocks.values()),
    }
    key = "lora_magnitude_vector"
    magnitudes = [parts[key] for parts in present.values() if key in parts]
    if magnitudes and len(magnitudes) < len(group):
        raise CheckpointError(
            f"{', '.join(present)}: DoRA on only {len(magnitudes)} of q, k and v cannot be joined; "
            "train it on all three, or merge it into the base"
        )
    return joined | ({key: rows.fuse(*magnitudes)} if magnitudes else {})


def _scale(rank_alpha: tuple[int, float], rslora: bool) -> float:
    rank, alpha = rank_alpha
    return alpha / (math.sqrt(rank) if rslora else rank)


def _joined_scale(parts: list[tuple[int, float]], rslora: bool) -> tuple[int, float]:
    """The rank and alpha of a joined layer, so that its scale is the first part's."""
    width, (rank, alpha) = sum(r for r, _ in parts), parts[0]
    growth = width / rank
    growth = int(growth) if growth.is_integer() else growth
    return width, alpha * (math.sqrt(growth) if rslora else growth)


def _glm_config(config: Config, rope: str) -> GlmConfig:
    name = ""
    if isinstance(config, str | Path):
        folder, name = Path(config), Path(config).name
        config = read_json(folder if folder.is_file() else folder / "config.json")
    if isinstance(config, dict):
        official = is_official(config)
        return native_config(config, rope, name) if official else GlmConfig.from_dict(config)
    return config
