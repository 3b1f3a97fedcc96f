"""The linter on a million rows: seconds and peak memory, without and with a tokenizer.

    python tests/benchmarks/bench_lint.py [ROWS] [FOLDER OF A TOKENIZER]

Fails above 60 s or 1 GB, each run measured in a process of its own. Under pytest it is a tenth
of that, without a bar: ``pytest tests/benchmarks``.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, BYTES = 60, 1_000_000_000
LABELS = ("体育", "科技", "美食", "旅游")
MEASURE = "measure"


def write_rows(file: Path, count: int) -> None:
    """Rows of the three tasks, about 150 characters each; 1 % are doubles, 0.1 % bad lines."""
    rng = random.Random(0)
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
    with file.open("w", encoding="utf-8") as stream:
        line = "{}"
        for number in range(count):
            if number % 1000 == 999:
                stream.write('{"context": "cut\n')
                continue
            if number % 100:
                text = "".join(rng.choices(letters, k=rng.randint(40, 200)))
                context = f"Instruction: 抽取{number}\nInput: {text}\nAnswer: "
                line = json.dumps(
                    {"context": context, "target": target(rng, text)}, ensure_ascii=False
                )
            stream.write(line + "\n")


def target(rng: random.Random, text: str) -> str:
    """A triple list, a label or a question."""
    triple = {"predicate": "价格", "subject": text[:4], "object": text[4:8]}
    choices = [triple] * rng.randint(1, 4), [rng.choice(LABELS)], text[:12] + "？"
    chosen = rng.choice(choices)
    return chosen if isinstance(chosen, str) else json.dumps(chosen, ensure_ascii=False)


def measure(file: str, tokenizer: str | None) -> None:
    """Lint a file; print what it took as JSON."""
    from loraglm_helpers.data import lint

    loaded = None
    if tokenizer:
        from loraglm_helpers.tokenizer import load_tokenizer

        loaded = load_tokenizer(tokenizer)
    began, busy = time.perf_counter(), time.process_time()
    report = lint(file, loaded, other=file)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "rows": report.rows,
                "seconds": round(seconds, 1),
                "cpu": round(busy, 1),
                "bytes": peak,
            }
        )
    )


def in_own_process(file: Path, *tokenizer: str) -> dict[str, float]:
    """What ``measure`` prints, from a process that does nothing else."""
    command = [sys.executable, __file__, MEASURE, str(file), *tokenizer]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_linting_a_hundred_thousand_lines(benchmark, tmp_path):
    file, count = tmp_path / "rows.jsonl", 100_000
    write_rows(file, count)
    result = benchmark.pedantic(in_own_process, (file,), rounds=1, iterations=1)
    benchmark.extra_info |= result
    assert result["rows"] == count * 999 // 1000 - 1  # the first line is bad too


def main() -> int:
    """Measure both ways; 1 when a bar is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, count)
        print(f"{count:,} lines, {file.stat().st_size / 1e6:.0f} MB")
        for tokenizer in [[], *[[path] for path in sys.argv[2:3]]]:
            result = in_own_process(file, *tokenizer)
            missed = result["seconds"] > SECONDS or result["bytes"] > BYTES
            print("with tokens" if tokenizer else "without", result, "TOO MUCH" * missed)
            failed |= missed
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        measure(sys.argv[2], *(sys.argv[3:4] or [None]))
    else:
        sys.exit(main())
