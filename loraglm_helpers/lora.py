"""Low-rank adaptation (LoRA): a frozen linear layer and a trained detour of low rank beside it.

                 x  (…, in)
          ┌──────┴───────┐
          │              │ dropout
    W (out, in)      A (rank, in)      random at the start
      frozen             │  (…, rank)
          │          B (out, rank)     zero at the start: the first step begins at the base model
          │              │ × alpha / rank
          └─────  +  ────┘
                 y  (…, out)      = W x + (alpha / rank) B A x

    merged: W' = W + ΔW,  ΔW = (alpha / rank) B A  (out, in): the same y from one matrix

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. ``LoRALinear``
is the layer written out; training attaches PEFT's, which a test holds equal to it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from .adapter_files import WEIGHTS
from .ledger import CHATGLM2_6B, GlmShape, memory_ledger
from .quick_lora import quick_lora
from .targets import target_modules, target_parameters
from .weight_files import check_whole

__all__ = [
    "CHATGLM2_6B",
    "GlmShape",
    "LoRALinear",
    "attach_adapter",
    "load_adapter",
    "memory_ledger",
    "target_modules",
    "trainable_parameters",
]


class LoRALinear(nn.Module):
    """A linear layer ``base`` with a low-rank detour; only ``A`` and ``B`` are trained.

    ``A`` (rank, in) starts random, ``B`` (out, rank) zero, both float32. ``dropout`` acts on the
    detour's input.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank}: at least 1 wanted")
        self.base = base.requires_grad_(False)
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        where = base.weight.device
        self.A = nn.Parameter(torch.empty(rank, base.in_features, device=where))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=where))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), in the base layer's dtype."""
        y = self.base(x)
        if self.merged:
            return y
        detour = self.dropout(x.to(self.A.dtype)) @ self.A.T @ self.B.T  # (…, rank), (…, out)
        return y + (self.scaling * detour).to(y.dtype)

    def delta(self) -> Tensor:
        """ΔW (out, in) in float32."""
        return self.scaling * self.B @ self.A

    @torch.no_grad()
    def merge(self) -> None:
        """Add ΔW to the base weight; a second call does nothing."""
        if not self.merged:
            self.base.weight += self.delta().to(self.base.weight.dtype)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take ΔW off again; equal to the first weight up to rounding."""
        if self.merged:
            self.base.weight -= self.delta().to(self.base.weight.dtype)
            self.merged = False


def attach_adapter(model: Any, config: Any) -> Any:
    """The model with the adapter that ``config`` (a FineTuneConfig) asks for, ready to train.

    LoRA, rsLoRA, DoRA and PiSSA by ``adapter_kind``; P-Tuning v2 with ``use_ptuning``; without
    either the model itself, every weight trained. Adapters are float32 whatever the base is; their
    random start follows from ``config.seed``.
    The model is in training mode: outside it ``gradient_checkpointing`` silently does nothing.
    """
    if config.use_lora and config.use_ptuning:
        raise ValueError("use_lora and use_ptuning exclude each other: set one of them to False")
    if config.use_ptuning and config.gradient_checkpointing:
        raise ValueError("use_ptuning: prefixes cannot be trained with gradient_checkpointing")
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    if not (config.use_lora or config.use_ptuning):
        return model.float().requires_grad_(True).train()
    settings = (prefix_config if config.use_ptuning else lora_config)(model, config)
    torch.manual_seed(config.seed)
    with no_renaming_warning():
        model = peft.get_peft_model(model, settings)
    quick_lora(model)
    return model.train()


def checkpoint_activations(model: Any) -> None:
    """Keep only each layer's input; the rest is computed again in the backward pass."""
    model.enable_input_require_grads()
    # transformers 5.2x renames the method; the old name warns.
    new_name = getattr(model, "activation_checkpointing_enable", None)
    (new_name or model.gradient_checkpointing_enable)()


@contextmanager
def no_renaming_warning() -> Iterator[None]:
    """Without transformers' warning about a property that PEFT still reads by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def lora_config(model: Any, config: Any) -> peft.LoraConfig:
    """PEFT's settings for ``config``'s kind of low-rank adapter."""
    kind = config.adapter_kind
    experts = target_parameters(model, config.target_modules)
    if experts and (config.lora_dropout or kind not in ("lora", "rslora")):
        raise ValueError(
            "target_modules has experts: set lora_dropout to 0 and adapter_kind to lora or rslora"
        )
    return peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_modules(model, config.target_modules),
        target_parameters=experts or None,
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        init_lora_weights="pissa" if kind == "pissa" else True,
    )


def prefix_config(model: Any, config: Any) -> peft.PrefixTuningConfig:
    """PEFT's settings for P-Tuning v2: ``pre_seq_len`` trained keys and values in each layer."""
    shape = model.config
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return peft.PrefixTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        num_virtual_tokens=config.pre_seq_len,
        prefix_projection=config.prefix_projection,
        token_dim=head_dim * shape.num_attention_heads,
        encoder_hidden_size=shape.hidden_size,
    )


def load_adapter(model: Any, directory: str | Path) -> Any:
    """The model with a saved PEFT adapter, in evaluation mode. ValueError names what is wrong."""
    directory = Path(directory)
    if not (directory / "adapter_config.json").is_file():
        raise ValueError(f"{directory}: no adapter_config.json here, so no PEFT adapter")
    weights = [directory / name for name in WEIGHTS if (directory / name).is_file()]
    if not weights:  # PEFT would look for a repository of this name
        raise ValueError(f"{directory}: no weights here; expected {' or '.join(WEIGHTS)}")
    check_whole(weights[0])
    try:
        with no_renaming_warning():
            return peft.PeftModel.from_pretrained(model, str(directory)).eval()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{directory}: this adapter does not fit the model ({error}). An adapter trained on "
            "the published ChatGLM code names query_key_value: convert it with import_adapter."
        ) from error


def trainable_parameters(model: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
