"""Files of a LoRA adapter as PEFT writes them: adapter_config.json and the weights by layer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from .official_config import CheckpointError
from .weight_files import read_json, read_shard, write_json, write_tensors

PREFIX = "base_model.model."
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PARTS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_magnitude_vector",
    "lora_embedding_A",
    "lora_embedding_B",
    "weight",
)
REBUILT = ("pissa", "olora", "corda", "loftq", "lora_ga")
Modules = dict[str, dict[str, Tensor]]  # module name → part → tensor


def rank_alpha(settings: dict[str, Any], name: str, parts: dict[str, Tensor]) -> tuple[int, float]:
    """A layer's rank, from its tensor, and alpha, by PEFT's rule for patterns."""
    a = parts.get("lora_A.weight", parts.get("lora_embedding_A"))
    rank = settings["r"] if a is None else a.shape[0]
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank, alpha
    return rank, settings["lora_alpha"]


def read_adapter(folder: Path) -> tuple[dict[str, Any], Modules]:
    """An adapter's settings and its tensors by layer and part; CheckpointError otherwise."""
    settings = read_json(folder / "adapter_config.json")
    _refuse(settings, folder)
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise CheckpointError(f"{folder}: no weights; expected {' or '.join(WEIGHTS)}")
    modules: Modules = {}
    for key, tensor in read_shard(files[0]):
        part = next((p for p in PARTS if key.endswith(f".{p}")), None)
        if part is None or not key.startswith(PREFIX):
            raise CheckpointError(f"{files[0]}: {key} is not a weight of a LoRA adapter")
        modules.setdefault(key[len(PREFIX) : -len(part) - 1], {})[part] = tensor
    if not any("lora_A.weight" in parts for parts in modules.values()):
        raise CheckpointError(f"{files[0]}: no lora_A weights in it; save the adapter again")
    return settings, modules


def _refuse(settings: dict[str, Any], folder: Path) -> None:
    where, kind = folder / "adapter_config.json", settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{where}: peft_type is {kind!r}; LORA (rsLoRA, DoRA) is carried over"
        )
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(REBUILT):
        raise CheckpointError(
            f"{where}: init_lora_weights is {start!r}: it belongs to changed base weights; save it "
            "with PEFT's path_initial_model_for_weight_conversion first, which makes it plain LoRA"
        )
    plain = {"bias": "none", "fan_in_fan_out": False, "lora_bias": False, "use_qalora": False}
    plain |= dict.fromkeys(("layer_replication", "trainable_token_indices"))
    if settings.get("target_parameters"):
        raise CheckpointError(
            f"{where}: target_parameters: routed experts are adapted; merge in memory instead: "
            "load_adapter(model, folder).merge_and_unload(), then save_pretrained"
        )
    for key, expected in plain.items():
        if settings.get(key, expected) != expected:
            raise CheckpointError(f"{where}: {key} is {settings[key]!r}; only {expected!r} is read")


def write_adapter(
    folder: Path,
    settings: dict[str, Any],
    modules: Modules,
    scales: dict[str, tuple[int, float]],
    all_names: list[str],
) -> Path:
    """Write an adapter; ``scales`` has rank and alpha by layer, ``all_names`` every layer there is.

    The commonest rank and alpha become the adapter's own, the others patterns.
    """
    tuned = [name for name, parts in modules.items() if "weight" not in parts]
    ranks, alphas = ({name: scales[name][i] for name in tuned} for i in (0, 1))
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
    saved = {name.rpartition(".")[2] for name in modules if name not in ranks}
    changed = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "target_modules": _targets(tuned, all_names),
        "modules_to_save": sorted(saved) or None,
        "inference_mode": True,
        **dict.fromkeys(("auto_mapping", "layers_to_transform", "layers_pattern")),
        "base_model_name_or_path": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS[0], _flat(modules))
    write_json(folder / "adapter_config.json", settings | changed)
    return folder


def _flat(modules: Modules) -> dict[str, Tensor]:
    return {
        f"{PREFIX}{name}.{part}": tensor.contiguous()
        for name, parts in modules.items()
        for part, tensor in parts.items()
    }


def _targets(tuned: list[str], all_names: list[str]) -> list[str]:
    """Short names where every layer of that name is tuned, full names for the rest."""

    def short(name: str) -> str:
        return name.rpartition(".")[2]

    partly = {short(name) for name in set(all_names) - set(tuned)}
    return sorted({name if short(name) in partly else short(name) for name in tuned})
