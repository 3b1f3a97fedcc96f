"""Training on a packed base, on a CPU: what it weighs, what it learns, what it refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file
from tiny_training import make_config, rows, run, tiny

from loraglm_helpers.checkpoints import load_glm
from loraglm_helpers.config import ConfigError
from loraglm_helpers.evaluation import evaluate_loss
from loraglm_helpers.known_bad import quantizer_without_gpu
from loraglm_helpers.ledger import memory_ledger
from loraglm_helpers.merging import merge
from loraglm_helpers.precision import Precision
from loraglm_helpers.quantize import QuantizationError, quantize, require_bitsandbytes
from loraglm_helpers.sequences import collate
from loraglm_helpers.steps import batch_loss
from loraglm_helpers.training import prepare_model, train

CPU = torch.device("cpu")
OFFICIAL = Path(__file__).parent / "golden" / "glm2" / "ckpt"
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.1}
ODD = {"hidden_size": 48, "intermediate_size": 52, "head_dim": 12, "initializer_range": 0.1}
KINDS = pytest.mark.parametrize("kind", ["8bit", "4bit"])
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)


def prepared(kind: str, shape: dict, **changes):
    """A model with its adapter, B not zero, so that every gradient has a way back."""
    config = make_config(quantization=kind, lora_dropout=0, **changes)
    model = prepare_model(config, tiny(**shape), Precision(CPU, "fp32"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model, config


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    batch_loss(model, collate(rows(4)))[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_none_packs_nothing():
    model = tiny()
    assert quantize(model, "none", CPU) is model
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear


@needs_bitsandbytes
@pytest.mark.parametrize(("kind", "close"), [("8bit", 0.05), ("4bit", 0.3)])
def test_packed_models_answer_alike(kind, close):
    ids = torch.tensor([[5, 6, 7, 8]])
    exact = tiny(**WIDE)(ids).logits
    packed = quantize(tiny(**WIDE), kind, CPU)(ids).logits
    assert 0 < (packed - exact).norm() / exact.norm() < close


@needs_bitsandbytes
@KINDS
def test_the_packed_base_weighs_what_the_ledger_says(kind):
    model = tiny(**WIDE).bfloat16()
    assert sum(p.nbytes for p in model.parameters()) == 2_425_344
    packed = quantize(model, kind, CPU)
    weight = packed.model.layers[0].mlp.down_proj.weight
    assert weight.dtype == {"8bit": torch.int8, "4bit": torch.uint8}[kind]
    measured = sum(p.nbytes for p in packed.parameters())
    assert measured == {"8bit": 1_245_696, "4bit": 655_872}[kind]
    assert measured == memory_ledger(model, precision=kind)["weights"]
    assert type(packed.lm_head) is torch.nn.Linear


@needs_bitsandbytes
@KINDS
@pytest.mark.parametrize("shape", [WIDE, ODD], ids=["wide", "odd"])
def test_only_float32_adapters_get_gradients_and_an_evaluation_changes_none(kind, shape):
    model, config = prepared(kind, shape)
    before = gradients(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert before.keys() == trained.keys() and len(before) == 2 * 2 * 6
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(grad.abs().max() > 0 for grad in before.values())
    evaluate_loss(model, rows(4), config)
    model.state_dict()
    after = gradients(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@needs_bitsandbytes
@KINDS
def test_gradients_are_those_of_the_rounded_weights(kind):
    """A plain model with the weights that the packed ones stand for gets the same gradients."""
    rounded = tiny(**WIDE)
    for name, layer in quantize(tiny(**WIDE), kind, CPU).model.layers.named_modules():
        if hasattr(layer, "in_features"):
            plain = rounded.model.layers.get_submodule(name)
            assert not torch.equal(plain.weight, dequantize_module_weight(layer))
            plain.weight.data = dequantize_module_weight(layer).data.float()
    packed, config = prepared(kind, WIDE)
    plain = prepare_model(config.replace(quantization="none"), rounded, Precision(CPU, "fp32"))
    adapters = {k: v for k, v in packed.state_dict().items() if "lora_" in k}
    plain.load_state_dict(adapters, strict=False)
    one, other = gradients(plain), gradients(packed)
    assert all((one[k] - other[k]).norm() < 1e-3 * one[k].norm() for k in one)


@needs_bitsandbytes
@KINDS
def test_checkpointing_gives_the_same_gradients(kind):
    plain, _ = prepared(kind, WIDE)
    saving, _ = prepared(kind, WIDE, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict(), strict=False)
    one, other = gradients(plain), gradients(saving)
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


@needs_bitsandbytes
@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "8bit"},
        {"quantization": "4bit"},
        {"quantization": "8bit", "precision": "bf16"},
        {"quantization": "4bit", "precision": "bf16", "adapter_kind": "dora"},
        {"quantization": "4bit", "use_lora": False, "use_ptuning": True, "pre_seq_len": 4},
    ],
)
def test_training_lowers_the_loss(tmp_path, changes):
    config = make_config(save_dir=str(tmp_path), epochs=4, lora_dropout=0, **changes)
    records = run(config, tiny(**WIDE)).records
    assert records[-1]["loss"] < records[0]["loss"] - 0.15
    assert "dev_loss" in records[-1]


@needs_bitsandbytes
def test_outliers_do_not_cost_8_bits_their_precision():
    model = tiny(**WIDE)
    exact, inputs = model.model.layers[0].mlp.down_proj, torch.randn(8, 512)
    inputs[:, 3] *= 60
    wanted = exact(inputs).detach()
    layer = quantize(model, "8bit", CPU).eval().model.layers[0].mlp.down_proj
    assert (layer(inputs) - wanted).norm() / wanted.norm() < 0.01


@needs_bitsandbytes
@KINDS
def test_an_adapter_of_a_packed_base_merges_into_the_unpacked_one(tmp_path, kind):
    base = load_glm(OFFICIAL, "fp32", "cpu")
    first = {name: weight.clone() for name, weight in base.state_dict().items()}
    config = make_config(save_dir=str(tmp_path / "run"), quantization=kind, max_steps=3)
    run(config, base)
    adapter = tmp_path / "run" / "last"
    report = merge(OFFICIAL, adapter, tmp_path / "merged")
    assert report.kept > 0.9999 and report.difference < 1e-4 < report.effect
    saved, name = load_file(adapter / "adapter_model.safetensors"), "model.layers.1.mlp.down_proj"
    a, b = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    merged = load_glm(tmp_path / "merged", "fp32", "cpu").get_parameter(f"{name}.weight")
    assert torch.allclose(merged, first[f"{name}.weight"] + 32 / 4 * b @ a, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "start"), [("8bit", "dora"), ("8bit", "pissa"), ("4bit", "pissa")]
)
def test_kinds_that_start_from_unpacked_weights_are_refused(kind, start):
    with pytest.raises(ConfigError, match=f"adapter_kind is '{start}' with quantization '{kind}'"):
        make_config(quantization=kind, adapter_kind=start)


def test_a_missing_package_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = make_config(pre_model="no/such", train_path="no/such", quantization="8bit")
    with pytest.raises(QuantizationError, match="'8bit' needs bitsandbytes: pip install"):
        train(config)
    assert require_bitsandbytes("none", CPU) is None


def test_the_refusal_of_a_device_says_what_to_set():
    with pytest.raises(QuantizationError, match="not mps: set device to cpu, or quantization to"):
        require_bitsandbytes("4bit", torch.device("mps"))


def test_the_doctor_doubts_only_versions_without_a_cpu_backend():
    class Seen:
        gpus = ()
        versions = {"bitsandbytes": "0.50.2"}

    assert quantizer_without_gpu(Seen) is None
    Seen.versions = {"bitsandbytes": "0.45.1"}
    assert quantizer_without_gpu(Seen) == "bitsandbytes 0.45.1 without an NVIDIA GPU"
