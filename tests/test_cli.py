import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_tokenizer import train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GlmConfig, GlmForCausalLM

from loraglm_helpers.__main__ import main, one_line
from loraglm_helpers.arguments import EXAMPLES, build_parser
from loraglm_helpers.checkpoints import load_glm, save_official
from loraglm_helpers.data import DataError
from loraglm_helpers.tokenizer import load_tokenizer

COMMANDS = ["doctor", "lint", "train", "evaluate", "merge", "convert", "generate"]
CONTEXT = "Instruction: 找出文中的三元组。\nInput: 白石大学在青州。\nAnswer: "
TRIPLE = '[{"predicate": "所在地", "subject": "白石大学", "object": "青州"}]'


def official_config() -> GlmConfig:
    shape = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "attention_bias": True,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": None,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    return GlmConfig(**shape, rope_parameters=rope)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random GLM in the official layout, float16."""
    folder = tmp_path_factory.mktemp("cli") / "tiny-chatglm2"
    train_tokenizer(folder)
    torch.manual_seed(0)
    model = GlmForCausalLM(official_config()).half()
    return save_official(model, load_tokenizer(folder), folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {"context": CONTEXT, "target": TRIPLE},
        {"context": CONTEXT + " ", "target": '["教育"]'},
        {"context": CONTEXT + "  ", "target": "白石大学在哪里？"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def trained(checkpoint, data, tmp_path_factory):
    """save_dir of a two-step run."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert train(checkpoint, data, folder, "max_steps=2", "max_target_seq_len=16") == 0
    return folder


def train(checkpoint, data, folder, *more, options=()):
    settings = [f"pre_model={checkpoint}", f"train_path={data}", f"dev_path={data}"]
    settings += [f"save_dir={folder}", "batch_size=2", "device=cpu", "logging_steps=1", *more]
    return main(["train", "--preset", "tiny", *options, "--set", *settings])


def test_every_command_has_help_with_examples(capsys):
    assert [options.__name__ for options in EXAMPLES] == COMMANDS
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f"examples:\n  python -m loraglm_helpers {name}" in text


def test_every_example_parses():
    import shlex

    for examples in EXAMPLES.values():
        for example in examples:
            build_parser().parse_args(shlex.split(example))


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from loraglm_helpers.arguments import build_parser; build_parser(); "
        "print({'torch', 'transformers', 'pandas', 'numpy'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["lint", "none.jsonl"],
            1,
            "error: none.jsonl: cannot be read (No such file or directory)",
        ),
        (["train", "--set", "lora_rnak=3"], 1, "error: 'lora_rnak' is no setting; did you mean"),
        (["train", "--set", "use_lora=maybe"], 1, "error: use_lora=maybe: allowed: true or false"),
        (["train", "--config", "none.json"], 1, "error: none.json: cannot be read"),
        (["train", "--set", "device=gpu"], 1, "error: device is 'gpu'; allowed: auto, cpu, cuda"),
        (["lint", "none.jsonl", "--layout", "glm"], 1, "error: --layout and the --max-… limits"),
        (
            ["evaluate", "--model", "none", "--data", "none.jsonl", "--limit", "-1"],
            1,
            "error: --limit is -1; 1 or more wanted",
        ),
        (["generate", "--model", "none", "--instruction", "x"], 1, "error: none: no such folder"),
        (["evaluate", "--model", "none", "--data", "none.jsonl"], 1, "error: none.jsonl: cannot"),
        (["convert", "--model", "none", "--to", "native", "--out", "x"], 1, "error: none: no such"),
        (
            ["convert", "--model", "a", "--adapter", "b", "--to", "native", "--out", "x"]
            + ["--dtype", "fp32"],
            1,
            "error: --dtype is for a model",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["fly"], ["merge"], ["train", "--preset", "big"]])
def test_wrong_usage_is_one_line_and_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1


def test_bad_rows_are_told_in_one_line(tmp_path, capsys, checkpoint):
    (tmp_path / "bad.jsonl").write_text("{}\n[]\n")
    assert (
        main(["evaluate", "--model", str(checkpoint), "--data", str(tmp_path / "bad.jsonl")]) == 1
    )
    text = capsys.readouterr().err
    assert "bad.jsonl: 2 bad lines, the first: " in text
    assert "bad.jsonl:1: context: missing; this line has no fields (lint names all)" in text


def test_errors_nobody_foresaw_keep_their_type():
    assert one_line(KeyError("x")) == "KeyError: 'x' (--debug shows where)"
    assert one_line(DataError("a\nb")) == "a b"
    assert one_line(ValueError()) == "no message"


def test_debug_shows_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        main(["lint", "none.jsonl", "--debug"])


def test_doctor(capsys, checkpoint):
    code = main(["doctor", "--model", str(checkpoint)])
    text = capsys.readouterr().out
    assert "ok    python" in text and "tiny-chatglm2: ChatGLM layout" in text
    assert code == ("FAIL  " in text)


def test_lint_reports_every_file_and_leakage(data, tmp_path, capsys, checkpoint, monkeypatch):
    dev = tmp_path / "dev.jsonl"
    dev.write_text(data.read_text().splitlines()[0] + "\nno row\n")
    assert main(["lint", str(data), "--tokenizer", str(checkpoint)]) == 0
    assert "tokens, 95 % up to" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)  # files of the project are found from anywhere
    assert main(["lint", "data/mixed_dev_dataset.jsonl"]) == 0
    assert "300 rows" in capsys.readouterr().out
    assert main(["lint", str(data), str(dev)]) == 1
    text = capsys.readouterr().out
    assert "rows.jsonl: 3 lines, 3 rows" in text
    assert "dev.jsonl:2: not JSON" in text
    assert "leakage: 1" in text


def test_train_leaves_adapters_history_and_settings(trained):
    assert sorted(file.name for file in trained.iterdir()) == [
        "best",
        "history.json",
        "last",
        "settings.json",
    ]
    history = json.loads((trained / "history.json").read_text())
    assert {"step", "loss", "tokens", "seconds"} <= history["records"][-1].keys()
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["lora_rank"] == 8 and settings["max_steps"] == 2


def test_train_resumes_from_its_own_settings_file(checkpoint, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(checkpoint, data, out, "epochs=2", "max_steps=3", "max_seconds=1e-6") == 0
    arguments = ["train", "--config", str(out / "settings.json"), "--resume"]
    assert main([*arguments, "--set", "max_seconds=none"]) == 0
    assert f"{out}/best: the adapter, dev loss" in capsys.readouterr().out
    history = json.loads((out / "history.json").read_text())
    assert [record["step"] for record in history["records"]] == [1, 2, 3]


def test_train_says_what_may_not_be_meant_and_why_it_ended(checkpoint, data, tmp_path, capsys):
    own = [f"pre_model={checkpoint}", f"train_path={data}", f"save_dir={tmp_path / 'run'}"]
    base = ["train", "--set", *own, "device=cpu"]
    assert main([*base, "max_seconds=0.001"]) == 0
    captured = capsys.readouterr()
    assert "note: train_path is yours and dev_path is not" in captured.err
    assert "stopped at max_seconds; the same command with more and --resume" in captured.out
    assert main([*base, "dev_path=none", "max_steps=1", f"save_dir={tmp_path}", "--resume"]) == 0
    captured = capsys.readouterr()
    assert "dev_path is not" not in captured.err and "nothing to resume" in captured.err
    assert f"{tmp_path}/best: the adapter\n" in captured.out


def test_train_with_a_token_cache_and_curves_for_tensorboard(checkpoint, data, tmp_path):
    pytest.importorskip(
        "tensorboard", reason='tensorboard is missing: pip install -e ".[tensorboard]"'
    )
    cache, board = tmp_path / "tokens", tmp_path / "board"
    settings = ["max_steps=1", f"token_cache={cache}"]
    options = ["--tensorboard", str(board)]
    assert train(checkpoint, data, tmp_path / "out", *settings, options=options) == 0
    assert len(list(cache.glob("*/cache.json"))) == 1
    assert len(list(board.glob("events.*"))) == 1


def test_evaluate_ends_in_one_json_object(checkpoint, trained, data, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    common = ["evaluate", "--model", str(checkpoint), "--adapter", str(trained / "best")]
    assert main([*common, "--data", str(data), "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result) == ["exact_match", "triple_f1", "json_valid", "by_task"]
    assert set(result["by_task"]) == {"triples", "classification", "question"}
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["line"] for answer in answers] == [1, 2, 3]
    assert answers[0]["target"] == TRIPLE
    assert main([*common, "--data", str(data), "--limit", "1"]) == 0
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])["by_task"]) == ["triples"]


def test_answers_come_in_the_layout_of_the_adapters_training(checkpoint, data, tmp_path, capsys):
    from loraglm_helpers.commands import _answer_settings

    assert train(checkpoint, data, tmp_path / "run", "max_steps=1", "layout=chatglm2") == 0
    common = ["generate", "--model", str(checkpoint), "--instruction", "x"]
    args = build_parser().parse_args([*common, "--adapter", str(tmp_path / "run" / "best")])
    assert _answer_settings(args).layout == "chatglm2"
    assert _answer_settings(build_parser().parse_args(common)).layout == "glm"
    args = build_parser().parse_args([*common, "--layout", "chatglm3"])
    assert _answer_settings(args).layout == "chatglm3"


def test_a_fully_trained_model_answers_with_its_run_s_layout_and_tokenizer(
    checkpoint, data, tmp_path, capsys
):
    from loraglm_helpers.commands import _answer_settings

    settings = ["use_lora=false", "max_steps=1", "layout=chatglm2", "precision=fp32"]
    assert train(checkpoint, data, tmp_path / "run", *settings) == 0
    generate = ["generate", "--model", str(tmp_path / "run" / "best"), "--instruction", "x"]
    generate += ["--max-new-tokens", "2"]
    assert _answer_settings(build_parser().parse_args(generate)).layout == "chatglm2"
    assert main(generate) == 0
    (tmp_path / "run" / "settings.json").unlink()
    assert main(generate) == 1
    assert "best: no tokenizer that can be used" in capsys.readouterr().err


def test_generate_prints_the_answer(checkpoint, capsys):
    common = ["generate", "--model", str(checkpoint), "--instruction", "提问", "--input", "梨"]
    assert main([*common, "--max-new-tokens", "4"]) == 0
    greedy = capsys.readouterr().out
    assert greedy.endswith("\n")
    sampled = [*common, "--max-new-tokens", "8", "--sample", "--seed", "3", "--temperature", "2"]
    assert main(sampled) == 0
    first = capsys.readouterr().out
    assert main(sampled) == 0
    assert capsys.readouterr().out == first != greedy


def test_merge_writes_a_model_that_answers_alone(checkpoint, trained, tmp_path, capsys):
    out = tmp_path / "merged"
    common = ["merge", "--base", str(checkpoint), "--adapter", str(trained / "best")]
    assert main([*common, "--out", str(out), "--dtype", "fp32"]) == 0
    assert f"{out}: 12 layers merged, stored as float32" in capsys.readouterr().out
    generate = ["generate", "--model", str(out), "--instruction", "提问", "--max-new-tokens", "3"]
    assert main(generate) == 0
    assert main([*common, "--out", str(out)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert main([*common, "--out", str(out), "--overwrite"]) == 0
    assert "stored as float16" in capsys.readouterr().out


def test_convert_a_model_there_and_back(checkpoint, tmp_path, capsys):
    native, back = tmp_path / "native", tmp_path / "back"
    convert = ["convert", "--model", str(checkpoint), "--to"]
    assert main([*convert, "native", "--out", str(native)]) == 0
    assert f"{native}: written in the native layout" in capsys.readouterr().out
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    model = AutoModelForCausalLM.from_pretrained(native)
    assert type(model) is GlmForCausalLM and model.dtype == torch.float16
    ids = load_tokenizer(checkpoint).encode(CONTEXT, add_special_tokens=False)
    assert AutoTokenizer.from_pretrained(native).encode(CONTEXT, add_special_tokens=False) == ids

    assert main(["convert", "--model", str(native), "--to", "official", "--out", str(back)]) == 0
    was, now = (load_file(folder / "model.safetensors") for folder in (checkpoint, back))
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert all(was[name].dtype == now[name].dtype for name in was)
    names = ("tokenizer.model",)
    assert all((checkpoint / n).read_bytes() == (back / n).read_bytes() for n in names)


def test_convert_in_another_dtype(checkpoint, tmp_path):
    arguments = ["convert", "--model", str(checkpoint), "--to", "official", "--dtype", "fp32"]
    assert main([*arguments, "--out", str(tmp_path / "f32")]) == 0
    stored = load_file(tmp_path / "f32" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_convert_refuses_to_write_over_what_it_reads(checkpoint, trained, capsys):
    arguments = ["convert", "--model", str(checkpoint), "--to", "native", "--out"]
    assert main([*arguments, str(checkpoint)]) == 1
    assert "holds what is to be read; choose another folder" in capsys.readouterr().err
    adapter = str(trained / "best")
    assert main([*arguments, adapter, "--adapter", adapter]) == 1
    assert "holds what is to be read" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_convert_replaces_only_what_it_is_told_to(checkpoint, trained, tmp_path, kind, capsys):
    out = tmp_path / "out"
    common = ["convert", "--model", str(checkpoint), "--to", "official", "--out", str(out)]
    common += ["--adapter", str(trained / "best")] if kind == "adapter" else []
    out.mkdir()
    (out / "letter.txt").write_text("keep me")
    assert main([*common, "--overwrite"]) == 1
    assert f"no {kind}: choose another folder" in capsys.readouterr().err
    (out / "letter.txt").unlink()
    assert main(common) == 0
    was = sorted(file.name for file in out.iterdir())
    (out / "model.safetensors.index.json").write_text('{"weight_map": {"a": "old.safetensors"}}')
    assert main(common) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*common, "--overwrite"]) == 0
    assert sorted(file.name for file in out.iterdir()) == was
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_convert_an_adapter_there_and_back(checkpoint, trained, tmp_path):
    from loraglm_helpers.lora import load_adapter

    common = ["convert", "--model", str(checkpoint), "--adapter"]
    official, native = tmp_path / "official", tmp_path / "native"
    out = ["--to", "official", "--out", str(official)]
    assert main([*common, str(trained / "best"), *out]) == 0
    assert main([*common, str(official), "--to", "native", "--out", str(native)]) == 0
    settings = json.loads((official / "adapter_config.json").read_text())
    assert "query_key_value" in settings["target_modules"]
    logits = []
    for adapter in (trained / "best", native):
        model = load_adapter(load_glm(checkpoint, device="cpu"), adapter)
        logits.append(model(torch.arange(3, 40)[None]).logits)
    assert (logits[0] - logits[1]).abs().max() < 1e-5


def test_the_module_runs_and_its_code_is_the_exit_code(tmp_path):
    command = [sys.executable, "-m", "loraglm_helpers", "lint", str(tmp_path / "none.jsonl")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
