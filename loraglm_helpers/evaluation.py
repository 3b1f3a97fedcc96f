"""Rows as examples, and their loss: one number a model, weighted by tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .batches import evaluation_batches, lengths_of, share
from .data import about_line, read_rows
from .generation import evaluating
from .precision import Precision, choose_precision
from .sequences import Example, build_examples, collate
from .sharding import let_go
from .steps import batch_loss
from .token_cache import TokenCache, cached_examples

EVALUATION_TOKENS = 4096


def pads(config: Any) -> bool:
    """Whether batches are padded: by choice, or because P-Tuning's prefixes stand before rows."""
    return config.use_ptuning or not config.padding_free


def make_examples(rows: Any, tokenizer: Any, config: Any) -> Sequence[Example]:
    """Examples of the rows under the config's layout and limits; examples pass unchanged.

    ``rows`` is a sequence of rows, or the path of a data file: with ``config.token_cache`` a file
    is tokenised once and then mapped from disk, see ``token_cache``. A dialogue may give several
    examples, see ``build_examples``. Raises DataError with the place of a row that cannot be built.
    """
    if isinstance(rows, TokenCache):
        return rows
    file = "rows"
    if isinstance(rows, str | Path):
        if config.token_cache:
            return cached_examples(rows, tokenizer, config)
        file, rows = rows, read_rows(rows)
    options = config.layout, config.max_source_seq_len, config.max_target_seq_len
    examples: list[Example] = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Example):
            examples.append(row)
            continue
        with about_line(file, getattr(row, "line", 0) or number):
            examples += build_examples(row, tokenizer, *options)
    return examples


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    examples: Sequence[Any],
    config: Any,
    *,
    tokenizer: Any = None,
    processes: Any = None,
) -> float:
    """Mean cross-entropy over all target tokens of examples (or of rows, with a tokenizer).

    No dropout; every module gets its own mode back, after an error too. With ``processes`` each
    takes a share, and all of them must call this.
    """
    examples = make_examples(examples, tokenizer, config)
    if not examples:
        raise ValueError("evaluate_loss needs at least one row")
    device = processes.device if processes else next(model.parameters()).device
    precision = Precision(device, choose_precision(config.precision, device))
    total, targets = 0.0, 0
    try:
        with evaluating(model):
            for rows, counts in _own_batches(examples, processes):
                batch = collate(rows, not pads(config))
                with precision.autocast():
                    loss, number = batch_loss(model, {k: v.to(device) for k, v in batch.items()})
                if counts:
                    total, targets = total + loss.item(), targets + number
    finally:
        let_go(model)
    if processes:
        total, targets = processes.sum([total, targets])
    if not targets:
        raise ValueError("evaluate_loss: no row has a target token")
    return total / targets


def _own_batches(
    examples: Sequence[Example], processes: Any
) -> Iterator[tuple[list[Example], bool]]:
    """This process's share of each evaluation batch, and whether it counts.

    Without a share there is nothing to do, but under FSDP a row to go through the layers with.
    """
    lengths = lengths_of(examples)
    rank, count = (processes.rank, processes.world_size) if processes else (0, 1)
    for batch in evaluation_batches(lengths, EVALUATION_TOKENS):
        if mine := share(batch, lengths, rank, count):
            yield [examples[i] for i in mine], True
        elif processes.sharded:
            yield [examples[batch[-1]]], False
