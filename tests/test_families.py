"""Every native class of the family trains, merges and generates, and asks as it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from reference_glm import random_weights
from safetensors.torch import load_file, save_file
from tiny_tokenizer import train_tokenizer

from loraglm_helpers import generation
from loraglm_helpers.__main__ import main
from loraglm_helpers.checkpoints import CheckpointError, load_glm
from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.conversion import convert_model
from loraglm_helpers.data import Row
from loraglm_helpers.guards import folder_layouts
from loraglm_helpers.lora import attach_adapter, load_adapter, target_modules
from loraglm_helpers.merging import merge
from loraglm_helpers.sequences import (
    Example,
    build_examples,
    build_prompt,
    build_target,
    collate,
)
from loraglm_helpers.targets import target_parameters
from loraglm_helpers.tiny_family import NATIVE, OFFICIAL, TEMPLATE, write_checkpoint, write_family
from loraglm_helpers.tokenizer import TokenizerError, load_tokenizer
from loraglm_helpers.training import batch_loss, train
from loraglm_helpers.weight_files import read_shard

GOLDEN = Path(__file__).parent / "golden"
MLP = ["down_proj", "gate_up_proj"]
QKV = ["k_proj", "q_proj", "v_proj"]
LATENT_QKV = ["kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj"]
CONTEXT = "Instruction: 找出文中的三元组。\nInput: 白石大学在青州。\nAnswer: "
ROWS = [Row(CONTEXT, '[{"predicate": "所在地"}]'), Row("A long question?", "A short answer.")]
DIALOGUE = Row(
    messages=(
        {"role": "system", "content": "短答"},
        {"role": "user", "content": "年利率是多少？"},
        {"role": "assistant", "content": "百分之四。"},
        {"role": "user", "content": "那去年呢？"},
        {"role": "assistant", "content": "The same: 4."},
    )
)
LAYOUTS = ["glm", "chatglm2", "chatglm3", "chat_template"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """The folder of a random checkpoint of each kind."""
    root = tmp_path_factory.mktemp("family")
    write_family(root, tokenizer)
    return root


def settings(folder: Path, out: Path, **changes) -> FineTuneConfig:
    return FineTuneConfig(
        pre_model=str(folder),
        save_dir=str(out),
        layout="chat_template",
        max_steps=2,
        warmup_ratio=0.0,
        learning_rate=1e-2,
        lora_dropout=0.0,
        lora_rank=2,
        device="cpu",
        **changes,
    )


def test_the_tiny_family_is_one_checkpoint_of_each_class(folders, tokenizer):
    classes = {kind: type(load_glm(folders / kind, device="cpu")).__name__ for kind in NATIVE}
    assert classes == {
        "glm": "GlmForCausalLM",
        "glm4": "Glm4ForCausalLM",
        "glm4_moe": "Glm4MoeForCausalLM",
        "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
    }
    assert {kind: folder_layouts(folders / kind) for kind in OFFICIAL} == {
        "chatglm2": ("chatglm2",),
        "chatglm3": ("chatglm3",),
    }
    assert load_tokenizer(folders / "glm4").chat_template == TEMPLATE
    again = write_checkpoint("glm4", folders / "again", tokenizer)
    was, now = (load_file(f / "model.safetensors") for f in (folders / "glm4", again))
    assert all(torch.equal(was[name], now[name]) for name in was)


# --- adapters on every class --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attention", "everything"),
    [
        ("glm", [*QKV, "o_proj"], [*QKV, "o_proj", *MLP]),
        ("glm4", [*QKV, "o_proj"], [*QKV, "o_proj", *MLP]),
        ("glm4_moe", [*QKV, "o_proj"], [*QKV, "o_proj"]),
        ("glm4_moe_lite", [*LATENT_QKV, "o_proj"], [*LATENT_QKV, "o_proj"]),
    ],
)
def test_targets_by_family(folders, kind, attention, everything):
    model = load_glm(folders / kind, device="cpu")
    assert target_modules(model, "attention") == sorted(attention)
    assert target_modules(model, "all-linear") == sorted(everything)
    assert target_modules(model, "query_key_value") == sorted(set(attention) - {"o_proj"})
    for choice in ("attention", "all-linear"):
        assert target_parameters(model, choice) == []  # experts are left out unless named


@pytest.mark.parametrize("choice", ["attention", "all-linear", ["o_proj"]])
@pytest.mark.parametrize("kind", NATIVE)
def test_each_class_trains_saves_loads_merges_and_generates(
    folders, tmp_path, tokenizer, kind, choice
):
    config = settings(folders / kind, tmp_path, target_modules=choice)
    history = train(config, train_rows=ROWS, dev_rows=ROWS)
    assert history.records[-1]["step"] == 2
    stored = load_file(tmp_path / "best" / "adapter_model.safetensors")
    tuned = {key.split(".lora_")[0].rpartition(".")[2] for key in stored}
    assert tuned == set(target_modules(load_glm(folders / kind, device="cpu"), choice))
    check_adapter(folders / kind, tmp_path / "best", config, tokenizer)
    report = merge(folders / kind, tmp_path / "best", tmp_path / "merged")
    assert report.layers == 2 * len(tuned)
    assert report.difference < 1e-5 < 1e-4 < report.effect
    assert folder_layouts(tmp_path / "merged") == ("chat_template",)


@pytest.mark.parametrize("choice", ["experts", ["attention", "experts"]])
@pytest.mark.parametrize("kind", ["glm4_moe", "glm4_moe_lite"])
def test_routed_experts_are_trained_when_they_are_named(folders, tmp_path, tokenizer, kind, choice):
    config = settings(folders / kind, tmp_path, target_modules=choice)
    train(config, train_rows=ROWS, dev_rows=ROWS)
    stored = load_file(tmp_path / "best" / "adapter_model.safetensors")
    experts = {key.split("layers.")[1] for key in stored if ".experts." in key}
    parts = ("lora_A.weight", "lora_B.weight")
    assert experts == {f"1.mlp.experts.{at}{part}" for at in ("", "base_layer.") for part in parts}
    assert any("o_proj" in key for key in stored) == (choice != "experts")
    check_adapter(folders / kind, tmp_path / "best", config, tokenizer)
    with pytest.raises(CheckpointError, match="merge in memory instead"):
        merge(folders / kind, tmp_path / "best", tmp_path / "merged")


def check_adapter(folder: Path, adapter: Path, config: FineTuneConfig, tokenizer) -> None:
    """Training moved the answers; merged and unmerged give the same ones."""
    ids = torch.tensor([tokenizer.encode(CONTEXT, add_special_tokens=False)])
    with torch.no_grad():
        base = load_glm(folder, device="cpu")(ids).logits
        tuned = load_adapter(load_glm(folder, device="cpu"), adapter)
        after = tuned(ids).logits
        answers = generation.predict(tuned, tokenizer, ROWS, config.replace(max_target_seq_len=5))
        merged = tuned.merge_and_unload()
        assert (merged(ids).logits - after).abs().max() < 1e-5
    assert (after - base).abs().max() > 1e-4
    assert len(answers) == len(ROWS)
    again = generation.predict(merged, tokenizer, ROWS, config.replace(max_target_seq_len=5))
    assert again == answers


@pytest.mark.parametrize("kind", ["glm4_moe", "glm4_moe_lite"])
def test_names_that_peft_takes_for_experts_are_refused(folders, kind):
    model = load_glm(folders / kind, device="cpu")
    with pytest.raises(ValueError, match=r"no linear layer \['down_proj'\].*or experts or among"):
        target_modules(model, ["o_proj", "down_proj"])


def test_experts_that_cannot_be_trained_are_refused(folders, tmp_path):
    config = settings(folders / "glm4_moe", tmp_path, target_modules=["experts"])
    with pytest.raises(ValueError, match="no routed experts; leave 'experts' out"):
        attach_adapter(load_glm(folders / "glm4", device="cpu"), config)
    for changes in ({"lora_dropout": 0.1}, {"adapter_kind": "dora"}):
        with pytest.raises(ValueError, match="set lora_dropout to 0 and adapter_kind to lora"):
            attach_adapter(load_glm(folders / "glm4_moe", device="cpu"), config.replace(**changes))


# --- asked as it was trained --------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [400, 40])
def test_training_and_asking_use_the_same_prompt(tokenizer, monkeypatch, layout, limit):
    asked = []
    monkeypatch.setattr(
        generation, "generate", lambda _, __, prompts, *a, **k: asked.extend(prompts)
    )
    config = FineTuneConfig(layout=layout, max_source_seq_len=limit)
    rows = [*ROWS, DIALOGUE]
    generation.predict(torch.nn.Linear(1, 1), tokenizer, rows, config)
    trained = [build_examples(row, tokenizer, layout, limit)[-1] for row in rows]
    lengths = [len(ids) for ids in asked]
    assert [e.input_ids[:n] for e, n in zip(trained, lengths, strict=True)] == asked
    for example, length in zip(trained, lengths, strict=True):
        assert example.labels[length - 1] == -100 and -100 not in example.labels[length:]
        assert example.labels[length:] == example.input_ids[length:]
    assert all(length <= limit for length in lengths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_turns_in_one_sequence_have_the_loss_of_turns_one_by_one(folders, tokenizer, layout):
    model = load_glm(folders / "glm", device="cpu")
    together = build_examples(DIALOGUE, tokenizer, layout)
    alone = []
    for turns in (3, 5):
        *context, answer = DIALOGUE.messages[:turns]
        prompt = build_prompt(context, tokenizer, layout)
        target = build_target(answer["content"], tokenizer, layout)
        alone.append(Example(prompt + target, [-100] * len(prompt) + target))
    assert len(together) == (1 if layout in ("chatglm3", "chat_template") else 2)
    with torch.no_grad():
        (one, n), (two, m) = (
            batch_loss(model, collate(examples, padding_free=False))
            for examples in (together, alone)
        )
    assert n == m
    assert one.item() == pytest.approx(two.item(), rel=1e-5)


# --- the command line: official → native → official ---------------------------------------------

PER_HEAD = {
    "model_type": "chatglm",
    "padded_vocab_size": 512,
    "hidden_size": 32,
    "ffn_hidden_size": 24,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": False,
    "add_qkv_bias": False,
    "layernorm_epsilon": 1e-5,
    "seq_length": 64,
    "rope_ratio": 50,
    "_name_or_path": "THUDM/chatglm3-6b-32k",
}


@pytest.fixture(params=["glm2", "glm3", "per_head"])
def official(request, tmp_path):
    """A checkpoint as published: two .bin shards, or safetensors of another shape."""
    folder = tmp_path / "official"
    if request.param == "per_head":
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(PER_HEAD))
        save_file(random_weights(PER_HEAD), folder / "model.safetensors")
    else:
        shutil.copytree(GOLDEN / request.param / "ckpt", folder)
    train_tokenizer(folder)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every official weight of a folder, the recomputed rotary buffer aside."""
    files = [*folder.glob("*.bin"), *folder.glob("*.safetensors")]
    weights = dict(pair for file in files for pair in read_shard(file))
    return {name: value for name, value in weights.items() if "inv_freq" not in name}


