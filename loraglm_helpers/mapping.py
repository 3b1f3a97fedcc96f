"""Weight names and shapes: the official ChatGLM layout ↔ GlmForCausalLM.

    query_key_value  ┌ q: heads · head_dim rows  ┐          q_proj
    (rows, hidden)   │ k: groups · head_dim rows │  ──────> k_proj
                     └ v: groups · head_dim rows ┘          v_proj
    dense_h_to_4h    gate and up rows, in this order ─────> gate_up_proj (fused as well)

Everything else is renamed. The rotary pairs are interleaved in both, so no row is permuted. A
LoRA adapter's B has the rows of its linear layer, so the same split serves adapters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GlmConfig

from .official_config import THETA, is_per_head

INV_FREQ = "transformer.rotary_pos_emb.inv_freq"
TOP = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
QKV = "self_attention.query_key_value"
LINEARS = {  # under transformer.encoder.layers.N → under model.layers.N
    QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.dense": ("self_attn.o_proj",),
    "mlp.dense_h_to_4h": ("mlp.gate_up_proj",),
    "mlp.dense_4h_to_h": ("mlp.down_proj",),
}
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class FusedRows:
    """How the rows of a fused query_key_value are laid out."""

    heads: int
    groups: int
    head_dim: int
    per_head: bool = False

    @classmethod
    def of(cls, config: GlmConfig) -> FusedRows:
        """The layout that an official checkpoint of this config has."""
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        return cls(heads, groups, config.head_dim, is_per_head(config))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows of q, k and v."""
        return tuple(n * self.head_dim for n in (self.heads, self.groups, self.groups))

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, …) → q, k, v by rows; views of the input where the layout allows it."""
        if not self.per_head:
            return torch.split(fused, self.sizes)
        by_head = fused.reshape(self.heads, 3, self.head_dim, *fused.shape[1:])
        return tuple(by_head[:, i].reshape(-1, *fused.shape[1:]) for i in range(3))

    def fuse(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v → (rows, …): the inverse of ``split``, bit for bit."""
        if not self.per_head:
            return torch.cat((q, k, v))
        parts = [part.reshape(self.heads, self.head_dim, *part.shape[1:]) for part in (q, k, v)]
        return torch.stack(parts, dim=1).reshape(-1, *q.shape[1:])


def weight_table(config: GlmConfig) -> dict[str, tuple[str, ...]]:
    """Every weight of a model: official name → native names (three for query_key_value)."""
    table = {f"{old}.weight": (f"{new}.weight",) for old, new in TOP.items()}
    for layer in range(config.num_hidden_layers):
        for old, new in layer_table(config).items():
            table[f"transformer.encoder.layers.{layer}.{old}"] = tuple(
                f"model.layers.{layer}.{name}" for name in new
            )
    return table


def layer_table(config: GlmConfig) -> dict[str, tuple[str, ...]]:
    """``weight_table`` for one layer, with names relative to it."""
    table = {f"{norm}.weight": (f"{norm}.weight",) for norm in NORMS}
    table |= {
        f"{old}.weight": tuple(f"{name}.weight" for name in new) for old, new in LINEARS.items()
    }
    if config.attention_bias:
        table[f"{QKV}.bias"] = tuple(f"{name}.bias" for name in LINEARS[QKV])
    return table


def module_table(config: GlmConfig) -> dict[str, tuple[str, ...]]:
    """Every linear layer and the top modules: official name → native names."""
    table = {old: (new,) for old, new in TOP.items()}
    for layer in range(config.num_hidden_layers):
        for old, new in LINEARS.items():
            names = tuple(f"model.layers.{layer}.{name}" for name in new)
            table[f"transformer.encoder.layers.{layer}.{old}"] = names
    return table


def to_native(names: tuple[str, ...], tensor: Tensor, rows: FusedRows) -> dict[str, Tensor]:
    """One official tensor as its native tensors: itself, or q, k and v."""
    parts = (tensor,) if len(names) == 1 else rows.split(tensor)
    return dict(zip(names, parts, strict=True))


def to_official(tensors: list[Tensor], rows: FusedRows) -> Tensor:
    """The native tensors of one official name as that tensor."""
    return tensors[0] if len(tensors) == 1 else rows.fuse(*tensors)


def inverse_frequencies(config: GlmConfig) -> Tensor:
    """The rotary buffer that published checkpoints carry, (head_dim / 4,), float32.

    The published code recomputes the angles and never multiplies this buffer by ``rope_ratio``.
    """
    dim = config.head_dim // 2
    return 1.0 / (THETA ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
