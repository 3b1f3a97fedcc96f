import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers import loop
from loraglm_helpers.batches import BatchPlan, evaluation_batches, share
from loraglm_helpers.history import History
from loraglm_helpers.interrupt import InterruptGuard
from loraglm_helpers.lora import attach_adapter, load_adapter
from loraglm_helpers.precision import Precision, choose_device, choose_precision
from loraglm_helpers.run_state import ResumeError
from loraglm_helpers.sequences import Example, collate
from loraglm_helpers.steps import make_optimizer, optimizer_groups, schedule_factor
from loraglm_helpers.training import TrainingError, batch_loss, evaluate_loss, train


@dataclass(frozen=True)
class Config:
    pre_model: str = "tiny"
    train_path: str = "unused"
    dev_path: str = "unused"
    use_lora: bool = True
    lora_rank: int = 4
    lora_alpha: float = 32
    lora_dropout: float = 0.1
    target_modules: str = "all-linear"
    adapter_kind: str = "lora"
    use_ptuning: bool = False
    pre_seq_len: int = 4
    prefix_projection: bool = False
    batch_size: int = 4
    tokens_per_batch: int | None = None
    gradient_accumulation_steps: int = 1
    epochs: float = 2
    max_steps: int | None = None
    max_seconds: float | None = None
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    max_grad_norm: float = 1.0
    max_source_seq_len: int = 400
    max_target_seq_len: int = 300
    layout: str = "glm"
    padding_free: bool = True
    precision: str = "auto"
    quantization: str = "none"
    gradient_checkpointing: bool = False
    logging_steps: int = 2
    save_freq: int = 4
    save_dir: str = ""
    seed: int = 42
    device: str = "cpu"
    early_stopping_patience: int | None = None
    rope: str = "auto"


class Tokenizer:
    pad_token_id = 0


def tiny(**changes) -> GlmForCausalLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    return GlmForCausalLM(GlmConfig(**(shape | changes)))


def rows(count: int = 16) -> list[Example]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(count):
        ids = torch.randint(3, 60, (6 + number % 5,), generator=generator).tolist()
        made.append(Example(ids, [-100] * 3 + ids[3:]))
    return made


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(save_dir=str(tmp_path / "run"))


def run(config, model=None, callbacks=(), resume=False, **given) -> History:
    return train(
        config,
        model=model or tiny(),
        tokenizer=Tokenizer(),
        train_rows=given.get("train_rows", rows()),
        dev_rows=given.get("dev_rows", rows(4)),
        callbacks=callbacks,
        resume=resume,
    )


def weights(directory, name="last") -> dict[str, torch.Tensor]:
    return load_file(Path(directory) / name / "adapter_model.safetensors")


def stop_at(step: int):
    def callback(event, state):
        state.stop = event == "step" and state.step == step

    return callback


# --- the schedule, the optimizer's groups, the order of the data


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


def test_total_steps_of_whole_and_broken_epochs():
    plan = BatchPlan([5] * 10, batch_size=2)
    assert [plan.total_steps(epochs) for epochs in (1, 2, 0.4, 2.6)] == [5, 10, 2, 13]
    assert plan.total_steps(2, max_steps=3) == 3
    assert plan.total_steps(0.01) == 1


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


# --- training


def test_two_rows_can_be_learnt_by_heart(config):
    two, model = rows(2), tiny(initializer_range=0.3)
    settings = replace(config, batch_size=2, epochs=80, lora_dropout=0, save_freq=80)
    history = run(settings, model, train_rows=two, dev_rows=two)
    assert history.records[0]["loss"] > 3.5
    assert history.records[-1]["dev_loss"] < 0.05
    assert history.stopped == "finished" and history.resume == ""


