"""The same on a CUDA GPU at ChatGLM2-6B's shape, bfloat16 base, random weights.

    pytest tests/benchmarks/bench_gpu.py               speed, memory, merging, generating
    pytest tests/benchmarks/bench_gpu.py --record      and keep it as data/runs/gpu.json

Needs a GPU of 40 GB, 16 GB of memory and 40 GB of disk; where there is no GPU it says so.
"""

from __future__ import annotations

import functools

import pytest
import torch
from contender_process import run
from report import profile_table, ratios, record, table

if not torch.cuda.is_available():
    pytest.skip("bench_gpu: no CUDA GPU here, nothing measured", allow_module_level=True)

SHAPE = "chatglm2-6b"
CONTENDERS = {"ours": "ours", "Trainer + PEFT": "trainer", "seed's recipe": "seed"}
PARTS = {**CONTENDERS, **{n: n for n in ("long", "long-checkpointed", "merge", "generate")}}


@pytest.fixture(scope="session")
def measured(request, rows):
    """Label → result; each part is measured once a session."""
    shape = request.config.getoption("--shape") or SHAPE

    @functools.cache
    def measure(label):
        return run(PARTS[label], shape=shape, rows=rows, device="cuda")

    measure.shape = shape
    return measure


@pytest.mark.parametrize("label", PARTS)
def test_part(benchmark, measured, label):
    result = benchmark.pedantic(measured, (label,), rounds=1, iterations=1)
    benchmark.extra_info |= result
    assert result["peak_bytes"] > 0


def test_all(measured, rows, recorded, capsys):
    results = {label: measured(label) for label in PARTS}
    speeds = {label: results[label] for label in CONTENDERS}
    with capsys.disabled():
        print("", table(speeds), profile_table(results["ours"]["profile"]), sep="\n")
        print(*other_lines(results), sep="\n")
    if recorded:
        found = {"shape": measured.shape, "rows": rows, "ratios": ratios(speeds)}
        print(record("gpu.json", found | {"results": results}))


def other_lines(results):
    """Memory of a long step, merging and generating, a line each."""
    for name in ("long", "long-checkpointed"):
        gigabytes = results[name]["peak_bytes"] / 1e9
        yield f"8,192 tokens a step, {name}: {gigabytes:.1f} GB at most"
    merged, copied = (results["merge"][f"{name}_seconds"] for name in ("merge", "copy"))
    yield f"merging {merged:.1f} s, reading and writing the same bytes {copied:.1f} s"
    ways = {k: v for k, v in results["generate"].items() if k != "peak_bytes"}
    yield "tokens/s generated: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in ways.items())
