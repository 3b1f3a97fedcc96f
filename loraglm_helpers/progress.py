"""A training run in the terminal: one bar, and a line for each evaluation."""

from __future__ import annotations

from tqdm import tqdm

from .history import TrainingState

# Why a run ended before its last step, and what goes on with it.
REASONS = {
    "early_stopping": "stopped early: no new best for early_stopping_patience dev losses",
    "max_seconds": "stopped at max_seconds; the same command with more and --resume goes on",
    "interrupted": "on the command line: the same command with --resume",
}


class TrainingBar:
    """A callback of ``train``."""

    def __init__(self) -> None:
        self.bar = None

    def __call__(self, event: str, state: TrainingState) -> None:
        getattr(self, f"_{event}", lambda state: None)(state)

    def _start(self, state: TrainingState) -> None:
        self.bar = tqdm(total=state.total_steps, initial=state.step, desc="train", unit=" steps")

    def _step(self, state: TrainingState) -> None:
        self.bar.update(state.step - self.bar.n)

    def _log(self, state: TrainingState) -> None:
        record = state.record
        self.bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['lr']:.1e}")

    def _evaluate(self, state: TrainingState) -> None:
        record = state.record
        speed = record["tokens"] / max(record["seconds"], 1e-9)
        self.bar.write(
            f"step {record['step']}: loss {record['loss']:.4f}, dev loss {record['dev_loss']:.4f}, "
            f"{record['seconds']:.0f} s, {speed:,.0f} tokens/s"
        )

    def _end(self, state: TrainingState) -> None:
        self.close()
        best, config = state.history.best, state.config
        score = f", dev loss {best['dev_loss']:.4f} at step {best['step']}" if best else ""
        if reason := REASONS.get(state.history.stopped):
            print(reason)
        what = "the adapter" if config.use_lora or config.use_ptuning else "the model"
        print(f"{config.save_dir}/best: {what}{score}")

    def close(self) -> None:
        """Leave the bar as it is; what is printed next begins a new line."""
        if self.bar is not None:
            self.bar.close()
