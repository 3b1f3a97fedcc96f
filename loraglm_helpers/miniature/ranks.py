"""What the rank buys on the miniature: the same training at several ranks, scored on the dev rows.

    python -m loraglm_helpers.miniature.ranks --out data/runs/lora_ranks.json

`copying` is the share of passage questions that the model still answers exactly with the adapter
on: what fine-tuning on other tasks made it forget.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import load_glm
from ..config import FineTuneConfig, preset, repo_path
from ..data import read_rows
from ..generation import predict
from ..lora import load_adapter
from ..metrics import score
from ..tokenizer import load_tokenizer
from ..training import train
from ..weight_files import write_json
from .probes import copying_accuracy

RANKS = (1, 4, 8, 16)


def measure(config: FineTuneConfig, questions: int) -> dict[str, Any]:
    """Train as `config` says and score what came of it."""
    history = train(config)
    base, tokenizer = (
        load_glm(repo_path(config.pre_model)),
        load_tokenizer(repo_path(config.pre_model)),
    )
    model = load_adapter(base, Path(config.save_dir) / "best")
    rows = read_rows(repo_path(config.dev_path))
    result = score(predict(model, tokenizer, rows, config), rows)
    kept = ("exact_match", "triple_f1", "json_valid", "question_chrf")
    return {
        "rank": config.lora_rank,
        "trained": sum(p.numel() for name, p in model.named_parameters() if "lora_" in name),
        "seconds": round(history.records[-1]["seconds"], 1),
        "dev_loss": round(history.best["dev_loss"], 4),
        **{name: round(result[name], 4) for name in kept},
        "classification": result["by_task"]["classification"]["exact_match"],
        "copying": copying_accuracy(model, tokenizer, questions),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/runs/lora_ranks.json"))
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    runs = []
    for rank in RANKS:
        changes = {"lora_rank": rank, "lora_alpha": 4 * rank}  # the preset's alpha / r
        config = preset("tiny").replace(save_dir=f"build/ranks/{rank}", **changes)
        runs.append(measure(config, arguments.questions))
        print(json.dumps(runs[-1]), flush=True)
        write_json(arguments.out, {"threads": torch.get_num_threads(), "runs": runs})


if __name__ == "__main__":
    main()
