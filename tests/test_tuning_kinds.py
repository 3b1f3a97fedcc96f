import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import make_config, rows, run, stop_at, tiny, weights
from torch.testing import assert_close

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.fusing import COMPILERS, NoCompilerError, fuse
from loraglm_helpers.lora import load_adapter
from loraglm_helpers.precision import Precision, choose_device, choose_precision
from loraglm_helpers.training import evaluate_loss


@pytest.fixture
def config(tmp_path) -> FineTuneConfig:
    return make_config(save_dir=str(tmp_path / "run"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_with_float32_adapters(config, precision):
    base = tiny().to(Precision(torch.device("cpu"), precision).dtype)
    settings = replace(config, precision=precision, epochs=6, lora_dropout=0)
    history = run(settings, base, dev_rows=rows())
    scores = [r["dev_loss"] for r in history.records if "dev_loss" in r]
    assert scores[-1] < 0.97 * 4.1
    assert {tensor.dtype for tensor in weights(config.save_dir).values()} == {torch.float32}


def test_a_cpu_computes_in_bf16_where_it_multiplies_it(monkeypatch):
    for has, chosen in (
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert choose_precision("auto", torch.device("cpu")) == chosen
        assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", torch.device("cpu")) == "fp32"


def test_precisions_and_devices_are_chosen_or_refused():
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert Precision(cpu, "fp16").scaler.is_enabled()
    assert not Precision(cpu, "bf16").scaler.is_enabled()
    with pytest.raises(ValueError, match="int8"):
        choose_precision("int8", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA GPU"):
            choose_device("cuda")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter_kind": "rslora"},
        {"adapter_kind": "dora"},
        {"adapter_kind": "pissa"},
        {"use_lora": False, "use_ptuning": True},
        {"use_lora": False, "learning_rate": 1e-3},
        {"gradient_checkpointing": True},
        {"target_modules": "query_key_value"},
        {"tokens_per_batch": 40},
    ],
)
def test_every_kind_of_tuning_learns_and_resumes(config, changes):
    settings = replace(config, epochs=8, lora_dropout=0, save_freq=8, **changes)
    run(settings, callbacks=[stop_at(5)], dev_rows=rows())
    history = run(settings, dev_rows=rows(), resume=True)
    scores = [r["dev_loss"] for r in history.records if "dev_loss" in r]
    assert scores[-1] < scores[0] < 4.3


def test_pissa_files_are_an_ordinary_lora_of_twice_the_rank(config):
    settings = replace(config, adapter_kind="pissa", lora_dropout=0)
    model = tiny()
    history = run(settings, model)
    saved = json.loads((Path(config.save_dir) / "last" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["init_lora_weights"]) == (8, 64, True)
    loaded = load_adapter(tiny(), Path(config.save_dir) / "last")
    assert_close(
        evaluate_loss(loaded, rows(4), settings),
        history.records[-1]["dev_loss"],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
def test_a_compiled_run_gives_the_same_losses_and_files(config, tmp_path):
    plain = run(replace(config, lora_dropout=0))
    known = weights(config.save_dir)
    settings = replace(config, lora_dropout=0, compiled=True, save_dir=str(tmp_path / "fused"))
    base = tiny()
    fused = run(settings, base)
    assert fuse(base) == 0  # the run did it
    for one, other in zip(plain.records, fused.records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    found = weights(str(tmp_path / "fused"))
    assert found.keys() == known.keys()
    for name, weight in known.items():
        assert_close(found[name], weight, atol=1e-4, rtol=1e-3)


def test_compiling_takes_in_every_norm_and_mlp():
    model = tiny()
    assert fuse(model) == 2 * 3 + 1  # two norms and an MLP a layer, and the last norm
    assert fuse(model) == 0


def test_a_missing_compiler_is_named_before_anything_is_read(config, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NoCompilerError, match=r"no C\+\+ compiler .* set compiled to false"):
        run(replace(config, compiled=True))
