"""What a training run recorded, kept as JSON, and what its callbacks see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .whole_file import write_text


@dataclass
class History:
    """The records of a run and how it ended.

    A record has step, epoch, loss (mean over the target tokens since the last record), lr,
    grad_norm, tokens (real ones, from the start of the run), seconds (evaluations, saves and
    resumed parts included) and, where the dev rows were scored, dev_loss. ``best`` is the step and
    dev_loss of what lies in ``best/``. ``stopped`` says why the run ended, ``resume`` how to go on.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stopped: str = ""
    resume: str = ""

    def to_json(self, path: str | Path) -> None:
        """Write the history to a file, whole or not at all."""
        write_text(path, json.dumps(_plain(asdict(self)), indent=1, allow_nan=False))

    @classmethod
    def from_json(cls, path: str | Path) -> History:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a record."""
        import pandas

        return pandas.DataFrame(self.records)


def _plain(value: Any) -> Any:
    """The value with None for numbers that JSON has no word for, such as an overflowed norm."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class TrainingState:
    """What callbacks see. Setting ``stop`` ends the run after the step."""

    config: Any
    model: Any
    history: History
    total_steps: int
    step: int = 0
    epoch: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    stop: bool = False


Callback = Callable[[str, TrainingState], None]
