"""What of an official config.json cannot be run, each refused in one sentence with what to use."""

from __future__ import annotations

from typing import Any

SIZES = {  # official key → GlmConfig field
    "padded_vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "kv_channels": "head_dim",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "rms_norm_eps",
}
OPTIONAL_SIZES = ("multi_query_group_num", "rope_ratio")
BROKEN_TOO = ("layernorm_epsilon", "rope_ratio")  # numbers with a fraction
FLAGS = {  # key: (its default, the only value that can be run)
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "apply_residual_connection_post_layernorm": (False, False),
    "add_bias_linear": (False, False),
    "fp32_residual_connection": (False, False),
    "interleaved_qkv": (False, False),
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or run; the message names the file, the key, the remedy."""


def refuse(official: dict[str, Any]) -> None:
    """Raise CheckpointError, with what to use instead, for a config that cannot be run."""
    _refuse_kinds(official)
    missing = ", ".join(key for key in SIZES if key not in official)
    if missing:
        raise CheckpointError(f"config.json: {missing} missing; not a whole ChatGLM config")
    for key in [*SIZES, *(key for key in OPTIONAL_SIZES if official.get(key) is not None)]:
        kinds, wanted = ((int, float), "number") if key in BROKEN_TOO else (int, "whole number")
        value = official[key]
        if not isinstance(value, kinds) or value <= 0:
            raise CheckpointError(f"config.json: {key} is {value!r}, not a {wanted} above 0")
    for key, (default, needed) in FLAGS.items():
        found = official.get(key, default)
        if found != needed:
            raise CheckpointError(
                f"config.json: {key} is {found!r}; GlmForCausalLM computes {needed!r} only. No "
                "published ChatGLM2, ChatGLM3 or GLM-4 has this: use one of those"
            )


def _refuse_kinds(official: dict[str, Any]) -> None:
    """Checkpoints of another architecture, packed, or with a prefix."""
    if "inner_hidden_size" in official or "position_encoding_2d" in official:
        raise CheckpointError(
            "config.json: this is ChatGLM-6B version 1, another architecture (2-D positions, "
            "GeLU); use chatglm2-6b or chatglm3-6b"
        )
    if "vision_config" in official:
        raise CheckpointError("config.json: vision_config: an image model; use glm-4-9b-chat-hf")
    for key in ("quantization_bit", "quantization_config"):
        if official.get(key):
            raise CheckpointError(
                f"config.json: {key} is {official[key]}: packed int4/int8 weights; use the "
                "half-precision checkpoint of the same model"
            )
    if official.get("pre_seq_len"):
        raise CheckpointError(
            f"config.json: pre_seq_len is {official['pre_seq_len']}: a P-Tuning v2 prefix over a "
            "base; load the base model and give this folder to import_adapter"
        )
