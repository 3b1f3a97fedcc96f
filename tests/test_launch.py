"""The shipped launch configurations, and what cannot be launched; runs: test_many_processes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from tiny_training import make_config, rows, run, tiny

from loraglm_helpers import processes
from loraglm_helpers.__main__ import main
from loraglm_helpers.checkpoints import load_glm, save_official
from loraglm_helpers.loop import Loop
from loraglm_helpers.sharding import LaunchError, sharding_wanted, units
from loraglm_helpers.training import TrainingError

LAUNCH = Path(processes.__file__).parent / "launch"
MANY = {
    "ddp_1x8": (DistributedType.MULTI_GPU, 1, 8),
    "fsdp_1x8": (DistributedType.FSDP, 1, 8),
    "ddp_2x8": (DistributedType.MULTI_GPU, 2, 16),
}


def test_every_configuration_is_listed_here():
    assert {path.stem for path in LAUNCH.iterdir()} == set(MANY)


@pytest.mark.parametrize("name", MANY)
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert (config.distributed_type, config.num_machines, config.num_processes) == MANY[name]
    assert config.mixed_precision == "no" and not config.use_cpu and config.machine_rank == 0


def test_the_fsdp_configuration_is_one_that_the_loop_takes(monkeypatch):
    wanted = load_config_from_file(str(LAUNCH / "fsdp_1x8.yaml")).fsdp_config
    assert wanted["fsdp_version"] == 2
    for name, value in wanted.items():
        monkeypatch.setenv(name.upper(), str(value).lower())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_wanted().reshard_after_forward is True


def test_two_machines_need_only_the_first_one_s_address():
    config = load_config_from_file(str(LAUNCH / "ddp_2x8.yaml"))
    assert config.rdzv_backend == "static" and config.main_process_port == 29500
    assert config.main_process_ip is None
    assert "--main_process_ip ADDRESS --machine_rank 0" in (LAUNCH / "ddp_2x8.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [("VERSION", "1"), ("OFFLOAD_PARAMS", "true"), ("ACTIVATION_CHECKPOINTING", "true")],
)
def test_what_fsdp_cannot_do_here_is_refused(name, value, monkeypatch):
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", f"FSDP_{name}": value}
    for variable, text in settings.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(LaunchError, match=f"fsdp_{name.lower()} is {value}"):
        sharding_wanted()


def test_without_fsdp_nothing_is_spread(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharding_wanted() is None


def test_packed_weights_are_not_spread(monkeypatch, tmp_path):
    monkeypatch.setattr(processes.Processes, "sharded", True)
    with pytest.raises(LaunchError, match="'4bit' under FSDP.*launch with DDP"):
        run(make_config(save_dir=str(tmp_path), quantization="4bit"))


def test_layers_ends_and_the_rest_are_spread_apart():
    model = tiny()
    layers, ends = units(model)
    assert layers == list(model.model.layers)
    assert ends == [model.model.embed_tokens, model.lm_head]
    assert units(tiny(tie_word_embeddings=True))[1] == []  # one weight is in one unit


@pytest.mark.parametrize("layout", ["official", "native"])
def test_shapes_without_weights_are_those_of_the_checkpoint(layout, tmp_path):
    if layout == "official":
        save_official(tiny(), None, tmp_path)
    else:
        tiny().save_pretrained(tmp_path)
    full, empty = (load_glm(tmp_path, torch.float16, device) for device in ("cpu", "meta"))
    kinds = [
        {name: (p.shape, p.dtype) for name, p in (*m.named_parameters(), *m.named_buffers())}
        for m in (full, empty)
    ]
    assert kinds[0] == kinds[1]
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert empty.config.to_dict() == full.config.to_dict()


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_without_memory_saves_only_when_it_is_alone(count, tmp_path, monkeypatch):
    calls, saved, no_sync = [], [], processes.Processes.no_sync
    monkeypatch.setattr(Loop, "_save", lambda loop: saved.append(loop.state.step))

    def fail(self, *given, **more):
        calls.append(1)
        if len(calls) == 1:
            return no_sync(self, *given, **more)
        self.world_size = count
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(processes.Processes, "no_sync", fail)
    with pytest.raises(TrainingError, match="step 2: out of memory"):
        run(make_config(save_dir=str(tmp_path)), train_rows=rows(8))
    assert saved == ([1] if count == 1 else [])


def test_alone_the_cpu_may_be_asked_for_after_a_gpu(monkeypatch):
    processes.Processes()
    gpu = torch.device("meta")  # as accelerate's device is after a run on a GPU
    monkeypatch.setitem(PartialState._shared_state, "device", gpu)
    assert processes.Processes("cpu").device == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="cpu=True"):  # there, each process has one device
        processes.Processes("cpu")


@pytest.mark.parametrize(("rank", "start"), [("0", "error: "), ("3", "process 3: error: ")])
def test_an_error_names_its_process(rank, start, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    assert main(["lint", "none.jsonl"]) == 1
    assert capsys.readouterr().err.startswith(start)
