"""Every folded answer solves its exercise, and every stub says that it is not solved yet."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import folded_exercises
import notebook_rules as rules
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
EXERCISES = [
    pytest.param(path, exercise, id=f"{path.stem}-{exercise.number}")
    for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    for exercise in folded_exercises.exercises(rules.read(path))
]


@cache
def context(path: Path) -> dict:
    """The names an exercise may use: those of the setup cell and of cells tagged for it."""
    names: dict = {"display": lambda *args, **kwargs: None}
    for i, cell in rules.code_cells(rules.read(path)):
        if i == 1 or "exercise-context" in cell.metadata.get("tags", ()):
            exec(compile(cell.source, f"{path.name}, cell {i}", "exec"), names)
    return names


def without_check(stub: str) -> str:
    return ast.unparse(ast.Module(ast.parse(stub).body[:-1], type_ignores=[]))


@pytest.mark.parametrize(("path", "exercise"), EXERCISES)
def test_the_answer_solves_the_exercise(path, exercise, capsys, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    names = dict(context(path))
    exec(without_check(exercise.stub), names)
    exec(exercise.answer, names)
    capsys.readouterr()
    exec(folded_exercises.check_call(exercise.stub), names)
    assert capsys.readouterr().out.startswith("Solved")


@pytest.mark.parametrize(("path", "exercise"), EXERCISES)
def test_the_stub_is_not_solved_yet(path, exercise, capsys, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    names = dict(context(path))
    capsys.readouterr()
    exec(exercise.stub, names)
    assert capsys.readouterr().out.startswith("Not solved yet")
