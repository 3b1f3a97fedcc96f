from __future__ import annotations

import json
import math
import re
from pathlib import Path

import peft
import pytest
import torch
from reference_glm import logits, random_weights
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from loraglm_helpers.__main__ import main
from loraglm_helpers.checkpoints import (
    CheckpointError,
    export_adapter,
    import_adapter,
    load_glm,
    save_official,
)
from loraglm_helpers.prefix import rotated

GOLDEN = Path(__file__).parent / "golden"
LAYERS = "transformer.encoder.layers"
PREFIX = "base_model.model."
CONFIG = {
    "model_type": "chatglm",
    "padded_vocab_size": 61,
    "hidden_size": 32,
    "ffn_hidden_size": 24,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "layernorm_epsilon": 1e-5,
    "seq_length": 64,
}
PER_HEAD = CONFIG | {"multi_query_attention": False, "multi_query_group_num": 1}


@pytest.fixture(params=[CONFIG, PER_HEAD], ids=["grouped", "per_head"])
def base(request, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(request.param))
    save_file(random_weights(request.param), folder / "model.safetensors")
    return folder


def read(folder: Path) -> tuple[dict, dict]:
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    return settings, {key.removeprefix(PREFIX): value for key, value in tensors.items()}


def merged_by_hand(weights: dict, folder: Path) -> dict:
    """W + scale · B · A under the official names, by the papers' formulas."""
    settings, tensors = read(folder)
    merged = dict(weights)
    for key in [k for k in tensors if k.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        a, b = tensors[key], tensors[f"{name}.lora_B.weight"]
        alpha = next(
            (v for p, v in settings["alpha_pattern"].items() if re.match(rf"(.*\.)?({p})$", name)),
            settings["lora_alpha"],
        )
        rank = a.shape[0]
        scale = alpha / (math.sqrt(rank) if settings["use_rslora"] else rank)
        changed = weights[f"{name}.weight"] + scale * b @ a
        if settings["use_dora"]:
            magnitude = tensors[f"{name}.lora_magnitude_vector"]
            changed = changed * (magnitude / changed.norm(dim=1))[:, None]
        merged[f"{name}.weight"] = changed
    return merged


def official_adapter(folder: Path, base: Path, names: tuple[str, ...], rank=3, **more) -> Path:
    """A random adapter with official names, as an old PEFT would have written it."""
    generator = torch.Generator().manual_seed(1)
    weights, tensors = load_file(base / "model.safetensors"), {}
    for layer in range(2):
        for name in names:
            at = f"{LAYERS}.{layer}.{name}"
            rows, columns = weights[f"{at}.weight"].shape
            own = more.get("rank_pattern", {}).get(name.rpartition(".")[2], rank)
            tensors[f"{PREFIX}{at}.lora_A.weight"] = torch.randn(own, columns, generator=generator)
            tensors[f"{PREFIX}{at}.lora_B.weight"] = torch.randn(rows, own, generator=generator)
            if more.get("use_dora"):
                length = torch.rand(rows, generator=generator) + 0.5
                tensors[f"{PREFIX}{at}.lora_magnitude_vector"] = length
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "target_modules": [name.rpartition(".")[2] for name in names],
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings | more))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def native_adapter(folder: Path, base: Path, **more) -> dict:
    """A random native adapter in ``folder``; returns base + adapter merged, official names."""
    torch.manual_seed(2)
    tuned = peft.get_peft_model(
        load_glm(base, device="cpu"),
        peft.LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM", **more),
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data = parameter.data + torch.rand_like(parameter)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return merged_by_peft(base, folder)


def merged_by_peft(base: Path, folder: Path) -> dict:
    model = load_glm(base, device="cpu")
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return load_file(save_official(merged, None, folder / "merged") / "model.safetensors")


def largest_gap(found: dict, expected: dict) -> float:
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


# --- official → native --------------------------------------------------------------------------


def test_the_stored_adapter_answers_as_under_the_published_names(tmp_path):
    folder = import_adapter(GOLDEN / "adapter_qkv", tmp_path / "out", GOLDEN / "glm2/ckpt")
    settings, tensors = read(folder)
    assert settings["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert (settings["r"], settings["lora_alpha"]) == (4, 16)
    assert len(tensors) == 3 * 3 * 2
    base = load_glm(GOLDEN / "glm2/ckpt", device="cpu")
    tuned = peft.PeftModel.from_pretrained(base, folder).eval()
    weights = {}
    for file in sorted((GOLDEN / "glm2/ckpt").glob("*.bin")):
        weights |= torch.load(file, weights_only=True)
    expected = merged_by_hand(weights, GOLDEN / "adapter_qkv")
    config = json.loads((GOLDEN / "glm2/ckpt/config.json").read_text())
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        found = tuned(ids).logits
        assert (found - logits(expected, config, ids)).abs().max() < 5e-5
        assert (found - logits(weights, config, ids)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_imported_adapters_merge_to_the_same_weights(base, tmp_path, kind):
    names = (
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    patterns = {"rank_pattern": {"dense": 5}, "alpha_pattern": {"query_key_value": 9}}
    source = official_adapter(tmp_path / "in", base, names, **kind, **patterns)
    folder = import_adapter(source, tmp_path / "out", base)
    expected = merged_by_hand(load_file(base / "model.safetensors"), source)
    assert largest_gap(merged_by_peft(base, folder), expected) < 1e-4
    settings, tensors = read(folder)
    assert settings["target_modules"] == [
        "down_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj",
    ]  # fmt: skip
    assert tensors["model.layers.0.self_attn.k_proj.lora_A.weight"].shape[0] == 3
    assert tensors["model.layers.0.self_attn.o_proj.lora_A.weight"].shape[0] == 5


def test_layers_left_out_stay_left_out(base, tmp_path):
    source = official_adapter(tmp_path / "in", base, ("self_attention.query_key_value",))
    file = source / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if ".layers.1." in key}
    save_file(tensors, file)
    settings, _ = read(import_adapter(source, tmp_path / "out", base))
    assert settings["target_modules"] == [
        f"model.layers.1.self_attn.{name}" for name in ("k_proj", "q_proj", "v_proj")
    ]
    merged = merged_by_peft(base, tmp_path / "out")
    untouched = f"{LAYERS}.0.self_attention.query_key_value.weight"
    assert torch.equal(merged[untouched], load_file(base / "model.safetensors")[untouched])


# --- native → official --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}])
@pytest.mark.parametrize(
    "targets", [["q_proj", "k_proj", "v_proj"], ["q_proj", "v_proj"], ["v_proj"], "all-linear"]
)
def test_exported_adapters_merge_to_the_same_weights(base, tmp_path, kind, targets):
    merged = native_adapter(tmp_path / "in", base, target_modules=targets, **kind)
    joined = len([t for t in targets if t in ("q_proj", "k_proj", "v_proj")]) or 3
    if "use_dora" in kind and joined < 3:
        with pytest.raises(CheckpointError, match="train it on all three"):
            export_adapter(tmp_path / "in", tmp_path / "out", base)
        return
    folder = export_adapter(tmp_path / "in", tmp_path / "out", base)
    expected = merged_by_hand(load_file(base / "model.safetensors"), folder)
    assert largest_gap(merged, expected) < 1e-4
    settings, tensors = read(folder)
    name = f"{LAYERS}.0.self_attention.query_key_value.lora_A.weight"
    assert tensors[name].shape[0] == 2 * joined
    if targets != "all-linear":
        assert settings["target_modules"] == ["query_key_value"]
        assert settings["r"] == 2 * joined and settings["rank_pattern"] == {}
        growth = math.sqrt(joined) if "use_rslora" in kind else joined
        assert settings["lora_alpha"] == 6 * growth


@pytest.mark.parametrize("rslora", [False, True])
def test_q_k_v_of_different_ranks_and_alphas_are_joined(base, tmp_path, rslora):
    merged = native_adapter(
        tmp_path / "in",
        base,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        rank_pattern={"q_proj": 4},
        alpha_pattern={r"layers.1.self_attn.v_proj": 11},
        use_rslora=rslora,
    )
    folder = export_adapter(tmp_path / "in", tmp_path / "out", base)
    expected = merged_by_hand(load_file(base / "model.safetensors"), folder)
    assert largest_gap(merged, expected) < 1e-4


def test_exported_settings_are_readable_by_old_peft(base, tmp_path):
    native_adapter(tmp_path / "in", base, target_modules=["q_proj"])
    settings, _ = read(export_adapter(tmp_path / "in", tmp_path / "out", base))
    known, _ = read(GOLDEN / "adapter_qkv")
    assert set(settings) <= set(known)
    assert settings["lora_alpha"] == 6 and isinstance(settings["lora_alpha"], int)


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_there_and_back_again_is_the_same_change(base, tmp_path, kind):
    names = ("self_attention.query_key_value", "self_attention.dense")
    source = official_adapter(tmp_path / "in", base, names, **kind)
    import_adapter(source, tmp_path / "native", base)
    back = export_adapter(tmp_path / "native", tmp_path / "back", base)
    weights = load_file(base / "model.safetensors")
    assert largest_gap(merged_by_hand(weights, back), merged_by_hand(weights, source)) < 1e-5
    assert read(back)[1][f"{LAYERS}.0.self_attention.dense.lora_A.weight"].shape[0] == 3


# --- P-Tuning v2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("ratio", [1, 50])
def test_an_imported_prefix_answers_as_the_published_code(tmp_path, projection, ratio):
    config = CONFIG | {"rope_ratio": ratio, "_name_or_path": "chatglm2-6b-32k"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config), tmp_path / "model.safetensors")
    model, length, size = load_glm(tmp_path, device="cpu"), 7, 2 * 2 * 2 * 8
    torch.manual_seed(4)
    encoder = {"embedding.weight": torch.randn(length, size)}
    prefix = encoder["embedding.weight"]
    if projection:
        down, up = torch.nn.Linear(size, 32), torch.nn.Linear(32, size)
        encoder |= {f"trans.0.{k}": v for k, v in down.state_dict().items()}
        encoder |= {f"trans.2.{k}": v for k, v in up.state_dict().items()}
        prefix = up(torch.tanh(down(prefix))).detach()
    source = tmp_path / "ptuning"
    source.mkdir()
    torch.save(
        {f"transformer.prefix_encoder.{key}": value for key, value in encoder.items()},
        source / "pytorch_model.bin",
    )
    folder = import_adapter(source, tmp_path / "out", tmp_path)
    ids = torch.arange(18).view(2, 9)

    # What the published code does: unrotated keys before the tokens, tokens counted from 0.
    cache = (
        prefix.view(1, length, 2, 2, 2, 8).expand(2, -1, -1, -1, -1, -1).permute(2, 3, 0, 4, 1, 5)
    )
    past = DynamicCache([(key, value) for key, value in cache])
    with torch.no_grad():
        expected = model(
            ids,
            past_key_values=past,
            position_ids=torch.arange(9).expand(2, -1),
            attention_mask=torch.ones(2, length + 9, dtype=torch.long),
        ).logits
        plain = model(ids).logits
        tuned = peft.PeftModel.from_pretrained(model, folder).eval()
        found = tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert (found - expected).abs().max() < 1e-4
    assert (found - plain).abs().max() > 1e-2


def test_the_command_line_imports_a_prefix(base, tmp_path):
    source, out = tmp_path / "ptuning", tmp_path / "out"
    source.mkdir()
    groups = json.loads((base / "config.json").read_text())["multi_query_attention"]
    prefix = torch.randn(4, 2 * 2 * (2 if groups else 4) * 8)  # layers, key and value, heads, size
    save_file({"prefix_encoder.embedding.weight": prefix}, source / "model.safetensors")
    command = ["convert", "--adapter", str(source), "--model", str(base), "--to", "native"]
    assert main([*command, "--out", str(out)]) == 0
    assert peft.PeftModel.from_pretrained(load_glm(base, device="cpu"), out).num_parameters() > 0
    written = load_file(out / "adapter_model.safetensors")["prompt_embeddings"]
    assert written.shape == prefix.shape and not torch.equal(written, prefix)


@pytest.mark.parametrize("rope", ["theta", "positions"])
def test_the_command_line_rotates_a_prefix_by_the_rope_it_is_told(base, tmp_path, rope):
    config = json.loads((base / "config.json").read_text()) | {"rope_ratio": 50}
    (base / "config.json").write_text(json.dumps(config))
    source, out = tmp_path / "ptuning", tmp_path / "out"
    source.mkdir()
    native = load_glm(base, device="cpu", rope=rope).config
    prefix = torch.randn(4, 2 * 2 * native.num_key_value_heads * 8)
    save_file({"prefix_encoder.embedding.weight": prefix}, source / "model.safetensors")
    command = ["convert", "--adapter", str(source), "--model", str(base), "--to", "native"]
    assert main([*command, "--out", str(out), "--rope", rope]) == 0
    written = load_file(out / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(written, rotated(prefix, native))


def test_a_prefix_of_another_model_is_refused(base, tmp_path):
    source = tmp_path / "ptuning"
    source.mkdir()
    save_file({"prefix_encoder.embedding.weight": torch.zeros(4, 12)}, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="12 numbers a position, this base needs"):
        import_adapter(source, tmp_path / "out", base)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_adapters_that_cannot_be_carried_over(base, tmp_path, changes, message):
    source = official_adapter(tmp_path / "in", base, ("self_attention.dense",), **changes)
    for convert in (import_adapter, export_adapter):
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out", base)


def test_the_wrong_direction_is_named(base, tmp_path):
    source = official_adapter(tmp_path / "in", base, ("self_attention.dense",))
    with pytest.raises(CheckpointError, match="no place in the official layout"):
        export_adapter(source, tmp_path / "out", base)
    native_adapter(tmp_path / "native", base, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="no layer of the official layout"):
        import_adapter(tmp_path / "native", tmp_path / "out", base)


def test_an_empty_folder_is_named(base, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no weights"):
        import_adapter(tmp_path / "empty", tmp_path / "out", base)
