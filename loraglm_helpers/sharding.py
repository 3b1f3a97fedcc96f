"""FSDP: each process keeps a part of every weight, and a layer's whole weights while it runs.

    unit       one decoder layer, the embedding, the output layer, or what is left
    forward    gather a unit · compute · let go
    backward   gather · compute · let go · each process receives its part of the summed gradients
    save       gather the trained weights, one at a time; the first process writes them

The work is done by torch's ``fully_shard`` (FSDP2), on GPUs and on CPUs. Every forward pass and
every gathering is one for all processes together: what one does alone waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn


class LaunchError(ValueError):
    """A way of launching that the training loop does not know."""


def sharding_wanted() -> FullyShardedDataParallelPlugin | None:
    """What ``accelerate launch`` was told about FSDP; None for DDP.

    Raises LaunchError for what would be left undone silently.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise LaunchError(f"fsdp_version is {version}; allowed: 2 (in fsdp_config, as a number)")
    plugin = FullyShardedDataParallelPlugin()
    if parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
        raise LaunchError("fsdp_offload_params is true; allowed: false (weights stay on the GPUs)")
    if plugin.activation_checkpointing:
        raise LaunchError(
            "fsdp_activation_checkpointing is true; set it to false, and gradient_checkpointing "
            "to true in the settings of the run"
        )
    return plugin


def shard(model: Any, device: torch.device, reshard_after_forward: bool = True) -> Any:
    """The model (changed in place), its weights spread over all processes of the run.

    The first process has the weights, on any device; the others may have mere shapes (``meta``).
    At no time is more than one unit whole on ``device``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.tie_weights()  # on its way to ``meta`` a shared weight became two
    layers, ends = units(base)
    placed: dict[int, tuple[Tensor, Tensor]] = {}
    for unit in (*layers, *ends, model):
        place(unit, device, placed)
        # The output layer is the last of the forward pass and the first of the backward pass.
        keep = unit in ends[1:]
        again = False if keep else unit is model or reshard_after_forward
        fully_shard(unit, mesh=mesh, reshard_after_forward=again)
    return model


def units(base: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The decoder layers of a model, and its embedding and output layer unless they are one."""
    names = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    first, last = (next(end.parameters()) for end in ends)
    return layers, ends if first is not last else []


def place(module: nn.Module, device: torch.device, placed: dict[int, Any]) -> None:
    """Put a module's tensors on ``device``, in every process those of the first one.

    ``placed`` holds what was put there before, so that a tensor used twice stays one.
    """
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is None or is_sharded(tensor):
                    continue
                if id(tensor) not in placed:  # the old tensor is kept, or its id could come again
                    placed[id(tensor)] = tensor, _broadcast(tensor, device)
                table[name] = placed[id(tensor)][1]


def _broadcast(tensor: Tensor, device: torch.device) -> Tensor:
    if torch.distributed.get_rank() == 0:
        copy = tensor.detach().to(device, copy=True).contiguous()
    else:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    torch.distributed.broadcast(copy.view(-1).view(torch.uint8), src=0)
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; to be called in every process."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def placed_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, or this process's part of it, as ``parameter`` is kept."""
    if not is_sharded(parameter):
        return tensor.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, where = parameter.device_mesh, parameter.placements
    local = tensor.to(parameter.device)
    return distribute_tensor(local, mesh, where, src_data_rank=None)  # each has all of it already


def let_go(model: nn.Module) -> None:
    """Free what forward passes without a backward pass have left gathered."""
    for module in model.modules():
        if hasattr(module, "set_requires_gradient_sync"):  # an FSDP unit
            module.reshard()


@contextmanager
def gathered_root(model: Any) -> Iterator[None]:
    """The weights outside all layers whole, in every process; P-Tuning's prefix is among them."""
    sharded = hasattr(model, "set_requires_gradient_sync")
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()
