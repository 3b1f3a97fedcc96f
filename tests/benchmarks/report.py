"""What was measured, as a table to read and as JSON to keep."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
PACKAGES = ("torch", "transformers", "peft", "accelerate")
Results = dict[str, dict[str, Any]]  # contender → what its process returned


def table(results: Results) -> str:
    """Speed, our ratio, memory and share of the matrix-multiply limit of each contender."""
    ours = results["ours"]
    limit = ours["limit"]["tokens_per_second"]
    lines = [f"{'':<26}{'tokens/s':>9}{'ours is':>9}{'peak MB':>9}{'of limit':>10}"]
    for name, result in results.items():
        speed = result["tokens_per_second"]
        lines.append(
            f"{name:<26}{speed:>9,.0f}{ours['tokens_per_second'] / speed:>8.2f}x"
            f"{result['peak_bytes'] / 1e6:>9,.0f}{speed / limit:>10.0%}"
        )
    rate = ours["limit"]["operations_per_second"] / 1e9
    lines.append(f"{'matrix products alone':<26}{limit:>9,.0f}{'':>18}{1:>10.0%}")
    lines.append(f"The limit is 4N operations a token at {rate:,.0f} GFLOP/s, measured here.")
    return "\n".join(lines)


def profile_table(seconds: dict[str, float]) -> str:
    """Where our step's time goes."""
    total = sum(seconds.values())
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    lines = [f"{name:<26}{1000 * spent:>9,.1f} ms{spent / total:>8.1%}" for name, spent in rows]
    return "\n".join([f"{'one step under a profiler':<26}{1000 * total:>9,.1f} ms", *lines])


def ratios(results: Results) -> dict[str, float]:
    """Ours over each other contender in tokens/s, and ours over the limit."""
    speed = results["ours"]["tokens_per_second"]
    found = {
        f"ours / {name}": round(speed / other["tokens_per_second"], 3)
        for name, other in results.items()
        if name != "ours"
    }
    limit = results["ours"]["limit"]["tokens_per_second"]
    return found | {"ours / limit": round(speed / limit, 3)}


def record(file_name: str, content: dict[str, Any]) -> Path:
    """Write a result with the machine it was measured on to data/runs/; returns the file."""
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / file_name
    text = json.dumps({"machine": machine()} | content, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Processor, GPU, cores and versions."""
    import torch

    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name where Linux tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
