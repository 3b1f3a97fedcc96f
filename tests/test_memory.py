"""Loading takes the memory of the model in its dtype and of one shard, no more.

A process of its own loads a tiny checkpoint first (imports, buffers) and then one of 92 MB in
shards of 25 MB. The kernel's high-water mark of its memory is compared with the sizes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GlmForCausalLM

from loraglm_helpers.checkpoints import save_official
from loraglm_helpers.official_config import native_config
from loraglm_helpers.weight_files import read_json, write_json

TINY = {
    "model_type": "chatglm",
    "padded_vocab_size": 64,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_layers": 1,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "layernorm_epsilon": 1e-5,
    "seq_length": 64,
}
LARGE = {"padded_vocab_size": 8192, "hidden_size": 768, "ffn_hidden_size": 2048, "num_layers": 7}
SHARD = 25_000_000
SPARE = 20_000_000  # for Python, the allocator and the file reader
PROBE = """
import sys
from pathlib import Path
from loraglm_helpers.checkpoints import load_glm

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

tiny, large, dtype = sys.argv[1:]
load_glm(tiny, dtype=dtype, device="cpu")
Path("/proc/self/clear_refs").write_text("5")  # forgets the high-water mark
before = memory("VmRSS")
model = load_glm(large, dtype=dtype, device="cpu")
print(memory("VmHWM") - before, sum(p.nbytes for p in model.parameters()))
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads Linux's high-water mark of memory"
)


def half_model(config: dict) -> GlmForCausalLM:
    with torch.device("meta"):
        model = GlmForCausalLM(native_config(config)).half()
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    return model


def write(config: dict, folder: Path, kind: str) -> Path:
    """A checkpoint in float16: native, or official in safetensors or .bin files."""
    if kind == "native":
        half_model(config).save_pretrained(folder, max_shard_size=SHARD)
        return folder
    save_official(half_model(config), None, folder, max_shard_size=SHARD)
    if kind == "bin":
        for file in [*folder.glob("*.safetensors")]:
            torch.save(load_file(file), folder / as_bin(file.name))
            file.unlink()
        for index in [*folder.glob("*.index.json")]:
            content = read_json(index)
            content["weight_map"] = {k: as_bin(v) for k, v in content["weight_map"].items()}
            write_json(folder / "pytorch_model.bin.index.json", content)
            index.unlink()
    return folder


def as_bin(name: str) -> str:
    return f"pytorch_{name.removesuffix('.safetensors')}.bin"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("safetensors", "fp16"),  # as stored
        ("safetensors", "fp32"),
        ("bin", "fp32"),
        ("native", "fp32"),
    ],
)
def test_peak_memory_is_the_model_and_one_shard(tmp_path, kind, dtype):
    tiny, large = (
        write(TINY, tmp_path / "tiny", kind),
        write(TINY | LARGE, tmp_path / "large", kind),
    )
    shards = [file.stat().st_size for file in large.glob("*model-*-of-*")]
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(tiny), str(large), dtype],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, model = map(int, run.stdout.split())
    assert model == pytest.approx(sum(shards) * (2 if dtype == "fp32" else 1), rel=0.01)
    assert grown <= model + max(shards) + SPARE < model + sum(shards)
