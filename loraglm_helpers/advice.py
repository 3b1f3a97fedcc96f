"""What to say when a training step fails: what happened, at which step, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .ledger import GlmShape, memory_ledger
from .precision import choose_precision

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class TrainingError(RuntimeError):
    """A step that cannot be done, in no process; what the steps before it did has been saved."""


class OutOfMemory(TrainingError):
    """A step that one process cannot do; what many processes had saved before stays the last."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the machine ran out of memory."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


@contextmanager
def advised(
    step: int, tokens: int, config: Any, model: Any, training: bool = True
) -> Iterator[None]:
    """A region whose lack of memory is raised as OutOfMemory, with what to change.

    ``tokens`` are those of a process's largest batch.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = _smaller_steps(tokens, config, model) if training else _smaller_base(config)
        where = "" if training else " in the evaluation"
        raise OutOfMemory(
            f"step {step}: out of memory{where}, with batches of up to {tokens} tokens. Set "
            + ", or ".join([*advice, "max_source_seq_len lower"])
        ) from error


def _smaller_base(config: Any) -> list[str]:
    """What helps an evaluation: its batches do not follow the settings of a step."""
    packs = config.quantization == "none" and (config.use_lora or config.use_ptuning)
    return ["quantization='4bit'"] if packs else []


def _smaller_steps(tokens: int, config: Any, model: Any) -> list[str]:
    """What to lower, and by how much, after a batch of ``tokens`` did not fit."""
    advice = []
    if config.tokens_per_batch:
        advice.append(f"tokens_per_batch={max(config.tokens_per_batch // 2, 1)}")
    elif config.batch_size > 1:
        half, twice = config.batch_size // 2, 2 * config.gradient_accumulation_steps
        advice.append(
            f"batch_size={half} with gradient_accumulation_steps={twice} (steps stay as large)"
        )
    if not config.gradient_checkpointing and not config.use_ptuning:
        saved = _saved_by_checkpointing(tokens, model, config.precision)
        advice.append(f"gradient_checkpointing=True (frees about {saved / 1e9:.1f} GB)")
    return advice


def _saved_by_checkpointing(tokens: int, model: Any, precision: str) -> int:
    try:
        shape = GlmShape.of(model)
    except AttributeError:
        return 0
    precision = choose_precision(precision, next(model.parameters()).device)
    kept, redone = (
        memory_ledger(
            shape, tokens=tokens, precision=precision, gradient_checkpointing=checkpointing
        )["activations"]
        for checkpointing in (False, True)
    )
    return kept - redone


def not_finite(step: int, what: str, value: float, precision: str, rate: float) -> str:
    """What to change after a loss or gradient that is no number."""
    half = "; fp16 overflows above 65,504: use bf16 or fp32" if precision == "fp16" else ""
    kept = f"The weights are those of step {step - 1}, saved in last/"
    if step == 1:
        kept = "No step was done before it, so nothing is saved"
    return (
        f"step {step}: the {what} is {value}. {kept}. Lower learning_rate (now {rate:g}) or "
        f"max_grad_norm, or look at the rows of this step{half}."
    )