def test_records_files_and_events(config):
    seen = []
    history = run(config, callbacks=[lambda event, state: seen.append((event, state.step))])
    assert [record["step"] for record in history.records] == [2, 4, 6, 8]
    assert ["dev_loss" in record for record in history.records] == [False, True, False, True]
    expected = {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "seconds"}
    assert all(expected <= set(record) for record in history.records)
    assert history.records[-1]["tokens"] == 2 * sum(len(row.input_ids) for row in rows())
    assert history.records[-1]["epoch"] == 2
    assert seen[0] == ("start", 0) and seen[-1] == ("end", 8)
    assert [step for event, step in seen if event == "step"] == list(range(1, 9))
    assert [step for event, step in seen if event == "evaluate"] == [4, 8]
    assert [step for event, step in seen if event == "save"] == [4, 8]
    directory = Path(config.save_dir)
    assert History.from_json(directory / "history.json") == history
    assert list(history.to_frame()["step"]) == [2, 4, 6, 8]
    assert not list(directory.rglob("*.part")) + list(directory.glob(".part-*"))


def test_the_best_adapter_is_the_one_with_the_lowest_dev_loss(config):
    settings = replace(config, learning_rate=0.3, epochs=4)
    history = run(settings)
    scores = {r["step"]: r["dev_loss"] for r in history.records if "dev_loss" in r}
    assert history.best == {"step": min(scores, key=scores.get), "dev_loss": min(scores.values())}
    best = load_adapter(tiny(), Path(config.save_dir) / "best")
    assert_close(evaluate_loss(best, rows(4), settings), history.best["dev_loss"])
    last = load_adapter(tiny(), Path(config.save_dir) / "last")
    assert_close(evaluate_loss(last, rows(4), settings), history.records[-1]["dev_loss"])


def test_without_dev_rows_the_best_is_the_last(config):
    history = run(config, dev_rows=[])
    assert history.best is None
    assert_close(weights(config.save_dir, "best"), weights(config.save_dir, "last"))


