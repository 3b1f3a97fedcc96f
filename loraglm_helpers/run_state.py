"""What a run leaves on disk: an adapter anyone can load, and one file it can resume from.

    save_dir/best/   adapter with the lowest dev loss
    save_dir/last/   adapter of the last save, and training_state.safetensors
    save_dir/history.json, settings.json

``training_state.safetensors`` alone decides where a run resumes: trained parameters, AdamW's
moments, the step (which fixes the schedule, the position in the data and the random numbers)
and the history, in one file that is replaced in one move. A process killed at any moment leaves
either the old state or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .example_digest import digest_of
from .pissa import as_plain_lora
from .sequences import Example
from .sharding import gathered_root, is_sharded, placed_like, whole
from .whole_file import whole_file

STATE_FILE = "training_state.safetensors"
# Patterns of what save_adapter writes.
ADAPTER_FILES = ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json")

# What must be the same in a run and in its continuation.
FIXED = (
    "use_lora lora_rank lora_alpha lora_dropout target_modules adapter_kind use_ptuning "
    "pre_seq_len prefix_projection quantization batch_size tokens_per_batch "
    "gradient_accumulation_steps padding_free seed layout max_source_seq_len max_target_seq_len"
).split()


class ResumeError(ValueError):
    """A saved run that cannot be continued as asked."""


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, keep: bool = True
) -> dict[str, Tensor]:
    """The trained parameters and their moments, whole and on the CPU; to call in every process.

    Only the process that will write them should ``keep`` them; the others get nothing.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained(model).items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    return _whole(tensors, keep)


def _whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu().contiguous()
    return kept


def save_state(directory: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write ``directory/training_state.safetensors``; ``facts`` must fit into JSON."""
    with whole_file(directory / STATE_FILE) as draft:
        save_file(tensors, draft, metadata={"facts": json.dumps(facts)})


def is_saved(directory: Path, processes: Any) -> bool:
    """Whether there is a state to go on from: the same answer in every process, or ResumeError."""
    file = directory / STATE_FILE
    [seen] = processes.sum([file.is_file()])
    if 0 < seen < processes.world_size:
        raise ResumeError(
            f"{file}: only {seen:.0f} of {processes.world_size} processes find it; save_dir must "
            "be a folder that all machines share"
        )
    return seen > 0


def read_facts(directory: Path) -> dict[str, Any]:
    """The facts of a saved state; ResumeError when the file is damaged."""
    try:
        with safe_open(directory / STATE_FILE, "pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ResumeError(f"{directory / STATE_FILE}: not a whole training state") from error


@torch.no_grad()
def load_state(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put saved parameters and moments back; ResumeError when the model is another one."""
    parameters = trained(model)
    with safe_open(directory / STATE_FILE, "pt") as file:
        saved = {name for name in file.keys() if name.startswith("parameter.")}  # noqa: SIM118
        if saved != {f"parameter.{name}" for name in parameters}:
            raise ResumeError(
                f"{directory}: the run trained other parameters ({len(saved)} saved, "
                f"{len(parameters)} here); keep its adapter settings or start with resume=False"
            )
        for name, parameter in parameters.items():
            value = file.get_tensor(f"parameter.{name}")
            if value.shape != parameter.shape:
                raise ResumeError(
                    f"{directory}: {name} was {(*value.shape,)} and is now {(*parameter.shape,)}: "
                    "pre_model is another model; set it back or start with resume=False"
                )
            parameter.copy_(placed_like(value, parameter))
            optimizer.state[parameter] = _moments(file, name, parameter)


def _moments(file: Any, name: str, parameter: Tensor) -> dict[str, Tensor]:
    moments, device = {}, parameter.device
    for key in ("step", "exp_avg", "exp_avg_sq"):
        if f"{key}.{name}" in file.keys():  # noqa: SIM118
            value = file.get_tensor(f"{key}.{name}")
            moments[key] = placed_like(value, parameter) if value.ndim else value.to(device)
    return moments


def fixed_facts(config: Any, examples: Sequence[Example]) -> dict[str, Any]:
    """The settings that a continuation must share, and a digest of the examples."""
    settings = {name: getattr(config, name) for name in FIXED}
    return settings | {"the rows of train_path (a digest)": digest_of(examples)}


def check_fixed(directory: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """ResumeError naming the first setting that differs; older states lack some."""
    for name, value in json.loads(json.dumps(now)).items():
        if saved.get(name, value) != value:
            raise ResumeError(
                f"{directory}: {name} was {saved[name]!r} and is now {value!r}; set it back, "
                "or start anew with resume=False"
            )


def save_adapter(
    model: nn.Module,
    directory: Path,
    base: str,
    start: dict[str, Tensor] | None = None,
    writes: bool = True,
) -> None:
    """Write the adapter's files (a fully trained model's weights) into ``directory``.

    ``base`` goes into adapter_config.json as the base model's name. ``start`` is what
    ``pissa.starting_point`` kept, and turns a PiSSA adapter into an ordinary LoRA. To call in
    every process, with ``writes`` in one.
    """
    sharded = {name: p.detach() for name, p in trained(model).items() if is_sharded(p)}
    weights = _whole(sharded, writes) or None  # None: the model's own, whole as they are
    with gathered_root(model):
        if writes:
            _write_adapter(model, directory, base, start, weights)


def _write_adapter(
    model: nn.Module,
    directory: Path,
    base: str,
    start: dict[str, Tensor] | None,
    weights: dict[str, Tensor] | None,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=directory.parent))
    try:
        if isinstance(model, PeftModel):
            model.active_peft_config.base_model_name_or_path = base
            model.save_pretrained(str(part), state_dict=weights, save_embedding_layers=False)
            (part / "README.md").unlink(missing_ok=True)
            if start is not None:
                as_plain_lora(part, start)
        else:
            model.save_pretrained(str(part), state_dict=weights)
        files = sorted(part.iterdir())
        for file in files:
            os.replace(file, directory / file.name)
        _remove_others(directory, {file.name for file in files})
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_others(directory: Path, written: set[str]) -> None:
    """Drop what an earlier run of another kind left: beside an adapter, a whole model's weights."""
    for pattern in ADAPTER_FILES:
        for file in directory.glob(pattern):
            if file.name not in written:
                file.unlink()
