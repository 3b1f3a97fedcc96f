"""Combinations that are known to break GLM fine-tuning: how they show, where it was told, the fix.

Each function looks at an ``Environment`` and says what it saw, or returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.version import Version

from .environment import Environment

INSTALL = 'pip install -e ".[test]" -c constraints.txt'


@dataclass(frozen=True)
class KnownBad:
    """A combination: ``seen`` finds it; ``grave`` ones stop a run, others cost speed or choice."""

    name: str
    seen: Callable[[Environment], str | None]
    effect: str
    thread: str
    fix: str
    grave: bool = True


def old_transformers(env: Environment) -> str | None:
    """transformers before 5 reads ChatGLM by its own Python files."""
    version = env.versions.get("transformers", "5")
    return f"transformers {version}" if Version(version) < Version("5") else None


def old_torchao(env: Environment) -> str | None:
    """peft stops at a torchao older than 0.16, though nothing here uses it."""
    version = env.versions.get("torchao")
    return f"torchao {version}" if version and Version(version) < Version("0.16") else None


def other_torch_wanted(env: Environment) -> str | None:
    """torchvision and torchaudio are built for exactly one torch."""
    installed = Version(Version(env.versions.get("torch", "0")).public)  # without "+cu128"
    for name, lines in env.wants.items():
        for wanted in map(Requirement, lines):
            if wanted.name == "torch" and installed not in wanted.specifier:
                return f"{name} {env.versions.get(name)} is built for torch{wanted.specifier}"
    return None


def cpu_build_beside_gpu(env: Environment) -> str | None:
    """An NVIDIA driver, and a torch that was built without CUDA."""
    if env.nvidia_driver and env.cuda_build is None:
        return f"an NVIDIA driver, but torch {env.versions.get('torch')} is a CPU build"
    return None


def gpu_not_usable(env: Environment) -> str | None:
    """A CUDA build and a driver, and no GPU that torch can use."""
    if env.nvidia_driver and env.cuda_build and not env.gpus:
        return f"an NVIDIA driver and torch for CUDA {env.cuda_build}, but no GPU that it can use"
    return None


def no_kernels(env: Environment) -> str | None:
    """torch's build has no kernels for the GPU's generation.

    Kernels run on later minor generations too (sm_80 on 8.6), and "compute" ones on every later.
    """
    built = [arch.split("_") for arch in env.archs if arch.startswith(("sm_", "compute_"))]
    built = [(kind, int(code.rstrip("af"))) for kind, code in built]
    for gpu in env.gpus:
        major, minor = gpu.capability
        here = 10 * major + minor
        runs = any(
            code <= here and (kind == "compute" or code // 10 == major) for kind, code in built
        )
        if built and not runs:
            return f"{gpu.name} is sm_{here}, torch has {', '.join(env.archs)}"
    return None


def no_bf16(env: Environment) -> str | None:
    """GPUs before the A100's generation compute in fp16 only."""
    names = [gpu.name for gpu in env.gpus if not gpu.bf16]
    return f"{names[0]} has no bfloat16" if names else None


def quantizer_without_gpu(env: Environment) -> str | None:
    """A bitsandbytes whose 8-bit and 4-bit layers are not known to train on a CPU."""
    version = env.versions.get("bitsandbytes", "0.50")
    old = Version(version) < Version("0.50") and not env.gpus
    return f"bitsandbytes {version} without an NVIDIA GPU" if old else None


KNOWN_BAD = (
    KnownBad(
        "remote code",
        old_transformers,
        "ChatGLM's own Python files break: _pad() got an unexpected keyword 'padding_side'",
        "zai-org/ChatGLM3#1324, zai-org/GLM-4#577 #732, huggingface/transformers#34677",
        f"{INSTALL}; load_glm and load_tokenizer need none of these files",
    ),
    KnownBad(
        "torchao",
        old_torchao,
        "peft stops: Found an incompatible version of torchao",
        "PrunaAI/pruna#630, oumi-ai/oumi#2408",
        "pip uninstall torchao, or pip install -U torchao",
    ),
    KnownBad(
        "torchvision",
        other_torch_wanted,
        "importing transformers can stop: operator torchvision::nms does not exist",
        "meta-llama/llama-cookbook#710, huggingface/diffusers#9109",
        "pip uninstall torchvision torchaudio (not needed here), or install those of this torch",
    ),
    KnownBad(
        "CPU build",
        cpu_build_beside_gpu,
        "training runs on the CPU; device='cuda' stops: Torch not compiled with CUDA enabled",
        "zai-org/ChatGLM2-6B#6, zai-org/ChatGLM-6B#920",
        "install the CUDA build that pytorch.org names for your system",
        grave=False,
    ),
    KnownBad(
        "hidden GPU",
        gpu_not_usable,
        "training runs on the CPU",
        "zai-org/ChatGLM-6B#920",
        "look at CUDA_VISIBLE_DEVICES, and update the driver until nvidia-smi shows that CUDA",
        grave=False,
    ),
    KnownBad(
        "GPU generation",
        no_kernels,
        "the first step stops: no kernel image is available for execution on the device",
        "pytorch/pytorch#31285",
        "install a torch build for this GPU (pytorch.org; cu126 for older ones), or device=cpu",
    ),
    KnownBad(
        "half precision",
        no_bf16,
        "plain fp16 gives loss 0 or NaN",
        "zai-org/GLM-4#96 #174, hiyouga/LLaMA-Factory#4031",
        "--set precision=auto: fp16 with a gradient scaler and float32 adapters",
        grave=False,
    ),
    KnownBad(
        "bitsandbytes",
        quantizer_without_gpu,
        "it warns that it was compiled without GPU support, and 8-bit or 4-bit loading stops",
        "zjunlp/DeepKE#503",
        "pip install -U bitsandbytes (0.50 runs on CPUs as well), or leave quantization=none here",
        grave=False,
    ),
)
