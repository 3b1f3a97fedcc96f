"""PEFT's LoRA layer with its forward and backward pass written as few, well-shaped products.

    forward    y = x Wᵀ + s (x∘m) Aᵀ Bᵀ          m: dropout mask of 0 and 1, s = scaling / (1 − p)
    backward   dx = dy W + m∘(s dy B A)    dA = (s dy B)ᵀ (x∘m)    dB = s dyᵀ (x∘m) Aᵀ

Against autograd's own: no (tokens, out) temporaries for the detour, the skinny products in the
order in which they are fast, and random numbers for the mask drawn four at a time on a CPU.
``quick_lora`` changes only the class of PEFT's layers: files, merging and names stay PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

LEVELS = 1 << 16  # one 64-bit draw serves four elements of 16 bits each


class LowRankLinear(torch.autograd.Function):
    """(tokens, in) → (tokens, out) for one frozen weight and its adapter; see the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, base: nn.Linear, A: Tensor, B: Tensor, s: float
    ) -> Tensor:
        """All in x's dtype; ``mask`` (tokens, in) or None."""
        masked = x if mask is None else x * mask
        a, b = A.to(x.dtype), B.to(x.dtype)
        down = linear(masked, a)  # (tokens, rank)
        bias = None if base.bias is None else base.bias.to(x.dtype)
        y = linear(x, base.weight.to(x.dtype), bias).addmm_(down, b.T, alpha=s)
        ctx.save_for_backward(masked, down, mask, A, B)
        ctx.base, ctx.s = base, s
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; none for the frozen weight."""
        masked, down, mask, A, B = ctx.saved_tensors
        dy = dy.contiguous()
        up = linear(dy, (ctx.s * B).T.contiguous().to(dy.dtype))  # (tokens, rank)
        dA = up.T @ masked
        dB = (down.T @ dy).T.to(B.dtype) * ctx.s
        dx = None
        if ctx.needs_input_grad[0]:
            dx, a = dy @ ctx.base.weight.to(dy.dtype), A.to(dy.dtype)
            dx = dx.addmm_(up, a) if mask is None else dx.add_((up @ a).mul_(mask))
        return dx, None, None, dA.to(A.dtype), dB, None


class QuickLinear(Linear):
    """PEFT's LoRA layer; plain adapters in training go through ``LowRankLinear``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, in) → (…, out), as PEFT computes it."""
        if not self._is_plain():
            return super().forward(x, *args, **kwargs)
        [name] = self.active_adapters
        base, drop = self.base_layer, self.lora_dropout[name]
        A, B, scaling = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        rows = x.flatten(0, -2).to(dtype)
        p = drop.p if isinstance(drop, nn.Dropout) and drop.training else 0.0
        mask, kept = keep_mask(rows, p) if p else (None, 1.0)
        with torch.autocast(kind, enabled=False):
            y = LowRankLinear.apply(rows, mask, base, A, B, scaling / kept)
        return y.unflatten(0, x.shape[:-1])

    def _is_plain(self) -> bool:
        names = self.active_adapters
        return (
            torch.is_grad_enabled()
            and not self.disable_adapters
            and not self.merged
            and len(names) == 1
            and names[0] in self.lora_A
            and names[0] not in self.lora_variant
            and not self.lora_bias[names[0]]
            and not self.base_layer.weight.requires_grad
        )


def keep_mask(x: Tensor, p: float) -> tuple[Tensor, float]:
    """A boolean mask of x's shape, false at rate ``p``, and the exact share that is kept.

    On a CPU the rate is rounded to 1/65,536 and the scale follows it.
    """
    if x.device.type != "cpu":
        return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - p), 1 - p
    dropped = min(round(p * LEVELS), LEVELS - 1)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return bits >= dropped - LEVELS // 2, 1 - dropped / LEVELS


def quick_lora(model: nn.Module) -> None:
    """Let a PEFT model's plain LoRA layers over ``nn.Linear`` compute as ``QuickLinear``."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = QuickLinear
