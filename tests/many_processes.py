"""What two processes do together in test_many_processes.py; each writes down what it saw.

They are started by:

    accelerate launch --config_file …/ddp_1x8.yaml --num_processes 2 tests/many_processes.py FOLDER
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_training import make_config, rows, run, stop_at, tiny
from torch import nn

from loraglm_helpers.__main__ import main as command
from loraglm_helpers.run_state import ResumeError
from loraglm_helpers.sharding import is_sharded
from loraglm_helpers.training import TrainingError
from loraglm_helpers.update import Updater

HANGING = 500  # seconds until a process shows where it waits, and ends
RANK = int(os.environ.get("RANK", "0"))
EXACT = {"lora_dropout": 0.0}  # dropout differs from process to process
# 16 rows in batches of 5: the last batch has one row, so one process has none.
CASES: dict[str, dict[str, Any]] = {
    "uneven": {"batch_size": 5, "gradient_accumulation_steps": 2, "epochs": 2.5},
    "one row a batch": {"batch_size": 1, "gradient_accumulation_steps": 3, "max_steps": 5},
    "by tokens": {"tokens_per_batch": 40, "gradient_checkpointing": True, "max_grad_norm": 0.1},
    "rank 1": {"lora_rank": 1, "max_steps": 3},
    "dora": {"adapter_kind": "dora", "max_steps": 3},
    "pissa": {"adapter_kind": "pissa", "max_steps": 3},
    "prefix": {"use_lora": False, "use_ptuning": True, "pre_seq_len": 4, "max_steps": 3},
    "every weight": {"use_lora": False, "learning_rate": 1e-3, "max_steps": 3},
    "tied": {"use_lora": False, "learning_rate": 1e-3, "max_steps": 3},
}


def run_case(name: str, save_dir: Path) -> tuple[Any, Any]:
    """History and model of a case."""
    settings = {"logging_steps": 1, "save_dir": str(save_dir), **EXACT, **CASES[name]}
    model = tiny(tie_word_embeddings=name == "tied")
    dev_rows = rows(1 if name == "one row a batch" else 5)
    return run(make_config(**settings), model, dev_rows=dev_rows), model


def as_one(folder: Path) -> dict[str, Any]:
    """Every case; the processes are given folders of their own, to see who writes."""
    seen = {}
    for name in CASES:
        history, model = run_case(name, folder / name / f"process{RANK}")
        parts = [p.to_local() if is_sharded(p) else p for p in model.parameters()]
        held, all_of_it = sum(p.numel() for p in parts), sum(p.numel() for p in model.parameters())
        seen[name] = {"records": history.records, "held": held / all_of_it}
    return seen


def in_two_halves(folder: Path) -> list[str | int]:
    """A run in one go and one with a stop, with dropout, into whole/ and halves/."""
    whole = make_config(save_dir=str(folder / "whole"), batch_size=3, epochs=1)
    halves = replace(whole, save_dir=str(folder / "halves"))
    run(whole)
    return [
        run(halves, callbacks=[stop_at(3)]).resume,
        run(halves, resume=True).records[-1]["step"],
    ]


def handed_over(folder: Path) -> int:
    """Go on with a run that one process began, and begin one that one process goes on with."""
    config = make_config(save_dir=str(folder / "from one"), **EXACT)
    run(replace(config, save_dir=str(folder / "to one")), callbacks=[stop_at(3)])
    return run(config, resume=True).records[-1]["step"]


def on_separate_disks(folder: Path) -> str:
    """Resume where only the first process finds the saved state."""
    try:
        run_dir = folder / "uneven" / f"process{RANK}"
        run(make_config(save_dir=str(run_dir)), resume=True)
    except ResumeError as error:
        return str(error)
    return ""


def with_one_nan(folder: Path) -> str:
    """After three steps the second process alone computes NaN."""
    calls = []

    def poison(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        calls.append(1)
        return (inputs[0] * float("nan"),) if RANK == 1 and len(calls) > 3 else None

    model = tiny()
    model.lm_head.register_forward_pre_hook(poison)
    try:
        run(make_config(save_dir=str(folder / "nan"), batch_size=8), model, dev_rows=[])
    except TrainingError as error:
        return str(error)
    return ""


def in_half_precision(folder: Path) -> dict[str, Any]:
    """A layer has weights of two dtypes; in fp16 gradients are scaled."""
    seen = {}
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        config = make_config(save_dir=str(folder / name), precision=name, max_steps=3)
        seen[name] = run(replace(config, logging_steps=1), tiny().to(dtype)).records
    return seen


def with_one_overflow(folder: Path) -> list[float]:
    """In step 2 the second process's part of a gradient is too large for fp16: the scales."""
    scales, apply = [], Updater._apply

    def overflow(updater: Updater, number: int, *more: float) -> float:
        grad = updater.parameters[0].grad
        if number == 2 and RANK == 1 and is_sharded(grad):
            grad.to_local().fill_(float("inf"))
        norm = apply(updater, number, *more)
        scales.append(updater.precision.scaler.get_scale())
        return norm

    Updater._apply = overflow
    config = make_config(save_dir=str(folder / "overflow"), precision="fp16", max_steps=3)
    run(config, tiny().half())
    Updater._apply = apply
    return scales


def command_line(folder: Path) -> dict[str, Any]:
    """The command of command.json; it also ends the group of processes, so it comes last."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = command(json.loads((folder / "command.json").read_text()))
    return {"code": code, "printed": printed.getvalue()}


PARTS = (
    as_one,
    in_two_halves,
    handed_over,
    on_separate_disks,
    with_one_nan,
    in_half_precision,
    with_one_overflow,
    command_line,
)


def main(folder: Path) -> None:
    faulthandler.dump_traceback_later(HANGING, exit=True)
    torch.set_num_threads(1)
    seen = {part.__name__: part(folder) for part in PARTS}
    (folder / f"seen{RANK}.json").write_text(json.dumps(seen))
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
