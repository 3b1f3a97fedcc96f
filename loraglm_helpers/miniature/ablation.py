"""What makes copying appear sooner: short runs that differ in one choice each.

    python -m loraglm_helpers.miniature.ablation --out data/runs/ablation_copying.json

Every run sees random words of the first 256 pieces and ends when it has learnt to copy them (mean
loss under 1) or when its tokens are spent. The loss is the mean over 25 steps, on words that were
never drawn before; ln(256) = 5.5 nats is guessing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..allocator import reuse_memory
from ..weight_files import write_json
from .plan import COPYING, FIRST_ALPHABET, PretrainConfig, Stage
from .run import Run

MIXED = {"copying": 0.6, "induction": 0.4}


@dataclass(frozen=True)
class Variant:
    """One run: what is changed of the plan."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    stage: Stage = COPYING


VARIANTS = (
    Variant("the plan"),
    Variant("two embedding matrices", {"tied": False}),
    Variant("AdamW for the matrices", {"muon": False}),
    Variant("8 heads of 32", {"heads": 8, "head_dim": 32}),
    Variant("4,096 tokens a step", stage=replace(COPYING, tokens_per_step=4096)),
    Variant("induction from the start", stage=replace(COPYING, mixture=MIXED)),
)


def measure(variant: Variant, most: int, every: int) -> dict[str, Any]:
    """Train one variant until it copies, on `most` tokens at most; its loss after each `every`."""
    config = PretrainConfig(compiled=False, tokens=100 * most, **variant.changes)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder))
    run.copying = variant.stage
    here, points, start = run.position, [], time.monotonic()
    while here.tokens < most and here.alphabet == FIRST_ALPHABET:
        passed = here.tokens // every
        run.advance()
        learnt = here.alphabet > FIRST_ALPHABET
        if here.tokens // every > passed or learnt:
            losses = here.losses[-25:]
            points.append([here.tokens, round(sum(losses) / len(losses), 3)])
    return {
        "name": variant.name,
        "learnt_after": here.tokens if here.alphabet > FIRST_ALPHABET else None,
        "seconds": round(time.monotonic() - start, 1),
        "points": points,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/runs/ablation_copying.json"))
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--every", type=int, default=50_000)
    arguments = parser.parse_args()
    reuse_memory()
    runs = []
    for variant in VARIANTS:
        runs.append(measure(variant, arguments.tokens, arguments.every))
        print(json.dumps(runs[-1]), flush=True)
        record = {"tokens": arguments.tokens, "threads": torch.get_num_threads(), "runs": runs}
        write_json(arguments.out, record)


if __name__ == "__main__":
    main()
