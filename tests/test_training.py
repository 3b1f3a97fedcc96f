import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import make_config, rows, run, stop_at, tiny, weights
from torch.testing import assert_close

from loraglm_helpers import loop
from loraglm_helpers.advice import OutOfMemory, is_out_of_memory
from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.history import History
from loraglm_helpers.interrupt import InterruptGuard
from loraglm_helpers.lora import attach_adapter, load_adapter
from loraglm_helpers.precision import Precision
from loraglm_helpers.run_state import ResumeError, check_fixed
from loraglm_helpers.sequences import collate
from loraglm_helpers.training import TrainingError, batch_loss, evaluate_loss, prepare_model

NAN = float("nan")


def no_memory(*_, **__):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture
def config(tmp_path) -> FineTuneConfig:
    return make_config(save_dir=str(tmp_path / "run"))


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
    assert not [file for file in directory.rglob("*") if file.name.startswith(".")]  # no drafts


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
    ("changes", "word"),
    [
        ({"lora_rank": 2}, "lora_rank was 4"),
        ({"seed": 1}, "seed was 42"),
        ({"padding_free": False}, "padding_free was True"),
        ({"layout": "chatglm2"}, "layout was 'glm'"),
        ({"max_source_seq_len": 9}, "max_source_seq_len was 400"),
    ],
)
def test_resume_refuses_another_run(config, changes, word):
    run(config, callbacks=[stop_at(3)])
    with pytest.raises(ResumeError, match=word):
        run(replace(config, **changes), resume=True)
    with pytest.raises(ResumeError, match="rows of train_path"):
        run(config, resume=True, train_rows=rows(12))
    with pytest.raises(ResumeError, match="pre_model is another model"):
        run(config, model=tiny(hidden_size=64, head_dim=16), resume=True)


def test_a_state_from_before_a_setting_was_checked_is_continued(tmp_path):
    check_fixed(tmp_path, {"seed": 1}, {"seed": 1, "padding_free": True})
    with pytest.raises(ResumeError, match="seed was 2"):
        check_fixed(tmp_path, {"seed": 2}, {"seed": 1, "padding_free": True})


def test_a_resumed_run_may_change_to_scaled_gradients(config):
    run(config, callbacks=[stop_at(3)])
    assert run(replace(config, precision="fp16"), resume=True).records[-1]["step"] == 8


def test_a_run_that_does_no_step_leaves_an_older_one_as_it_is(config):
    run(config)
    files = [file for file in Path(config.save_dir).rglob("*") if file.is_file()]
    before, poisoned = {file: file.read_bytes() for file in files}, tiny()
    poisoned.lm_head.weight.data[5] = NAN
    with pytest.raises(TrainingError, match="step 1: .*nothing is saved"):
        run(replace(config, layout="chatglm2"), poisoned)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert Path(config.save_dir) / "settings.json" in before


def test_a_new_run_replaces_the_best_of_an_older_one_at_its_first_save(config):
    run(replace(config, use_lora=False, learning_rate=1e-3))
    new, seen = replace(config, layout="chatglm2", max_steps=5), []

    def look(event, state):
        if event == "save":
            best = Path(config.save_dir) / "best"
            seen.append(sorted(file.name for file in best.iterdir()))
            settings = FineTuneConfig.from_json(best.parent / "settings.json")
            assert settings == new and settings.layout == "chatglm2"

    run(new, dev_rows=[], callbacks=[look])
    assert seen == [["adapter_config.json", "adapter_model.safetensors"]] * 2
    assert_close(weights(config.save_dir, "best"), weights(config.save_dir))


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_dropout_follows_from_the_seed(config, seeds):
    drawn = []

    def look(event, state):
        if event == "start":
            state.model.get_base_model().lm_head.register_forward_pre_hook(
                lambda *_: drawn.append(torch.rand(4))
            )

    for seed in seeds:
        run(replace(config, seed=seed, max_steps=1, lora_dropout=0), dev_rows=[], callbacks=[look])
    assert torch.equal(*drawn) == (seeds[0] == seeds[1])


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
    history = run(replace(config, max_seconds=1e-9))
    assert history.stopped == "max_seconds"
    assert history.records[-1]["step"] == 1 and "dev_loss" in history.records[-1]
    assert "train(config.replace(max_seconds=...), resume=True)" in history.resume
    assert "larger max_seconds" in history.resume


