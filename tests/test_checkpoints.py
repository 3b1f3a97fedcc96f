from __future__ import annotations

import json
import warnings
from pathlib import Path

import peft
import pytest
import torch
from reference_glm import logits, random_weights
from safetensors.torch import load_file, save_file
from tiny_tokenizer import train_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, GlmForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from loraglm_helpers import locate, weight_files
from loraglm_helpers.checkpoints import CheckpointError, load_glm, save_official
from loraglm_helpers.conversion import convert_model
from loraglm_helpers.locate import local_folder
from loraglm_helpers.mapping import FusedRows, weight_table
from loraglm_helpers.official_config import is_official, native_config, official_config
from loraglm_helpers.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parent / "golden"
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
LOGIT_CASES = (
    "single batch_full long leftpad_pos leftpad_nopos rightpad_mask shifted_pos gapped_pos "
    "loss_rightpad_nomask"
).split()
TINY = {
    "model_type": "chatglm",
    "padded_vocab_size": 97,
    "hidden_size": 32,
    "ffn_hidden_size": 40,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "layernorm_epsilon": 1e-5,
    "seq_length": 64,
}


def write_official(folder: Path, config: dict, weights: dict | None = None) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(config) if weights is None else weights
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return weights


def stored_weights(folder: Path) -> dict:
    found = {}
    for file in sorted(folder.glob("*.bin")):
        found |= torch.load(file, weights_only=True)
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.fixture(scope="module", params=["glm2", "glm3"])
def golden(request):
    folder = GOLDEN / request.param
    return load_glm(folder / "ckpt", device="cpu"), load_file(folder / "reference.safetensors")


@pytest.fixture
def tiny(tmp_path):
    write_official(tmp_path / "tiny", TINY)
    return tmp_path / "tiny"


# --- values of the published code ---------------------------------------------------------------


def inputs_of(case: str, reference: dict) -> dict:
    names = ("input_ids", "attention_mask", "position_ids")
    return {n: reference[f"{case}.{n}"].long() for n in names if f"{case}.{n}" in reference}


@pytest.mark.parametrize("case", LOGIT_CASES)
def test_logits_are_the_published_codes(golden, case):
    model, reference = golden
    inputs = inputs_of(case, reference)
    with torch.no_grad():
        found = model(**inputs).logits
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) == 1
    assert (found - reference[f"{case}.logits"])[real].abs().max() < 1e-5


@pytest.mark.parametrize("case", ["gen_single", "gen_batch", "gen_leftpad"])
def test_greedy_answers_are_the_published_codes(golden, case):
    model, reference = golden
    inputs = inputs_of(case, reference)
    inputs.pop("position_ids", None)
    mask = inputs.pop("attention_mask", torch.ones_like(inputs["input_ids"]))
    found = model.generate(**inputs, attention_mask=mask, max_new_tokens=40, do_sample=False)
    assert torch.equal(found, reference[f"{case}.output_ids"].long())


def test_loss_and_gradients_are_the_published_codes(golden):
    model, reference = golden
    model.zero_grad()
    labels = reference["loss_rightpad_nomask.labels"].long()
    loss = model(**inputs_of("loss_rightpad_nomask", reference), labels=labels).loss
    assert abs(loss.item() - reference["loss_rightpad_nomask.loss"].item()) < 1e-5
    loss.backward()
    table, rows = weight_table(model.config), FusedRows.of(model.config)
    names = [key for key in reference if key.startswith("grad.")]
    assert len(names) >= 3
    for key in names:
        grads = [model.get_parameter(name).grad for name in table[key.removeprefix("grad.")]]
        found = grads[0] if len(grads) == 1 else rows.fuse(*grads)
        assert (found - reference[key]).abs().max() < 1e-5
    model.zero_grad()


