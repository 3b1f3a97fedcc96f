"""One process or many: the few things that differ, through accelerate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .precision import choose_device


class Processes:
    """The processes that ``accelerate launch`` or ``torchrun`` started, or this one alone."""

    def __init__(self, device: str = "auto") -> None:
        # Autocast and scaling are the training loop's own, the same on every device.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        alone = self.count == 1
        self.device: torch.device = choose_device(device) if alone else self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and calls callbacks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, with its gradients averaged over the processes where there are several."""
        if self.count == 1:
            return model
        return self._accelerator.prepare_model(model, device_placement=False)

    def quiet(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """A region whose gradients are not exchanged yet, but for the ``last`` batch of a step."""
        return nullcontext() if last else self._accelerator.no_sync(model)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, the same everywhere."""
        if self.count == 1:
            return list(values)
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(list(values), dtype=kind, device=self.device)
        return self._accelerator.reduce(total, "sum").tolist()

    def wait(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()