def test_early_stopping_counts_evaluations_without_a_new_best(config, monkeypatch):
    scores = iter([4.0, 3.0, 3.5, 2.0, 2.5, 2.0, 1.0])
    monkeypatch.setattr(loop, "evaluate_loss", lambda *_, **__: next(scores))
    history = run(replace(config, epochs=9, save_freq=2, early_stopping_patience=2))
    assert history.stopped == "early_stopping" and history.resume == ""
    assert [r["dev_loss"] for r in history.records] == [4.0, 3.0, 3.5, 2.0, 2.5, 2.0]
    assert history.best == {"step": 8, "dev_loss": 2.0}
    saved = weights(config.save_dir)
    again = replace(config, epochs=9, save_freq=2, early_stopping_patience=2)
    assert run(again, resume=True).records[-1]["step"] == 12  # stopped before, it does no step
    assert all(saved[name].equal(value) for name, value in weights(config.save_dir).items())


def test_a_history_is_json_whatever_was_recorded(tmp_path):
    record = {"step": 1, "grad_norm": NAN, "loss": 0.5}
    History([record, record | {"grad_norm": float("inf")}]).to_json(tmp_path / "h.json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    read = json.loads((tmp_path / "h.json").read_text(), parse_constant=refuse)
    assert [kept["grad_norm"] for kept in read["records"]] == [None, None]


def test_a_given_adapter_is_trained_under_the_settings_too(config):
    adapted = attach_adapter(tiny(), config)
    model = prepare_model(
        replace(config, gradient_checkpointing=True), adapted, Precision(torch.device("cpu"))
    )
    assert model is adapted and model.get_base_model().is_gradient_checkpointing


@pytest.mark.parametrize(
    ("scores", "best", "records"),
    [([NAN, 3.0, NAN, 4.0], {"step": 4, "dev_loss": 3.0}, 4), ([NAN, NAN], None, 2)],
)
def test_a_dev_loss_that_is_no_number_is_never_the_best(config, monkeypatch, scores, best, records):
    given = iter(scores)
    monkeypatch.setattr(loop, "evaluate_loss", lambda *_, **__: next(given))
    history = run(replace(config, epochs=9, save_freq=2, early_stopping_patience=2))
    assert history.stopped == "early_stopping" and history.best == best
    assert len(history.records) == records
    same = weights(config.save_dir, "best"), weights(config.save_dir)
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0]) == (best is None)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(config):
    model = tiny()

    def poison(event, state):
        if event == "step" and state.step == 3:
            state.model.get_base_model().lm_head.weight.data[5] = NAN

    with pytest.raises(TrainingError, match=r"step 4: the loss is nan.*step 3.*learning_rate"):
        run(config, model, callbacks=[poison])
    assert all(torch.isfinite(tensor).all() for tensor in weights(config.save_dir).values())
    assert run(config, resume=True).records[-1]["step"] == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["batch_size=2 with gradient_accumulation_steps=2", "gradient_checkpointing=True"]),
        ({"tokens_per_batch": 90, "gradient_checkpointing": True}, ["tokens_per_batch=45"]),
    ],
)
def test_out_of_memory_says_what_to_lower(config, changes, words):
    model = tiny()
    model.lm_head.register_forward_pre_hook(no_memory)
    with pytest.raises(TrainingError) as caught:
        run(replace(config, **changes), model)
    assert all(word in str(caught.value) for word in ("step 1: out of memory", *words))


@pytest.mark.parametrize("step", [1, 3])
def test_out_of_memory_in_the_optimizer_saves_no_step_that_is_half_done(config, step, monkeypatch):
    calls, real = [], torch.optim.AdamW.step

    def half(optimizer, *given):
        calls.append(1)
        return no_memory() if len(calls) == step else real(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", half)
    model = tiny()
    with pytest.raises(OutOfMemory, match=f"step {step}: out of memory.*Set batch_size=2"):
        run(config, model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not Path(config.save_dir).exists()


def test_out_of_memory_in_the_evaluation_saves_its_step(config, monkeypatch):
    monkeypatch.setattr(loop, "evaluate_loss", no_memory)
    with pytest.raises(OutOfMemory, match="step 4: out of memory in the evaluation.*quantization"):
        run(config)
    monkeypatch.undo()
    assert run(config, resume=True).records[-1]["step"] == 8


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_for_want_of_memory_are_known(error, answer):
    assert is_out_of_memory(error) is answer


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
    model, seen = tiny(), set()
    # On the inner model: PEFT calls the outer one past its hooks.
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.add(kwargs["use_cache"]), with_kwargs=True
    )
    run(config, model)
    assert seen == {False}
    assert model.config.use_cache is True
    assert model.training


def test_no_rows_is_an_error(config):
    with pytest.raises(ValueError, match="train_path"):
        run(config, train_rows=[])