def test_the_plain_reference_agrees_with_the_published_code():
    config = json.loads((GOLDEN / "glm2/ckpt/config.json").read_text())
    reference = load_file(GOLDEN / "glm2/reference.safetensors")
    ids = reference["long.input_ids"].long()
    found = logits(stored_weights(GOLDEN / "glm2/ckpt"), config, ids)
    assert (found - reference["long.logits"]).abs().max() < 2e-5


# --- variants, held to the plain reference ------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"multi_query_attention": False, "multi_query_group_num": 1},
        {"multi_query_attention": False, "multi_query_group_num": 2, "add_qkv_bias": False},
        {"add_qkv_bias": False},
        {"multi_query_group_num": 1, "layernorm_epsilon": 0.02},
        {"multi_query_group_num": 4},
        {"kv_channels": 8, "num_attention_heads": 4},
    ],
)
def test_variants_compute_what_the_layout_says(tmp_path, changes):
    config = TINY | changes
    weights = write_official(tmp_path, config)
    model = load_glm(tmp_path, device="cpu")
    ids = torch.arange(30).view(2, 15)
    with torch.no_grad():
        found = model(ids).logits
    assert (found - logits(weights, config, ids)).abs().max() < 1e-4
    again = save_official(model, None, tmp_path / "again")
    saved = load_file(again / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("rope", "theta", "step"), [("theta", 500000.0, 1.0), ("positions", 10000.0, 1 / 50)]
)
def test_both_meanings_of_rope_ratio(tmp_path, rope, theta, step):
    config = TINY | {"rope_ratio": 50}
    weights = write_official(tmp_path, config)
    ids = torch.arange(60).view(1, 60)
    with torch.no_grad():
        model = load_glm(tmp_path, device="cpu", rope=rope)
        found = model(ids).logits
    assert (found - logits(weights, config, ids, theta, step)).abs().max() < 2e-4
    assert (found - logits(weights, config, ids)).abs().max() > 1e-2
    again = save_official(model, None, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["rope_ratio"] == 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reloaded = load_glm(again, device="cpu")
    assert reloaded.config.rope_parameters == model.config.rope_parameters


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chatglm2-6b-32k", "linear"),
        ("chatglm3-6b-32k", "default"),
        ("glm-4-9b-chat", "default"),
    ],
)
def test_rope_auto_goes_by_the_name(name, kind):
    config = native_config(TINY | {"rope_ratio": 50}, name=name)
    assert config.rope_parameters["rope_type"] == kind
    by_origin = native_config(TINY | {"rope_ratio": 50, "_name_or_path": f"THUDM/{name}"})
    assert by_origin.rope_parameters == config.rope_parameters


def test_rope_auto_warns_when_the_name_does_not_tell():
    with pytest.warns(UserWarning, match="rope='positions'"):
        config = native_config(TINY | {"rope_ratio": 50}, name="my-model")
    assert config.rope_parameters["rope_theta"] == 500000.0
    with pytest.warns(UserWarning, match="depends on the model"):
        native_config(TINY | {"rope_ratio": 50, "_name_or_path": "chatglm2"}, name="chatglm3-32k")
    with pytest.raises(CheckpointError, match="allowed: auto, theta, positions"):
        native_config(TINY, rope="linear")


def test_glm4_is_known_by_its_vocabulary():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = native_config(TINY | {"rope_ratio": 500, "padded_vocab_size": 151552})
    assert config.rope_parameters["rope_theta"] == 5_000_000.0


def test_every_config_field_is_passed():
    config = native_config(TINY | {"seq_length": 8192, "tie_word_embeddings": False})
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (97, 32, 40)
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 4)
    assert (config.num_key_value_heads, config.head_dim) == (2, 16)
    assert (config.max_position_embeddings, config.rms_norm_eps) == (8192, 1e-5)
    assert (config.attention_bias, config.hidden_act) == (True, "silu")
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 2, None)


# --- dtype, memory, generation settings ---------------------------------------------------------


