"""Where the time of our own step goes, from torch.profiler, in seven groups.

matmul        products with the frozen weights of the layers
attention     scaled_dot_product_attention, forward and backward
elementwise   norms, rotary positions, SwiGLU, residuals, copies
LoRA detour   dropout masks and the products with A and B
head          products with the output layer, softmax and loss
optimizer     clipping and AdamW
other         Python, launching, collating: the step's seconds that no operation has
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from contenders import our_config, synchronize
from torch.profiler import ProfilerActivity, profile, record_function
from workload import Workload

from loraglm_helpers.precision import Precision
from loraglm_helpers.processes import Processes
from loraglm_helpers.update import Updater

GROUPS = ("matmul", "attention", "elementwise", "LoRA detour", "head", "optimizer", "other")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")
STEPS = 3


def profile_steps(work: Workload, model: Any, steps: int = STEPS) -> dict[str, float]:
    """Seconds a step by group; their sum is the seconds of a step under the profiler."""
    with tempfile.TemporaryDirectory() as directory:
        config = our_config(work, directory)
        processes = Processes(work.device)
        precision = Precision(processes.device, work.precision)
        updater = Updater(config, model, work.examples(), processes, precision)
    _label_optimizer(updater)
    batches = [list(range(i, i + work.batch_size)) for i in range(0, work.rows, work.batch_size)]
    updater.step(1, [batches[0]], work.learning_rate)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (work.device != "cpu")
    synchronize(work.device)
    with profile(activities=kinds, record_shapes=True) as recorded:
        began = time.perf_counter()
        for number in range(steps):
            updater.step(2 + number, [batches[number % len(batches)]], work.learning_rate)
        synchronize(work.device)
        wall = time.perf_counter() - began
    groups = sum_groups(recorded.events(), work.rank, work.device)
    groups["other"] = max(0.0, wall - sum(groups.values()))
    return {name: seconds / steps for name, seconds in groups.items()}


def _label_optimizer(updater: Updater) -> None:
    apply = updater._apply

    def labelled(*given: Any) -> float:
        with record_function("optimizer"):
            return apply(*given)

    updater._apply = labelled


def sum_groups(events: Any, rank: int, device: str = "cpu") -> dict[str, float]:
    """Seconds by group of the operations' own time, without the operations that they call."""
    seconds = dict.fromkeys(GROUPS, 0.0)
    for event in events:
        if event.name.startswith("aten::"):
            on_cpu = device == "cpu"
            own = event.self_cpu_time_total if on_cpu else event.self_device_time_total
            seconds[group_of(event, rank)] += own / 1e6
    return seconds


def group_of(event: Any, rank: int) -> str:
    """The group of one operation, by its name, the shapes it got and what called it."""
    callers, at = [], event
    while at is not None:
        callers.append(at.name)
        at = at.cpu_parent
    above = " ".join(callers)
    product = event.name in PRODUCTS
    if "HeadLoss" in above:
        return "head"
    if "optimizer" in callers:
        return "optimizer"
    if "LowRankLinear" in above and not (product and not _is_thin(event, rank)):
        return "LoRA detour"
    if "scaled_dot_product" in above or "varlen" in above:
        return "attention"
    return "matmul" if product else "elementwise"


def _is_thin(event: Any, rank: int) -> bool:
    """Whether a product has A or B in it: some side is the rank."""
    return any(rank in shape for shape in event.input_shapes if shape)
