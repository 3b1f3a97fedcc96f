"""Every setting of the original recipe, from a checkpoint and rows on disk, does what it says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_tokenizer import train_tokenizer
from tiny_training import tiny

from loraglm_helpers.checkpoints import save_official
from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.precision import Precision
from loraglm_helpers.sequences import format_context
from loraglm_helpers.tokenizer import load_tokenizer
from loraglm_helpers.training import prepare_model, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint in the official layout, eight rows to train on, two to score."""
    folder = tmp_path_factory.mktemp("seed")
    train_tokenizer(folder / "pieces")
    tokenizer = load_tokenizer(folder / "pieces")
    save_official(tiny(vocab_size=512, attention_bias=True), tokenizer, folder / "glm")
    pairs = [(f"白石大学在青州第{n}街。" * (n + 1), f"第{n}街") for n in range(10)]
    lines = [
        json.dumps({"context": format_context("找出地点", text), "target": target})
        for text, target in pairs
    ]
    (folder / "train.jsonl").write_text("\n".join(lines[:8]) + "\n", encoding="utf-8")
    (folder / "dev.jsonl").write_text("\n".join(lines[8:]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def config(folder, tmp_path) -> FineTuneConfig:
    return FineTuneConfig(
        pre_model=str(folder / "glm"),
        train_path=str(folder / "train.jsonl"),
        dev_path=str(folder / "dev.jsonl"),
        save_dir=str(tmp_path / "run"),
        device="cpu",
        batch_size=4,
        epochs=2,
        logging_steps=1,
        save_freq=2,
    )


def states(config: FineTuneConfig) -> tuple[list[dict], object]:
    """The record of each step, and the model."""
    seen, models = [], []

    def callback(event, state):
        models.append(state.model)
        if event == "step":
            seen.append(dict(state.record))

    train(config, callbacks=[callback])
    return seen, models[-1]


def adapter(config: FineTuneConfig, name: str = "best") -> dict[str, torch.Tensor]:
    return load_file(Path(config.save_dir) / name / "adapter_model.safetensors")


def test_pre_model_train_path_dev_path_save_dir(config):
    train(config)
    saved = json.loads((Path(config.save_dir) / "best" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == config.pre_model
    assert sorted(p.name for p in Path(config.save_dir).iterdir()) == [
        "best",
        "history.json",
        "last",
        "settings.json",
    ]
    assert FineTuneConfig.from_json(Path(config.save_dir) / "settings.json") == config


def test_use_lora_lora_rank_and_the_default_targets(config):
    train(config.replace(lora_rank=3))
    shapes = {name.split("layers.")[1]: tuple(t.shape) for name, t in adapter(config).items()}
    assert shapes["0.self_attn.q_proj.lora_A.weight"] == (3, 32)
    assert shapes["0.self_attn.v_proj.lora_B.weight"] == (16, 3)
    assert {name.split(".")[2] for name in shapes} == {"q_proj", "k_proj", "v_proj"}
    saved = json.loads((Path(config.save_dir) / "best" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (3, 32, 0.1)


def test_use_lora_false_trains_every_weight(config):
    seen, model = states(config.replace(use_lora=False, max_steps=1))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (Path(config.save_dir) / "best" / "model.safetensors").is_file()


def test_weights_that_are_trained_start_unrounded(config):
    half = Precision(torch.device("cpu"), "bf16")
    stored = tiny(vocab_size=512, attention_bias=True).state_dict()
    trained = prepare_model(config.replace(use_lora=False), None, half).state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in stored.items())
    adapted = prepare_model(config, None, half).get_base_model()
    assert adapted.lm_head.weight.dtype == torch.bfloat16


def test_use_ptuning_and_pre_seq_len(config):
    settings = config.replace(use_lora=False, use_ptuning=True, pre_seq_len=7)
    train(settings)
    assert adapter(settings)["prompt_embeddings"].shape == (7, 2 * 2 * 2 * 8)


def test_pre_seq_len_means_nothing_without_use_ptuning(config):
    train(config.replace(pre_seq_len=7))
    assert not any("prompt" in name for name in adapter(config))


def test_batch_size_and_epochs_make_the_steps(config):
    seen, _ = states(config)
    assert [record["epoch"] for record in seen] == [0.5, 1.0, 1.5, 2.0]
    seen, _ = states(config.replace(batch_size=8, epochs=3))
    assert [record["epoch"] for record in seen] == [1, 2, 3]
    assert len({record["tokens"] / record["step"] for record in seen}) == 1


def test_learning_rate_and_warmup_ratio(config):
    seen, _ = states(config.replace(learning_rate=0.01, warmup_ratio=0.5))
    rates = [record["lr"] for record in seen]
    assert rates == pytest.approx([0.005, 0.01, 0.02 / 3, 0.01 / 3])


def test_weight_decay_shrinks_what_gets_no_gradient(config):
    still = config.replace(use_lora=False, learning_rate=0.1, warmup_ratio=0.0, max_steps=1)
    _, model = states(still.replace(weight_decay=0.5))
    unused = tiny(vocab_size=512, attention_bias=True).model.embed_tokens.weight[500]
    assert torch.allclose(model.model.embed_tokens.weight[500], unused * (1 - 0.1 * 0.5))
    _, model = states(still.replace(weight_decay=0.0))
    assert torch.allclose(model.model.embed_tokens.weight[500], unused)


def test_max_source_and_max_target_seq_len_bound_the_tokens(config):
    short, _ = states(config.replace(max_source_seq_len=20, max_target_seq_len=5, batch_size=8))
    assert short[0]["tokens"] <= 8 * 25
    whole, _ = states(config.replace(batch_size=8))
    assert whole[0]["tokens"] > 8 * 25


def test_logging_steps_and_save_freq(config):
    saves, settings = [], config.replace(epochs=3, logging_steps=2, save_freq=3)
    history = train(
        settings,
        callbacks=[lambda event, state: saves.append(state.step) if event == "save" else None],
    )
    assert [record["step"] for record in history.records] == [2, 3, 4, 6]
    assert [r["step"] for r in history.records if "dev_loss" in r] == saves == [3, 6]


def test_seed_decides_everything(config):
    train(config)
    first = adapter(config, "last")
    train(config)
    assert all(torch.equal(first[name], tensor) for name, tensor in adapter(config, "last").items())
    train(config.replace(seed=43))
    assert not all(torch.equal(first[n], t) for n, t in adapter(config, "last").items())
