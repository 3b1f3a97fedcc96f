"""Merging: equal to PEFT's and to base + adapter, exact where it can be, safe on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_tokenizer import train_tokenizer
from torch import Tensor
from transformers import GlmForCausalLM

from loraglm_helpers.checkpoints import CheckpointError, load_glm, save_official
from loraglm_helpers.lora import load_adapter, no_renaming_warning
from loraglm_helpers.mapping import FusedRows
from loraglm_helpers.merging import merge
from loraglm_helpers.shard_writer import ShardWriter

GOLDEN = Path(__file__).parent / "golden"
OFFICIAL = GOLDEN / "glm2" / "ckpt"  # two .bin shards in float32
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
PROMPT = torch.tensor([[5, 9, 200, 31, 7, 77, 150]])


def make_adapter(folder: Path, base: Path = OFFICIAL, size: float = 1.0, **settings) -> Path:
    """A saved adapter whose B is not zero."""
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "init_lora_weights": False}
    with no_renaming_warning():
        model = peft.get_peft_model(
            load_glm(base, "fp32", "cpu"),
            peft.LoraConfig(task_type="CAUSAL_LM", **(config | settings)),
        )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= size
        if "magnitude" in name:
            parameter.data *= 1.1
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter"))


def peft_merged(base: Path, adapter: Path) -> dict[str, Tensor]:
    return load_adapter(load_glm(base, "fp32", "cpu"), adapter).merge_and_unload().state_dict()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["lora", "rslora", "dora", "patterns", "whole-layer", "embeddings"],
)
def test_every_kind_of_adapter_is_merged_as_peft_merges_it(tmp_path, settings):
    adapter = make_adapter(tmp_path / "adapter", **settings)
    report = merge(OFFICIAL, adapter, tmp_path / "merged")
    merged = load_glm(tmp_path / "merged", "fp32", "cpu")
    wanted = peft_merged(OFFICIAL, adapter)
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=2e-6)
    assert report.difference < 2e-5 and report.effect > 0.01
    assert report.kept > 0.9999 and report.dtype == "float32"


def test_an_official_base_stays_official_and_untouched_weights_stay_bit_for_bit(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", target_modules=["k_proj"])
    merge(OFFICIAL, adapter, tmp_path / "merged", verify=False)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    base = {}
    for shard in OFFICIAL.glob("*.bin"):
        base |= torch.load(shard, weights_only=True)
    assert set(tensors) == set(base)
    rows = FusedRows.of(load_glm(OFFICIAL, "fp32", "cpu").config)
    before, after = rows.split(base[QKV]), rows.split(tensors[QKV])
    assert [torch.equal(b, a) for b, a in zip(before, after, strict=True)] == [True, False, True]
    changed = {name for name in base if not torch.equal(base[name], tensors[name])}
    assert changed == {QKV.replace(".1.", f".{layer}.") for layer in range(3)}
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["model_type"] == "chatglm" and config["use_cache"] is True
    assert config["padded_vocab_size"] == 320 and config["torch_dtype"] == "float32"


def test_the_sum_is_made_in_float32_and_rounded_once(tmp_path):
    half = tmp_path / "half"
    save_official(load_glm(OFFICIAL, "fp16", "cpu"), None, half)
    adapter = make_adapter(tmp_path / "adapter", half, size=0.01)
    report = merge(half, adapter, tmp_path / "merged")
    assert report.dtype == "float16"
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    wanted = peft_merged(half, adapter)
    name = "transformer.encoder.layers.2.mlp.dense_4h_to_h.weight"
    assert torch.equal(tensors[name], wanted["model.layers.2.mlp.down_proj.weight"].half())


def test_the_report_measures_what_rounding_takes_from_a_small_delta(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", size=0.002)
    kept = {
        name: merge(OFFICIAL, adapter, tmp_path / name, dtype=name).kept
        for name in ("fp32", "fp16", "bf16")
    }
    assert kept["fp32"] > 0.999 > 0.95 > kept["fp16"] > 0.4 > kept["bf16"] >= 0
    stored = load_file(tmp_path / "bf16" / "model.safetensors")
    assert stored[QKV].dtype == torch.bfloat16
    text = str(merge(OFFICIAL, adapter, tmp_path / "again"))
    assert "18 layers merged, stored as float32" in text and "logits: the adapter changes" in text


def test_a_native_base_keeps_its_own_layout_and_tokenizer(tmp_path):
    native = tmp_path / "native"
    config = load_glm(OFFICIAL, "fp32", "cpu").config
    config.vocab_size, config.use_cache = 600, False
    GlmForCausalLM(config).save_pretrained(native)
    tokenizer = train_tokenizer(tmp_path / "tokenizer")
    shutil.copy(tokenizer, native / "tokenizer.model")
    adapter = make_adapter(tmp_path / "adapter", native)
    report = merge(native, adapter, tmp_path / "merged")
    files = contents(tmp_path / "merged")
    assert files["tokenizer.model"] == tokenizer.read_bytes()
    config = json.loads(files["config.json"])
    assert config["model_type"] == "glm" and config["use_cache"] is True
    assert json.loads(files["generation_config.json"])["use_cache"] is True
    assert report.difference < 2e-5
    merged = load_glm(tmp_path / "merged", "fp32", "cpu")
    with torch.no_grad():
        adapted = load_adapter(load_glm(native, "fp32", "cpu"), adapter)
        torch.testing.assert_close(merged(PROMPT).logits, adapted(PROMPT).logits)


def test_merging_twice_gives_the_same_bytes_and_never_overwrites_unasked(tmp_path, adapter):
    out = tmp_path / "merged"
    out.mkdir()
    merge(OFFICIAL, adapter, out, verify=False)
    first = contents(out)
    with pytest.raises(CheckpointError, match="overwrite=True"):
        merge(OFFICIAL, adapter, out)
    merge(OFFICIAL, adapter, out, overwrite=True, verify=False)
    assert contents(out) == first
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


def test_a_folder_that_holds_no_model_is_never_replaced(tmp_path, adapter):
    (tmp_path / "letters.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="choose another folder"):
        merge(OFFICIAL, adapter, tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match="holds what is to be read"):
        merge(OFFICIAL, adapter, OFFICIAL, overwrite=True)
    assert (tmp_path / "letters.txt").read_text() == "keep me"


def test_a_failed_merge_leaves_nothing_behind_and_keeps_the_old_model(tmp_path, adapter):
    out = tmp_path / "out" / "merged"
    merge(OFFICIAL, adapter, out, verify=False)
    before = contents(out)
    wrong = make_adapter(tmp_path / "wrong", GOLDEN / "glm3" / "ckpt", target_modules=["q_proj"])
    weights = load_file(wrong / "adapter_model.safetensors")
    weights = {name: torch.zeros(4, 7) if "lora_A" in name else t for name, t in weights.items()}
    save_file(weights, wrong / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="trained on another model"):
        merge(OFFICIAL, wrong, out, overwrite=True)
    assert contents(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["merged"]


def test_numbers_beyond_float16_are_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", size=1e7)
    with pytest.raises(CheckpointError, match="range of torch.float16.*bf16"):
        merge(OFFICIAL, adapter, tmp_path / "merged", dtype="fp16", verify=False)


def test_what_is_no_mergeable_adapter_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        merge(OFFICIAL, tmp_path, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="convert it with import_adapter"):
        merge(OFFICIAL, GOLDEN / "adapter_qkv", tmp_path / "merged")
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    settings.save_pretrained(tmp_path / "prefix")
    with pytest.raises(CheckpointError, match="prefix changes no weight"):
        merge(OFFICIAL, tmp_path / "prefix", tmp_path / "merged")
    with pytest.raises(CheckpointError, match="no such folder"):
        merge("nowhere/at/all", GOLDEN / "adapter_qkv", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_meaning_of_rope_ratio_outlives_the_base_folders_name(tmp_path, adapter):
    base = tmp_path / "chatglm2-6b-32k"
    shutil.copytree(OFFICIAL, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rope_ratio": 4, "_name_or_path": ""}))
    report = merge(base, adapter, tmp_path / "mine")
    assert report.difference < 2e-5
    assert load_glm(tmp_path / "mine").config.rope_parameters["rope_type"] == "linear"


def test_shards_are_closed_when_full_and_named_at_the_end(tmp_path):
    writer = ShardWriter(tmp_path, max_shard_size=100)
    large = torch.arange(40.0)
    for number in range(4):
        writer.add(f"w{number}", large[number * 10 : number * 10 + 10])  # views of 40 bytes
    writer.add("w4", torch.zeros(5, 10).T)  # larger than a shard, and not contiguous
    writer.close()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 360
    first, second, third = (f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3))
    assert index["weight_map"] == {
        "w0": first,
        "w1": first,
        "w2": second,
        "w3": second,
        "w4": third,
    }
    with safe_open(tmp_path / second, "pt") as shard:
        assert shard.get_tensor("w3").tolist() == list(range(30, 40))
    assert sorted(file.name for file in tmp_path.iterdir())[:3] == [first, second, third]
    assert len(list(tmp_path.iterdir())) == 4
