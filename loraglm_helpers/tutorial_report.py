"""What `make tutorial` says at its end: what was trained, its scores, what to open next.

It reads the two files that notebook 04 leaves in build/finetune/: history.json (one record a
logged step) and scores.json ({"before": …, "after": …}, each a result of metrics.score).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

HISTORY = "finetune/history.json"
SCORES = "finetune/scores.json"


def report(build: Path, seconds: float) -> str:
    """The closing words of the series; a result that is missing is named, never invented."""
    lines = [f"\nThe series ran in {seconds / 60:.1f} minutes."]
    lines += _trained(build / HISTORY)
    lines += _scores(build / SCORES)
    lines += [
        "\nWhat to open next",
        "  make lab                                 the series in JupyterLab, from notebook 01",
        "  notebooks/05_merge_and_generate.ipynb    the playground: talk to the model",
        f"  {build.name}/*.ipynb                            the copies that were just executed",
        f"  {build.name}/figures/                           their pictures",
    ]
    return "\n".join(lines)


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _trained(path: Path) -> Iterator[str]:
    """Steps, seconds and the dev loss, as first taken and at its best."""
    records = (_read(path) or {}).get("records")
    if not records:
        yield f"No training record: {path} is missing or empty. Did notebook 04 run?"
        return
    taken = [record for record in records if record.get("dev_loss") is not None]
    yield (
        f"A LoRA adapter was trained for {records[-1]['step']} steps "
        f"in {records[-1]['seconds']:.0f} s: {path.parents[1].name}/{path.parent.name}/best"
    )
    if taken:
        first, best = taken[0], min(record["dev_loss"] for record in taken)
        yield (
            f"Its loss on the dev rows: {first['dev_loss']:.3f} after {first['step']} steps, "
            f"{best:.3f} at its best."
        )


def _scores(path: Path) -> Iterator[str]:
    """Exact match before and after, over all rows and by task."""
    scores = _read(path)
    if scores is None:
        yield f"No scores: {path} is missing. Did notebook 04 run?"
        return
    before, after = _exact_matches(scores["before"]), _exact_matches(scores["after"])
    yield "\n  exact match on the dev rows    before    after"
    for task, value in after.items():
        yield f"  {task:<28} {before.get(task, 0.0):>8.0%} {value:>8.0%}"


def _exact_matches(score: dict) -> dict[str, float]:
    """Task → share of exact answers, from one result of metrics.score."""
    tasks = score.get("by_task", {})
    return {"all tasks": score["exact_match"]} | {
        task: part["exact_match"] if isinstance(part, dict) else part
        for task, part in tasks.items()
    }
