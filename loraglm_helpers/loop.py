"""The loop of a training run: when to record, evaluate, save and stop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import run_state
from .advice import OutOfMemory, TrainingError, advised
from .batches import BatchPlan, Step
from .config import SETTINGS_FILE
from .evaluation import EVALUATION_TOKENS, evaluate_loss, pads
from .history import Callback, History, TrainingState
from .interrupt import InterruptGuard
from .meter import Meter
from .pissa import starting_point
from .precision import Precision
from .processes import Processes
from .sequences import Example
from .steps import schedule_factor
from .update import Updater

REASONS = ("interrupted", "max_seconds", "callback")


class Loop:
    """A run over tokenised examples; ``run`` does it and returns the history."""

    def __init__(
        self,
        config: Any,
        model: Any,
        train_examples: Sequence[Example],
        dev_examples: Sequence[Example],
        processes: Processes,
        precision: Precision,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not train_examples:
            raise ValueError("train_path has no rows: nothing to train on")
        self.config, self.model, self.callbacks = config, model, callbacks
        self.processes, self.precision, self.dev_examples = processes, precision, dev_examples
        self.pissa_start = starting_point(model) if processes.is_main else None
        self.updater = Updater(config, model, train_examples, processes, precision)
        self.plan = BatchPlan(
            self.updater.lengths,
            config.batch_size,
            config.tokens_per_batch,
            config.gradient_accumulation_steps,
            config.seed,
            pads(config),
        )
        total = self.plan.total_steps(config.epochs, config.max_steps)
        self.state = TrainingState(config, model, History(), total)
        self.meter, self.guard = Meter(), InterruptGuard()
        self.fixed = run_state.fixed_facts(config, train_examples)
        self.directory, self.saved = Path(config.save_dir), 0  # step 0: nothing worth saving

    def run(self, resume: bool = False) -> History:
        """Train to the last step, a limit or an interrupt; ``last/`` then holds that step."""
        if resume and run_state.is_saved(self.directory / "last", self.processes):
            self._restore()
        self.began = time.monotonic() - self.meter.seconds
        self._tell("start")
        try:
            with self.guard:
                reason = self._steps()
        except TrainingError as error:
            alone = self.processes.world_size == 1  # else all save together, or none does
            if not isinstance(error, OutOfMemory) or (alone and not self.updater.torn):
                self._save()
            raise
        self._end(reason)
        return self.state.history

    def _steps(self) -> str:
        """Do the steps that are left; returns why they ended."""
        state, config, patience = self.state, self.config, self.config.early_stopping_patience
        for number, epoch, batches in self.plan.from_step(state.step):
            if number > state.total_steps:
                break
            if patience and self.meter.worse >= patience:  # a resumed run that had ended so, too
                return "early_stopping"
            self._step(number, epoch, batches)
            reason = self._stop_reason()
            last = number == state.total_steps or reason == "max_seconds"
            evaluates = last or (number % config.save_freq == 0 and reason != "interrupted")
            if evaluates or number % config.logging_steps == 0:
                self._record(evaluates)
            if evaluates:
                self._save()
            if reason:
                return reason
        return "finished"

    def _step(self, number: int, epoch: float, batches: Step) -> None:
        state, began = self.state, time.monotonic()
        factor = schedule_factor(number, state.total_steps, self.config.warmup_ratio)
        rate = self.config.learning_rate * factor
        result = self.updater.step(number, batches, rate)
        now = time.monotonic()
        self.meter.add(result, now - began)
        self.meter.seconds = now - self.began
        state.step, state.epoch = number, epoch
        state.record = {
            "step": number,
            "epoch": round(epoch, 4),
            "loss": result.loss / max(result.targets, 1),
            "lr": rate,
            "grad_norm": result.grad_norm,
            "tokens": self.meter.tokens,
            "seconds": round(self.meter.seconds, 3),
        }
        self._tell("step")

    def _stop_reason(self) -> str:
        """Why to stop after this step, the same answer in every process."""
        limit = self.config.max_seconds
        late = limit is not None and self.meter.seconds >= limit
        wishes = self.processes.sum([self.guard.stop, late, self.state.stop])
        return next((reason for reason, wish in zip(REASONS, wishes, strict=True) if wish), "")

    def _record(self, evaluates: bool) -> None:
        """Add a record to the history; with ``evaluates`` the dev rows are scored for it."""
        state, history = self.state, self.state.history
        state.record |= self.meter.take()
        if evaluates and self.dev_examples:
            loss = self._dev_loss()
            state.record["dev_loss"] = loss
            # No number is below NaN: once the best, it would stay the best.
            better = math.isfinite(loss) and (
                history.best is None or loss < history.best["dev_loss"]
            )
            self.meter.worse = 0 if better else self.meter.worse + 1
            if better:
                history.best = {"step": state.step, "dev_loss": loss}
                self._save_adapter("best")
        history.records.append(state.record)
        self._tell("log")
        if "dev_loss" in state.record:
            self._tell("evaluate")

    def _dev_loss(self) -> float:
        model, config = self.model, self.config
        with advised(self.state.step, EVALUATION_TOKENS, config, model, training=False):
            return evaluate_loss(model, self.dev_examples, config, processes=self.processes)

    def _save(self) -> None:
        """Write ``last/`` and the history, unless this step is saved already.

        Without a dev loss the last is the best there is. Writing it replaces, as early as
        ``last/``, the ``best/`` of a run that was in this folder before.
        """
        if self.saved == self.state.step:
            return
        self._save_adapter("last")
        if self.state.history.best is None:
            self._save_adapter("best")
        writes = self.processes.is_main
        tensors = run_state.state_tensors(self.model, self.updater.optimizer, writes)
        if writes:
            run_state.save_state(self.directory / "last", tensors, self._facts())
            self.state.history.to_json(self.directory / "history.json")
            self._tell("save")
        self.saved = self.state.step
        self.processes.barrier()

    def _save_adapter(self, name: str) -> None:
        base, directory = str(self.config.pre_model), self.directory / name
        writes = self.processes.is_main
        run_state.save_adapter(self.model, directory, base, self.pissa_start, writes)
        if writes:  # with the adapter, never before it: they are read together
            self.config.to_json(self.directory / SETTINGS_FILE)

    def _end(self, reason: str) -> None:
        state, history = self.state, self.state.history
        history.stopped, history.resume = reason, ""
        if state.step < state.total_steps and reason != "early_stopping":
            late = reason == "max_seconds"  # which counts the seconds of all resumed parts
            config = "config.replace(max_seconds=...)" if late else "config"
            history.resume = (
                f"stopped after step {state.step} of {state.total_steps} ({reason}); "
                f"train({config}, resume=True) goes on from {self.directory / 'last'}"
            )
            if late:
                used = f"{self.meter.seconds:.0f} s are used"
                history.resume += f" with a larger max_seconds, or none: {used}"
        self._save()
        if self.processes.is_main:
            history.to_json(self.directory / "history.json")
            if reason == "interrupted":
                print(history.resume)
        self._tell("end")

    def _facts(self) -> dict[str, Any]:
        return {
            "step": self.state.step,
            "epoch": self.state.epoch,
            "meter": asdict(self.meter),
            "history": asdict(self.state.history),
            "scaler": self.precision.scaler.state_dict(),
            "fixed": self.fixed,
        }

    def _restore(self) -> None:
        directory = self.directory / "last"
        facts = run_state.read_facts(directory)
        run_state.check_fixed(directory, facts["fixed"], self.fixed)
        run_state.load_state(directory, self.model, self.updater.optimizer)
        if facts["scaler"]:  # empty after a part in another precision than fp16
            self.precision.scaler.load_state_dict(facts["scaler"])
        self.meter = Meter(**facts["meter"])
        self.state.step = self.saved = facts["step"]
        self.state.epoch, self.state.history = facts["epoch"], History(**facts["history"])

    def _tell(self, event: str) -> None:
        if self.processes.is_main:
            for callback in self.callbacks:
                callback(event, self.state)
