"""A frozen base in 8 or 4 bits (QLoRA, Dettmers et al. 2023), by bitsandbytes.

Every linear layer but the output one is packed: 8bit keeps a scale a row (LLM.int8(), Dettmers
et al. 2022: inputs are packed as well, but for columns with a value above ``OUTLIER``), 4bit the
16 levels of nf4 with a scale for 64 weights, multiplied in the model's own dtype. Adapters are
float32 as always. Both run on NVIDIA GPUs and on CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

OUTLIER = 6.0  # the paper's; without it one large input costs its whole row the precision


class QuantizationError(ValueError):
    """Quantization that this machine cannot do."""


def quantize(model: Any, kind: str, device: torch.device) -> Any:
    """The model, on ``device``, its linear layers packed ("8bit", "4bit"; "none" packs nothing).

    Raises QuantizationError without bitsandbytes or on a device that it does not serve.
    """
    if kind == "none":
        return model.to(device)
    bnb = require_bitsandbytes(kind, device)
    pack = {"8bit": _in_8_bits, "4bit": _in_4_bits}[kind]
    output = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not output:
                setattr(parent, name, pack(bnb, layer).requires_grad_(False))
    # PEFT picks its layer classes, and refuses to merge, by these two.
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = kind == "8bit", kind == "4bit"
    return model.to(device)  # this is where bitsandbytes packs


def require_bitsandbytes(kind: str, device: torch.device) -> Any:
    """The package that packs as ``kind``, or None for "none"; cheap, so asked before any loading.

    Raises QuantizationError without the package or on a device that it does not serve.
    """
    if kind == "none":
        return None
    if device.type not in ("cuda", "cpu"):
        raise QuantizationError(
            f"quantization {kind!r} needs an NVIDIA GPU or a CPU, not {device.type}: set device "
            "to cpu, or quantization to none"
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise QuantizationError(
            f"quantization {kind!r} needs bitsandbytes: pip install bitsandbytes, "
            "or set quantization to none"
        ) from error
    return bitsandbytes


def _in_8_bits(bnb: Any, layer: nn.Linear) -> nn.Module:
    packed = bnb.nn.Linear8bitLt(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        has_fp16_weights=False,
        threshold=OUTLIER,
    )
    packed.weight = bnb.nn.Int8Params(
        layer.weight.detach(), requires_grad=False, has_fp16_weights=False
    )
    packed.bias = layer.bias
    return packed


def _in_4_bits(bnb: Any, layer: nn.Linear) -> nn.Module:
    packed = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
    )
    packed.weight = bnb.nn.Params4bit(
        layer.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    # On CPUs with AVX512-BF16 an evaluation would pack the weight anew for a kernel that has no
    # backward pass, needs multiples of 32 and 64, and does not give back the same weight.
    packed.support_avx512bf16_for_cpu = False
    packed.bias = layer.bias
    return packed
