"""A million rows tokenised, cached and trained from: seconds and peak memory of each part.

    python tests/benchmarks/bench_token_cache.py [ROWS] [FOLDER OF A CHECKPOINT]

    make    a new cache: rows read, tokenised, written
    open    the same call again: the files are hashed, nothing is tokenised
    walk    a whole epoch in its order, every example decoded and put into its batch
    train   a run of some steps from the cache, the same one twice: their losses must be equal

Fails above 2 GB in any part, or when a part takes longer than its bar; each part is measured in a
process of its own. One row in ten is a dialogue of two turns.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BYTES = 2_000_000_000
SECONDS = {"make": 300, "open": 15, "walk": 120, "train": 120}  # for a million rows
STEPS = 20


def write_rows(file: Path, count: int) -> None:
    """The train rows again and again, each time with another number in the context."""
    source = ROOT / "data" / "mixed_train_dataset.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = rows[number % len(rows)]
            context = row["context"].replace("Input: ", f"Input: {number} ", 1)
            row = {"context": context, "target": row["target"]}
            if number % 10 == 9:
                later = rows[(number * 7) % len(rows)]
                row = {"messages": [*turns(row), *turns(later)]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def turns(row: dict[str, str]) -> list[dict[str, str]]:
    """A row as a question and its answer."""
    return [
        {"role": "user", "content": row["context"]},
        {"role": "assistant", "content": row["target"]},
    ]


def measure(part: str, folder: Path, model: str) -> dict[str, object]:
    """Do a part; what it took."""
    from loraglm_helpers.config import preset
    from loraglm_helpers.tokenizer import load_tokenizer

    config = preset("tiny").replace(
        pre_model=model,
        train_path=folder / "rows.jsonl",
        dev_path=folder / "dev.jsonl",
        token_cache=folder / "tokens",
        save_dir=folder / "run",
        max_steps=STEPS,
        save_freq=STEPS,
        device="cpu",
    )
    tokenizer = load_tokenizer(model)
    began, busy = time.perf_counter(), time.process_time()
    result = PARTS[part](config, tokenizer)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["cpu"] = round(time.process_time() - busy, 1)
    result["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def make(config, tokenizer) -> dict[str, object]:
    """The cache of the train rows."""
    from loraglm_helpers.evaluation import make_examples

    examples = make_examples(Path(config.train_path), tokenizer, config)
    files = sum(file.stat().st_size for file in examples.folder.iterdir())
    return {"examples": len(examples), "tokens": sum(examples.lengths), "on disk": files}


def walk(config, tokenizer) -> dict[str, object]:
    """An epoch's batches, made and thrown away."""
    from loraglm_helpers.batches import BatchPlan
    from loraglm_helpers.evaluation import make_examples
    from loraglm_helpers.sequences import collate

    examples = make_examples(Path(config.train_path), tokenizer, config)
    plan, tokens = BatchPlan(examples.lengths, config.batch_size, seed=config.seed), 0
    for _, epoch, [batch] in plan.from_step(0):
        tokens += collate([examples[i] for i in batch])["input_ids"].numel()
        if epoch >= 1:
            break
    assert tokens == sum(examples.lengths)
    return {"tokens": tokens}


def run(config, tokenizer) -> dict[str, object]:
    """Some steps of a real run, twice."""
    from loraglm_helpers.training import train

    losses = [
        [record["loss"] for record in train(config, tokenizer=tokenizer).records] for _ in range(2)
    ]
    assert losses[0] == losses[1], losses
    return {"loss": round(losses[0][-1], 4)}


PARTS = {"make": make, "open": make, "walk": walk, "train": run}


def main() -> int:
    """Measure every part; 1 when a bar is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    model, failed = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "data" / "tiny-chatglm2"), 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, count)
        write_rows(Path(folder) / "dev.jsonl", 100)
        print(f"{count:,} rows, {file.stat().st_size / 1e6:.0f} MB")
        for part in PARTS:
            command = [sys.executable, __file__, part, folder, model]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            missed = result["seconds"] > SECONDS[part] or result["bytes"] > BYTES
            print(f"{part:6}", result, "TOO MUCH" * missed)
            failed |= missed
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PARTS:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
    else:
        sys.exit(main())
