"""GLM checkpoints in and out: the official ChatGLM layout ↔ transformers' GlmForCausalLM.

    official folder (ChatGLM2, ChatGLM3, GLM-4, the miniature)        native "-hf" folder
      config.json  ── native_config ──> GlmConfig ──> empty model        │
      shard ── to_native ──> q, k, v … in dtype, on the device ──┐       │ AutoModelForCausalLM
      next shard …                                               └──> model <┘

No remote code runs: the published Python files are never loaded. At most the model in its dtype
and one shard are in memory (tests/test_memory.py); for native folders see native_weights.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, GlmForCausalLM, PreTrainedModel

from .adapters import export_adapter, import_adapter
from .locate import NotFoundHere, local_folder
from .native_weights import load_native
from .official_config import CheckpointError, is_official, native_config, official_config
from .official_weights import load_official, save_weights
from .templates import save_template
from .weight_files import copy_file, read_json, write_json

__all__ = ["CheckpointError", "export_adapter", "import_adapter", "load_glm", "save_official"]
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CHATGLM3_STOPS = (64795, 64797)  # <|user|>, <|observation|>: the next turn is not the model's


def load_glm(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    rope: str = "auto",
) -> PreTrainedModel:
    """A GLM from a folder or hub name, in eval mode; GlmForCausalLM for the official layout.

    ``dtype`` "auto": float32 on a CPU, else bfloat16 where the GPU has it, else float16.
    ``device`` None: the current CUDA device if there is one, else the CPU; "meta": the shapes
    alone, no weights are read. ``rope``: the meaning of ``rope_ratio``, see
    ``official_config.native_config``. Raises CheckpointError (what is wrong,
    in which file or key, what to do) for whatever cannot be read or run.
    """
    folder = _model_folder(path)
    name = f"{Path(path).name} {folder.resolve().name}".lower()
    device = _device(device)
    dtype = choose_dtype(dtype, device)
    config = read_json(folder / "config.json")
    if is_official(config):
        # No name_or_path: PEFT would read this config.json as a GlmConfig, find another vocabulary
        # size there, and store the whole embedding with every adapter.
        model = load_official(folder, native_config(config, rope, name), dtype, device)
    else:
        model = load_native(folder, config, dtype, device)
    model.config.use_cache = True
    model.generation_config = _generation_config(folder, model, name)
    return model.eval()


def save_official(
    model: PreTrainedModel,
    tokenizer: Any,
    directory: str | Path,
    max_shard_size: int | str = "2GB",
) -> Path:
    """Write a GlmForCausalLM in the official ChatGLM layout, in its own dtype; returns the folder.

    Official weight names in safetensors (shards above ``max_shard_size``), config.json with the
    official keys, tokenizer.model where ``tokenizer`` came from one (None: no tokenizer), and its
    chat template. The configuration is written last. Raises CheckpointError for other classes.
    """
    if not isinstance(model, GlmForCausalLM):
        hint = "merge the adapter first" if hasattr(model, "peft_config") else "use save_pretrained"
        raise CheckpointError(
            f"save_official writes GlmForCausalLM, not {type(model).__name__}: {hint}"
        )
    folder = Path(directory)
    content = official_config(model.config, str(model.dtype).removeprefix("torch."))
    save_weights(model, folder, max_shard_size)
    _save_tokenizer(tokenizer, folder)
    write_json(folder / "config.json", content)
    return folder


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the weights: a torch.dtype, its name ("bf16" for short), or "auto".

    On a CPU half precision is slower and less exact, so "auto" is float32 there.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    name = str(dtype).removeprefix("torch.")
    found = getattr(torch, DTYPES.get(name, name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise CheckpointError(f"dtype is {dtype!r}; allowed: auto, {', '.join(DTYPES)}")
    return found


def _model_folder(path: str | Path) -> Path:
    try:
        folder = local_folder(path)
    except NotFoundHere as error:
        raise CheckpointError(str(error)) from error
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: an adapter, not a model; load its base model, then the adapter on top"
        )
    return folder


def _device(device: str | torch.device | None) -> torch.device:
    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            f"device is {str(device)!r}, but torch sees no CUDA device; run `python -m "
            "loraglm_helpers doctor` to see why, or set device='cpu'"
        )
    if device.type == "cuda" and device.index is None:  # each process of many has its own
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _generation_config(folder: Path, model: PreTrainedModel, name: str) -> GenerationConfig:
    """Every id that ends an answer, a pad id, and the key-value cache on; greedy by default."""
    stored = {}
    if (folder / "generation_config.json").is_file():
        stored = read_json(folder / "generation_config.json")
    config = model.config
    eos = stored.get("eos_token_id", config.eos_token_id)
    stops = list(eos) if isinstance(eos, list) else [] if eos is None else [eos]
    known = f"{name} {getattr(config, 'chatglm', {}).get('_name_or_path', '')}".lower()
    if "chatglm3" in known and config.vocab_size == 65024 and stops == [2]:
        stops += CHATGLM3_STOPS
    pad = config.pad_token_id
    return GenerationConfig(
        eos_token_id=stops or None,
        pad_token_id=0 if pad is None else pad,
        use_cache=True,
        do_sample=False,
    )


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The published files, copied from where they were read, and the template."""
    if tokenizer is None:
        return
    published = getattr(tokenizer, "published_files", None)
    if published is None:
        tokenizer.save_pretrained(folder)
        return
    for file in published:
        if not file.is_file():
            raise CheckpointError(
                f"{file}: gone; load the tokenizer again from a folder that has it"
            )
        copy_file(file, folder / file.name)
    save_template(tokenizer, folder)
