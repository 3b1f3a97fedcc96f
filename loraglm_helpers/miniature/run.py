"""One pre-training run: its model, optimizers and position; saved, resumed and made deeper as one.

Rows are padding-free, the loss is taken on part B only, and the examples of step n depend on the
seed, the process and n alone: a run that is stopped anywhere goes on from its last checkpoint as if
it had never stopped. Input and output embedding are one matrix while the miniature is trained: what
was learnt about reading a character then serves writing it, so that rare ones can be copied too.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn
from transformers import GlmForCausalLM

from ..attention import register
from ..fusing import fuse
from ..processes import Processes
from ..sequences import collate
from ..steps import batch_loss
from ..tokenizer import load_tokenizer
from .deepening import deepen, depth
from .objectives import Objectives
from .optimizers import Optimizers
from .plan import (
    COPYING,
    FIRST_ALPHABET,
    FLUENT,
    GROWTH,
    LEARNT,
    Mixture,
    PretrainConfig,
    depth_at,
    rate_factor,
    stage_at,
)
from .probes import copying_accuracy
from .vocabulary import train_tokenizer

LONGEST = 512  # tokens of one example


def build_model(
    config: PretrainConfig, vocab_size: int, layers: int | None = None
) -> GlmForCausalLM:
    """A random GLM of the ChatGLM2 architecture, attention padding-free.

    It has the `layers` that a run begins with, unless told otherwise.
    """
    torch.manual_seed(config.seed)
    model = GlmForCausalLM(config.shape(vocab_size, layers or config.layers))
    model.set_attn_implementation(register())
    return model


def draw_batch(
    objectives: Objectives, mixture: Mixture, tokens_per_step: int, seed: str
) -> dict[str, torch.Tensor]:
    """The examples of one step, about `tokens_per_step` tokens, fixed by `seed`."""
    rng = random.Random(seed)
    examples, total = [], 0
    while total < tokens_per_step:
        example = objectives.draw(mixture, rng)
        if len(example.input_ids) <= LONGEST:
            examples.append(example)
            total += len(example.input_ids)
    return collate(examples)


@dataclass
class Position:
    """Where a run stands; everything that the next step depends on besides the weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    alphabet: int = FIRST_ALPHABET
    fluent_at: int | None = None  # tokens that copying took
    losses: list[float] = field(default_factory=list)


class Run:
    """Model, optimizers and position of one pre-training run, saved and resumed as one."""

    def __init__(self, config: PretrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.processes = Processes("cpu")
        if self.processes.is_main and not (out / "tokenizer.model").exists():
            train_tokenizer(out)
        self.processes.barrier()
        self.tokenizer = load_tokenizer(out)
        self.objectives = Objectives(self.tokenizer)
        self._build(config.layers)
        self.copying = COPYING
        self.position = Position()
        self.records: list[dict[str, Any]] = []

    def _build(self, layers: int) -> None:
        """A model of that depth and the optimizers for it."""
        vocab_size = -(-len(self.tokenizer) // 64) * 64
        self.model = build_model(self.config, vocab_size, layers)
        if self.config.tied:
            self.model.lm_head.weight = self.model.model.embed_tokens.weight
        self.optimizers = Optimizers(self.model, self.config, self.processes)
        if self.config.compiled:
            fuse(self.model)
        self.wrapped: nn.Module = self.processes.wrap(self.model)

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = self.model.state_dict()
        if self.config.tied:
            del weights["lm_head.weight"]
        return weights

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        if depth(weights) != len(self.model.model.layers):
            self._build(depth(weights))
        self.model.load_state_dict(weights, strict=not self.config.tied)

    def save(self) -> None:
        """Write `state.pt`, all that a run goes on from, and two files for whoever reads it.

        Each file replaces the last at once; `model.safetensors` and `history.json` may be a
        checkpoint ahead of `state.pt` where a run is killed between them, never the state itself.
        """
        weights = self._weights()
        state = {"weights": weights, "position": asdict(self.position), "records": self.records}
        state |= self.optimizers.state()
        if not self.processes.is_main:
            return
        save_file(weights, self.out / "model.safetensors.new")
        torch.save(state, self.out / "state.pt.new")
        history = {"config": asdict(self.config), "records": self.records}
        (self.out / "history.json.new").write_text(json.dumps(history, indent=0))
        for name in ("model.safetensors", "history.json", "state.pt"):
            os.replace(self.out / f"{name}.new", self.out / name)

    def resume(self) -> bool:
        """Go on from the last checkpoint in `out`, if there is one."""
        if not (self.out / "state.pt").exists():
            return False
        state = torch.load(self.out / "state.pt", weights_only=True)
        self._load(state["weights"])
        self.optimizers.restore(state)
        self.position = Position(**state["position"])
        self.records = state["records"]
        return True

    def advance(self) -> float:
        """One optimizer step; returns the mean loss of its part B tokens."""
        here, config, processes = self.position, self.config, self.processes
        if depth_at(config, here.tokens) > len(self.model.model.layers):
            # The optimizers begin anew: the plan's rates start low again where layers are added.
            self._load(deepen(self._weights(), config.added_layers))
        self.objectives.alphabet = here.alphabet
        stage = self.copying
        if here.fluent_at is not None:
            stage = stage_at(config, here.tokens)
        own, seed = stage.tokens_per_step // processes.world_size, f"{config.seed}-{here.step}"
        batch = draw_batch(self.objectives, stage.mixture, own, f"{seed}-{processes.rank}")
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            loss, targets = batch_loss(self.wrapped, batch)
        sums = [loss.item(), targets, batch["input_ids"].numel()]
        whole_loss, whole_targets, tokens = processes.sum(sums)
        (loss * processes.world_size / whole_targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(rate_factor(config, here.step, here.tokens))
        here.step += 1
        here.tokens += int(tokens)
        here.losses.append(whole_loss / whole_targets)
        if here.fluent_at is None and here.step % 25 == 0:
            self._widen(sum(here.losses[-25:]) / len(here.losses[-25:]))
        return here.losses[-1]

    def _widen(self, loss: float) -> None:
        """Copying: a larger alphabet once the present one is learnt, then the other objectives."""
        here, whole = self.position, len(self.objectives.pieces)
        if here.alphabet < whole and loss < LEARNT:
            here.alphabet = min(whole, here.alphabet * GROWTH)
        elif here.alphabet == whole and loss < FLUENT:
            here.fluent_at = here.tokens

    def record(self, questions: int) -> dict[str, Any]:
        """The mean loss since the last record and the share of questions answered exactly."""
        here, copied = self.position, 0.0
        if here.fluent_at is not None and self.processes.is_main:
            copied = copying_accuracy(self.model, self.tokenizer, count=questions)
        self.processes.barrier()
        self.records.append(
            {
                "step": here.step,
                "tokens": here.tokens,
                "seconds": round(here.seconds, 1),
                "alphabet": here.alphabet,
                "fluent": here.fluent_at is not None,
                "loss": round(sum(here.losses) / max(1, len(here.losses)), 4),
                "copying": round(copied, 4),
            }
        )
        here.losses = []
        return self.records[-1]
