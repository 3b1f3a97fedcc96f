import json
from dataclasses import replace

import pytest

from loraglm_helpers import environment as environment_facts
from loraglm_helpers.doctor import check
from loraglm_helpers.environment import Environment, Gpu, inspect_environment
from loraglm_helpers.known_bad import KNOWN_BAD

A100 = Gpu("A100", 80_000_000_000, 79_000_000_000, (8, 0), True)
V100 = Gpu("V100", 16_000_000_000, 15_000_000_000, (7, 0), False)
GOOD = Environment(
    python="3.11.7",
    system="Linux x86_64",
    versions={"torch": "2.13.0+cpu", "transformers": "5.23.0"},
    requirements=("torch>=2.10", "transformers<6,>=5.17"),
    memory=16_000_000_000,
    free_memory=8_000_000_000,
    free_disk=50_000_000_000,
    cores=2,
    threads=2,
    cjk_font="Noto Sans CJK SC",
)
ON_GPU = replace(
    GOOD,
    versions={"torch": "2.13.0+cu128", "transformers": "5.23.0"},
    gpus=(A100,),
    cuda_build="12.8",
    archs=("sm_75", "sm_80", "sm_90", "compute_120"),
    nvidia_driver=True,
)
CONFIG = {
    "model_type": "chatglm",
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_layers": 28,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "seq_length": 32768,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
}


