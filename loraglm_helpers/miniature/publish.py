"""From a pre-training run to the shipped miniature: official layout, float16, and its record.

python -m loraglm_helpers.miniature.publish --run build/pretrain
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..checkpoints import save_official
from ..tokenizer import load_tokenizer
from ..weight_files import write_json
from ..whole_folder import whole_folder
from .deepening import depth
from .plan import PretrainConfig
from .run import build_model


def publish(run: str | Path, model_dir: str | Path, record: str | Path) -> None:
    """Write `model_dir` (weights in float16, config.json, tokenizer.model) and the run's record."""
    run, record = Path(run), Path(record)
    history = json.loads((run / "history.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(run)
    weights = load_file(run / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    config = PretrainConfig(**history["config"])
    model = build_model(config, embedding.shape[0], depth(weights))
    model.load_state_dict({"lm_head.weight": embedding, **weights})  # one matrix while trained
    with whole_folder(Path(model_dir)) as draft:
        save_official(model.to(torch.float16), tokenizer, draft)
    parameters = sum(p.numel() for p in model.parameters())
    write_json(record, {"parameters": parameters, "pieces": len(tokenizer), **history})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="build/pretrain")
    parser.add_argument("--model", default="data/tiny-chatglm2")
    parser.add_argument("--record", default="data/runs/pretrain_tiny.json")
    arguments = parser.parse_args()
    publish(arguments.run, arguments.model, arguments.record)
    size = sum(f.stat().st_size for f in Path(arguments.model).iterdir())
    print(f"{arguments.model}: {size / 1e6:.1f} MB; {arguments.record}: the record of the run")


if __name__ == "__main__":
    main()