def test_the_adapter_names_its_base_as_the_config_does(config):
    run(config)
    saved = json.loads((Path(config.save_dir) / "best" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "tiny"


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, tmp_path, kind):
    whole = replace(config, adapter_kind=kind, gradient_accumulation_steps=2, epochs=3)
    halves = replace(whole, save_dir=str(tmp_path / "halves"))
    uninterrupted = run(whole)
    stopped = run(halves, callbacks=[stop_at(3)])
    assert stopped.stopped == "callback" and "step 3 of 6" in stopped.resume
    resumed = run(halves, resume=True)
    for name in ("last", "best"):
        one, other = weights(whole.save_dir, name), weights(halves.save_dir, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    clocks = {"seconds", "tokens_per_second"}
    assert [{k: v for k, v in r.items() if k not in clocks} for r in uninterrupted.records] == [
        {k: v for k, v in r.items() if k not in clocks} for r in resumed.records
    ]
    assert resumed.best == uninterrupted.best


def test_resuming_a_finished_run_trains_no_more(config):
    first = run(config)
    again = run(config, resume=True)
    assert again.records == first.records
    longer = run(replace(config, epochs=3), resume=True)
    assert longer.records[-1]["step"] == 12


def test_resume_false_starts_anew_and_resume_true_needs_no_run(config):
    run(config, callbacks=[stop_at(3)])
    assert run(config).records[0]["step"] == 2
    fresh = replace(config, save_dir=config.save_dir + "-new")
    assert run(fresh, resume=True).records[-1]["step"] == 8


@pytest.mark.parametrize(
    ("changes", "word"), [({"lora_rank": 2}, "lora_rank was 4"), ({"seed": 1}, "seed was 42")]
)
def test_resume_refuses_another_run(config, changes, word):
    run(config, callbacks=[stop_at(3)])
    with pytest.raises(ResumeError, match=word):
        run(replace(config, **changes), resume=True)
    with pytest.raises(ResumeError, match="train_path"):
        run(config, resume=True, train_rows=rows(12))


def test_a_damaged_state_is_named(config):
    run(config, callbacks=[stop_at(3)])
    state = Path(config.save_dir) / "last" / "training_state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ResumeError, match="training_state.safetensors"):
        run(config, resume=True)


def test_an_interrupt_ends_after_the_step_saves_and_says_how_to_go_on(config, capsys):
    def interrupt(event, state):
        if event == "step" and state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    history = run(config, callbacks=[interrupt])
    assert history.stopped == "interrupted"
    assert "step 3 of 8" in history.resume and "resume=True" in history.resume
    assert history.resume in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    assert run(config, resume=True).records[-1]["step"] == 8


def test_a_second_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt), InterruptGuard() as guard:
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.stop
        os.kill(os.getpid(), signal.SIGINT)


def test_a_killed_run_resumes_from_its_last_save(config, tmp_path):
    def die(event, state):
        if event == "step" and state.step == 6:
            raise SystemExit("as if by kill -9")

    whole = replace(config, save_dir=str(tmp_path / "whole"))
    run(whole)
    with pytest.raises(SystemExit):
        run(config, callbacks=[die])
    run(config, resume=True)
    one, other = weights(whole.save_dir), weights(config.save_dir)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_accumulation_equals_one_big_batch(config, tmp_path):
    exact = replace(config, lora_dropout=0.0)
    small = replace(exact, batch_size=2, gradient_accumulation_steps=4)
    big = replace(exact, batch_size=8, save_dir=str(tmp_path / "big"))
    losses = [[r["loss"] for r in run(settings).records] for settings in (small, big)]
    assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert_close(weights(small.save_dir), weights(big.save_dir), atol=2e-5, rtol=1e-3)


def test_padded_and_padding_free_training_agree(config, tmp_path):
    free = replace(config, lora_dropout=0.0)
    padded = replace(free, padding_free=False, save_dir=str(tmp_path / "padded"))
    losses = [[r["loss"] for r in run(settings).records] for settings in (free, padded)]
    assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_limits_end_a_run(config):
    assert run(replace(config, max_steps=3)).records[-1]["step"] == 3
    history = run(replace(config, max_seconds=0.0))
    assert history.stopped == "max_seconds"
    assert history.records[-1]["step"] == 1 and "dev_loss" in history.records[-1]


def test_early_stopping_counts_evaluations_without_a_new_best(config, monkeypatch):
    scores = iter([4.0, 3.0, 3.5, 2.0, 2.5, 2.0, 1.0])
    monkeypatch.setattr(loop, "evaluate_loss", lambda *_, **__: next(scores))
    history = run(replace(config, epochs=9, save_freq=2, early_stopping_patience=2))
    assert history.stopped == "early_stopping" and history.resume == ""
    assert [r["dev_loss"] for r in history.records] == [4.0, 3.0, 3.5, 2.0, 2.5, 2.0]
    assert history.best == {"step": 8, "dev_loss": 2.0}


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(config):
    model = tiny()

    def poison(event, state):
        if event == "step" and state.step == 3:
            state.model.get_base_model().lm_head.weight.data[5] = float("nan")

    with pytest.raises(TrainingError, match=r"step 4: the loss is nan.*step 3.*learning_rate"):
        run(config, model, callbacks=[poison])
    assert all(torch.isfinite(tensor).all() for tensor in weights(config.save_dir).values())
    assert run(config, resume=True).records[-1]["step"] == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["batch_size=2 with gradient_accumulation_steps=2", "gradient_checkpointing=True"]),
        ({"tokens_per_batch": 20, "gradient_checkpointing": True}, ["tokens_per_batch="]),
    ],
)
def test_out_of_memory_says_what_to_lower(config, changes, words):
    model = tiny()

    def fail(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(TrainingError) as caught:
        run(replace(config, **changes), model)
    assert all(word in str(caught.value) for word in ("step 1: out of memory", *words))


def test_evaluation_weighs_tokens_and_changes_nothing(config):
    model = attach_adapter(tiny(), config)
    examples = rows(7)
    together, count = batch_loss(model.eval(), collate(examples))
    model.train()
    assert_close(evaluate_loss(model, examples, config), (together / count).item())
    padded = replace(config, padding_free=False)
    assert_close(evaluate_loss(model, examples, padded), (together / count).item())
    assert model.training
    with pytest.raises(ValueError, match="at least one row"):
        evaluate_loss(model, [], config)


def test_use_cache_is_off_only_while_training(config):
    model = tiny()
    run(config, model)
    assert model.config.use_cache is True
    assert model.training


def test_no_rows_is_an_error(config):
    with pytest.raises(ValueError, match="train_path"):
        run(config, train_rows=[])


# --- precision and kinds of tuning


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_with_float32_adapters(config, precision):
    base = tiny().to(Precision(torch.device("cpu"), precision).dtype)
    settings = replace(config, precision=precision, epochs=6, lora_dropout=0)
    history = run(settings, base, dev_rows=rows())
    scores = [r["dev_loss"] for r in history.records if "dev_loss" in r]
    assert scores[-1] < 0.97 * 4.1
    assert {tensor.dtype for tensor in weights(config.save_dir).values()} == {torch.float32}


def test_precisions_and_devices_are_chosen_or_refused():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == "fp32"
    assert choose_device("cpu") == cpu
    assert Precision(cpu, "fp16").scaler.is_enabled()
    assert not Precision(cpu, "bf16").scaler.is_enabled()
    with pytest.raises(ValueError, match="int8"):
        choose_precision("int8", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA GPU"):
            choose_device("cuda")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter_kind": "rslora"},
        {"adapter_kind": "dora"},
        {"adapter_kind": "pissa"},
        {"use_lora": False, "use_ptuning": True},
        {"use_lora": False, "learning_rate": 1e-3},
        {"gradient_checkpointing": True},
        {"target_modules": "query_key_value"},
        {"tokens_per_batch": 40},
    ],
)
def test_every_kind_of_tuning_learns_and_resumes(config, changes):
    settings = replace(config, epochs=8, lora_dropout=0, save_freq=8, **changes)
    run(settings, callbacks=[stop_at(5)], dev_rows=rows())
    history = run(settings, dev_rows=rows(), resume=True)
    scores = [r["dev_loss"] for r in history.records if "dev_loss" in r]
    assert scores[-1] < scores[0] < 4.3