def convert(model: Path, to: str, out: Path, *more: str) -> Path:
    assert main(["convert", "--model", str(model), "--to", to, "--out", str(out), *more]) == 0
    return out


def test_convert_there_and_back_is_bit_equal(official, tmp_path):
    native = convert(official, "native", tmp_path / "native")
    assert json.loads((native / "config.json").read_text())["model_type"] == "glm"
    back = convert(native, "official", tmp_path / "back")
    was, now = stored(official), stored(back)
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    old, new = (json.loads((f / "config.json").read_text()) for f in (official, back))
    differing = {key for key in old if old[key] != new.get(key)}
    assert differing <= {"architectures", "torch_dtype"}
    assert (official / "tokenizer.model").read_bytes() == (back / "tokenizer.model").read_bytes()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        first, second, third = (
            load_glm(f, dtype="fp32", device="cpu")(ids).logits for f in (official, native, back)
        )
    assert torch.equal(first, second) and torch.equal(first, third)


def test_convert_without_a_tokenizer_says_so(tmp_path, capsys):
    native = convert(GOLDEN / "glm2/ckpt", "native", tmp_path / "native")
    assert "written in the native layout, without a tokenizer" in capsys.readouterr().out
    back = stored(convert(native, "official", tmp_path / "back"))
    assert all(torch.equal(back[k], v) for k, v in stored(GOLDEN / "glm2/ckpt").items())
    (native / "tokenizer.model").write_bytes(b"\nnot one")
    with pytest.raises(TokenizerError, match="download the file again"):
        convert_model(native, "official", tmp_path / "again")


def test_convert_an_adapter_there_and_back(tmp_path):
    base = GOLDEN / "glm2/ckpt"
    native, official = tmp_path / "native", tmp_path / "official"
    convert(base, "native", native, "--adapter", str(GOLDEN / "adapter_qkv"))
    convert(base, "official", official, "--adapter", str(native))
    deltas = [fused_deltas(folder) for folder in (GOLDEN / "adapter_qkv", official)]
    assert deltas[0].keys() == deltas[1].keys() and len(deltas[0]) == 3
    for name, delta in deltas[0].items():
        assert (delta - deltas[1][name]).abs().max() <= 1e-6 * delta.abs().max()


def fused_deltas(folder: Path) -> dict[str, torch.Tensor]:
    """alpha / rank · B · A of each layer."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    names = [key.removesuffix(".lora_A.weight") for key in weights if key.endswith("A.weight")]
    return {n: scale * weights[f"{n}.lora_B.weight"] @ weights[f"{n}.lora_A.weight"] for n in names}
