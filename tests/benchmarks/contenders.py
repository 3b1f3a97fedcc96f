"""Our own training loop as a contender, and what every contender returns.

LoRA on q, k and v for all. A contender is warmed up by one step, then timed from the start of
its first step to the end of its last: making batches counts, saving does not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from workload import Workload

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.sequences import IGNORED, Example
from loraglm_helpers.training import train


@dataclass
class Timing:
    """One pass over the rows: real tokens and targets, seconds, and the steps' mean loss.

    `first` are the seconds of the step before it, which compiles where that is asked for.
    """

    tokens: int
    targets: int
    seconds: float
    loss: float
    first: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"tokens_per_second": self.tokens / self.seconds}


def timing(examples: Sequence[Example], seconds: float, losses: Sequence[float]) -> Timing:
    """What a pass over the examples took."""
    targets = sum(label != IGNORED for e in examples for label in e.labels[1:])
    tokens = sum(len(e.input_ids) for e in examples)
    return Timing(tokens, targets, seconds, sum(losses) / len(losses))


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


class PadToken:
    """All that our loop asks of a tokenizer when rows are token ids already."""

    pad_token_id = 0


def our_config(work: Workload, directory: str, **changes: Any) -> FineTuneConfig:
    """The package's defaults, but for what the workload sets."""
    settings = {
        "pre_model": "random",
        "lora_rank": work.rank,
        "lora_alpha": work.alpha,
        "lora_dropout": work.dropout,
        "batch_size": work.batch_size,
        "learning_rate": work.learning_rate,
        "epochs": 1,
        "precision": work.precision,
        "device": work.device,
        "compiled": bool(work.compiled),
        "save_dir": directory,
    }
    return FineTuneConfig(**(settings | changes))


def train_ours(work: Workload, **changes: Any) -> tuple[Timing, Any]:
    """Our loop; returns the model with its adapter too, for the limit and the profile."""
    model, examples = work.model(), work.examples()
    watch, seconds = Watch(work.device), {}
    with tempfile.TemporaryDirectory() as directory:
        for run, steps in (("warm-up", 1), ("timed", None)):
            watch.losses.clear()
            train(
                our_config(work, f"{directory}/{run}", max_steps=steps, **changes),
                model=model,
                tokenizer=PadToken(),
                train_rows=examples,
                dev_rows=[],
                callbacks=[watch],
            )
            model = watch.model
            seconds[run] = watch.at["step"] - watch.at["start"]
    took = timing(examples, seconds["timed"], watch.losses)
    return replace(took, first=seconds["warm-up"]), model


class Watch:
    """A callback that keeps the losses and when the run's first step began and its last ended."""

    def __init__(self, device: str) -> None:
        self.device, self.model = device, None
        self.losses: list[float] = []
        self.at: dict[str, float] = {}

    def __call__(self, event: str, state: Any) -> None:
        self.model = state.model
        if event == "step":
            self.losses.append(state.record["loss"])
        if event in ("start", "step"):
            synchronize(self.device)
            self.at[event] = time.perf_counter()
