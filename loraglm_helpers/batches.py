"""Which examples a training step sees: an order that depends on the seed and nothing else.

An optimizer step is ``accumulation`` batches; a batch is ``batch_size`` examples, or as many as
fit into ``tokens_per_batch`` tokens. Several processes share each batch, so the same config gives
the same steps on one device and on eight. A run resumes by its step number alone.

A million examples are a few numbers each here: an epoch is one array of example numbers and one
of batch ends, and the lists of a step are made when the step comes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from .sequences import IGNORED, Example

Step = list[list[int]]  # batches of example numbers


def target_count(example: Example) -> int:
    """Tokens of an example that carry loss; its first token never does."""
    labels = example.labels[1:]
    return len(labels) - labels.count(IGNORED)


def lengths_of(examples: Sequence[Example]) -> Sequence[int]:
    """Tokens of each example, 4 bytes a number; a token cache knows them unread."""
    known = getattr(examples, "lengths", None)
    return array("i", (len(e.input_ids) for e in examples)) if known is None else known


def targets_of(examples: Sequence[Example]) -> Sequence[int]:
    """``target_count`` of each example, 4 bytes a number; a token cache knows them unread."""
    known = getattr(examples, "targets", None)
    return array("i", (target_count(e) for e in examples)) if known is None else known


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
        order, ends = self._epoch(epoch)
        return [self._step(order, ends, position) for position in range(self._count(ends))]

    def total_steps(self, epochs: float, max_steps: int | None = None) -> int:
        """Steps of that many epochs (a fraction takes the first steps of its epoch)."""
        whole, total = int(epochs), 0
        for epoch in range(whole + (epochs > whole)):
            if max_steps is not None and total >= max_steps:
                break
            share = min(1.0, epochs - epoch)
            total += round(share * self._count(self._epoch(epoch)[1]))
        return max(1, total if max_steps is None else min(total, max_steps))

    def from_step(self, step: int) -> Iterator[tuple[int, float, Step]]:
        """Number, epochs seen and examples of each step after the first ``step``, without end."""
        before, epoch = 0, 0
        while True:
            order, ends = self._epoch(epoch)
            count = self._count(ends)
            for position in range(max(0, step - before), count):
                done = position + 1
                yield before + done, epoch + done / count, self._step(order, ends, position)
            before, epoch = before + count, epoch + 1

    def _epoch(self, epoch: int) -> tuple[np.ndarray, Sequence[int]]:
        """The examples in an epoch's order, and where each batch ends in it."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(len(self.lengths), generator=generator).numpy()
        if self.tokens_per_batch:
            lengths = np.asarray(self.lengths)[order].tolist()
            return order, _token_ends(lengths, self.tokens_per_batch, self.padded)
        return order, array("q", [*range(self.batch_size, len(order), self.batch_size), len(order)])

    def _count(self, ends: Sequence[int]) -> int:
        return -(-len(ends) // self.accumulation)

    def _step(self, order: np.ndarray, ends: Sequence[int], position: int) -> Step:
        """The batches of the step at a position, counted from 0, of an epoch."""
        first = position * self.accumulation
        start = ends[first - 1] if first else 0
        bounds = pairwise([start, *ends[first : first + self.accumulation]])
        return [order[begin:end].tolist() for begin, end in bounds]


def _token_ends(lengths: Sequence[int], limit: int, padded: bool) -> Sequence[int]:
    """Where each batch ends if it takes what fits into ``limit`` tokens, but one at the least."""
    ends, count, total, longest = array("q"), 0, 0, 0
    for position, length in enumerate(lengths):
        count, total, longest = count + 1, total + length, max(longest, length)
        if count > 1 and (count * longest if padded else total) > limit:
            ends.append(position)
            count, total, longest = 1, length, length
    ends.append(len(lengths))
    return ends


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
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ends = _token_ends([lengths[i] for i in order], tokens, padded=True)
    return [order[begin:end] for begin, end in pairwise([0, *ends])] if order else []
