"""Which device and number format a run computes in.

    fp32   everything float32
    bf16   base and matrix products in bfloat16: the default where the device multiplies it
    fp16   the same in float16, gradients scaled up so that small ones do not vanish

Adapters, their gradients, the optimizer and the loss are float32 in all three.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The named device; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name != "auto":
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {name!r}: no CUDA GPU here; use device='auto' or 'cpu'")
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX).

    Without them bfloat16 is emulated, and there is nothing to win.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def choose_precision(name: str, device: torch.device) -> str:
    """The named precision; "auto" is bf16 where the device has it, else fp16 on CUDA, else fp32."""
    if name == "auto":
        if device.type == "cpu" and multiplies_bf16():
            return "bf16"
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name not in DTYPES:
        raise ValueError(f"precision {name!r}: one of auto, {', '.join(DTYPES)} wanted")
    if name == "bf16" and device.type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError("precision 'bf16': this GPU has no bfloat16; use 'fp16' or 'auto'")
    return name


@dataclass
class Precision:
    """A device and a format: the base's dtype, the autocast region, the gradient scaler."""

    device: torch.device
    name: str = "fp32"
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the frozen base is loaded in."""
        return DTYPES[self.name]

    def autocast(self) -> torch.autocast:
        """The region in which the forward pass runs."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.name != "fp32")
