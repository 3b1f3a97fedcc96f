"""The linter: one pass over a file of any size, what it holds and what is wrong with it.

Lines are read one at a time. What stays in memory is a few numbers a row: lengths, and 64-bit
hashes of context and target, by which doubles and leakage are found at the end. (Two different
texts share a hash in about one of 37 million files of a million rows.)
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .data import DataError, Problem, Row, looks_like_json, read_lines, task_of_json
from .lint_lengths import Lengths
from .lint_report import LintReport

CUE = "Answer: "
LINES_AT_ONCE = 1 << 20  # bytes, when lines are counted for the progress bar


class Keys:
    """Line, context hash and target hash of every row: 24 bytes a row."""

    def __init__(self) -> None:
        self.lines, self.contexts, self.targets = array("q"), array("q"), array("q")

    def add(self, row: Row) -> None:
        """Note a row."""
        self.lines.append(row.line)
        self.contexts.append(hash(_context(row)))
        self.targets.append(hash(row.target))


def lint_file(
    path: str | Path,
    tokenizer: Any = None,
    layout: str = "glm",
    max_source_seq_len: int = 400,
    max_target_seq_len: int = 300,
    other: str | Path | None = None,
    progress: bool = False,
) -> LintReport:
    """A report on every line of ``path``; DataError only when a file cannot be opened.

    With a tokenizer the lengths are those of the sequences that training would build, in tokens,
    and ``truncated`` says how many rows the limits cut. ``other`` is a file that should share no
    context with this one (the train rows, when these are the dev rows). Raises ValueError when the
    tokenizer does not know the layout at all.
    """
    report = LintReport(str(path), limits=(max_source_seq_len, max_target_seq_len))
    lengths, keys, cued = Lengths(tokenizer, layout), Keys(), False
    for row in _good_rows(report, lengths, progress):
        _look_at_target(report, row)
        cued |= _look_for_cue(report, row)
        keys.add(row)
    report.unit = lengths.unit
    report.source_lengths, report.target_lengths = lengths.arrays()
    if not cued:  # contexts of another form, all alike: no mistake
        report.drop("no cue")
    _find_doubles(report, keys)
    if other is not None:
        _find_leakage(report, keys, other, progress)
    return report


def _good_rows(report: LintReport, lengths: Lengths, progress: bool) -> Iterator[Row]:
    """The rows of the report's file, measured; its bad lines go into the report."""
    for found in _bar(report.file, progress):
        report.lines += 1
        if isinstance(found, Row):
            try:
                lengths.add(found)
            except ValueError as error:  # such as a role that the layout has no token for
                found = Problem(report.file, found.line, "messages", str(error))
        if isinstance(found, Problem):
            report.add("bad line", found.line, found.field, found.reason)
        else:
            report.rows += 1
            yield found


def _bar(path: str | Path, progress: bool) -> Iterator[Row | Problem]:
    total = _count_lines(path) if progress else None
    return tqdm(read_lines(path), Path(path).name, total, unit=" lines", disable=not progress)


def _count_lines(path: str | Path) -> int:
    try:
        with Path(path).open("rb") as stream:
            return sum(part.count(b"\n") for part in iter(lambda: stream.read(LINES_AT_ONCE), b""))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _look_at_target(report: LintReport, row: Row) -> None:
    """Task, classes and validity of a row's target, from parsing it once."""
    if not looks_like_json(row.target):
        report.tasks["question"] += 1
        return
    report.json_targets += 1
    try:
        value = json.loads(row.target)
    except (ValueError, RecursionError) as error:
        report.tasks["other"] += 1
        report.add("invalid JSON", row.line, "target", f"begins like JSON and is none: {error}")
        return
    task = task_of_json(value)
    report.tasks[task] += 1
    if task == "classification":
        report.count_classes(task, value)
    elif task == "triples":
        report.count_classes(
            task, [p for part in value if isinstance(p := part.get("predicate"), str)]
        )


def _look_for_cue(report: LintReport, row: Row) -> bool:
    """Whether a row's context ends in the cue; one that does not is noted. Dialogues have none."""
    if row.messages is None and not row.context.endswith(CUE):
        report.add("no cue", row.line, "context", f"does not end in {CUE!r}, as others do")
    return row.messages is None and row.context.endswith(CUE)


def _context(row: Row) -> Any:
    """What a row asks, hashable: its text, or the turns before the answer."""
    if row.messages is None:
        return row.context
    return tuple((turn["role"], turn["content"]) for turn in row.messages[:-1])


def _find_doubles(report: LintReport, keys: Keys) -> None:
    """Rows whose context stands in an earlier row too, in the order of the file."""
    contexts, lines, targets = (np.asarray(a) for a in (keys.contexts, keys.lines, keys.targets))
    order = np.argsort(contexts, kind="stable")  # rows of one context together, earliest first
    starts = np.ones(len(order), bool)
    starts[1:] = contexts[order][1:] != contexts[order][:-1]
    first = np.empty(len(order), np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    for row in np.flatnonzero(first != np.arange(len(order))):
        same = targets[row] == targets[first[row]]
        kind, word = ("duplicate", "the same") if same else ("contradiction", "another")
        reason = f"stands in line {lines[first[row]]} too, with {word} target"
        report.add(kind, int(lines[row]), "context", reason)


def _find_leakage(report: LintReport, keys: Keys, other: str | Path, progress: bool) -> None:
    """Rows whose context is one of ``other``'s."""
    theirs = Keys()
    for found in _bar(other, progress):
        if isinstance(found, Row):
            theirs.add(found)
    first: dict[int, int] = {}
    mine = set(keys.contexts)
    for context, line in zip(theirs.contexts, theirs.lines, strict=True):
        if context in mine:
            first.setdefault(context, line)
    for context, line in zip(keys.contexts, keys.lines, strict=True):
        if context in first:
            report.add("leakage", line, "context", f"stands in {other}:{first[context]} too")
