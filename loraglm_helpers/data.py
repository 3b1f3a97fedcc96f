"""Rows of instruction data: JSONL read line by line; every bad line is named, none is left out.

    {"context": "Instruction: …\\nInput: …\\nAnswer: ", "target": "…"}
    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

A file is UTF-8, with or without a byte order mark, its lines end in LF or CRLF. A blank line is a
bad line, for a row may be missing there. Fields of other names are allowed and not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .row_checks import row_problem, surrogate_problem

if TYPE_CHECKING:
    from .lint_report import LintReport

__all__ = [
    "DataError",
    "Problem",
    "Row",
    "about_line",
    "iter_rows",
    "lint",
    "looks_like_json",
    "parse_line",
    "read_lines",
    "read_rows",
    "row_problem",
    "task_of",
    "task_of_json",
]
SHOWN = 20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked and what is to be answered; ``line`` is its line in the file, from 1.

    A row of ``messages`` has the last turn, the assistant's, as its ``target`` too.
    """

    context: str = ""
    target: str = ""
    messages: tuple[dict[str, str], ...] | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a line of a file, and in which field (empty: the whole line)."""

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {field}{self.reason}"


class DataError(ValueError):
    """Rows that cannot be read; ``problems`` has every bad line, the message the first 20."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


@contextmanager
def about_line(file: str | Path, line: int) -> Iterator[None]:
    """What goes wrong with a row in here, a ValueError, becomes a DataError with its place."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{file}:{line}: {error}") from error


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSONL file, in its order. DataError if the file or any line is bad."""
    return list(iter_rows(path))


def iter_rows(path: str | Path) -> Iterator[Row]:
    """``read_rows``, a row in memory at a time.

    DataError comes at the end of the file and names every bad line; after the first of them no
    row is given any more.
    """
    problems, count = [], 0
    for line in read_lines(path):
        if isinstance(line, Problem):
            problems.append(line)
        elif not problems:
            count += 1
            yield line
    if problems:
        shown = [str(problem) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            shown.append(f"… and {len(problems) - SHOWN} more")
        total = f"{len(problems)} bad line" + "s" * (len(problems) > 1)
        raise DataError("\n".join([f"{path}: {total}", *shown]), problems)
    if not count:
        raise DataError(f"{path}: no rows; one JSON object a line is wanted")


def read_lines(path: str | Path) -> Iterator[Row | Problem]:
    """Each line of a file as a row or as a problem, a line in memory at a time."""
    try:
        with Path(path).open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                line = line.removeprefix(BOM) if number == 1 else line
                found = parse_line(line.rstrip(b"\r\n"), number)
                yield found if isinstance(found, Row) else Problem(str(path), number, *found)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def parse_line(line: bytes, number: int = 0) -> Row | tuple[str, str]:
    """The row in a line, or the field and the reason that make it a bad one."""
    if not line.strip():
        return "", "blank line; a row may be missing here, else delete it"
    try:
        text = line.decode("utf-8")
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        return "", f"byte {error.start + 1} is not UTF-8; save the file as UTF-8"
    except json.JSONDecodeError as error:
        return "", f"not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        return "", "not a row: a number too long or brackets nested too deep"
    problem = row_problem(fields)
    if problem is None and b"\\u" in line:
        problem = surrogate_problem(fields)
    return problem or _row(fields, number)


def task_of(row: Row) -> str:
    """What a row asks for, by the shape of its target.

    A JSON list of objects, or ``[]``, is "triples"; a JSON list of texts "classification"; other
    JSON, or a target that begins like JSON and is none, "other"; any other text "question".
    """
    if not looks_like_json(row.target):
        return "question"
    try:
        return task_of_json(json.loads(row.target))
    except (ValueError, RecursionError):
        return "other"


def task_of_json(value: Any) -> str:
    """The task of a target that has been parsed."""
    if not isinstance(value, list):
        return "other"
    if all(isinstance(part, dict) for part in value):
        return "triples"
    return "classification" if all(isinstance(part, str) for part in value) else "other"


def looks_like_json(text: str) -> bool:
    """Whether a target begins as a JSON list or object does."""
    return text.lstrip().startswith(("[", "{"))


def lint(
    path: str | Path,
    tokenizer: Any = None,
    layout: str = "glm",
    max_source_seq_len: int = 400,
    max_target_seq_len: int = 300,
    other: str | Path | None = None,
    progress: bool = False,
) -> LintReport:
    """A report on every line of a file, however large; see ``lint.lint_file``."""
    from .lint import lint_file

    limits = max_source_seq_len, max_target_seq_len
    return lint_file(path, tokenizer, layout, *limits, other, progress)


def _row(fields: dict[str, Any], number: int) -> Row:
    if "messages" not in fields:
        return Row(fields["context"], fields["target"], None, number)
    messages = tuple({"role": m["role"], "content": m["content"]} for m in fields["messages"])
    return Row("", messages[-1]["content"], messages, number)
