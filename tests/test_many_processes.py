"""Two processes on a CPU do what one does: the same losses, weights and files, by DDP and FSDP.

They are started once each, with accelerate's launcher and the configurations that are shipped,
and write down what they saw; see many_processes.py.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import many_processes
import pytest
import torch
from many_processes import CASES, EXACT
from safetensors.torch import load_file
from tiny_training import make_config, rows, run, stop_at, tiny, weights
from torch.testing import assert_close

from loraglm_helpers.__main__ import main as command
from loraglm_helpers.lora import load_adapter
from loraglm_helpers.training import evaluate_loss

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "loraglm_helpers" / "launch"
SECONDS = many_processes.HANGING + 60
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not torch.distributed.is_available(),
    reason="needs torch.distributed with gloo, on Linux or macOS",
)
Seen = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["ddp_1x8", "fsdp_1x8"])
def launched(request, tmp_path_factory) -> Seen:
    """The folder two processes wrote into, and what each saw."""
    folder = tmp_path_factory.mktemp(request.param)
    run(make_config(save_dir=str(folder / "from one"), **EXACT), callbacks=[stop_at(3)])
    (folder / "command.json").write_text(json.dumps(cli_arguments(folder, "command")))
    launch(LAUNCH / f"{request.param}.yaml", folder)
    return folder, [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]


def launch(config: Path, folder: Path) -> None:
    """Run many_processes.py in two processes; AssertionError with their last words otherwise."""
    program = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    program += ["--num_processes", "2", "--main_process_port", "0"]  # port 0: a free one
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*program, many_processes.__file__, str(folder)],
            env=env,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and what it started
            code = f"none within {SECONDS} s: a process waits for another"
    assert code == 0, f"exit code {code}; the end of their output:\n{log.read_text()[-6000:]}"


def cli_arguments(folder: Path, name: str) -> list[str]:
    """``train`` on the miniature, three steps of four rows."""
    rows_file = folder / "rows.jsonl"
    lines = (ROOT / "data" / "mixed_dev_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    rows_file.write_text("\n".join(lines[:10]) + "\n", encoding="utf-8")
    settings = [f"train_path={rows_file}", f"dev_path={rows_file}", f"save_dir={folder / name}"]
    settings += ["max_steps=3", "epochs=1", "batch_size=4", "device=cpu", "logging_steps=1"]
    settings += ["max_source_seq_len=60", "max_target_seq_len=20", "precision=fp32"]
    return ["train", "--preset", "tiny", "--set", *settings]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A case in this one process: its folder and its records, made once."""
    made: dict[str, tuple[Path, list[dict[str, Any]]]] = {}

    def case(name: str) -> tuple[Path, list[dict[str, Any]]]:
        if name not in made:
            folder = tmp_path_factory.mktemp("alone")
            made[name] = folder, many_processes.run_case(name, folder)[0].records
        return made[name]

    return case


def assert_same_records(seen: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [r["step"] for r in seen] == [r["step"] for r in expected]
    for name in ("loss", "dev_loss", "grad_norm", "lr", "tokens"):
        values, wanted = ([r[name] for r in records if name in r] for records in (seen, expected))
        assert_close(torch.tensor(values), torch.tensor(wanted), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(launched, alone, case):
    folder, seen = launched
    own, expected = alone(case)
    for process in seen:
        assert_same_records(process["as_one"][case]["records"], expected)
    for kind in ("last", "best"):
        [file] = (own / kind).glob("*model.safetensors")
        ours = load_file(folder / case / "process0" / kind / file.name)
        assert_close(ours, load_file(file), atol=5e-5, rtol=1e-3)


def test_only_the_first_process_writes(launched):
    folder, _ = launched
    assert all((folder / case / "process0" / "history.json").is_file() for case in CASES)
    assert [case for case in CASES if (folder / case / "process1").exists()] == []


def test_fsdp_spreads_every_weight_and_ddp_none(launched):
    folder, seen = launched
    for case in CASES:
        held = [process["as_one"][case]["held"] for process in seen]
        assert_close(held, [0.5, 0.5] if "fsdp" in str(folder) else [1.0, 1.0], atol=0.02, rtol=0)


def test_the_adapter_loads_in_one_process_with_its_dev_loss(launched):
    folder, seen = launched
    saved = folder / "uneven" / "process0"
    best = json.loads((saved / "history.json").read_text())["best"]
    model = load_adapter(tiny(), saved / "best")
    loss = evaluate_loss(model, rows(5), make_config(save_dir=str(folder)))
    assert_close(loss, best["dev_loss"], atol=1e-5, rtol=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(launched):
    folder, seen = launched
    for process in seen:
        stopped, last = process["in_two_halves"]
        assert stopped.startswith("stopped after step 3 of 6") and last == 6
    whole, halves = weights(folder / "whole"), weights(folder / "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(launched, tmp_path):
    folder, seen = launched
    whole = make_config(save_dir=str(tmp_path), **EXACT)
    expected = run(whole).records
    to_one = run(whole.replace(save_dir=str(folder / "to one")), resume=True)
    assert_same_records(to_one.records[-3:], expected[-3:])
    assert [process["handed_over"] for process in seen] == [8, 8]
    for name in ("to one", "from one"):
        assert_close(weights(folder / name), weights(tmp_path), atol=5e-5, rtol=1e-3)


def test_a_state_that_only_one_process_finds_is_refused_by_all(launched):
    _, seen = launched
    for process in seen:
        assert "only 1 of 2 processes find it" in process["on_separate_disks"]


def test_a_nan_in_one_process_stops_all_and_keeps_the_last_good_state(launched):
    folder, seen = launched
    for process in seen:
        assert process["with_one_nan"].startswith("step 4: the loss is nan")
    saved = load_file(folder / "nan" / "last" / "training_state.safetensors")
    assert saved and all(torch.isfinite(tensor).all() for tensor in saved.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_between_the_processes(launched, precision):
    _, seen = launched
    first, second = ([r["loss"] for r in p["in_half_precision"][precision]] for p in seen)
    assert first == second and all(math.isfinite(loss) for loss in first)


def test_an_overflow_in_one_process_s_part_leaves_the_step_out_in_all(launched):
    folder, seen = launched
    first, second = (process["with_one_overflow"] for process in seen)
    assert first == second
    assert [scale / first[0] for scale in first] == (
        [1, 0.5, 0.5] if "fsdp" in str(folder) else [1] * 3
    )


def test_the_command_line_trains_and_speaks_once(launched, tmp_path):
    folder, seen = launched
    assert [process["command_line"]["code"] for process in seen] == [0, 0]
    printed, nothing = (process["command_line"]["printed"] for process in seen)
    assert f"{folder / 'command'}/best: the adapter, dev loss" in printed
    assert nothing == ""
    assert command(cli_arguments(tmp_path, "command")) == 0
    together, one = (
        json.loads((where / "command" / "history.json").read_text())["records"]
        for where in (folder, tmp_path)
    )
    assert_same_records(together, one)
