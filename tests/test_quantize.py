import importlib.util
import sys
from dataclasses import replace

import pytest
import torch
from tiny_training import make_config, rows, run, tiny

from loraglm_helpers.quantize import QuantizationError, quantize

CPU = torch.device("cpu")
has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None


def test_none_packs_nothing():
    model = tiny()
    assert quantize(model, "none", CPU) is model
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear


def test_without_bitsandbytes_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(QuantizationError, match=r"'4bit'.*pip install bitsandbytes"):
        quantize(tiny(), "4bit", CPU)


def test_a_device_that_it_does_not_serve_is_named():
    with pytest.raises(QuantizationError, match="meta"):
        quantize(tiny(), "8bit", torch.device("meta"))


@pytest.mark.skipif(not has_bitsandbytes, reason="needs bitsandbytes")
@pytest.mark.parametrize(("kind", "close"), [("8bit", 0.05), ("4bit", 0.3)])
def test_packed_models_answer_alike_and_train(tmp_path, kind, close):
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "initializer_range": 0.1}
    ids = torch.tensor([[5, 6, 7, 8]])
    exact = tiny(**wide)(ids).logits
    packed = quantize(tiny(**wide), kind, CPU)(ids).logits
    assert (packed - exact).norm() / exact.norm() < close
    config = make_config(save_dir=str(tmp_path), quantization=kind, epochs=6, lora_dropout=0)
    history = run(replace(config, save_freq=6), tiny(**wide), dev_rows=rows())
    scores = [r["dev_loss"] for r in history.records if "dev_loss" in r]
    assert scores[-1] < scores[0]
