"""The weights of the official ChatGLM layout into and out of a GlmForCausalLM, shard by shard.

Before anything is read, the names in the index are compared with those that config.json asks for;
while reading, every tensor's shape and kind. A wrong checkpoint ends with the file and the key.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, GlmConfig, GlmForCausalLM
from transformers.utils.logging import is_progress_bar_enabled

from .mapping import INV_FREQ, FusedRows, inverse_frequencies, to_native, to_official, weight_table
from .official_config import CheckpointError
from .shard_writer import write_shards
from .weight_files import find_shards, holder, read_shard

HEAD = "transformer.output_layer.weight"
Table = dict[str, tuple[str, ...]]


def load_official(
    folder: Path, config: GlmConfig, dtype: torch.dtype, device: torch.device
) -> GlmForCausalLM:
    """The model of an official folder: empty at first, then filled a tensor at a time.

    Peak memory is the model in ``dtype`` and one shard (``.bin`` files are mapped, so less).
    On the ``meta`` device the model stays empty.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if device.type == "meta":
        return model
    table, rows = weight_table(config), FusedRows.of(config)
    files, promised = find_shards(folder)
    spare = {INV_FREQ} | ({HEAD} if config.tie_word_embeddings else set())
    table = {name: parts for name, parts in table.items() if name not in spare}
    if promised is not None:
        _check_names(promised - spare, table, folder)
    seen: set[str] = set()
    silent = len(files) < 4 or not is_progress_bar_enabled()
    for file in tqdm(files, "loading", unit="shard", disable=silent):
        for name, tensor in read_shard(file, device):
            if name not in spare:
                _check_tensor(file, name, tensor, table, model)
                for native, part in to_native(table[name], tensor, rows).items():
                    _place(model, native, part, dtype, device)
                seen.add(name)
    _check_names(seen, table, folder)
    # The rotary angles are computed, not stored, and stay in float32 whatever the dtype.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.tie_weights()
    return model


def save_weights(model: GlmForCausalLM, folder: Path, max_shard_size: int | str = "2GB") -> None:
    """Write a model's weights under the official names, one shard in memory at a time."""
    table, rows = weight_table(model.config), FusedRows.of(model.config)
    weights = model.state_dict()
    absent = [part for parts in table.values() for part in parts if part not in weights]
    packed = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if absent or packed:
        raise CheckpointError(
            f"{(absent or packed)[0]}: {'not in this model' if absent else 'packed weights'}; an "
            "adapter must be merged and unloaded, a quantised base loaded in half precision"
        )
    rotary = inverse_frequencies(model.config).to(model.dtype)
    sizes = {name: sum(weights[part].nbytes for part in parts) for name, parts in table.items()}

    def make(name: str) -> Tensor:
        if name == INV_FREQ:
            return rotary
        tensor = to_official([weights[part].detach() for part in table[name]], rows)
        shared = name == HEAD and model.config.tie_word_embeddings
        return tensor.clone() if shared else tensor  # a file may not hold one memory twice

    write_shards(folder, sizes | {INV_FREQ: rotary.nbytes}, make, max_shard_size)


def _check_names(found: set[str], table: Table, folder: Path) -> None:
    """Refuse missing and unknown weights, the first three named."""
    missing = [name for name in table if name not in found]
    unknown = sorted(found - set(table))
    for names, problem in ((unknown, "unknown"), (missing, "missing")):
        if names:
            where = holder(folder, names[0]) if problem == "missing" else folder
            raise CheckpointError(
                f"{where}: {len(names)} of {len(table)} weights {problem}: "
                f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}. {_remedy(names)}"
            )


def _remedy(names: list[str]) -> str:
    if any("prefix_encoder" in name for name in names):
        return "This is a P-Tuning v2 prefix; use import_adapter on it and load the base model."
    if any(mark in name for name in names for mark in ("weight_scale", "qweight", "qzeros")):
        return "These are packed int4/int8 weights; use the half-precision checkpoint."
    if any("vision" in name for name in names):
        return "This is an image model; use a text GLM."
    return "Shards and config.json must be of one model; download the folder again."


def _check_tensor(file: Path, name: str, tensor: Tensor, table: Table, model: nn.Module) -> None:
    """Refuse a tensor that does not belong, is packed, or has not the config's shape."""
    if name not in table:
        raise CheckpointError(f"{file}: unknown weight {name}. {_remedy([name])}")
    if not tensor.is_floating_point():
        raise CheckpointError(f"{file}: {name} is {tensor.dtype}. {_remedy(['weight_scale'])}")
    shapes = [model.get_parameter(part).shape for part in table[name]]
    expected = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if tuple(tensor.shape) != expected:
        raise CheckpointError(
            f"{file}: {name} has shape {tuple(tensor.shape)}, config.json makes it {expected}; "
            "the two are not of one model"
        )


def _place(
    model: nn.Module, name: str, value: Tensor, dtype: torch.dtype, device: torch.device
) -> None:
    """Put a copy of its own in the model: a view would keep the whole shard in memory."""
    owner, _, leaf = name.rpartition(".")
    own = torch.empty(value.shape, dtype=dtype, device=device).copy_(value)
    model.get_submodule(owner)._parameters[leaf] = nn.Parameter(own)
