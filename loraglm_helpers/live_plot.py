"""The training curves: drawn while a run goes on, and again from its history."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import matplotlib
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figure_style import BLUE, GREEN, ORANGE, in_notebook, new_figure, style, to_png

LEAST_PAUSE = 0.5  # seconds between two updates
LARGEST_SHARE = 0.05  # of the time may go into drawing
ALT = "Training and dev loss, learning rate and tokens per second over the steps"
Record = dict[str, Any]


class LivePlot:
    """A callback of ``train``: one figure in the notebook, redrawn as records come.

    Train and dev loss, learning rate, tokens per second. At most two updates a second and at most
    a twentieth of the time; the last state is always drawn. Outside a notebook it only keeps
    ``records``. ``total_steps`` fixes the length of the axis, by default the run's own.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        self.wanted_steps = self.total_steps = total_steps
        self.records: list[Record] = []
        self.handle: Any = None
        self.last_update = self.drawing_time = 0.0

    def __call__(self, event: str, state: Any) -> None:
        """Handle an event of the run; every other event than these is ignored."""
        if event == "start":
            self.handle, self.last_update = None, 0.0
            self.total_steps = self.wanted_steps or state.total_steps
        if event in ("start", "log", "evaluate", "end"):
            self.records = list(state.history.records)
            if in_notebook() and (event in ("start", "end") or self._rested()):
                self._show()

    def _rested(self) -> bool:
        pause = max(LEAST_PAUSE, self.drawing_time / LARGEST_SHARE)
        return time.monotonic() - self.last_update >= pause

    def _show(self) -> None:
        began = time.monotonic()
        # Alone: nothing is left open, and nothing is shown a second time.
        picture = Image(to_png(plot_history(self.records, self.total_steps, alone=True)), alt=ALT)
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        self.last_update = time.monotonic()
        self.drawing_time = self.last_update - began


def plot_history(history: Any, total_steps: int | None = None, alone: bool = False) -> Figure:
    """Loss, learning rate and speed of a run; ``history``: a History, or its records.

    ``alone``: unknown to pyplot, so that a notebook does not show it at the end of the cell.
    """
    records: Sequence[Record] = getattr(history, "records", history)
    with matplotlib.rc_context(style()):
        figure = new_figure(9.2, 3.2, alone)
        panels = figure.subplot_mosaic([["loss", "rate"], ["loss", "speed"]], width_ratios=[2, 1])
        _loss(panels["loss"], records)
        _curve(panels["rate"], "learning rate", ORANGE, _points(records, "lr"))
        _curve(panels["speed"], "tokens per second", GREEN, speeds(records))
        end = total_steps or max([record["step"] for record in records], default=1)
        for axes in panels.values():
            values = [value for line in axes.lines for value in line.get_ydata()]
            axes.set_xlim(0, end)
            axes.set_ylim(0, 1.12 * max(values, default=0.0) or 1.0)
        panels["rate"].tick_params(labelbottom=False)
        panels["rate"].ticklabel_format(axis="y", scilimits=(-4, 4))
        for name in ("loss", "speed"):
            panels[name].set_xlabel("step")
    return figure


def speeds(records: Sequence[Record]) -> list[tuple[int, float]]:
    """(step, tokens per second) of each record, from the one before where it is not told."""
    points, tokens, seconds = [], 0, 0.0
    for record in records:
        elapsed = record.get("seconds", 0.0) - seconds
        speed = record.get("tokens_per_second")
        if speed is None and elapsed > 0:
            speed = (record.get("tokens", 0) - tokens) / elapsed
        if speed is not None:
            points.append((record["step"], speed))
        tokens, seconds = record.get("tokens", 0), record.get("seconds", 0.0)
    return points


def _points(records: Sequence[Record], key: str) -> list[tuple[int, float]]:
    """(step, value) of the records that have a finite value: a plot must not end a run."""
    pairs = [(record["step"], record.get(key)) for record in records]
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def _curve(axes: Axes, title: str, colour: str, points: list[tuple[int, float]]) -> None:
    axes.set_title(title)
    axes.plot(*zip(*points, strict=True) if points else ([], []), color=colour)


def _loss(axes: Axes, records: Sequence[Record]) -> None:
    """Both losses, the lowest dev loss marked."""
    train, dev = _points(records, "loss"), _points(records, "dev_loss")
    _curve(axes, "loss per target token", BLUE, train)
    axes.lines[-1].set_label("train")
    if dev:
        steps, values = zip(*dev, strict=True)
        axes.plot(steps, values, "o-", color=ORANGE, markersize=4, clip_on=False)
        value, step = min((value, step) for step, value in dev)
        axes.lines[-1].set_label(f"dev, best {value:.3f} at step {step}")
        axes.plot(step, value, "o", color=ORANGE, markersize=9, fillstyle="none", clip_on=False)
    if train or dev:
        axes.legend(loc="upper right")
