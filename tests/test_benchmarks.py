"""The benchmarks' own parts, at a size that takes seconds: what they count, not how fast it is."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import contender_process  # noqa: E402
import report  # noqa: E402
from contenders import train_ours  # noqa: E402
from matmul_limit import Products, frozen_matrices, measure_limit  # noqa: E402
from step_profile import GROUPS, group_of, profile_steps, sum_groups  # noqa: E402
from workload import SHAPES, SOURCE, TARGET, Workload, make_rows, random_glm  # noqa: E402

WORK = Workload(shape="tiny", rows=16)


@pytest.fixture(scope="module")
def ours():
    """Our contender's timing and model."""
    return train_ours(WORK)


def test_the_shapes_are_the_stated_ones():
    for name, parameters in (("67M", 67_251_584), ("chatglm2-6b", 6_243_584_000)):
        model = random_glm(name, "meta", torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert SHAPES[name].parameters() == parameters


def test_rows_have_the_stated_lengths():
    rows = make_rows(128, 65024)
    targets = [sum(label != -100 for label in row.labels) for row in rows]
    prompts = [len(row.labels) - count for row, count in zip(rows, targets, strict=True)]
    assert sum(targets) + sum(prompts) == pytest.approx(128 * 171, abs=1)
    assert sum(targets) / (sum(targets) + sum(prompts)) == pytest.approx(0.59, abs=1e-3)
    assert 0 < min(prompts) and max(prompts) <= SOURCE
    assert 0 < min(targets) and max(targets) == TARGET
    assert rows == make_rows(128, 65024)


def test_contenders_train_the_same_rows_to_the_same_loss(ours):
    import peers

    results = [ours[0], peers.train_trainer(WORK), peers.train_seed(WORK)]
    assert [result.tokens for result in results] == [16 * 171] * 3
    assert len({result.targets for result in results}) == 1
    assert [result.loss for result in results] == pytest.approx([results[0].loss] * 3, abs=1e-2)


def test_the_seeds_recipe_keeps_its_head_s_name_and_pads_to_700():
    import peers

    batch = peers.padded_to_700(make_rows(1, 320)[0])
    assert [len(ids) for ids in batch.values()] == [700, 700]
    assert (batch["labels"] != -100).sum() == 101


def test_the_limit_counts_4n_operations_a_token(ours):
    model = ours[1]
    limit = measure_limit(model, 100, 60, repeats=1)
    shape = SHAPES["tiny"]
    layers = shape.num_hidden_layers * sum(a * b for a, b in shape.linears().values())
    head = shape.vocab_size * shape.hidden_size
    assert limit.operations == 4 * (100 * layers + 60 * head)
    assert limit.seconds > 0
    base = model.get_base_model()
    assert len(frozen_matrices(base, base.lm_head.weight)) == 6 * shape.num_hidden_layers


def test_the_limit_makes_the_products_of_both_directions():
    weight = torch.randn(6, 4)
    products = Products([weight], count=5, rows=2)
    products()
    assert torch.equal(products.made[6][:1], products.given[4][:1] @ weight.T)
    assert torch.equal(products.made[4][:1], products.given[6][:1] @ weight)


def test_the_profile_covers_a_step_and_has_every_group(ours):
    seconds = profile_steps(WORK, ours[1], steps=1)
    assert tuple(seconds) == GROUPS
    assert all(spent > 0 for spent in seconds.values())


def event(name, *callers, shapes=(), own=1e6):
    parent = event(callers[0], *callers[1:]) if callers else None
    return SimpleNamespace(
        name=name, cpu_parent=parent, input_shapes=shapes, self_cpu_time_total=own
    )


@pytest.mark.parametrize(
    ("given", "group"),
    [
        (event("aten::mm", "aten::linear", shapes=[[9, 32], [32, 64]]), "matmul"),
        (event("aten::mm", "aten::linear", "LowRankLinear", shapes=[[9, 32], [32, 64]]), "matmul"),
        (event("aten::mm", "LowRankLinearBackward", shapes=[[8, 9], [9, 64]]), "LoRA detour"),
        (event("aten::random_", "LowRankLinear"), "LoRA detour"),
        (event("aten::mm", "HeadLoss", shapes=[[9, 32], [32, 64]]), "head"),
        (event("aten::bmm", "aten::_scaled_dot_product_math"), "attention"),
        (event("aten::silu"), "elementwise"),
        (event("aten::mul", "optimizer"), "optimizer"),
    ],
)
def test_operations_are_told_apart(given, group):
    assert group_of(given, rank=8) == group


def test_only_the_own_time_of_operations_is_summed():
    events = [event("aten::mm", own=2e6), event("autograd::engine", own=5e6)]
    assert sum_groups(events, rank=8)["matmul"] == 2
    assert sum(sum_groups(events, rank=8).values()) == 2


RESULT = {"tokens_per_second": 900.0, "peak_bytes": 2_000_000_000}
LIMIT = {"tokens_per_second": 1200.0, "operations_per_second": 9e10}
RESULTS = {
    "ours": RESULT | {"limit": LIMIT},
    "peer": RESULT | {"tokens_per_second": 300.0, "peak_bytes": 3_000_000_000},
}


def test_the_table_says_speed_ratio_memory_and_share():
    ours, peer, *_ = report.table(RESULTS).splitlines()[1:]
    assert ours.split() == ["ours", "900", "1.00x", "2,000", "75%"]
    assert peer.split() == ["peer", "300", "3.00x", "3,000", "25%"]
    assert report.ratios(RESULTS) == {"ours / peer": 3.0, "ours / limit": 0.75}


def test_a_record_names_the_machine_and_no_path(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RUNS", tmp_path / "runs")
    path = report.record("step.json", {"results": RESULTS})
    content = json.loads(path.read_text())
    assert content["results"] == RESULTS
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert str(BENCHMARKS.parents[1]) not in path.read_text()


def test_gpu_parts_run_on_a_cpu():
    import gpu_parts

    long = gpu_parts.long_step(WORK, checkpointing=True)
    assert long["tokens"] == 16 * 171
    merged = gpu_parts.merging(WORK)
    assert merged["bytes"] > 4 * SHAPES["tiny"].parameters()
    assert min(merged.values()) > 0
    speeds = gpu_parts.generating(WORK, new_tokens=3, batch=8)
    assert list(speeds) == ["ours", "generate, batched", "generate, one by one"]
    assert min(speeds.values()) > 0


def test_a_process_of_its_own_returns_its_result():
    result = contender_process.run("generate", shape="tiny", rows=8)
    assert result["peak_bytes"] > 100e6
    with pytest.raises(RuntimeError, match="invalid choice: 'nobody'"):
        contender_process.run("nobody")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_its_benchmark_says_so_in_a_line():
    with pytest.raises(pytest.skip.Exception, match="no CUDA GPU here, nothing measured") as said:
        importlib.import_module("bench_gpu")
    assert said.value.allow_module_level
