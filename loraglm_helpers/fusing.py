"""Element-wise work fused by torch.compile: norms, and what stands between an MLP's products.

Compiling takes from some seconds to a minute at the first step, once for all layers: they share
their code. On a CPU it pays where every weight is trained (pre-training); a LoRA step was not
faster in data/runs/step_cpu.json. It needs a C++ compiler there.
"""

from __future__ import annotations

import shutil

import torch
from torch import nn

COMPILERS = ("c++", "g++", "clang++", "cl")


class NoCompilerError(RuntimeError):
    """There is nothing on this machine that torch.compile could compile with."""


def require_compiler(device: torch.device) -> None:
    """NoCompilerError, with what to do, where the device needs a C++ compiler and has none."""
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise NoCompilerError(
            "compiled is true, but no C++ compiler is found (looked for "
            f"{', '.join(COMPILERS)}); install one, or set compiled to false"
        )


def fuse(model: nn.Module) -> int:
    """Compile the norms and MLPs of a model in place; returns how many.

    Weights, names and files stay as they are. Batches may have any number of tokens.
    """
    parts = [m for m in model.modules() if type(m).__name__.endswith(("RMSNorm", "MLP"))]
    fresh = [part for part in parts if part._compiled_call_impl is None]  # not twice
    for part in fresh:
        part.compile(dynamic=True)
    return len(fresh)
