"""One contender or part in a process of its own, so that its peak of memory is its own.

    python tests/benchmarks/contender_process.py ours --shape 67M --rows 128

The last line of its output is the result as JSON. ``run`` starts it and reads that line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ours", "trainer", "seed", "long", "long-checkpointed", "merge", "generate")


def run(name: str, **settings: Any) -> dict[str, Any]:
    """Measure one part with these fields of a Workload. Raises RuntimeError if it fails."""
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    command = [sys.executable, str(Path(__file__)), name, *options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, work: Any) -> dict[str, Any]:
    """Do this part in this process; ``peak_bytes`` is that of the training or other work."""
    import gpu_parts
    import peers

    parts = {
        "ours": measure_ours,
        "trainer": lambda work: peers.train_trainer(work).as_dict(),
        "seed": lambda work: peers.train_seed(work).as_dict(),
        "long": lambda work: gpu_parts.long_step(work, False),
        "long-checkpointed": lambda work: gpu_parts.long_step(work, True),
        "merge": gpu_parts.merging,
        "generate": gpu_parts.generating,
    }
    result = parts[name](work)
    return {"peak_bytes": peak_bytes(work.device)} | result


def measure_ours(work: Any) -> dict[str, Any]:
    """Our loop, then in the same process the limit and the profile of a step."""
    from contenders import train_ours
    from matmul_limit import measure_limit
    from step_profile import profile_steps

    took, model = train_ours(work)
    result = took.as_dict() | {"peak_bytes": peak_bytes(work.device)}
    batches = work.rows / work.batch_size
    limit = measure_limit(model, round(took.tokens / batches), round(took.targets / batches))
    return result | {"limit": limit.as_dict(), "profile": profile_steps(work, model)}


def peak_bytes(device: str) -> int:
    """The most memory that this process has held: on the GPU, or else in all."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Read the command line, measure, print the result."""
    from workload import Workload

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    for field in fields(Workload):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    name = given.pop("name")
    print(json.dumps(measure(name, Workload(**given))))


if __name__ == "__main__":
    main()
