"""Which examples a training step sees: an order that depends on the seed and nothing else.

An optimizer step is ``accumulation`` batches; a batch is ``batch_size`` examples, or as many as
fit into ``tokens_per_batch`` tokens. Several processes share each batch, so the same config gives
the same steps on one device and on eight. A run resumes by its step number alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .sequences import IGNORED, Example

Step = list[list[int]]  # batches of example numbers


def target_count(example: Example) -> int:
    """Tokens of an example that carry loss; its first token never does."""
    return sum(label != IGNORED for label in example.labels[1:])


@dataclass(frozen=True)
class BatchPlan:
    """The steps of a run over examples of these ``lengths`` (tokens)."""

    lengths: Sequence[int]
    batch_size: int
    tokens_per_batch: int | None = None
    accumulation: int = 1
    seed: int = 0
    padded: bool = False

    def steps(self, epoch: int) -> list[Step]:
        """The optimizer steps of an epoch (counted from 0), shuffled; the last may be smaller."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches = list(self._by_tokens(order) if self.tokens_per_batch else self._by_count(order))
        size = self.accumulation
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def total_steps(self, epochs: float, max_steps: int | None = None) -> int:
        """Steps of that many epochs (a fraction takes the first steps of its epoch)."""
        whole = int(epochs)
        total = sum(len(self.steps(epoch)) for epoch in range(whole))
        if epochs > whole:
            total += round((epochs - whole) * len(self.steps(whole)))
        return max(1, total if max_steps is None else min(total, max_steps))

    def from_step(self, step: int) -> Iterator[tuple[int, float, Step]]:
        """Number, epochs seen and examples of each step after the first ``step``, without end."""
        number, epoch = 0, 0
        while True:
            steps = self.steps(epoch)
            for position, batches in enumerate(steps, start=1):
                number += 1
                if number > step:
                    yield number, epoch + position / len(steps), batches
            epoch += 1

    def _by_count(self, order: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _by_tokens(self, order: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in order:
            if batch and self._cost([*batch, index]) > self.tokens_per_batch:
                yield batch
                batch = []
            batch.append(index)
        yield batch

    def _cost(self, batch: list[int]) -> int:
        lengths = [self.lengths[i] for i in batch]
        return len(lengths) * max(lengths) if self.padded else sum(lengths)


def share(batch: Sequence[int], lengths: Sequence[int], rank: int, processes: int) -> list[int]:
    """The examples of a batch that process ``rank`` takes: the longest go to the least loaded."""
    if processes == 1:
        return list(batch)
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for index in sorted(batch, key=lambda i: -lengths[i]):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += lengths[index]
    return shares[rank]


def evaluation_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """All examples once, neighbours in length together, at most ``tokens`` padded tokens each."""
    plan = BatchPlan(lengths, 1, tokens, padded=True)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return list(plan._by_tokens(order)) if order else []
