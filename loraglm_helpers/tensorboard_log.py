"""A run's curves for TensorBoard, beside the live plot or without a notebook.

    train(config, callbacks=[TensorBoardLog("build/tensorboard/first")])
    python -m loraglm_helpers train --preset tiny --tensorboard build/tensorboard/first
    tensorboard --logdir build/tensorboard

One folder a run; a resumed run goes on in the same one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from .history import TrainingState

TAGS = {  # of a record's values; what stands before the slash is a group of TensorBoard's page
    "loss": "loss/train",
    "dev_loss": "loss/dev",
    "lr": "step/lr",
    "grad_norm": "step/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "tokens": "seen/tokens",
    "epoch": "seen/epoch",
}


class TensorBoardMissing(ImportError):
    """The tensorboard package, an optional one, is not installed."""


class TensorBoardLog:
    """A callback of ``train``: every record of the history, and the settings as a table.

    Raises TensorBoardMissing when made, before anything is trained. What an earlier run in the
    folder wrote of steps that this one does again is hidden.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.writer = Path(folder), None
        self.make_writer = _summary_writer()

    def __call__(self, event: str, state: TrainingState) -> None:
        getattr(self, f"_{event}", lambda state: None)(state)

    def _start(self, state: TrainingState) -> None:
        self.writer = self.make_writer(str(self.folder), purge_step=state.step + 1)
        self.writer.add_text("settings", _table(asdict(state.config)), state.step)

    def _log(self, state: TrainingState) -> None:
        for name, tag in TAGS.items():
            if name in state.record:
                self.writer.add_scalar(tag, state.record[name], state.step)
        self.writer.flush()  # seen at once, and not lost if the process dies

    def _end(self, state: TrainingState) -> None:
        self.writer.close()


def _table(settings: dict[str, Any]) -> str:
    """Settings as a Markdown table."""
    rows = [f"| {name} | `{value}` |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TensorBoardMissing(
            "curves for TensorBoard need the tensorboard package: "
            'pip install -e ".[tensorboard]" -c constraints.txt, or train without it'
        ) from error
    return SummaryWriter
