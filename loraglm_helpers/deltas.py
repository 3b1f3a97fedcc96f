"""What a saved LoRA adapter does to one weight, and how much of it survives the rounding.

    LoRA, rsLoRA      W' = W + s · B A                        s = alpha / r  or  alpha / √r
    DoRA              W' = m · (W + s · B A) / ‖W + s · B A‖   a norm and an m a row

Hu et al. 2021 (section 4.1), Kalajdzievski 2023, Liu et al. 2024 (section 4.1). Everything is
computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .adapter_files import Modules, rank_alpha, read_adapter
from .official_config import CheckpointError
from .weight_files import read_json


@dataclass
class Delta:
    """A saved adapter, to be put into the weights of its base, one at a time."""

    folder: Path
    modules: Modules
    scales: dict[str, float]
    used: set[str] = field(default_factory=set)
    wanted_square: float = 0.0
    lost_square: float = 0.0

    @classmethod
    def read(cls, folder: str | Path) -> Delta:
        """The LoRA adapter of a folder; CheckpointError for what cannot be put into weights."""
        folder = Path(folder)
        if not (folder / "adapter_config.json").is_file():
            raise CheckpointError(f"{folder}: no adapter_config.json here, so no adapter to merge")
        if read_json(folder / "adapter_config.json").get("peft_type") == "PREFIX_TUNING":
            raise CheckpointError(
                f"{folder}: a P-Tuning prefix changes no weight, so there is nothing to merge; "
                "keep it beside its base and load both"
            )
        settings, modules = read_adapter(folder)
        scales = {}
        for name, parts in modules.items():
            rank, alpha = rank_alpha(settings, name, parts)
            scales[name] = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        return cls(folder, modules, scales)

    def changes(self, name: str) -> bool:
        """Whether the adapter changes the weight of this name ("….q_proj.weight")."""
        return name.removesuffix(".weight") in self.modules and name.endswith(".weight")

    def merged(self, name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight of this name with the adapter in it, in ``dtype``; ``kept`` counts it."""
        module = name.removesuffix(".weight")
        parts = self.modules[module]
        self.used.add(module)
        _check(name, weight, parts, self.folder)
        if "weight" in parts:  # a layer that was trained as a whole
            return parts["weight"].to(dtype)
        exact = merged_weight(weight.float(), parts, self.scales[module])
        rounded, before = exact.to(dtype), weight.to(dtype).float()
        if not rounded.isfinite().all():
            raise CheckpointError(
                f"{name}: the merged weight leaves the range of {dtype}; merge with dtype='bf16'"
            )
        wanted = exact - weight.float()
        self.wanted_square += wanted.square().sum().item()
        self.lost_square += (rounded.float() - before - wanted).square().sum().item()
        return rounded

    @property
    def kept(self) -> float:
        """1 − ‖ΔW as stored − ΔW‖ / ‖ΔW‖ over all layers: 1 exact, 0 all lost to rounding."""
        if not self.wanted_square:
            return 1.0
        return max(0.0, 1.0 - math.sqrt(self.lost_square / self.wanted_square))

    def check_all_used(self) -> None:
        """CheckpointError when a layer of the adapter has no weight in the base."""
        left = sorted(set(self.modules) - self.used)
        if left:
            official = any("query_key_value" in n or "dense" in n for n in left)
            hint = "it was trained on another model"
            if official:
                hint = "it was trained on the published code; convert it with import_adapter"
            raise CheckpointError(
                f"{self.folder}: {len(left)} of {len(self.modules)} layers are not in this base "
                f"({', '.join(left[:2])}): {hint}"
            )


def merged_weight(weight: Tensor, parts: dict[str, Tensor], scale: float) -> Tensor:
    """W' (out, in) of a float32 W (out, in) and one layer's adapter tensors, in float32."""
    parts = {part: tensor.float() for part, tensor in parts.items()}
    if "lora_embedding_A" in parts:
        product = (parts["lora_embedding_B"] @ parts["lora_embedding_A"]).T
    else:
        product = parts["lora_B.weight"] @ parts["lora_A.weight"]
    merged = weight + scale * product
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is None:
        return merged
    return merged * (magnitude / torch.linalg.norm(merged, dim=1))[:, None]


def _check(name: str, weight: Tensor, parts: dict[str, Tensor], folder: Path) -> None:
    if not weight.is_floating_point():
        raise CheckpointError(
            f"{name} is {weight.dtype} in the base: packed weights cannot take an adapter; merge "
            "into the half-precision checkpoint of the same model"
        )
    if "weight" in parts:
        shape = tuple(parts["weight"].shape)
    elif "lora_embedding_A" in parts:
        shape = (parts["lora_embedding_A"].shape[1], parts["lora_embedding_B"].shape[0])
    else:
        shape = (parts["lora_B.weight"].shape[0], parts["lora_A.weight"].shape[1])
    if shape != tuple(weight.shape):
        raise CheckpointError(
            f"{folder}: its {name} is for shape {shape}, the base has {tuple(weight.shape)}: it "
            "was trained on another model"
        )
