"""Settings that suit a model, by name; what a preset leaves out keeps the default.

The large models' rates are LoRA's usual ones; the miniature's come from trials on 2 CPU cores.
"""

from __future__ import annotations

from typing import Any

# A 6B or 9B base: memory for long rows comes from checkpointing, the rate from LoRA's usual range.
LARGE = {
    "target_modules": "all-linear",
    "lora_dropout": 0.05,
    "learning_rate": 1e-4,
    "batch_size": 16,
    "gradient_checkpointing": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    "seed": {},
    "tiny": {
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
        "learning_rate": 1.5e-3,
        "batch_size": 16,
        "epochs": 0.8,
        "logging_steps": 10,
        "save_freq": 100,
    },
    "chatglm2-6b": {"pre_model": "zai-org/chatglm2-6b", "layout": "chatglm2", **LARGE},
    "chatglm3-6b": {"pre_model": "zai-org/chatglm3-6b", "layout": "chatglm3", **LARGE},
    "glm-4-9b": {"pre_model": "zai-org/glm-4-9b-chat-hf", "layout": "chat_template", **LARGE},
    "glm-edge-1.5b": {
        "pre_model": "zai-org/glm-edge-1.5b-chat",
        "layout": "chat_template",
        **LARGE,
        "gradient_checkpointing": False,
    },
}
