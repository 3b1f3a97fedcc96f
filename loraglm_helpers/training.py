"""The training loop: steps, evaluation, the best and the last kept, resumed, stopped politely.

    rows → build_example → BatchPlan → for each step:
        seed(step) → its batches: loss · backward → clip → AdamW → log? evaluate? save? stop?

The loss is the sum over all target tokens of a step divided by their number, whatever the
batches, accumulation or processes it is spread over. ``loop.py`` holds the loop itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from .advice import TrainingError
from .allocator import reuse_memory
from .attention import register
from .config import repo_path
from .evaluation import evaluate_loss, make_examples, pads
from .fusing import fuse, require_compiler
from .guards import warn_of_layout
from .history import Callback, History, TrainingState
from .loop import Loop
from .lora import attach_adapter, checkpoint_activations
from .precision import Precision, choose_precision
from .processes import Processes
from .quantize import quantize, require_bitsandbytes
from .quick_lora import quick_lora
from .run_state import ResumeError
from .sharding import LaunchError
from .steps import batch_loss

__all__ = [
    "History",
    "ResumeError",
    "TrainingError",
    "TrainingState",
    "batch_loss",
    "evaluate_loss",
    "make_examples",
    "train",
]


def train(
    config: Any,
    *,
    model: Any = None,
    tokenizer: Any = None,
    train_rows: Sequence[Any] | None = None,
    dev_rows: Sequence[Any] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> History:
    """Fine-tune as ``config`` (a FineTuneConfig) says; returns what was recorded.

    Model, tokenizer and rows are read from the config's paths where they are not given. A given
    model is trained in place: it gets the adapter, unless it has one already. Files of rows are
    tokenised once where ``config.token_cache`` is set.
    ``callbacks`` are called as ``callback(event, state)`` with the events "start", "step",
    "log", "evaluate", "save" and "end"; one that sets ``state.stop = True`` ends the run.
    ``save_dir`` gets ``best/``, ``last/``, ``history.json`` and ``settings.json``, which take the
    place of an older run's at the first save. With ``resume`` a run that has a ``last/`` there
    goes on after its last saved step, on a CPU bit for bit as if it had never stopped. The first
    Ctrl-C ends the run after its step, saves, and returns the history.
    Under a launcher every process calls this; callbacks run in the first one alone, which under
    FSDP cannot run the model by itself. Raises TrainingError (loss not finite, out of memory),
    QuantizationError, NoCompilerError, LaunchError (before anything is read), ResumeError; warns
    (LayoutWarning) when the layout is not the checkpoint's own.
    """
    processes, precision = _surroundings(config)
    tokenizer = tokenizer or _tokenizer(config)
    given = (train_rows, config.train_path), (dev_rows, config.dev_path)
    train_examples, dev_examples = (
        make_examples(
            (repo_path(path) if path else []) if rows is None else rows, tokenizer, config
        )
        for rows, path in given
    )
    model = prepare_model(config, model, precision, processes.init_device)
    if processes.is_main:
        warn_of_layout(config, model, tokenizer)
    loop = Loop(config, model, train_examples, dev_examples, processes, precision, callbacks)
    return loop.run(resume)


def _surroundings(config: Any) -> tuple[Processes, Precision]:
    """Processes, device and number format, checked before anything is read."""
    processes = Processes(config.device)
    if processes.device.type == "cpu":
        reuse_memory()
    precision = Precision(processes.device, choose_precision(config.precision, processes.device))
    if processes.sharded and config.quantization != "none":
        raise LaunchError(
            f"quantization is {config.quantization!r} under FSDP; packed weights cannot be spread: "
            "launch with DDP, where each process has the packed base, or set quantization to none"
        )
    require_bitsandbytes(config.quantization, precision.device)
    if config.compiled:
        require_compiler(precision.device)
    if not processes.is_main:
        disable_progress_bar()
    elif processes.world_size > config.batch_size and not config.tokens_per_batch:
        warnings.warn(
            f"batch_size is {config.batch_size}, shared by {processes.world_size} processes: some "
            "of them have nothing to do; raise it",
            stacklevel=3,
        )
    return processes, precision


def prepare_model(
    config: Any, model: Any, precision: Precision, where: torch.device | None = None
) -> Any:
    """The model with its adapter, in training mode, ready for its batches.

    It is on ``where``: by default the precision's device, under FSDP where it is built first.
    """
    where = where or precision.device
    if where.type == "meta" and config.adapter_kind == "pissa":  # same shapes, no weights to factor
        config = config.replace(adapter_kind="lora")
    if model is None:
        model = _model(config, precision, where)
    adapted = hasattr(model, "peft_config")
    model = quantize(model, "none" if adapted else config.quantization, where)
    base = model.get_base_model() if adapted else model
    if not pads(config):
        base.set_attn_implementation(register())
    if config.compiled:
        fuse(base)
    if not adapted:
        return attach_adapter(model, config)
    if config.gradient_checkpointing:
        checkpoint_activations(base)
    quick_lora(model)
    return model.train()


def _model(config: Any, precision: Precision, where: torch.device) -> Any:
    from .checkpoints import load_glm

    # A base that will be packed is read on the CPU: it may not fit on the device before.
    device = where if config.quantization == "none" else "cpu"
    # Weights that are trained become float32: read so, or they would start rounded.
    frozen = config.use_lora or config.use_ptuning
    dtype = precision.dtype if frozen else torch.float32
    return load_glm(repo_path(config.pre_model), dtype=dtype, device=device, rope=config.rope)


def _tokenizer(config: Any) -> Any:
    from .tokenizer import load_tokenizer

    return load_tokenizer(repo_path(config.pre_model))