def test_auto_dtype_on_a_cpu_is_float32_whatever_is_on_disk(tmp_path):
    half = {name: tensor.half() for name, tensor in random_weights(TINY).items()}
    write_official(tmp_path, TINY | {"torch_dtype": "float16"}, half)
    model = load_glm(tmp_path, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, half["transformer.output_layer.weight"].float())
    assert not model.training


@pytest.mark.parametrize("dtype", ["bf16", "bfloat16", torch.bfloat16])
def test_half_precision_leaves_the_rotary_angles_in_float32(tiny, dtype):
    model = load_glm(tiny, dtype=dtype, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


def test_an_unknown_dtype_is_named(tiny):
    with pytest.raises(CheckpointError, match="dtype is 'int9'"):
        load_glm(tiny, dtype="int9")


def test_no_weight_keeps_its_shard_in_memory(golden):
    for parameter in golden[0].parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        assert parameter.requires_grad and parameter.is_contiguous()


def test_generation_settings(tmp_path):
    write_official(tmp_path, TINY | {"use_cache": False, "eos_token_id": [2, 5], "pad_token_id": 0})
    settings = load_glm(tmp_path, device="cpu").generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == ([2, 5], 0)
    assert settings.use_cache is True and settings.do_sample is False


def test_an_adapter_on_an_official_base_stays_small(golden, tmp_path):
    base = load_glm(GOLDEN / "glm2/ckpt", device="cpu")
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)


# --- the way back -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glm2", "glm3"])
def test_official_to_native_to_official_is_bit_equal(name, tmp_path):
    source = GOLDEN / name / "ckpt"
    folder = save_official(load_glm(source, device="cpu"), None, tmp_path)
    before, after = stored_weights(source), stored_weights(folder)
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    was = json.loads((source / "config.json").read_text())
    assert json.loads((folder / "config.json").read_text()) == was


def test_native_to_official_to_native_is_bit_equal(tmp_path):
    config = native_config(TINY)
    del config.chatglm
    model = GlmForCausalLM(config).eval()
    again = load_glm(save_official(model, None, tmp_path), device="cpu")
    before, after = model.state_dict(), again.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert again.config.rope_parameters == config.rope_parameters


def test_shards_and_index(tiny, tmp_path):
    model, out = load_glm(tiny, device="cpu"), tmp_path / "out"
    save_official(model, None, out, max_shard_size=20_000)
    files = sorted(file.name for file in out.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and len(files) > 2
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert torch.equal(load_glm(out, device="cpu").lm_head.weight, model.lm_head.weight)
    save_official(model, None, out)
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]


def test_the_tokenizer_comes_along(tiny, tmp_path):
    tokenizer = load_tokenizer(train_tokenizer(tmp_path / "tok").parent)
    folder = save_official(load_glm(tiny, device="cpu"), tokenizer, tmp_path / "out")
    assert load_tokenizer(folder).encode("贷款 [gMASK]") == tokenizer.encode("贷款 [gMASK]")
    tokenizer.save_pretrained(tmp_path / "fast")
    fast = load_tokenizer(tmp_path / "fast")
    second = save_official(load_glm(tiny, device="cpu"), fast, tmp_path / "second")
    assert load_tokenizer(second).encode("贷款 [gMASK]") == tokenizer.encode("贷款 [gMASK]")


def test_a_chat_template_goes_along_in_both_directions(tiny, tmp_path):
    tokenizer = load_tokenizer(train_tokenizer(tmp_path / "tok").parent)
    tokenizer.chat_template = template = "{{ messages }}"
    official = save_official(load_glm(tiny, device="cpu"), tokenizer, tmp_path / "official")
    assert load_tokenizer(official).chat_template == template
    native = convert_model(official, "native", tmp_path / "native")
    assert load_tokenizer(native).chat_template == template
    back = convert_model(native, "official", tmp_path / "back")
    assert load_tokenizer(back).chat_template == template


