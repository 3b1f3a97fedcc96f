"""PiSSA adapters as ordinary LoRA files.

PiSSA (Meng et al. 2024) starts A and B at the largest singular directions of W and takes their
product off the base, so its files mean nothing on the untouched base model. What training
changed, B·A − B₀·A₀, is a LoRA of twice the rank on that base: A and A₀ stacked, B beside −B₀.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def starting_point(model: nn.Module) -> dict[str, Tensor] | None:
    """The adapter's first A₀ and B₀, or None when it is no PiSSA adapter."""
    if not isinstance(model, PeftModel):
        return None
    if getattr(model.active_peft_config, "init_lora_weights", None) != "pissa":
        return None
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone().cpu() for name, tensor in state.items()}


def as_plain_lora(directory: Path, start: dict[str, Tensor]) -> None:
    """Rewrite a saved PiSSA adapter as LoRA of twice the rank (alpha / rank stays)."""
    weights = directory / "adapter_model.safetensors"
    tensors = load_file(weights)
    both = {name: _joined(name, tensor, start[name]) for name, tensor in tensors.items()}
    save_file(both, weights, metadata={"format": "pt"})
    file = directory / "adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    config["init_lora_weights"] = True
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _joined(name: str, now: Tensor, first: Tensor) -> Tensor:
    if "lora_A" in name:
        return torch.cat([now, first], dim=0).contiguous()
    return torch.cat([now, -first], dim=1).contiguous()
