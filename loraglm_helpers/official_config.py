"""config.json of the official ChatGLM layout ↔ transformers' GlmConfig.

ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B are one architecture, which transformers has as
GlmForCausalLM; only the names of the sizes differ. Every field is passed, because GlmConfig's
own defaults are GLM-4's.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GlmConfig

from .refusals import FLAGS, SIZES, CheckpointError, refuse

MODEL_TYPE = "chatglm"
ROPE_CHOICES = ("auto", "theta", "positions")
THETA = 10000.0
GLM4_VOCABULARY = 151552


def is_official(config: dict[str, Any]) -> bool:
    """True for a config.json in the ChatGLM layout, that of version 1 included."""
    return config.get("model_type") == MODEL_TYPE or "padded_vocab_size" in config


def native_config(official: dict[str, Any], rope: str = "auto", name: str = "") -> GlmConfig:
    """The GlmConfig that computes what the official config describes.

    ``rope`` says what ``rope_ratio`` means: "theta" multiplies the rotary base (ChatGLM3-32k,
    GLM-4), "positions" divides the positions (ChatGLM2-6B-32k), "auto" goes by ``name``, the
    checkpoint's name or folder, and warns when that does not tell. The official values stay in
    ``config.chatglm`` for the way back. Raises CheckpointError for anything that cannot be run.
    """
    refuse(official)
    fields = dict(
        **{field: official[key] for key, field in SIZES.items()},
        num_key_value_heads=_groups(official),
        attention_bias=official.get("add_qkv_bias", False),
        attention_dropout=official.get("attention_dropout", 0.0),
        tie_word_embeddings=official.get("tie_word_embeddings", False),
        pad_token_id=official.get("pad_token_id", 0),
        eos_token_id=official.get("eos_token_id", 2),
        bos_token_id=None,
        hidden_act="silu",
        use_cache=True,
        rope_parameters=rope_parameters(official, rope, name),
        chatglm=dict(official),
    )
    try:
        return GlmConfig(**fields)
    except StrictDataclassError as error:
        raise CheckpointError(f"config.json: {' '.join(str(error).split())}") from error


def _groups(official: dict[str, Any]) -> int:
    """Key-value heads: the groups of multi-query attention, else one for every head."""
    heads = official["num_attention_heads"]
    if not official.get("multi_query_attention", False):
        return heads
    groups = official.get("multi_query_group_num", 1)
    if heads % groups:
        raise CheckpointError(
            f"config.json: multi_query_group_num is {groups}, which does not divide "
            f"num_attention_heads ({heads})"
        )
    return groups


def rope_parameters(official: dict[str, Any], rope: str = "auto", name: str = "") -> dict[str, Any]:
    """transformers' ``rope_parameters`` for an official config; see ``native_config``."""
    if rope not in ROPE_CHOICES:
        raise CheckpointError(f"rope is {rope!r}; allowed: {', '.join(ROPE_CHOICES)}")
    ratio = official.get("rope_ratio") or 1
    if rope == "auto" and ratio != 1:
        rope = _guess_rope(official, ratio, name)
    if rope == "positions" and ratio != 1:
        kind = {"rope_type": "linear", "factor": float(ratio), "rope_theta": THETA}
    else:
        kind = {"rope_type": "default", "rope_theta": THETA * ratio}
    return {**kind, "partial_rotary_factor": 0.5}


def _guess_rope(official: dict[str, Any], ratio: float, name: str) -> str:
    """The meaning of rope_ratio by a note in the config or the name; a warning if neither tells."""
    if official.get("rope_meaning") in ROPE_CHOICES[1:]:
        return official["rope_meaning"]
    known = f"{name} {official.get('_name_or_path', '')}".lower()
    positions = "chatglm2" in known
    theta = any(word in known for word in ("chatglm3", "glm-4", "glm4"))
    if positions != theta:
        return "positions" if positions else "theta"
    if official["padded_vocab_size"] == GLM4_VOCABULARY:
        return "theta"
    warnings.warn(
        f"config.json: rope_ratio is {ratio}, and its meaning depends on the model. Taken as "
        "'theta' (ChatGLM3-32k, GLM-4); for ChatGLM2-6B-32k pass rope='positions'.",
        stacklevel=4,
    )
    return "theta"


def official_config(config: GlmConfig, dtype: str | None = None) -> dict[str, Any]:
    """The official config.json of a native config; what was read from one is kept.

    Raises CheckpointError for a GlmConfig that the official layout has no words for.
    """
    if config.model_type != "glm":
        raise CheckpointError(
            f"model_type is {config.model_type!r}: the official ChatGLM layout holds 'glm' models "
            "only; keep this one in its own layout with save_pretrained"
        )
    remembered = dict(getattr(config, "chatglm", None) or {})
    sizes = {key: getattr(config, field) for key, field in SIZES.items()}
    needed = {key: value for key, (_, value) in FLAGS.items() if key != "interleaved_qkv"}
    rest = {
        "model_type": MODEL_TYPE,
        "architectures": ["ChatGLMModel"],
        "multi_query_attention": not is_per_head(config),
        "add_qkv_bias": config.attention_bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": False,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "use_cache": True,
    }
    if not is_per_head(config):
        rest["multi_query_group_num"] = config.num_key_value_heads
    written = remembered | sizes | rest | needed | _official_rope(config, remembered)
    return written | ({"torch_dtype": dtype} if dtype else {})


def is_per_head(config: GlmConfig) -> bool:
    """True when the official fused qkv rows run head by head: multi_query_attention false."""
    remembered = getattr(config, "chatglm", None) or {}
    one_to_one = config.num_key_value_heads == config.num_attention_heads
    return one_to_one and not remembered.get("multi_query_attention", False)


def _official_rope(config: GlmConfig, remembered: dict[str, Any]) -> dict[str, Any]:
    rope = config.rope_parameters
    kind, theta = rope.get("rope_type", "default"), rope["rope_theta"]
    if rope.get("partial_rotary_factor") != 0.5 or kind not in ("default", "linear"):
        raise CheckpointError(
            f"rope_parameters {rope}: the official ChatGLM layout cannot say this"
        )
    if kind == "linear":
        return {"rope_ratio": rope["factor"], "rope_meaning": "positions"}
    ratio = remembered.get("rope_ratio") or 1
    if not math.isclose(theta, THETA * ratio):
        ratio = theta / THETA
    if ratio == 1:
        return {}
    return {"rope_ratio": ratio, "rope_meaning": "theta"}