def test_pissa_files_are_an_ordinary_lora_of_twice_the_rank(config):
    settings = replace(config, adapter_kind="pissa", lora_dropout=0)
    model = tiny()
    history = run(settings, model)
    saved = json.loads((Path(config.save_dir) / "last" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["init_lora_weights"]) == (8, 64, True)
    loaded = load_adapter(tiny(), Path(config.save_dir) / "last")
    assert_close(
        evaluate_loss(loaded, rows(4), settings),
        history.records[-1]["dev_loss"],
        atol=1e-4,
        rtol=1e-4,
    )


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from test_training import Config, run, rows
run(Config(save_dir={save_dir!r}, lora_dropout=0.0, batch_size=5, gradient_accumulation_steps=2,
           epochs=1.5), train_rows=rows(16))
"""


def test_two_processes_train_as_one(config, tmp_path):
    one = replace(config, lora_dropout=0.0, batch_size=5, gradient_accumulation_steps=2, epochs=1.5)
    alone = run(one)
    script, save_dir = tmp_path / "worker.py", str(tmp_path / "two")
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), save_dir=save_dir))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--main_process_port=0"]
    command += ["--dynamo_backend=no", str(script)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    both = History.from_json(Path(save_dir) / "history.json")
    for key in ("loss", "dev_loss", "tokens"):
        ours, theirs = ([r[key] for r in h.records if key in r] for h in (alone, both))
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
