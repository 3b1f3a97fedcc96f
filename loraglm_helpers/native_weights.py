"""Folders with transformers' own names ("-hf" repositories, saved models), loaded and checked.

transformers loads them; what it would leave to random numbers, or report without naming the file,
is refused here: a file that is cut short, a weight that is missing or has another shape.

transformers would map all shards until loading ends, so that a change of dtype counted every file
beside the model. Here each weight opens its file when it is needed and lets go of it at once.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .official_config import CheckpointError
from .weight_files import check_whole, find_shards, holder


def load_native(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The model of a native folder; CheckpointError says what is wrong with one that is not whole.

    ``config`` is the content of its config.json. On the ``meta`` device the model stays empty.
    """
    _check_kind(folder, config.get("model_type"))
    if device.type == "meta":
        with device:
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    files = find_shards(folder)[0]
    for file in files:
        check_whole(file)
    try:
        own = AutoConfig.from_pretrained(folder)
        model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(own)].from_pretrained(
            **_source(folder, files, own),
            dtype=dtype,
            device_map={"": device},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with the shapes
        )
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{folder}: {said}") from error
    _check_report(folder, report)
    model.name_or_path = model.config.name_or_path = str(folder)
    return model


def _check_kind(folder: Path, kind: Any) -> None:
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} is unknown to this transformers; for a "
            "GLM take the '-hf' repository, or a newer transformers"
        )
    if CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} writes no text; take the "
            "repository of a GLM"
        )


class _Weight:
    """One weight of a safetensors file, read when it is indexed."""

    def __init__(self, file: Path, name: str) -> None:
        self.file, self.name = file, name

    def __getitem__(self, index: Any) -> torch.Tensor:
        with safe_open(self.file, "pt") as shard:
            return shard.get_slice(self.name)[index]


def _source(folder: Path, files: list[Path], config: PreTrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` is to read: the weights of safetensors files, else the folder."""
    if files[0].suffix != ".safetensors":
        return {"pretrained_model_name_or_path": folder, "config": config}
    weights: dict[str, _Weight] = {}
    for file in files:
        with safe_open(file, "pt") as shard:
            weights |= {name: _Weight(file, name) for name in shard.keys()}  # noqa: SIM118
    source = {"pretrained_model_name_or_path": None, "state_dict": weights, "config": config}
    if (folder / "generation_config.json").is_file():
        source["generation_config"] = GenerationConfig.from_pretrained(folder)
    return source


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights missing: {', '.join(missing[:3])}; they would be "
            "random numbers. Save the model again, or download the folder again"
        )
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{holder(folder, name)}: {name} has shape {tuple(found)}, config.json makes it "
            f"{tuple(expected)}; the two are not of one model"
        )
