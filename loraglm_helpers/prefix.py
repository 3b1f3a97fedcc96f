"""P-Tuning v2 prefixes of the published ChatGLM2/3 code as PEFT prefix adapters.

A prefix is a learnt key and value per layer in front of every sequence. The two codes number the
positions differently:

    published   prefix keys unrotated            tokens at 0, 1, 2 …      distance of token i: i
    PEFT        prefix keys taken as they are    tokens at P, P+1 …       distance of token i: P+i

Rotary attention sees only distances, so the keys rotated to position P give the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PrefixTuningConfig, TaskType
from torch import Tensor
from transformers import GlmConfig
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding, apply_rotary_pos_emb

from .official_config import CheckpointError
from .weight_files import find_shards, read_shard, write_tensors

MARK = "prefix_encoder."


def is_prefix(folder: Path) -> bool:
    """True for a folder of the published P-Tuning code: weights with a prefix_encoder, no PEFT."""
    if (folder / "adapter_config.json").is_file():
        return False
    files, promised = find_shards(folder)
    names = promised or {name for file in files for name, _ in read_shard(file)}
    return any(MARK in name for name in names)


def import_prefix(source: Path, folder: Path, config: GlmConfig) -> Path:
    """Write a PEFT prefix adapter with the answers of a published P-Tuning v2 checkpoint.

    A projected prefix (``prefix_projection``) is written as what its projection gives. Raises
    CheckpointError when the prefix has not the size of this base model.
    """
    prefix = projected(read_encoder(source))
    per_token = 2 * config.num_key_value_heads * config.head_dim
    if prefix.shape[1] != per_token * config.num_hidden_layers:
        raise CheckpointError(
            f"{source}: the prefix has {prefix.shape[1]} numbers a position, this base needs "
            f"{per_token * config.num_hidden_layers}: it was trained on another model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(
        folder / "adapter_model.safetensors", {"prompt_embeddings": rotated(prefix, config)}
    )
    PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=prefix.shape[0],
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_key_value_heads,
        token_dim=config.num_key_value_heads * config.head_dim,
        num_transformer_submodules=1,
        inference_mode=True,
    ).save_pretrained(folder)
    return folder


def read_encoder(folder: Path) -> dict[str, Tensor]:
    """The prefix_encoder's weights, float32, named from there: ``embedding.weight`` …"""
    files, _ = find_shards(folder)
    return {
        name.partition(MARK)[2]: tensor.float()
        for file in files
        for name, tensor in read_shard(file)
        if MARK in name
    }


def projected(encoder: Mapping[str, Tensor]) -> Tensor:
    """The prefix that an encoder gives, (positions, layers · 2 · groups · head_dim)."""
    prefix = encoder["embedding.weight"]
    if "trans.0.weight" not in encoder:
        return prefix
    hidden = torch.tanh(prefix @ encoder["trans.0.weight"].T + encoder["trans.0.bias"])
    return hidden @ encoder["trans.2.weight"].T + encoder["trans.2.bias"]


def rotated(prefix: Tensor, config: GlmConfig) -> Tensor:
    """The same prefix with its keys turned to position P = its length; values stay."""
    length, groups = prefix.shape[0], config.num_key_value_heads
    pairs = prefix.view(length, config.num_hidden_layers, 2, groups, config.head_dim)
    keys, values = pairs.unbind(2)  # (positions, layers, groups, head_dim) each
    cos, sin = GlmRotaryEmbedding(config)(keys, torch.tensor([[length]]))
    turned, _ = apply_rotary_pos_emb(keys, keys, cos, sin)
    return torch.stack((turned, values), dim=2).reshape(length, -1).contiguous()
