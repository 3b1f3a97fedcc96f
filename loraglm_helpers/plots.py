"""The project's pictures: the live loss plot, token strips, scores, confusions, saved figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .figure_style import BLUE, GREY, chinese_font, new_figure, save_figure, short, style, use_style
from .live_plot import LivePlot, plot_history
from .token_strip import token_strip

__all__ = [
    "LivePlot",
    "chinese_font",
    "plot_confusion",
    "plot_history",
    "plot_scores",
    "save_figure",
    "token_strip",
    "use_style",
]


def plot_scores(before: Mapping[str, Any], after: Mapping[str, Any]) -> Figure:
    """Exact match before and after training, by task; both are dicts from ``metrics.score``."""
    tasks = sorted(set(before["by_task"]) | set(after["by_task"]))
    names = ["all rows", *tasks]
    values = [[_exact(scores, task) for task in (None, *tasks)] for scores in (before, after)]
    places = np.arange(len(names))
    with matplotlib.rc_context(style()):
        figure = new_figure(7, 0.62 * len(names) + 0.9)
        axes = figure.subplots()
        for row, (label, colour) in enumerate((("before", "#B8BEC4"), ("after", BLUE))):
            offset = 0.36 * row - 0.18
            bars = axes.barh(places + offset, values[row], 0.34, color=colour, label=label)
            axes.bar_label(bars, [f"{value:.0f} %" for value in values[row]], padding=3)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("exact match, % of rows")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.set_ylim(len(names) - 0.5, -0.95)
    return figure


def plot_confusion(confusion: Mapping[str, Mapping[str, int]]) -> Figure:
    """Counts of answers (across) for each target class (down); right ones on the diagonal.

    ``confusion[target][answer]`` as in ``score(...)["classification"]["confusion"]``. Answers that
    are no class of the targets stand in columns on the right.
    """
    targets = list(confusion)
    if not targets:
        raise ValueError("plot_confusion: no classes; score rows of the classification task first")
    others = {answer for counts in confusion.values() for answer in counts} - set(targets)
    answers = [*targets, *sorted(others)]
    table = np.array([[confusion[t].get(a, 0) for a in answers] for t in targets])
    labels = short(answers)
    size = 0.42 * len(answers) + 1.7, 0.42 * len(targets) + 1.5
    with matplotlib.rc_context(style()):
        figure = new_figure(*size)
        axes = figure.subplots()
        axes.imshow(table, cmap="Blues", vmin=0, vmax=max(1, table.max()) * 1.15)
        for (row, column), count in np.ndenumerate(table):
            colour = "white" if count > 0.6 * table.max() else "#1F1F1F" if count else "#D0D0D0"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(answers)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(targets)), labels[: len(targets)])
        axes.set_xlabel("answer")
        axes.set_ylabel("target")
        axes.grid(visible=False)
        if others:
            axes.axvline(len(targets) - 0.5, color=GREY, linewidth=1)
    return figure


def _exact(scores: Mapping[str, Any], task: str | None) -> float:
    """Exact match in percent, of a task or of all rows; a task without rows has 0."""
    part = scores if task is None else scores["by_task"].get(task, {})
    return 100.0 * (part.get("exact_match") or 0.0)
