"""What the linter found in a file: bad lines, lengths, truncation, balance, doubles, leakage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .data import Problem

if TYPE_CHECKING:
    import pandas

KEPT = 1000  # findings of a kind that are kept one by one; all are counted
SHOWN = 5


@dataclass
class LintReport:
    """Counts over a whole file, and the findings one by one.

    ``findings`` maps a kind to its first 1,000 problems, ``counts`` to the number of all:

    - "bad line": cannot be read as a row, or built in the layout: training would stop here
    - "invalid JSON": the target begins as JSON does and is none
    - "duplicate", "contradiction": the context stands in an earlier line too, with the same
      target or with another one
    - "leakage": the context stands in the other file too
    - "no cue": the context does not end in "Answer: ", while others do
    """

    file: str
    lines: int = 0
    rows: int = 0
    unit: str = "characters"  # of the lengths; "tokens", special ones included, with a tokenizer
    limits: tuple[int, int] = (0, 0)  # tokens of source and target
    source_lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    target_lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    tasks: Counter[str] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=dict)  # task → label or predicate
    json_targets: int = 0  # targets that begin as JSON does
    findings: dict[str, list[Problem]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, line: int, name: str, reason: str) -> None:
        """Count a finding, and keep it while there are few."""
        self.counts[kind] += 1
        kept = self.findings.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(Problem(self.file, line, name, reason))

    def drop(self, kind: str) -> None:
        """Forget the findings of a kind."""
        del self.counts[kind]
        self.findings.pop(kind, None)

    def count_classes(self, task: str, names: Iterable[str]) -> None:
        """Count labels or predicates of a task."""
        self.classes.setdefault(task, Counter()).update(names)

    @property
    def problems(self) -> list[Problem]:
        """The bad lines (the first 1,000)."""
        return self.findings.get("bad line", [])

    @property
    def ok(self) -> bool:
        """Whether every line is a row and there is at least one."""
        return self.rows > 0 and not self.counts["bad line"]

    @property
    def json_valid(self) -> float | None:
        """Share of the JSON targets that parse; None where there are none."""
        if not self.json_targets:
            return None
        return 1 - self.counts["invalid JSON"] / self.json_targets

    @property
    def truncated(self) -> dict[str, float] | None:
        """Share of the rows whose source or target is longer than its limit; None in characters."""
        if self.unit != "tokens" or not self.rows:
            return None
        source, target = self.limits
        return {"source": self.over(source), "target": self.over(target, "target")}

    def over(self, limit: int, part: str = "source") -> float:
        """Share of the rows whose source or target is longer than ``limit`` units."""
        lengths = self.source_lengths if part == "source" else self.target_lengths
        return float((lengths > limit).mean()) if len(lengths) else 0.0

    def histogram(self, part: str = "source", bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """Row counts (bins,) and the bins' edges (bins + 1,) of the lengths."""
        lengths = self.source_lengths if part == "source" else self.target_lengths
        return np.histogram(lengths, bins=bins)

    def to_frame(self) -> pandas.DataFrame:
        """The kept findings as a table: kind, line, field, reason."""
        import pandas

        rows = [
            {"kind": kind, "line": found.line, "field": found.field, "reason": found.reason}
            for kind, kept in self.findings.items()
            for found in kept
        ]
        return pandas.DataFrame(rows, columns=["kind", "line", "field", "reason"])

    def summary(self) -> str:
        """The report as text, a few findings of each kind with it."""
        lines = [f"{self.file}: {self.lines:,} lines, {self.rows:,} rows"]
        lines += self._balance() + self._lengths()
        if self.json_valid is not None:
            lines.append(f"  JSON targets valid: {self.json_valid:.2%} of {self.json_targets:,}")
        for kind, count in self.counts.items():
            lines.append(f"  {kind}: {count:,}")
            lines += [f"    {found}" for found in self.findings[kind][:SHOWN]]
            if count > SHOWN:
                lines.append(f"    … and {count - SHOWN:,} more")
        return "\n".join(lines)

    def _balance(self) -> list[str]:
        lines = []
        for task, count in self.tasks.most_common():
            classes = self.classes.get(task, Counter())
            named = ", ".join(f"{name} {number:,}" for name, number in classes.most_common(10))
            rest = ", …" if len(classes) > 10 else ""
            lines.append(f"  {task}: {count:,} rows" + (f" ({named}{rest})" if named else ""))
        return lines

    def _lengths(self) -> list[str]:
        if not self.rows:
            return []
        lines = []
        parts = ("source", self.source_lengths), ("target", self.target_lengths)
        for (name, lengths), limit in zip(parts, self.limits, strict=True):
            half, most, longest = np.percentile(lengths, [50, 95, 100]).astype(int)
            line = f"  {name}: half the rows up to {half} {self.unit}, 95 % up to {most}, "
            line += f"the longest {longest}"
            if self.truncated:
                line += f"; {self.truncated[name]:.1%} over the limit of {limit}"
            lines.append(line)
        return lines
