"""Scores of answers against the rows' targets, over everything and by task.

    exact match      all rows            the answer is the target, outer spaces aside
    triple P, R, F1  triples             micro over (predicate, subject, object), as multisets
    JSON valid       triples, classes …  the answer parses, where the target is JSON
    per class        classification      precision, recall, F1, confusion counts
    chrF             questions           characters shared with the target, 0 to 100 (sacrebleu)

An empty or broken answer scores 0 and never stops the evaluation. Where no row is of a kind, its
score is None.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import sacrebleu

from .data import Row, looks_like_json, task_of

TRIPLE = ("predicate", "subject", "object")
NO_LABEL = "(none)"
BROKEN = object()  # what is not JSON; None is JSON's null
Pairs = list[tuple[str, str]]  # answer, target


def score(predictions: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Every score of ``predictions``, one answer a row, as plain numbers that JSON can hold.

    Shares are 0 to 1, chrF is 0 to 100. Raises ValueError when the numbers of answers and rows
    differ or are 0.
    """
    if len(predictions) != len(rows) or not rows:
        raise ValueError(f"score: {len(predictions)} answers for {len(rows)} rows; one each wanted")
    tasks: dict[str, Pairs] = {}
    for answer, row in zip(predictions, rows, strict=True):
        tasks.setdefault(task_of(row), []).append((answer, row.target))
    pairs = [pair for task in tasks.values() for pair in task]
    precision, recall, f1 = triple_scores(tasks.get("triples", []))
    return {
        "count": len(rows),
        "empty": sum(not answer.strip() for answer, _ in pairs),
        "exact_match": exact_match(pairs),
        "triple_precision": precision,
        "triple_recall": recall,
        "triple_f1": f1,
        "json_valid": json_valid(pairs),
        "question_chrf": chrf(tasks.get("question", [])),
        "classification": class_scores(tasks.get("classification", [])),
        "by_task": {task: _task_scores(task, tasks[task]) for task in sorted(tasks)},
    }


def exact_match(pairs: Pairs) -> float | None:
    """Share of answers equal to their targets, outer spaces aside."""
    return _mean([answer.strip() == target.strip() for answer, target in pairs])


def json_valid(pairs: Pairs) -> float | None:
    """Share of the answers that parse, among the rows whose target is JSON."""
    targets = [(answer, target) for answer, target in pairs if looks_like_json(target)]
    return _mean([parsed(answer) is not BROKEN for answer, _ in targets])


def triple_scores(pairs: Pairs) -> tuple[float | None, float | None, float | None]:
    """Micro precision, recall and F1; an answer that is no JSON list has no triples.

    A list item that is no whole triple counts as a wrong one.
    """
    if not pairs:
        return None, None, None
    right = given = wanted = 0
    for answer, target in pairs:
        mine, theirs = triples(answer), triples(target)
        right += (mine & theirs).total()
        given, wanted = given + mine.total(), wanted + theirs.total()
    return precision_recall_f1(right, given, wanted)


def triples(text: str) -> Counter[tuple[str, ...]]:
    """The triples in a JSON list, each as often as it stands there, their values as JSON texts."""
    value = parsed(text)
    items = value if isinstance(value, list) else []
    return Counter(_triple(item) for item in items)


def class_scores(pairs: Pairs) -> dict[str, Any] | None:
    """Scores of each class, their plain mean F1, and ``confusion[target][answer]`` counts.

    An answer that is no JSON list of texts is the class "(none)". Lists of several labels count
    label by label, and in the confusion as one name.
    """
    if not pairs:
        return None
    right, given, wanted = Counter(), Counter(), Counter()
    confusion: dict[str, Counter[str]] = {}
    for answer, target in pairs:
        mine, theirs = labels(answer), labels(target)
        right.update(set(mine) & set(theirs))
        given.update(set(mine))
        wanted.update(set(theirs))
        confusion.setdefault(_name(theirs), Counter())[_name(mine)] += 1
    classes = {name: _class(right[name], given[name], wanted[name]) for name in sorted(wanted)}
    return {
        "macro_f1": _mean([scores["f1"] for scores in classes.values()]),
        "per_class": classes,
        "confusion": {name: dict(confusion[name]) for name in sorted(confusion)},
    }


def labels(text: str) -> list[str]:
    """The labels in a JSON list of texts; none for anything else."""
    value = parsed(text)
    good = isinstance(value, list) and all(isinstance(label, str) for label in value)
    return value if good else []


def chrf(pairs: Pairs) -> float | None:
    """chrF2 of all answers together, 0 to 100."""
    if not pairs:
        return None
    answers, targets = zip(*pairs, strict=True)
    return float(sacrebleu.corpus_chrf(list(answers), [list(targets)]).score)


def parsed(text: str) -> Any:
    """The value of a JSON text; BROKEN when it is none. NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return BROKEN


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def precision_recall_f1(right: int, given: int, wanted: int) -> tuple[float, float, float]:
    """The three shares of counts; all 1 when nothing was wanted and nothing given."""
    if not given and not wanted:
        return 1.0, 1.0, 1.0
    precision, recall = right / max(given, 1), right / max(wanted, 1)
    return precision, recall, 2 * right / (given + wanted)


def _task_scores(task: str, pairs: Pairs) -> dict[str, Any]:
    scores: dict[str, Any] = {"count": len(pairs), "exact_match": exact_match(pairs)}
    if task == "question":
        return scores | {"chrf": chrf(pairs)}
    scores["json_valid"] = json_valid(pairs)
    if task == "triples":
        scores |= dict(zip(("precision", "recall", "f1"), triple_scores(pairs), strict=True))
    if task == "classification":
        scores["macro_f1"] = class_scores(pairs)["macro_f1"]
    return scores


def _class(right: int, given: int, wanted: int) -> dict[str, Any]:
    shares = precision_recall_f1(right, given, wanted)
    return dict(zip(("precision", "recall", "f1"), shares, strict=True)) | {"count": wanted}


def _triple(item: Any) -> tuple[str, ...]:
    fields = item if isinstance(item, dict) else {"other": item}
    values = (fields.get(name) for name in TRIPLE) if set(TRIPLE) <= fields.keys() else (fields,)
    return tuple(json.dumps(value, ensure_ascii=False) for value in values)


def _name(names: Sequence[str]) -> str:
    return ", ".join(names) or NO_LABEL


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
