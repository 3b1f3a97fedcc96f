"""One process or many: the few things that differ, through accelerate.

How it was launched decides; ``launch/`` has configurations for ``accelerate launch``.

    alone    one process: nothing to agree on
    DDP      each process has the whole model; gradients are averaged
    FSDP     each process has a part of every weight, see ``sharding.py``
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .precision import choose_device
from .sharding import shard, sharding_wanted

# Where launchers, and those of MPI, say how many processes they started.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def leave() -> None:
    """Part from the other processes at the end of a program; nothing can be shared after it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Processes:
    """The processes that ``accelerate launch`` or ``torchrun`` started, or this one alone."""

    def __init__(self, device: str = "auto") -> None:
        # An Accelerator's device is its process's for good, and a later one may not ask for the
        # CPU: alone, the device is chosen below. Autocast and scaling are the training loop's own.
        many = any(int(os.environ.get(name, 1)) > 1 for name in SIZES)
        self._accelerator = Accelerator(cpu=many and device == "cpu", mixed_precision="no")
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        alone = self.world_size == 1
        given = self._accelerator.device
        own = given if given.type == "cuda" else torch.device(given.type)  # "cpu:0" is no device
        self.device: torch.device = choose_device(device) if alone else own
        self._fsdp = None if alone else sharding_wanted()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and calls callbacks."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether every forward pass is one for all processes together (FSDP)."""
        return self._fsdp is not None

    @property
    def init_device(self) -> torch.device:
        """Where a model is built before ``wrap``: it may be larger than a device of its own.

        Under FSDP the first process reads it into its main memory, the others make its shapes.
        """
        if not self.sharded:
            return self.device
        return torch.device("cpu" if self.is_main else "meta")

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over the processes, its weights spread under FSDP.

        An optimizer is made after it: FSDP changes the parameters.
        """
        if self.world_size == 1:
            return model
        if self._fsdp is not None:
            return shard(model, self.device, self._fsdp.reshard_after_forward)
        return self._accelerator.prepare_model(model, device_placement=False)

    def no_sync(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """A region whose gradients are not exchanged yet, but for the ``last`` batch of a step.

        FSDP always exchanges them: whole gradients would have to be kept.
        """
        return nullcontext() if last or self.sharded else self._accelerator.no_sync(model)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, the same everywhere."""
        if self.world_size == 1:
            return list(values)
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(list(values), dtype=kind, device=self.device)
        return self._accelerator.reduce(total, "sum").tolist()

    def barrier(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()
