"""The exercises of a notebook: heading and task, stub with its check, folded answer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from nbformat import NotebookNode

ANSWER = re.compile(r"<details>.*?^```python\n(.*?)^```.*?</details>", re.S | re.M)


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number in the notebook, the task, the stub cell and the folded answer."""

    number: int
    task: str
    stub: str
    answer: str


def exercises(notebook: NotebookNode) -> Iterator[Exercise]:
    """The exercises, each a heading '### Exercise N', a stub cell and an answer cell."""
    cells = notebook.cells
    for i, cell in enumerate(cells):
        heading = re.match(r"### Exercise (\d)", cell.source)
        if cell.cell_type == "markdown" and heading:
            stub = cells[i + 1].source if i + 1 < len(cells) else ""
            answer = ANSWER.search(cells[i + 2].source) if i + 2 < len(cells) else None
            yield Exercise(int(heading[1]), cell.source, stub, answer[1] if answer else "")


def check_call(stub: str) -> str:
    """The stub's last statement if it is a call of check, else ""."""
    statements = ast.parse(stub).body
    call = getattr(statements[-1], "value", None) if statements else None
    is_check = isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check"
    return ast.unparse(call) if is_check else ""
