"""The settings of a fine-tuning run: one dataclass, checked, in and out of JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from .presets import PRESETS
from .settings import ConfigError, check_type, parse, split_setting, unknown
from .whole_file import write_text

__all__ = ["CHOICES", "PRESETS", "ConfigError", "FineTuneConfig", "preset", "repo_path"]
ROOT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = "settings.json"  # in save_dir: what its adapters were trained with
PATHS = ("pre_model", "train_path", "dev_path", "save_dir")
CHOICES = {
    "adapter_kind": ("lora", "rslora", "dora", "pissa"),
    "layout": ("glm", "chatglm2", "chatglm3", "chat_template"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "quantization": ("none", "8bit", "4bit"),
    "rope": ("auto", "theta", "positions"),
}
POSITIVE = """lora_rank lora_alpha pre_seq_len batch_size tokens_per_batch epochs max_steps
gradient_accumulation_steps max_seconds learning_rate max_grad_norm max_source_seq_len
max_target_seq_len logging_steps save_freq early_stopping_patience""".split()


@dataclass(frozen=True)
class FineTuneConfig:
    """Every setting of a run; the defaults are those of the original recipe.

    Checked when made: ConfigError names the field, its value and what is allowed. ``replace``
    gives a changed copy.
    """

    # What is read
    pre_model: str = "data/tiny-chatglm2"  # folder or hub name of the pre-trained GLM
    train_path: str = "data/mixed_train_dataset.jsonl"
    dev_path: str | None = "data/mixed_dev_dataset.jsonl"  # rows that choose the best adapter

    # What is trained: LoRA, P-Tuning v2, or, with neither, every weight
    use_lora: bool = True
    lora_rank: int = 8  # r, the inner size of B·A; 4 to 16 is usual
    lora_alpha: float = 32  # ΔW = (lora_alpha / lora_rank) · B · A
    lora_dropout: float = 0.1  # share of the adapter's inputs zeroed in training
    target_modules: str | list[str] = "query_key_value"  # or attention, all-linear, or names
    adapter_kind: str = "lora"  # lora | rslora | dora | pissa
    use_ptuning: bool = False  # P-Tuning v2: trained keys and values before each layer's own
    pre_seq_len: int = 128  # number of these prefix positions
    prefix_projection: bool = False  # make the prefix with a small network

    # Steps
    batch_size: int = 4  # rows in a batch
    tokens_per_batch: int | None = None  # fill a batch by tokens instead
    gradient_accumulation_steps: int = 1  # batches summed before an optimizer step
    epochs: float = 2  # passes over the rows; a fraction is allowed
    max_steps: int | None = None  # stop after so many optimizer steps
    max_seconds: float | None = None  # stop after so much time, evaluations and saves included
    early_stopping_patience: int | None = None  # stop after so many dev losses without a new best

    # Optimizer: AdamW, linear warm-up, then linear decay to 0
    learning_rate: float = 3e-5  # its peak
    weight_decay: float = 0.01  # biases and norms are left out
    warmup_ratio: float = 0.06  # share of the steps in which the rate rises
    max_grad_norm: float = 1.0  # gradients longer than this are scaled down to it

    # Sequences
    max_source_seq_len: int = 400  # tokens of the prompt, special tokens included
    max_target_seq_len: int = 300  # tokens of the answer, eos included
    layout: str = "glm"  # glm | chatglm2 | chatglm3 | chat_template
    padding_free: bool = True  # rows of a batch end to end instead of padded
    token_cache: str | None = None  # folder that keeps rows tokenised on disk, mapped, not loaded

    # Numbers and memory
    precision: str = "auto"  # fp32 | bf16 | fp16; auto: what the device does best
    quantization: str = "none"  # 8bit | 4bit: base weights, packed by bitsandbytes
    gradient_checkpointing: bool = False  # recompute activations: less memory, up to half more time
    compiled: bool = False  # fuse element-wise work with torch.compile: see fusing.py
    device: str = "auto"  # cpu, cuda, cuda:1, mps
    rope: str = "auto"  # what rope_ratio in the checkpoint means: theta | positions

    # What is written
    logging_steps: int = 10  # steps between two records
    save_freq: int = 200  # steps between two evaluations and saves
    save_dir: str = "build/finetune"  # gets best/, last/ and history.json
    seed: int = 42

    def __post_init__(self) -> None:
        for name in (*PATHS, "token_cache"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))
        for name, kind in field_types().items():
            check_type(name, getattr(self, name), kind)
        _check_ranges(self)
        _check_together(self)

    def replace(self, **changes: Any) -> FineTuneConfig:
        """A copy with other values."""
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings: Iterable[str]) -> FineTuneConfig:
        """A copy with ``"key=value"`` texts applied, each read by its field's type."""
        pairs = [split_setting(setting) for setting in settings]
        _check_names(dict(pairs))
        kinds = field_types()
        return self.replace(**{name: parse(name, text, kinds[name]) for name, text in pairs})

    def to_json(self, path: str | Path) -> None:
        """Write every setting to a file, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        write_text(path, text + "\n")

    @classmethod
    def from_json(cls, path: str | Path, base: FineTuneConfig | None = None) -> FineTuneConfig:
        """Read a JSON object of settings; those it leaves out are ``base``'s, or the defaults."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error})") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: a JSON object of settings wanted")
        try:
            return (base or cls()).replace(**content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def field_types() -> dict[str, Any]:
    """Name → type of every setting."""
    return get_type_hints(FineTuneConfig)


def repo_path(path: str | Path) -> Path | str:
    """A path looked up from the current folder, then from the project's root.

    Notebooks run in notebooks/, so ``data/…`` is found from there as well. What is in neither,
    such as a hub name, comes back as given.
    """
    for base in (Path.cwd(), ROOT):
        if (base / Path(path).expanduser()).exists():
            return base / Path(path).expanduser()
    return path


def preset(name: str) -> FineTuneConfig:
    """The settings for a model by name; ConfigError lists the names."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r}: allowed: {', '.join(PRESETS)}")
    return FineTuneConfig(**PRESETS[name])


def _check_names(changes: dict[str, Any]) -> None:
    for name in changes:
        if name not in field_types():
            raise unknown(name, field_types())


def _check_ranges(config: FineTuneConfig) -> None:
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} is {value!r}; allowed: above 0")
    for name in ("lora_dropout", "warmup_ratio"):
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; allowed: 0 up to below 1")
    for name in ("weight_decay", "seed"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; allowed: 0 or above")
    if config.seed >= 1 << 24:
        raise ConfigError(f"seed is {config.seed}; allowed: 0 to 16777215")
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; allowed: {', '.join(allowed)}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        raise ConfigError(f"device is {config.device!r}; allowed: auto, cpu, cuda, cuda:1 …, mps")
    for name in (*PATHS, "target_modules"):
        if getattr(config, name) in ("", []):
            raise ConfigError(f"{name} is empty; a value is needed")


def _check_together(config: FineTuneConfig) -> None:
    if config.use_lora and config.use_ptuning:
        raise ConfigError("use_lora and use_ptuning are both true; set one of them to false")
    if config.use_ptuning and config.gradient_checkpointing:
        raise ConfigError(
            "gradient_checkpointing is true with use_ptuning; a prefix cannot be trained so: set "
            "gradient_checkpointing to false"
        )
    if config.quantization != "none" and not (config.use_lora or config.use_ptuning):
        raise ConfigError(
            f"quantization is {config.quantization!r} without use_lora or use_ptuning; packed "
            "weights cannot be trained themselves: set one of the two to true"
        )
    starts = {"8bit": ("dora", "pissa"), "4bit": ("pissa",)}.get(config.quantization, ())
    if config.use_lora and config.adapter_kind in starts:
        raise ConfigError(
            f"adapter_kind is {config.adapter_kind!r} with quantization {config.quantization!r}; "
            "it starts from unpacked weights: set adapter_kind to lora or rslora, or quantization "
            "to none"
        )
