"""The exercises' checker: kind words for a stub, a mistake, an exception and a solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loraglm_helpers.exercises import check, difference


def said(capsys, attempt, **settings) -> str:
    check(attempt, **settings)
    return capsys.readouterr().out


def test_a_stub_is_not_solved_yet_and_raises_nothing(capsys):
    def area(width, height): ...

    def todo(width, height):
        raise NotImplementedError

    wanted = "Not solved yet: replace the dots in area, then run this cell again.\n"
    assert said(capsys, area, like=[6], on=[(2, 3)]) == wanted
    assert said(capsys, todo, like=[6], on=[(2, 3)]).startswith("Not solved yet")
    assert said(capsys, None, like=6).startswith("Not solved yet: replace the dots,")
    assert said(capsys, ..., like=[6], on=[(2, 3)]).startswith("Not solved yet")


def test_a_solution_passes_against_values_and_against_a_reference(capsys):
    def area(width, height):
        return width * height

    cases = [(2, 3), (4, 5)]
    assert said(capsys, area, like=[6, 20], on=cases) == "Solved: right in all 2 cases.\n"
    assert said(capsys, area, like=lambda a, b: a * b, on=cases).startswith("Solved")
    assert said(capsys, 0.3, like=0.1 + 0.2) == "Solved.\n"


def test_a_mistake_names_the_case_the_results_and_the_hint(capsys):
    def area(width, height):
        return width + height

    assert said(capsys, area, like=[4, 6], on=[(2, 2), (2, 3)], hint="Multiply.") == (
        "Not quite: in area(2, 3), the result is 5; 6 is expected.\nHint: Multiply.\n"
    )


def test_an_exception_is_told_not_raised(capsys):
    def area(width, height):
        return width / 0

    assert said(capsys, area, like=[6], on=[(2, 3)]) == (
        "Not quite: area(2, 3) raised ZeroDivisionError: division by zero\n"
    )


def test_a_value_where_a_function_is_asked_for(capsys):
    assert said(capsys, 5, like=[6], on=[(2, 3)]).startswith("Not quite: a function is asked for")


def test_cases_and_results_must_be_as_many():
    with pytest.raises(ValueError, match="2 cases in `on`, but 1 results"):
        check(max, like=[2], on=[(1, 2), (3, 4)])


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), "the shape is (2, 3); (3, 2) is expected."),
        (torch.ones(2), torch.zeros(2), "but the values differ by up to 1."),
        ([1, 2], torch.zeros(2), "the result is [1, 2];"),
        ([1, 2, 3], [1, 2], "the result has 3 entries"),
        ([1, [2, 4]], [1, [2, 3]], "at position 1, at position 1, the result is 4; 3 is expected."),
        ({"a": 1}, {"b": 1}, "the keys are ['a']; ['b'] are expected."),
        ({"a": 1}, {"a": 2}, "at 'a', the result is 1; 2 is expected."),
        ("triples", "triple", "the result is 'triples'; 'triple' is expected."),
        (1.001, 1.0, "the result is 1.001; 1.0 is expected."),
        (torch.ones(2), 1, "the result is tensor([1., 1.]); 1 is expected."),
        (np.ones(2), 1.0, "the result is array([1., 1.]); 1.0 is expected."),
        ([np.ones(2)], [1], "at position 0, the result is array([1., 1.]); 1 is expected."),
    ],
)
def test_differences_in_words(given, wanted, words):
    assert words in difference(given, wanted)


def test_no_difference_within_the_tolerance():
    assert difference(torch.tensor([1.0, 2.00001]), torch.tensor([1.0, 2.0])) == ""
    assert difference((1, 2), [1, 2]) == ""
    assert difference({"a": [1.0]}, {"a": [1.0 + 1e-7]}) == ""
