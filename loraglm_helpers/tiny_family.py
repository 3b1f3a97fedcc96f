"""A random checkpoint of each kind that load_glm reads, small enough for a lesson or a test.

chatglm2, chatglm3              official layout, as ChatGLM2-6B and ChatGLM3-6B publish it
glm                             native: GLM-4-9B-hf, GLM-Edge
glm4                            native: GLM-4-0414, GLM-Z1
glm4_moe, glm4_moe_lite         native mixtures of experts: GLM-4.5 to 4.7, GLM-4.7-Flash
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .checkpoints import save_official

OFFICIAL = {"chatglm2": "zai-org/chatglm2-6b", "chatglm3": "zai-org/chatglm3-6b"}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
EXPERTS = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,  # the first layer is dense
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "mlp_layer_types": ["dense", "sparse"],
}
NATIVE = {"glm": {}, "glm4": {}, "glm4_moe": EXPERTS, "glm4_moe_lite": EXPERTS | LATENT}
# The shape of GLM-4's own template, with the special tokens of the ChatGLM tokenizer.
TEMPLATE = (
    "[gMASK]sop{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_family(root: str | Path, tokenizer: Any) -> dict[str, Path]:
    """Write one checkpoint of each kind below ``root``; returns their folders by kind.

    ``tokenizer`` is one of ``load_tokenizer``'s from a tokenizer.model; the native folders get it
    with a chat template. The weights are random, the same each time.
    """
    return {kind: write_checkpoint(kind, root, tokenizer) for kind in (*OFFICIAL, *NATIVE)}


def write_checkpoint(kind: str, root: str | Path, tokenizer: Any) -> Path:
    """One random checkpoint in ``root/kind``, for a kind of the table above."""
    folder = Path(root) / kind
    model = random_model(kind, rows=-(-len(tokenizer) // 64) * 64)
    if kind in OFFICIAL:
        return save_official(model, tokenizer, folder)
    model.save_pretrained(folder)
    templated = copy.copy(tokenizer)
    templated.chat_template = TEMPLATE
    templated.save_pretrained(folder)
    return folder


def random_model(kind: str, rows: int) -> Any:
    """A random model of a kind with ``rows`` embeddings; global random numbers stay untouched."""
    more = NATIVE.get(kind, {"chatglm": {"_name_or_path": OFFICIAL.get(kind)}})
    config = AutoConfig.for_model("glm" if kind in OFFICIAL else kind, **(SIZES | more))
    config.vocab_size = rows
    if kind in OFFICIAL:
        rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        config.rope_parameters, config.attention_bias = rope, True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()
