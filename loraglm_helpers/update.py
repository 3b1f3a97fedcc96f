"""One optimizer step: the batches' gradients, clipped, checked, applied."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .advice import TrainingError, advised, not_finite
from .batches import Step, lengths_of, share, targets_of
from .evaluation import pads
from .precision import Precision
from .processes import Processes
from .sequences import Example, collate
from .sharding import whole
from .steps import batch_loss, make_optimizer


@dataclass(frozen=True)
class StepResult:
    """Sums over the step, all processes together, and the gradient's norm before clipping."""

    loss: float
    targets: int
    tokens: int
    grad_norm: float


class Updater:
    """Applies optimizer steps to a model; ``examples`` are indexed by a plan's numbers.

    ``torn`` after a step that failed when it may have been in a part of the weights already.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        examples: Sequence[Example],
        processes: Processes,
        precision: Precision,
    ) -> None:
        self.config, self.model, self.examples = config, model, examples
        self.processes, self.precision = processes, precision
        self.lengths, self.targets = lengths_of(examples), targets_of(examples)
        self.wrapped = processes.wrap(model)  # first: FSDP changes the parameters
        self.optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.torn = False

    def step(self, number: int, batches: Step, rate: float) -> StepResult:
        """Do step ``number``.

        Raises TrainingError, with the weights as they were before it unless ``torn``.
        """
        # Dropout follows from seed, step and process alone, so a resumed run draws the same.
        # Hashed, as a CPU's generator takes 32 bits of a seed.
        facts = f"{self.config.seed} {number} {self.processes.rank}"
        torch.manual_seed(zlib.crc32(facts.encode()))
        count = self.processes.world_size
        targets = sum(self.targets[i] for batch in batches for i in batch)
        tokens = [sum(self.lengths[i] for i in batch) for batch in batches]
        try:
            with advised(number, math.ceil(max(tokens) / count), self.config, self.model):
                own = self._backward(batches, count / max(targets, 1))
                [loss] = self.processes.sum([own])
                norm = self._apply(number, loss, rate)
        finally:
            self.optimizer.zero_grad()
        return StepResult(loss, targets, sum(tokens), norm)

    def _backward(self, batches: Step, weight: float) -> float:
        losses = []
        for position, batch in enumerate(batches, start=1):
            mine = share(batch, self.lengths, self.processes.rank, self.processes.world_size)
            idle = not mine  # fewer rows than processes: join the exchange of gradients with 0
            rows = mine or [min(batch, key=lambda i: self.lengths[i])]
            with self.processes.no_sync(self.wrapped, last=position == len(batches)):
                loss = self._loss(rows) * (0.0 if idle else 1.0)
                self.precision.scaler.scale(loss * weight).backward()
            losses.append(loss.detach())
        return math.fsum(loss.item() for loss in losses)

    def _loss(self, rows: list[int]) -> torch.Tensor:
        batch = collate([self.examples[i] for i in rows], not pads(self.config))
        device = self.precision.device
        with self.precision.autocast():
            return batch_loss(self.wrapped, {k: v.to(device) for k, v in batch.items()})[0]

    def _apply(self, number: int, loss: float, rate: float) -> float:
        """Clip and update; returns the gradient's norm before clipping."""
        scaler, limit = self.precision.scaler, self.config.max_grad_norm
        scaler.unscale_(self.optimizer)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit or math.inf)).item()
        self._check(number, "loss", loss, rate)
        if not scaler.is_enabled() or scaler.get_scale() < 1:
            self._check(number, "gradient's norm", norm, rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.torn = True  # AdamW makes its moments in here, and takes the groups one by one
        scaler.step(self.optimizer)  # left out by the scaler where a scaled gradient overflowed
        self.torn = False
        scaler.update()
        return norm

    def _check(self, number: int, what: str, value: float, rate: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(not_finite(number, what, value, self.precision.name, rate))
