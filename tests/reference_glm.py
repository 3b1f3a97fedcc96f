"""The published ChatGLM2 architecture in plain torch, straight from the official weight names.

Written for the tests only: it shares no code with the package or with transformers, so that both
can be held to it on variants for which no stored values exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 weights under the official names for an official config."""
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn, vocab = (
        config[key] for key in ("hidden_size", "ffn_hidden_size", "padded_vocab_size")
    )
    heads, width = config["num_attention_heads"], config["kv_channels"]
    groups = config["multi_query_group_num"] if config["multi_query_attention"] else heads
    rows = (heads + 2 * groups) * width
    shapes = {
        "transformer.embedding.word_embeddings.weight": (vocab, hidden),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocab, hidden),
    }
    for layer in range(config["num_layers"]):
        at = f"transformer.encoder.layers.{layer}."
        shapes |= {
            f"{at}input_layernorm.weight": (hidden,),
            f"{at}self_attention.query_key_value.weight": (rows, hidden),
            f"{at}self_attention.dense.weight": (hidden, heads * width),
            f"{at}post_attention_layernorm.weight": (hidden,),
            f"{at}mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            f"{at}mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
        if config["add_qkv_bias"]:
            shapes[f"{at}self_attention.query_key_value.bias"] = (rows,)
    return {
        name: torch.randn(shape, generator=generator) * (1.0 if len(shape) == 1 else 0.2)
        for name, shape in shapes.items()
    }


def logits(
    weights: dict[str, Tensor],
    config: dict[str, Any],
    ids: Tensor,
    theta: float = 10000.0,
    position_step: float = 1.0,
) -> Tensor:
    """Logits (batch, seq, vocab) of unpadded ids (batch, seq)."""
    eps = config["layernorm_epsilon"]
    x = weights["transformer.embedding.word_embeddings.weight"][ids]
    positions = torch.arange(ids.shape[1]) * position_step
    for layer in range(config["num_layers"]):
        at = f"transformer.encoder.layers.{layer}."
        own = {k.removeprefix(at): v for k, v in weights.items() if k.startswith(at)}
        normed = _norm(x, own["input_layernorm.weight"], eps)
        x = x + _attention(normed, own, config, positions, theta)
        normed = _norm(x, own["post_attention_layernorm.weight"], eps)
        gate, up = (normed @ own["mlp.dense_h_to_4h.weight"].T).chunk(2, dim=-1)
        x = x + (torch.nn.functional.silu(gate) * up) @ own["mlp.dense_4h_to_h.weight"].T
    x = _norm(x, weights["transformer.encoder.final_layernorm.weight"], eps)
    return x @ weights["transformer.output_layer.weight"].T


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _attention(
    x: Tensor, own: dict[str, Tensor], config: dict[str, Any], positions: Tensor, theta: float
) -> Tensor:
    heads, width = config["num_attention_heads"], config["kv_channels"]
    fused = x @ own["self_attention.query_key_value.weight"].T
    fused = fused + own.get("self_attention.query_key_value.bias", 0.0)
    batch, length = x.shape[:2]
    if config["multi_query_attention"]:
        groups = config["multi_query_group_num"]
        q, k, v = (
            part.view(batch, length, -1, width)
            for part in fused.split([heads * width, groups * width, groups * width], dim=-1)
        )
    else:  # each head's rows are its q, then its k, then its v
        groups = heads
        q, k, v = fused.view(batch, length, heads, 3 * width).chunk(3, dim=-1)
    q, k = _rotate(q, positions, theta), _rotate(k, positions, theta)
    k, v = (part.repeat_interleave(heads // groups, dim=2) for part in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / width**0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed = torch.einsum("bhij,bjhd->bihd", scores.masked_fill(future, -1e30).softmax(-1), v)
    return mixed.reshape(batch, length, -1) @ own["self_attention.dense.weight"].T


def _rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Neighbouring pairs of the first half of a head turn by position · frequency."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(0, half, 2) / half)
    angle = (positions[:, None] * frequencies)[None, :, None, :]
    a, b = x[..., :half:2], x[..., 1:half:2]
    turned = torch.stack(
        (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1
    )
    return torch.cat((turned.flatten(-2), x[..., half:]), dim=-1)
