"""Pre-training the miniature GLM: a resumable loop over stages of objectives.

    python -m loraglm_helpers.miniature.pretraining --out build/pretrain --minutes 60

Rows are padding-free, the loss is taken on part B only, and the examples of step n depend on the
seed and n alone: a run that is stopped anywhere goes on from its last checkpoint as if it had never
stopped. The learning rate warms up, stays, and falls to zero over the last part of the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GlmForCausalLM

from ..attention import register
from ..sequences import collate
from ..steps import batch_loss, reuse_memory
from ..tokenizer import load_tokenizer
from .objectives import Objectives
from .plan import (
    COPYING_ONLY,
    FIRST_ALPHABET,
    FLUENT,
    GROWTH,
    LEARNT,
    Mixture,
    PretrainConfig,
    learning_rate,
    mixture_at,
)
from .probes import copying_accuracy
from .vocabulary import train_tokenizer

LONGEST = 512  # tokens of one example


def build_model(config: PretrainConfig, vocab_size: int) -> GlmForCausalLM:
    """A random GLM of the ChatGLM2 architecture, attention padding-free."""
    torch.manual_seed(config.seed)
    model = GlmForCausalLM(config.shape(vocab_size))
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
    fluent: bool = False
    fluent_at: int = 0  # tokens that copying took
    losses: list[float] = field(default_factory=list)


class Run:
    """Model, optimizer and position of one pre-training run, saved and resumed as one."""

    def __init__(self, config: PretrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "tokenizer.model").exists():
            train_tokenizer(out)
        self.tokenizer = load_tokenizer(out)
        self.objectives = Objectives(self.tokenizer)
        self.model = build_model(config, vocab_size=-(-len(self.tokenizer) // 64) * 64)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        self.position = Position()
        self.records: list[dict[str, float]] = []

    def save(self) -> None:
        """Write weights, optimizer, position and records; each file replaces the last at once."""
        state = {"optimizer": self.optimizer.state_dict(), "position": asdict(self.position)}
        history = {"config": asdict(self.config), "records": self.records}
        save_file(self.model.state_dict(), self.out / "model.safetensors.new")
        torch.save(state, self.out / "state.pt.new")
        (self.out / "history.json.new").write_text(json.dumps(history, indent=0))
        for name in ("model.safetensors", "state.pt", "history.json"):
            os.replace(self.out / f"{name}.new", self.out / name)

    def resume(self) -> bool:
        """Go on from the last checkpoint in `out`, if there is one."""
        if not (self.out / "state.pt").exists():
            return False
        self.model.load_state_dict(load_file(self.out / "model.safetensors"))
        state = torch.load(self.out / "state.pt", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.records = json.loads((self.out / "history.json").read_text())["records"]
        return True

    def advance(self) -> float:
        """One optimizer step; returns the mean loss of its part B tokens."""
        config, here = self.config, self.position
        self.objectives.alphabet = here.alphabet
        mixture = mixture_at(config, here.tokens, here.fluent_at) if here.fluent else COPYING_ONLY
        seed = f"{config.seed}-{here.step}"
        batch = draw_batch(self.objectives, mixture, config.tokens_per_step, seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, here.step, here.tokens, here.fluent)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            loss, targets = batch_loss(self.model, batch)
        (loss / targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        here.step += 1
        here.tokens += batch["input_ids"].numel()
        here.losses.append(loss.item() / targets)
        if not here.fluent and here.step % 25 == 0:
            self._widen(sum(here.losses[-25:]) / 25)
        return here.losses[-1]

    def _widen(self, loss: float) -> None:
        """Copying: a larger alphabet once the present one is learnt, then the other objectives."""
        here, whole = self.position, len(self.objectives.pieces)
        if here.alphabet < whole and loss < LEARNT:
            here.alphabet = min(whole, here.alphabet * GROWTH)
        elif here.alphabet == whole and loss < FLUENT:
            here.fluent, here.fluent_at = True, here.tokens


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    minutes: float | None = None,
    probe_every: int = 250,
    log: Callable[[str], object] = print,
) -> Run:
    """Train until the token budget or `minutes` are spent; resumes what it finds in `out`.

    Every `probe_every` steps the record holds the mean loss since the last one and the share of
    questions answered exactly on names and patterns that no training text contains.
    """
    run = Run(config, Path(out))
    run.resume()
    here = run.position
    reuse_memory()
    start, before = time.monotonic(), here.seconds
    done = False
    while not done:
        run.advance()
        elapsed = time.monotonic() - start
        here.seconds = before + elapsed
        done = here.tokens >= config.tokens or (minutes is not None and elapsed > minutes * 60)
        if here.step % probe_every == 0 or done:
            copied = copying_accuracy(run.model, run.tokenizer, count=60) if here.fluent else 0.0
            run.records.append(
                {
                    "step": here.step,
                    "tokens": here.tokens,
                    "seconds": round(here.seconds, 1),
                    "alphabet": here.alphabet,
                    "fluent": here.fluent,
                    "loss": round(sum(here.losses) / max(1, len(here.losses)), 4),
                    "copying": round(copied, 4),
                }
            )
            here.losses = []
            run.save()
            log(json.dumps(run.records[-1]))
    return run


def main() -> None:
    """The command line; `--set` overrides fields of PretrainConfig with JSON values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="build/pretrain")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    changes = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in arguments.set)}
    pretrain(PretrainConfig(**changes), arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