@pytest.fixture
def chatglm(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def status(report) -> dict[str, str]:
    return {found.name: found.status for found in report.checks}


def line(report, name) -> str:
    return next(found.line for found in report.checks if found.name == name)


@pytest.mark.parametrize("environment", [GOOD, ON_GPU])
def test_a_good_machine_is_ready(environment, chatglm):
    big = replace(environment, free_memory=64_000_000_000)
    report = check(chatglm, big)
    assert set(status(report).values()) == {"ok"}
    assert report.ok and report.exit_code == 0
    assert str(report).splitlines()[-1] == "Ready: warn 0, FAIL 0."


def test_each_check_is_one_line(chatglm):
    text = str(check(chatglm, ON_GPU)).splitlines()
    assert text[0] == "ok    python          3.11.7 on Linux x86_64"
    assert text[1] == "ok    packages        torch 2.13.0+cu128, transformers 5.23.0"
    assert text[2] == "ok    cuda:0          A100, 79 of 80 GB free, bf16, CUDA 12.8"
    assert len(text) == len(check(chatglm, ON_GPU).checks) + 2


def test_versions_outside_their_range_fail(chatglm):
    old = replace(GOOD, python="3.10.2", versions={"torch": "2.4.0"})
    report = check(chatglm, old)
    assert status(report)["python"] == status(report)["torch"] == "fail"
    assert line(report, "torch").startswith(
        "2.4.0 is installed, torch>=2.10 is needed: pip install"
    )
    assert line(report, "transformers").startswith("not installed, transformers<6,>=5.17")
    assert not report.ok and report.exit_code == 1
    assert "Not ready" in str(report)


def test_small_machines_are_warned(chatglm):
    small = replace(GOOD, free_memory=10**9, free_disk=10**8, threads=1, cores=8, cjk_font=None)
    found = status(check(chatglm, small))
    assert [name for name, value in found.items() if value == "warn"] == [
        "cores",
        "memory",
        "disk",
        "Chinese font",
        "checkpoint",
    ]
    assert check(chatglm, small).ok


@pytest.mark.parametrize(("has", "seen"), [(False, "CPU, float32"), (True, "CPU, bf16")])
def test_the_cpu_is_named_with_the_format_it_trains_in(chatglm, has, seen):
    assert line(check(chatglm, replace(GOOD, cpu_bf16=has)), "device").startswith(seen)


@pytest.mark.parametrize(
    ("name", "seen", "level", "changes"),
    [
        (
            "remote code",
            "transformers 4.45.0",
            "fail",
            {"versions": GOOD.versions | {"transformers": "4.45.0"}},
        ),
        ("torchao", "torchao 0.15.0", "fail", {"versions": GOOD.versions | {"torchao": "0.15.0"}}),
        (
            "torchvision",
            "torchvision 0.20.1 is built for torch==2.5.1",
            "fail",
            {
                "versions": GOOD.versions | {"torchvision": "0.20.1"},
                "wants": {"torchvision": ("numpy", "torch==2.5.1")},
            },
        ),
        ("CPU build", "torch 2.13.0+cpu is a CPU build", "warn", {"nvidia_driver": True}),
        (
            "hidden GPU",
            "torch for CUDA 12.8, but no GPU",
            "warn",
            {"nvidia_driver": True, "cuda_build": "12.8"},
        ),
        (
            "GPU generation",
            "V100 is sm_70, torch has sm_75, sm_80",
            "fail",
            {"gpus": (V100,), "cuda_build": "13.0", "archs": ("sm_75", "sm_80")},
        ),
        (
            "half precision",
            "V100 has no bfloat16",
            "warn",
            {"gpus": (V100,), "cuda_build": "12.6", "archs": ("sm_70",)},
        ),
        (
            "bitsandbytes",
            "without an NVIDIA GPU",
            "warn",
            {"versions": GOOD.versions | {"bitsandbytes": "0.48"}},
        ),
    ],
)
def test_known_bad_combinations_name_the_thread_and_the_fix(name, seen, level, changes, chatglm):
    report = check(chatglm, replace(GOOD, **changes))
    assert status(report)[name] == level
    text = line(report, name)
    assert seen in text
    assert "#" in text and "Fix: " in text
    assert "combinations" not in status(report)


def test_every_known_bad_combination_is_tested():
    cases = test_known_bad_combinations_name_the_thread_and_the_fix.pytestmark[0].args[1]
    assert [case[0] for case in cases] == [bad.name for bad in KNOWN_BAD]


@pytest.mark.parametrize(
    ("archs", "works"),
    [
        (("sm_80",), True),  # 8.0 code runs on 8.6
        (("sm_89",), False),
        (("sm_90",), False),
        (("compute_75",), True),  # compiled anew on the machine
        (("compute_90",), False),
        (("gfx90a",), True),  # another maker's names say nothing
        (("sm_100a", "sm_86"), True),
    ],
)
def test_which_kernels_run_on_which_gpu(archs, works, chatglm):
    gpu = replace(A100, name="A10", capability=(8, 6))
    report = check(chatglm, replace(ON_GPU, gpus=(gpu,), archs=archs))
    assert ("GPU generation" not in status(report)) is works


def test_torchvision_of_the_same_torch_is_good(chatglm):
    wants = {"torchvision": ("torch==2.13.0",)}
    assert "torchvision" not in status(check(chatglm, replace(GOOD, wants=wants)))


def test_a_checkpoint_that_is_larger_than_the_memory(chatglm):
    report = check(chatglm, replace(ON_GPU, gpus=(replace(A100, free=8_000_000_000),)))
    assert status(report)["checkpoint"] == "warn"
    assert "6,243,584,000 weights, 12,487.2 MB in memory, but 8.0 GB are free" in line(
        report, "checkpoint"
    )
    assert status(check(chatglm, ON_GPU))["checkpoint"] == "ok"


def test_checkpoints_that_cannot_be_read(tmp_path):
    assert status(check(tmp_path / "none", GOOD))["checkpoint"] == "warn"
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"quantization_bit": 4}))
    report = check(tmp_path, GOOD)
    assert status(report)["checkpoint"] == "fail"
    assert "quantization_bit is 4" in line(report, "checkpoint")
    (tmp_path / "config.json").write_text('{"model_type": "glm"}')
    assert line(check(tmp_path, GOOD), "checkpoint").endswith("native, model_type glm")


def test_this_machine_is_inspected(monkeypatch):
    monkeypatch.setattr(environment_facts, "chinese_font", lambda: "the plots' own")
    env = inspect_environment()
    assert env.cjk_font == "the plots' own"
    assert env.versions["torch"] and env.cores >= 1 and env.threads >= 1
    assert "torch>=2.10" in env.requirements
    assert not [wanted for wanted in env.requirements if "extra" in wanted]
    assert env.free_memory <= env.memory
    assert env.free_disk > 0
