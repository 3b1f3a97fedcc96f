"""LoRA's dropout on a CPU, where drawing the mask costs more than the adapter's own products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # one 64-bit draw serves four elements of 16 bits each


class QuickDropout(nn.Dropout):
    """``nn.Dropout`` whose CPU mask takes a quarter of the random draws.

    The rate is rounded to 1/65,536; the kept elements are scaled by the rounded rate, so the
    expectation is exact. On other devices it is ``nn.Dropout``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes elements at rate ``p`` while training; any shape."""
        if not self.training or x.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(x)
        dropped = round(self.p * LEVELS)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= dropped - LEVELS // 2
        return x * (kept * (LEVELS / (LEVELS - dropped))).to(x.dtype)


def quick_dropout(model: nn.Module) -> None:
    """Put ``QuickDropout`` in the place of a PEFT model's LoRA dropouts."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        for name, layer in dropouts.items() if isinstance(dropouts, nn.ModuleDict) else ():
            if type(layer) is nn.Dropout:
                dropouts[name] = QuickDropout(layer.p)
