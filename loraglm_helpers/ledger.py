"""Where the memory of a training step goes: a ledger in bytes, from a model's shape alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .head import chunk_rows

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "8bit": 1, "4bit": 0.5}


@dataclass(frozen=True)
class GlmShape:
    """The sizes of a GLM; the field names are GlmConfig's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    attention_bias: bool = True

    @classmethod
    def of(cls, source: Any) -> GlmShape:
        """The shape of a GlmConfig, of a model with one, or of a shape."""
        source = getattr(source, "config", source)
        return cls(**{name: getattr(source, name) for name in cls.__dataclass_fields__})

    def linears(self, fused: bool = False) -> dict[str, tuple[int, int]]:
        """(in, out) of a layer's linears; ``fused``: q, k, v are one, as ChatGLM publishes them."""
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        width, inner = self.hidden_size, self.intermediate_size
        separate = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys)}
        return ({"query_key_value": (width, queries + 2 * keys)} if fused else separate) | {
            "o_proj": (queries, width),
            "gate_up_proj": (width, 2 * inner),
            "down_proj": (inner, width),
        }

    def parameters(self) -> int:
        """Weights of the whole model; input and output embeddings are two tables."""
        queries_keys_values = (self.num_attention_heads + 2 * self.num_key_value_heads) * (
            self.head_dim
        )
        layer = sum(a * b for a, b in self.linears().values()) + 2 * self.hidden_size
        layer += queries_keys_values if self.attention_bias else 0
        tables = 2 * self.vocab_size * self.hidden_size + self.hidden_size
        return self.num_hidden_layers * layer + tables

    def adapter_parameters(
        self, rank: int, targets: str = "query_key_value", fused: bool = False
    ) -> int:
        """Trained scalars of LoRA on "query_key_value", "attention" or "all-linear"."""
        groups = {"query_key_value": 1 if fused else 3, "attention": 2 if fused else 4}
        if targets not in (*groups, "all-linear"):
            raise ValueError(f"targets {targets!r}: {', '.join(groups)} or all-linear wanted")
        sizes = list(self.linears(fused).values())[: groups.get(targets)]
        return self.num_hidden_layers * rank * sum(a + b for a, b in sizes)

    def activation_floats(self) -> int:
        """Numbers kept for the backward pass, a token and layer, with attention in one kernel.

        Under frozen weights a linear keeps its input only where an adapter reads it: here all do.
        """
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        norms = 4 * self.hidden_size
        attention = 2 * queries + 2 * keys
        inputs = 2 * self.hidden_size + queries + self.intermediate_size
        return norms + attention + 3 * self.intermediate_size + inputs


CHATGLM2_6B = GlmShape(65024, 4096, 13696, 28, 32, 2, 128)


def memory_ledger(
    shape_or_model: Any,
    rank: int = 8,
    targets: str = "query_key_value",
    tokens: int = 2048,
    target_tokens: int | None = None,
    precision: str = "bf16",
    gradient_checkpointing: bool = False,
    full_fine_tuning: bool = False,
    fused: bool = False,
    chunked: bool = True,
) -> dict[str, int]:
    """Bytes of a training step, by what they are for; ``total`` is their sum.

    ``tokens`` lie in one padding-free batch, ``target_tokens`` of them (default: all) get
    logits. Adapters, their gradients and AdamW's two moments are float32; the base weights and
    the activations have the ``precision`` (fp32, bf16, fp16; 8bit and 4bit pack the linears of
    the layers only: embeddings, output layer and activations keep 2 bytes). Logits exist three
    times, as computed, in float32 and as their gradient, but only for one of the loss's chunks
    at a time unless ``chunked`` is off. Activations are an estimate: kernels and allocators add to
    it.
    """
    shape = GlmShape.of(shape_or_model)
    if precision not in BYTES:
        raise ValueError(f"precision {precision!r}: one of {', '.join(BYTES)} wanted")
    width = BYTES[precision]
    kept = max(width, 2)
    trained = shape.parameters() if full_fine_tuning else 0
    adapters = 0 if full_fine_tuning else shape.adapter_parameters(rank, targets, fused)
    wanted = tokens if target_tokens is None else target_tokens
    wanted = min(wanted, chunk_rows(shape.vocab_size)) if chunked else wanted
    ledger = {
        "weights": _weights(shape, 4.0 if full_fine_tuning else width),
        "adapters": 4 * adapters,
        "gradients": 4 * (adapters + trained),
        "optimizer": 8 * (adapters + trained),
        "activations": kept * tokens * _kept_a_token(shape, gradient_checkpointing),
        "logits": int((kept + 8) * wanted * shape.vocab_size),
    }
    return ledger | {"total": sum(ledger.values())}


def _kept_a_token(shape: GlmShape, gradient_checkpointing: bool) -> int:
    """Numbers kept a token; checkpointing keeps a layer's input, and one layer while redone."""
    layers = shape.num_hidden_layers
    if gradient_checkpointing:
        return layers * shape.hidden_size + shape.activation_floats()
    return layers * shape.activation_floats()


def _weights(shape: GlmShape, width: float) -> int:
    """Bytes of the weights when a number in the layers' linears takes ``width``."""
    linears = shape.num_hidden_layers * sum(a * b for a, b in shape.linears().values())
    return int(linears * width + (shape.parameters() - linears) * max(width, 2))
