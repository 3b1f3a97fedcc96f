"""Sums of a training run, and the means of a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .update import StepResult


@dataclass
class Meter:
    """``tokens`` and ``seconds`` of the whole run; the rest since the last record."""

    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    targets: int = 0
    fresh_tokens: int = 0
    step_seconds: float = 0.0
    worse: int = 0  # evaluations in a row without a new best

    def add(self, result: StepResult, seconds: float) -> None:
        """Count a step that took so many seconds."""
        self.loss += result.loss
        self.targets += result.targets
        self.tokens += result.tokens
        self.fresh_tokens += result.tokens
        self.step_seconds += seconds

    def take(self) -> dict[str, Any]:
        """What a record says of the steps since the last one; the next one starts at zero."""
        speed = self.fresh_tokens / max(self.step_seconds, 1e-9)
        means = {"loss": self.loss / max(self.targets, 1), "tokens_per_second": round(speed, 1)}
        self.loss, self.targets, self.fresh_tokens, self.step_seconds = 0.0, 0, 0, 0.0
        return means
