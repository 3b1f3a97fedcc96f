"""A tiny model, tiny rows and a run of a second, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.history import History
from loraglm_helpers.sequences import Example
from loraglm_helpers.training import train


def make_config(**changes) -> FineTuneConfig:
    """The defaults, but for what a run of a second needs, in float32 on every machine."""
    settings = {"pre_model": "tiny", "target_modules": "all-linear", "lora_rank": 4}
    settings |= {"precision": "fp32"}
    settings |= {"learning_rate": 1e-2, "logging_steps": 2, "save_freq": 4, "device": "cpu"}
    return FineTuneConfig(**(settings | changes))


class Tokenizer:
    pad_token_id = 0


def tiny(**changes) -> GlmForCausalLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    return GlmForCausalLM(GlmConfig(**(shape | changes)))


def rows(count: int = 16) -> list[Example]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(count):
        ids = torch.randint(3, 60, (6 + number % 5,), generator=generator).tolist()
        made.append(Example(ids, [-100] * 3 + ids[3:]))
    return made


def run(config, model=None, callbacks=(), resume=False, **given) -> History:
    return train(
        config,
        model=model or tiny(),
        tokenizer=Tokenizer(),
        train_rows=given.get("train_rows", rows()),
        dev_rows=given.get("dev_rows", rows(4)),
        callbacks=callbacks,
        resume=resume,
    )


def weights(directory, name="last") -> dict[str, torch.Tensor]:
    return load_file(Path(directory) / name / "adapter_model.safetensors")


def stop_at(step: int):
    def callback(event, state):
        state.stop = event == "step" and state.step == step

    return callback
