"""Pre-training the miniature GLM: a resumable loop over stages of objectives.

    python -m torch.distributed.run --nproc-per-node 2 \\
        -m loraglm_helpers.miniature.pretraining --out build/pretrain

Two processes of one thread each are a quarter faster on two cores than one process of two threads.
What a run is, and what it goes on from, stands in `run.py`; what it learns when, in `plan.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..allocator import reuse_memory
from .plan import PretrainConfig
from .run import Run


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    minutes: float | None = None,
    record_every: int = 500_000,
    questions: int = 100,
    log: Callable[[str], object] = print,
) -> Run:
    """Train until the token budget or `minutes` are spent; resumes what it finds in `out`.

    Every `record_every` tokens the record holds the mean loss since the last one and the share of
    `questions` answered exactly on names and patterns that no training text contains.
    """
    run = Run(config, Path(out))
    run.resume()
    here = run.position
    reuse_memory()
    start, before = time.monotonic(), here.seconds
    done = False
    while not done:
        recorded = here.tokens // record_every
        run.advance()
        elapsed = time.monotonic() - start
        here.seconds = before + elapsed
        late = minutes is not None and elapsed > minutes * 60
        spent = here.tokens >= config.tokens
        done = bool(run.processes.sum([spent or late])[0])
        if here.tokens // record_every > recorded or done:
            record = run.record(questions)
            run.save()
            if run.processes.is_main:
                log(json.dumps(record))
    return run


def main() -> None:
    """The command line; `--set` overrides fields of PretrainConfig with JSON values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="build/pretrain")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    changes = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in arguments.set)}
    pretrain(PretrainConfig(**changes), arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
