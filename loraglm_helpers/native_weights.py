"""Folders with transformers' own names ("-hf" repositories, saved models), loaded and checked.

transformers loads them; what it would leave to random numbers, or report without naming the file,
is refused here: a file that is cut short, a weight that is missing or has another shape.

transformers maps all shards at once. On a CPU a weight that keeps its dtype stays a part of its
file; where the dtype changes, the whole files count as memory until loading ends, but as pages of
the file cache, which the system takes back when it needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .official_config import CheckpointError
from .weight_files import check_whole, find_shards, holder


def load_native(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The model of a native folder; CheckpointError says what is wrong with one that is not whole.

    ``config`` is the content of its config.json. On the ``meta`` device the model stays empty.
    """
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} is unknown to this transformers; for a "
            "GLM take the '-hf' repository, or a newer transformers"
        )
    if device.type == "meta":
        with device:
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    for file in find_shards(folder)[0]:
        check_whole(file)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
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
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise CheckpointError(f"{folder}: {' '.join(str(error).split())[:300]}") from error
    _check_report(folder, report)
    return model


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