def test_saving_needs_a_merged_glm(tiny, tmp_path):
    tuned = peft.get_peft_model(
        load_glm(tiny, device="cpu"), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    with pytest.raises(CheckpointError, match="merge the adapter first"):
        save_official(tuned, None, tmp_path / "out")
    with pytest.raises(CheckpointError, match="merged and unloaded"):
        save_official(tuned.get_base_model(), None, tmp_path / "out")
    config = native_config(TINY)
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with pytest.raises(CheckpointError, match="cannot say this"):
        official_config(config)


def test_tied_embeddings(tmp_path):
    config = TINY | {"tie_word_embeddings": True}
    weights = random_weights(config)
    head = weights.pop("transformer.output_layer.weight")
    write_official(tmp_path / "tied", config, weights)
    model = load_glm(tmp_path / "tied", device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    saved = load_file(save_official(model, None, tmp_path / "out") / "model.safetensors")
    assert torch.equal(
        saved["transformer.output_layer.weight"],
        weights["transformer.embedding.word_embeddings.weight"],
    )
    assert not torch.equal(saved["transformer.output_layer.weight"], head)


# --- what is refused, and how -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rmsnorm": False}, "rmsnorm is False"),
        ({"post_layer_norm": False}, "post_layer_norm is False"),
        ({"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
        ({"add_bias_linear": True}, "add_bias_linear is True"),
        ({"fp32_residual_connection": True}, "fp32_residual_connection is True"),
        ({"quantization_bit": 4}, "int4/int8.*half-precision"),
        ({"pre_seq_len": 128}, "pre_seq_len is 128.*import_adapter"),
        ({"inner_hidden_size": 16384}, "version 1.*chatglm2-6b"),
        ({"position_encoding_2d": True}, "version 1"),
        ({"vision_config": {}}, "image model"),
        ({"num_layers": "two"}, "num_layers is 'two', not a whole number above 0"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"layernorm_epsilon": None}, "layernorm_epsilon is None, not a number"),
        ({"multi_query_group_num": 0}, "multi_query_group_num is 0"),
        ({"rope_ratio": "long"}, "rope_ratio is 'long'"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.*half-precision"),
        ({"multi_query_group_num": 3}, "does not divide"),
    ],
)
def test_configs_that_cannot_run(tmp_path, changes, message):
    write_official(tmp_path, TINY)
    (tmp_path / "config.json").write_text(json.dumps(TINY | changes))
    with pytest.raises(CheckpointError, match=message):
        load_glm(tmp_path)


def test_a_missing_size_is_named():
    with pytest.raises(CheckpointError, match="kv_channels"):
        native_config({key: value for key, value in TINY.items() if key != "kv_channels"})
    assert is_official(TINY) and not is_official({"model_type": "glm"})


def test_a_wrong_shape_names_file_key_expected_and_found(tmp_path):
    weights = random_weights(TINY)
    weights[QKV] = weights[QKV][:-1].clone()
    write_official(tmp_path, TINY, weights)
    with pytest.raises(
        CheckpointError, match=r"\(127, 32\), config.json makes it \(128, 32\)"
    ) as e:
        load_glm(tmp_path)
    assert "model.safetensors" in str(e.value) and QKV in str(e.value)


def test_a_missing_or_unknown_weight_is_named(tmp_path):
    weights = random_weights(TINY)
    tensor = weights.pop(QKV)
    write_official(tmp_path, TINY, weights)
    with pytest.raises(CheckpointError, match=f"1 of 17 weights missing: {QKV}"):
        load_glm(tmp_path)
    write_official(tmp_path, TINY, weights | {QKV: tensor, "lm_head.0.weight": tensor.clone()})
    with pytest.raises(CheckpointError, match="unknown weight lm_head.0.weight"):
        load_glm(tmp_path)


def test_packed_weights_are_refused(tmp_path):
    weights = random_weights(TINY)
    weights[QKV] = weights[QKV].to(torch.int8)
    write_official(tmp_path, TINY, weights)
    with pytest.raises(CheckpointError, match="int8.*half-precision"):
        load_glm(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_cut_file_is_named(tmp_path, name):
    weights = write_official(tmp_path, TINY)
    if name.endswith(".bin"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(weights, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(CheckpointError, match=f"{name}: not a whole weight file.*download"):
        load_glm(tmp_path)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 8 bytes")],
    ids=["gpu", "cpu"],
)
def test_too_little_memory_is_no_damaged_file(tiny, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(weight_files, "safe_open", fail)
    with pytest.raises(type(error), match=str(error)):
        list(weight_files.read_shard(tiny / "model.safetensors"))


def test_a_bin_file_that_would_run_code_is_refused(tmp_path):
    write_official(tmp_path, TINY)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": nn.Linear(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="could run code"):
        load_glm(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>404</html>"])
def test_a_bin_file_that_is_none_is_named(tmp_path, content):
    write_official(tmp_path, TINY)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="pytorch_model.bin: not a whole weight file"):
        load_glm(tmp_path)


def test_an_lfs_pointer_is_recognised(tiny):
    (tiny / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_glm(tiny)


def test_missing_shards_are_named_before_any_is_read(tmp_path):
    model = GlmForCausalLM(native_config(TINY))
    save_official(model, None, tmp_path, max_shard_size=20_000)
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(CheckpointError, match=f"shards missing: {last.name}"):
        load_glm(tmp_path)


def test_a_weight_that_its_shard_lacks_is_named_with_the_shard(tmp_path):
    save_official(GlmForCausalLM(native_config(TINY)), None, tmp_path, max_shard_size=20_000)
    file = sorted(tmp_path.glob("model-*.safetensors"))[1]
    name, *rest = load_file(file).items()
    save_file({key: tensor.clone() for key, tensor in rest}, file)
    with pytest.raises(CheckpointError, match=f"{file.name}: 1 of 17 weights missing: {name[0]}"):
        load_glm(tmp_path, device="cpu")


def test_an_index_of_another_model_is_refused_before_reading(tmp_path):
    save_official(GlmForCausalLM(native_config(TINY)), None, tmp_path, max_shard_size=20_000)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    with pytest.raises(CheckpointError, match="7 of 24 weights missing"):
        load_glm(tmp_path)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="config.json: not there"):
        load_glm(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="an adapter, not a model"):
        load_glm(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_glm(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_glm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    with pytest.raises(CheckpointError, match="no weights"):
        load_glm(tmp_path)


# --- native classes -----------------------------------------------------------------------------

NATIVE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": [2, 3],
}
MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LITE = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "mlp_layer_types": ["dense", "sparse"],
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [("glm", {}), ("glm4", {}), ("glm4_moe", MOE), ("glm4_moe_lite", MOE | LITE)],
)
def test_native_folders_of_the_family(tmp_path, kind, more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(NATIVE | more))).eval()
    model.save_pretrained(tmp_path)
    loaded = load_glm(tmp_path, device="cpu")
    assert type(loaded) is type(model) and not loaded.training
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.generation_config.eos_token_id == [2, 3]
    answer = loaded.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
    assert answer.shape[1] <= 13
    half = load_glm(tmp_path, dtype="bf16", device="cpu")
    assert half.lm_head.weight.dtype == torch.bfloat16
    if kind != "glm":
        with pytest.raises(CheckpointError, match="use save_pretrained"):
            save_official(loaded, None, tmp_path / "official")


def test_a_native_folder_without_its_head_is_refused(tmp_path):
    model = GlmForCausalLM(AutoConfig.for_model("glm", **NATIVE))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.0.weight"] = weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lm_head.weight.*random numbers"):
        load_glm(tmp_path)


@pytest.fixture
def native(tmp_path):
    GlmForCausalLM(AutoConfig.for_model("glm", **NATIVE)).save_pretrained(
        tmp_path, max_shard_size=20_000
    )
    return tmp_path


def test_a_cut_native_shard_or_a_pointer_is_named(native):
    shard = sorted(native.glob("model-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(CheckpointError, match=f"{shard.name}: not a whole weight file.*download"):
        load_glm(native, device="cpu")
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha")
    with pytest.raises(CheckpointError, match=f"{shard.name}: a Git LFS pointer"):
        load_glm(native, device="cpu")
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shards missing: {shard.name}"):
        load_glm(native, device="cpu")


def test_a_wrong_native_shape_names_file_key_expected_and_found(native):
    key = "lm_head.weight"
    index = json.loads((native / "model.safetensors.index.json").read_text())
    shard = native / index["weight_map"][key]
    weights = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    save_file(weights | {key: weights[key][:-1].clone()}, shard, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError,
        match=rf"{shard.name}: {key} has shape \(96, 32\), config.json makes it \(97, 32\)",
    ):
        load_glm(native, device="cpu")


def test_a_native_config_that_is_no_config_is_refused(native):
    config = json.loads((native / "config.json").read_text())
    (native / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(CheckpointError, match="hidden_size"):
        load_glm(native, device="cpu")


def test_a_device_that_is_not_there_is_refused(tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(CheckpointError, match="no CUDA device.*doctor"):
        load_glm(tiny, device="cuda")


@pytest.mark.parametrize(
    ("kind", "why"), [("glm99", "'glm99' is unknown"), ("vit", "'vit' writes no text")]
)
def test_an_unknown_native_class_and_one_without_text_are_refused(tmp_path, kind, why):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError, match=why):
        load_glm(tmp_path)


# --- where checkpoints are looked for -----------------------------------------------------------


def test_relative_paths_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("tests/golden/glm2/ckpt") == locate.ROOT / "tests/golden/glm2/ckpt"
    write_official(tmp_path / "mine", TINY)
    assert local_folder("mine") == tmp_path / "mine"


def test_a_mistyped_local_path_never_asks_the_hub(monkeypatch):
    monkeypatch.setattr(locate, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    for path in ("tests/no-such-model", "./a/b", "no-such-model", "/a/b", "a/b/c"):
        with pytest.raises(CheckpointError, match=f"{path}: no such folder"):
            load_glm(path)


def test_hub_names_fetch_data_files_only(tiny, monkeypatch):
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tiny)

    monkeypatch.setattr(locate, "snapshot_download", fetch)
    assert load_glm("THUDM/chatglm2-6b", device="cpu").config.vocab_size == 97
    assert [name for name, _ in asked] == ["THUDM/chatglm2-6b"] * 2
    patterns = [pattern for _, group in asked for pattern in group]
    assert "model.safetensors" in patterns and not any(".py" in p for p in patterns)


def test_a_hub_name_fetches_the_files_of_one_index(tmp_path, monkeypatch):
    save_official(GlmForCausalLM(native_config(TINY)), None, tmp_path, max_shard_size=20_000)
    shards = sorted(file.name for file in tmp_path.glob("model-*.safetensors"))
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "other.bin"}}')
    asked = []

    def fetch(name, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(locate, "snapshot_download", fetch)
    load_glm("THUDM/chatglm2-6b", device="cpu")
    assert asked[1] == shards


def test_a_hub_that_does_not_answer_is_explained(monkeypatch):
    def fetch(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(locate, "snapshot_download", fetch)
    with pytest.raises(CheckpointError, match="download the model and pass its folder"):
        load_glm("THUDM/chatglm2-6b")


def test_chatglm3_stops_at_the_next_role(tmp_path):
    config = TINY | {"padded_vocab_size": 65024, "hidden_size": 8, "num_layers": 1}
    for name, stops in (("chatglm3-6b", [2, 64795, 64797]), ("chatglm2-6b", [2])):
        write_official(tmp_path / name, config)
        model = load_glm(tmp_path / name, device="cpu")
        assert model.generation_config.eos_token_id == stops
