"""Training speed on a CPU: ours, Trainer + PEFT, the seed's recipe, and the limit, in one run.

    pytest tests/benchmarks/bench_step.py              about six minutes on two idle cores
    pytest tests/benchmarks/bench_step.py --record     and keep it as data/runs/step_cpu.json
    pytest tests/benchmarks/bench_step.py --shape tiny --rows 16      only to see that it runs

Each contender trains in a process of its own. What pytest-benchmark counts is that whole
process, its imports included; the table below counts training alone.
"""

from __future__ import annotations

import functools
import math

import pytest
from contender_process import run
from report import profile_table, ratios, record, table

SHAPE = "67M"
CONTENDERS = {
    "ours": {"name": "ours"},
    "ours, no dropout": {"name": "ours", "dropout": 0.0},
    "ours, compiled": {"name": "ours", "compiled": 1},
    "Trainer + PEFT": {"name": "trainer"},
    "seed's recipe": {"name": "seed"},
}


@pytest.fixture(scope="session")
def measured(request, rows):
    """Label → result; each contender is measured once a session."""
    shape = request.config.getoption("--shape") or SHAPE

    @functools.cache
    def measure(label):
        return run(**CONTENDERS[label], shape=shape, rows=rows)

    measure.shape = shape
    return measure


@pytest.mark.parametrize("label", CONTENDERS)
def test_training(benchmark, measured, label):
    result = benchmark.pedantic(measured, (label,), rounds=1, iterations=1)
    benchmark.extra_info |= result
    assert math.isfinite(result["loss"])


def test_ratios(measured, rows, recorded, capsys):
    results = {label: measured(label) for label in CONTENDERS}
    profile = results["ours"]["profile"]
    with capsys.disabled():
        print("", table(results), profile_table(profile), "", sep="\n")
    work = {"tokens", "targets"}
    assert len({tuple(result[key] for key in work) for result in results.values()}) == 1
    losses = [result["loss"] for result in results.values()]
    assert max(losses) - min(losses) < 0.05, "the contenders do not train the same thing"
    if recorded:
        found = {"shape": measured.shape, "rows": rows, "ratios": ratios(results)}
        print(record("step_cpu.json", found | {"results": results}))
