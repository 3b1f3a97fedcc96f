"""What a machine has: versions, devices, memory, cores. Facts only; judging them is doctor's."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .figure_style import chinese_font
from .precision import multiplies_bf16

PACKAGE = "loraglm-helpers"
OPTIONAL = ("bitsandbytes", "torchvision", "torchaudio", "torchao", "gptqmodel", "optimum")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; memory in bytes."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int]
    bf16: bool


@dataclass(frozen=True)
class Environment:
    """The facts that a check can go by; memory and disk in bytes, 0 where unknown."""

    python: str
    system: str
    versions: dict[str, str]  # installed packages that matter here
    requirements: tuple[str, ...] = ()  # what this package asks for, as pip writes it
    wants: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what torchvision … ask for
    gpus: tuple[Gpu, ...] = ()
    cuda_build: str | None = None  # CUDA version of torch's build; None for a CPU build
    archs: tuple[str, ...] = ()  # GPU generations that torch's build has kernels for
    nvidia_driver: bool = False
    mps: bool = False
    cpu_bf16: bool = False  # whether the CPU multiplies bfloat16
    memory: int = 0
    free_memory: int = 0
    free_disk: int = 0
    cores: int = 1
    threads: int = 1
    cjk_font: str | None = None


def inspect_environment() -> Environment:
    """The facts of this machine and this Python."""
    requirements = _requires(PACKAGE)
    names = [requirement.split(";")[0] for requirement in requirements]
    memory, free = _memory()
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=_versions([*map(_name, names), *OPTIONAL]),
        requirements=tuple(line for line in requirements if "extra ==" not in line),
        wants={name: _requires(name) for name in ("torchvision", "torchaudio")},
        gpus=_gpus(),
        cuda_build=torch.version.cuda,
        archs=tuple(torch.cuda.get_arch_list()),
        nvidia_driver=shutil.which("nvidia-smi") is not None,
        mps=torch.backends.mps.is_available(),
        cpu_bf16=multiplies_bf16(),
        memory=memory,
        free_memory=free,
        free_disk=shutil.disk_usage(Path.cwd()).free,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        threads=torch.get_num_threads(),
        cjk_font=chinese_font(),
    )


def _name(requirement: str) -> str:
    return requirement.partition("<")[0].partition(">")[0].partition("=")[0].strip(" !~")


def _requires(package: str) -> tuple[str, ...]:
    try:
        return tuple(importlib.metadata.requires(package) or ())
    except importlib.metadata.PackageNotFoundError:
        return ()


def _versions(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> tuple[Gpu, ...]:
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        bf16 = facts.major >= 8
        found.append(Gpu(facts.name, facts.total_memory, free, (facts.major, facts.minor), bf16))
    return tuple(found)


def _memory() -> tuple[int, int]:
    """Memory of the machine, or of the container it is limited to, and what is free of it."""
    total = free = 0
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
        limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
        if limit is not None and limit < total:
            total, free = limit, min(free, limit - (used or 0))
    elif hasattr(os, "sysconf"):  # macOS tells the total only
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, free


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or "max"
        return None
