import tracemalloc
from array import array

import pytest
import torch
from tiny_training import tiny

from loraglm_helpers.batches import BatchPlan, evaluation_batches, share
from loraglm_helpers.steps import make_optimizer, optimizer_groups, schedule_factor


def test_schedule_rises_then_falls_linearly():
    factors = [schedule_factor(step, 10, 0.2) for step in range(1, 11)]
    assert factors[:3] == [0.5, 1.0, pytest.approx(8 / 9)]
    assert factors[-1] == pytest.approx(1 / 9)
    assert schedule_factor(1, 4, 0.0) == 1.0
    assert schedule_factor(1, 1, 0.06) == 1.0


def test_biases_and_norms_do_not_decay():
    model = tiny(attention_bias=True)
    decayed, rest = optimizer_groups(model, 0.01)
    names = {id(p): name for name, p in model.named_parameters()}
    kept = {names[id(p)].removeprefix("model.layers.1.") for p in rest["params"]}
    kept = {name for name in kept if "layers.0" not in name}
    assert rest["weight_decay"] == 0 and decayed["weight_decay"] == 0.01
    assert kept == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
        "model.norm.weight",
    }
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_weight_decay_moves_matrices_only():
    model = tiny(attention_bias=True).requires_grad_(True)
    optimizer = make_optimizer(model, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.all(model.lm_head.weight == 0.95)
    assert torch.all(model.model.norm.weight == 1.0)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(tiny().requires_grad_(False), 0.1, 0.0)


def test_batches_by_count_cover_an_epoch_in_seeded_order():
    plan = BatchPlan([5] * 10, batch_size=4, accumulation=2, seed=1)
    steps = plan.steps(0)
    assert [[len(batch) for batch in step] for step in steps] == [[4, 4], [2]]
    assert sorted(i for step in steps for batch in step for i in batch) == list(range(10))
    assert plan.steps(0) == steps != plan.steps(1)
    assert BatchPlan([5] * 10, 4, accumulation=2, seed=2).steps(0) != steps


def test_batches_by_tokens_stay_below_the_limit():
    lengths = [3, 9, 4, 7, 2, 8, 5]
    free = [b for [b] in BatchPlan(lengths, 1, tokens_per_batch=12).steps(0)]
    assert all(sum(lengths[i] for i in batch) <= 12 for batch in free)
    padded = [b for [b] in BatchPlan(lengths, 1, tokens_per_batch=12, padded=True).steps(0)]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 12 for batch in padded)
    assert sorted(i for batch in padded for i in batch) == list(range(7))
    assert BatchPlan([50], 1, tokens_per_batch=12).steps(0) == [[[0]]]


def by_hand(lengths, tokens, accumulation, padded, seed) -> list[list[list[int]]]:
    """An epoch's steps, made as the rule reads: fill a batch until the next example is too much."""
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = [[]]
    for index in order:
        full = [lengths[i] for i in [*batches[-1], index]]
        if batches[-1] and (len(full) * max(full) if padded else sum(full)) > tokens:
            batches.append([])
        batches[-1].append(index)
    return [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]


@pytest.mark.parametrize("padded", [False, True])
def test_batches_by_tokens_take_what_fits_and_no_more(padded):
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    plan = BatchPlan(lengths, 1, 60, accumulation=3, seed=5, padded=padded)
    assert plan.steps(0) == by_hand(lengths, 60, 3, padded, 5)
    assert plan.total_steps(1.0) == len(plan.steps(0))


@pytest.mark.parametrize("tokens", [None, 4096])
def test_many_examples_are_planned_in_few_bytes(tokens):
    lengths = array("i", [100 + i % 100 for i in range(200_000)])
    plan = BatchPlan(lengths, 8, tokens)
    tracemalloc.start()
    try:
        assert plan.total_steps(1) > 6_000
        number, _, [batch] = next(plan.from_step(5_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 5_001 and all(type(index) is int for index in batch)
    assert peak < 50 * 200_000  # bytes


def test_total_steps_of_whole_and_broken_epochs():
    plan = BatchPlan([5] * 10, batch_size=2)
    assert [plan.total_steps(epochs) for epochs in (1, 2, 0.4, 2.6)] == [5, 10, 2, 13]
    assert plan.total_steps(2, max_steps=3) == 3
    assert plan.total_steps(0.01) == 1
    assert plan.total_steps(1e9, max_steps=12) == 12  # counts no epoch beyond them


def test_a_plan_goes_on_from_any_step():
    plan = BatchPlan([5] * 10, batch_size=4)
    whole, rest = plan.from_step(0), plan.from_step(4)
    first = [next(whole) for _ in range(7)]
    assert [next(rest) for _ in range(3)] == first[4:]
    assert [(number, round(epoch, 3)) for number, epoch, _ in first[2:4]] == [(3, 1.0), (4, 1.333)]


def test_processes_share_a_batch():
    lengths = [9, 1, 8, 2, 7]
    shares = [share([0, 1, 2, 3, 4], lengths, rank, 2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]
    assert [sum(lengths[i] for i in mine) for mine in shares] == [12, 15]
    assert share([3], lengths, 1, 2) == []
    assert sorted(i for b in evaluation_batches(lengths, 16) for i in b) == [0, 1, 2, 3, 4]
