"""Exercises: a checker that takes the reader's function or value and says kindly what is wrong.

    def adapter_parameters(d_in: int, d_out: int, rank: int) -> int:
        ...  # your code

    check(adapter_parameters, like=[1_024], on=[(64, 64, 8)], hint="A and B, not W.")

An untouched stub is not an error: it prints "Not solved yet", so that a notebook runs from top to
bottom before its reader has solved anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch

TOLERANCE = 1e-4


def check(
    attempt: Any,
    *,
    like: Any,
    on: Sequence[tuple] = (),
    hint: str = "",
) -> None:
    """Print whether `attempt` is solved, and if not, the first thing that differs.

    attempt: the reader's value, or with `on`, the reader's function.
    like: the expected value; with `on`, a list of expected values, one a case, or a function that
        gives them (a reference of the package: then the answer is not given away).
    on: the cases, each a tuple of positional arguments.
    hint: shown beside what is wrong.
    """
    if on:
        problem = _compare_calls(attempt, like, on)
    else:
        problem = _UNSOLVED if _is_stub(attempt) else difference(attempt, like)
    if problem == _UNSOLVED:
        print(f"Not solved yet: replace the dots{_of(attempt)}, then run this cell again.")
    elif problem:
        print(f"Not quite: {problem}" + (f"\nHint: {hint}" if hint else ""))
    else:
        print("Solved." if not on else f"Solved: right in all {len(on)} cases.")


_UNSOLVED = "unsolved"


def _is_stub(value: Any) -> bool:
    """What a stub gives: nothing, or the dots themselves."""
    return value is None or value is Ellipsis


def _of(attempt: Any) -> str:
    return f" in {attempt.__name__}" if hasattr(attempt, "__name__") else ""


def _compare_calls(attempt: Any, like: Any, on: Sequence[tuple]) -> str:
    """The first case in which the attempt and the expectation differ, in words; "" if none."""
    if not callable(attempt):
        return _UNSOLVED if _is_stub(attempt) else f"a function is asked for, not {_show(attempt)}."
    expected = [like(*case) for case in on] if callable(like) else list(like)
    if len(expected) != len(on):
        raise ValueError(f"check: {len(on)} cases in `on`, but {len(expected)} results in `like`")
    for case, wanted in zip(on, expected, strict=True):
        problem = _compare_call(attempt, case, wanted)
        if problem:
            return problem
    return ""


def _compare_call(attempt: Callable, case: tuple, wanted: Any) -> str:
    name = getattr(attempt, "__name__", "your function")
    call = f"{name}({', '.join(_show(argument, limit=40) for argument in case)})"
    try:
        given = attempt(*case)
    except NotImplementedError:
        return _UNSOLVED
    except Exception as error:  # the reader's code may raise anything: tell it, don't stop
        return f"{call} raised {type(error).__name__}: {error}"
    if _is_stub(given):
        return _UNSOLVED if not _is_stub(wanted) else ""
    problem = difference(given, wanted)
    return f"in {call}, {problem}" if problem else ""


def difference(given: Any, wanted: Any) -> str:
    """How `given` differs from `wanted`, in words; "" where they agree.

    Tensors agree in shape and to 1e-4 in value, numbers to a relative 1e-4, lists and dicts entry
    by entry, everything else by ==.
    """
    if isinstance(wanted, torch.Tensor):
        return _tensor_difference(given, wanted)
    if isinstance(wanted, Mapping) and isinstance(given, Mapping):
        return _mapping_difference(given, wanted)
    if isinstance(wanted, (list, tuple)) and isinstance(given, (list, tuple)):
        return _sequence_difference(given, wanted)
    if isinstance(wanted, Real) and isinstance(given, Real):
        same = math.isclose(given, wanted, rel_tol=TOLERANCE, abs_tol=1e-9)
    else:
        same = _equal(given, wanted)
    return "" if same else f"the result is {_show(given)}; {_show(wanted)} is expected."


def _equal(given: Any, wanted: Any) -> bool:
    """``==`` as one answer: an array that compares entry by entry is not what was wanted."""
    try:
        return bool(given == wanted)
    except (ValueError, RuntimeError):  # numpy's and torch's word for several answers
        return False


def _tensor_difference(given: Any, wanted: torch.Tensor) -> str:
    if not isinstance(given, torch.Tensor):
        return f"the result is {_show(given)}; {_show(wanted)} is expected."
    if given.shape != wanted.shape:
        return f"the shape is {tuple(given.shape)}; {tuple(wanted.shape)} is expected."
    a, b = (tensor.detach().cpu().double() for tensor in (given, wanted))
    if torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE):
        return ""
    return f"the shape is right, but the values differ by up to {(a - b).abs().max():.2g}."


def _mapping_difference(given: Mapping, wanted: Mapping) -> str:
    if set(given) != set(wanted):
        return f"the keys are {_show(list(given))}; {_show(list(wanted))} are expected."
    problems = ((key, difference(given[key], wanted[key])) for key in wanted)
    return next((f"at {key!r}, {problem}" for key, problem in problems if problem), "")


def _sequence_difference(given: Sequence, wanted: Sequence) -> str:
    if len(given) != len(wanted):
        return (
            f"the result has {len(given)} entries, {_show(given)}; "
            f"{len(wanted)} are expected, {_show(wanted)}."
        )
    problems = ((i, difference(a, b)) for i, (a, b) in enumerate(zip(given, wanted, strict=True)))
    return next((f"at position {i}, {problem}" for i, problem in problems if problem), "")


def _show(value: Any, limit: int = 100) -> str:
    """A value on one line: a tensor by its shape, anything long by its beginning."""
    if isinstance(value, torch.Tensor) and value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
