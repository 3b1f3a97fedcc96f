"""A sequence as a strip of coloured boxes: one box a token, its label below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from .figure_style import BLUE, GREEN, GREY, ORANGE, drawable, new_figure, style
from .sequences import IGNORED

PLACES = 92.0  # columns in a line; a Latin letter takes one, a Chinese character two
KINDS = {  # name → (ground, edge)
    "special token": ("#FBE3B5", ORANGE),
    "no loss (label −100)": ("#E6ECF2", "#A9B8C6"),
    "target (trained)": ("#C5E8DC", GREEN),
    "token": ("#D3E6F3", BLUE),
}
MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\u3000": "□"}


def token_strip(
    ids: Sequence[int],
    labels: Sequence[int] | None = None,
    tokenizer: Any = None,
    title: str | None = None,
) -> Figure:
    """A figure of a sequence: token boxes in reading order, the label under each.

    ``labels`` (−100 where there is no loss) as long as ``ids``; None shows the ids instead. A
    space is drawn ␣, a line break ⏎; a token that no installed font can draw, or part of a
    character, is shown by its id, "#1234". Boxes are coloured by kind, see the legend.
    """
    ids = [int(i) for i in ids]
    below = ids if labels is None else [int(label) for label in labels]
    if len(below) != len(ids) or not ids:
        raise ValueError(f"token_strip: {len(ids)} ids and {len(below)} labels; one each wanted")
    texts = [token_text(i, tokenizer) for i in ids]
    pairs = list(zip(ids, below, strict=True))
    kinds = [_kind(i, label, labels is not None, tokenizer) for i, label in pairs]
    places, lines = _arrange([_width(t, b) for t, b in zip(texts, below, strict=True)])
    boxes = zip(places, texts, kinds, below, strict=True)
    with matplotlib.rc_context(style()):
        figure = new_figure(9.2, 0.62 * lines + 0.25, layout=None)
        axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
        for (line, left, width), text, kind, label in boxes:
            _box(axes, (left, -1.0 * line), width, text, kind, label)
        _frame(axes, lines, kinds, title)
    return figure


def token_text(token: int, tokenizer: Any) -> str:
    """What one token looks like: its characters, marks for white space, or "#id"."""
    if tokenizer is None:
        return f"#{token}"
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return f"#{token}"
    text = piece if token in tokenizer.all_special_ids else _plain(token, piece, tokenizer)
    text = "".join(MARKS.get(character, character) for character in text)
    return text if text and drawable(text) and "\ufffd" not in text else f"#{token}"


def _plain(token: int, piece: str, tokenizer: Any) -> str:
    """The characters of an ordinary token; the leading space of SentencePiece stays visible."""
    if "▁" in piece:
        return piece.replace("▁", " ")
    return tokenizer.decode([token])


def _kind(token: int, label: int, labelled: bool, tokenizer: Any) -> str:
    special = tokenizer is not None and token in tokenizer.all_special_ids
    names = list(KINDS)
    if special:
        return names[0]
    return names[3] if not labelled else names[1] if label == IGNORED else names[2]


def _width(text: str, label: int) -> float:
    columns = sum(2.0 if ord(character) > 0x2E7F else 1.12 for character in text)
    return max(columns + 0.9, 0.78 * len(str(label)) + 0.7)


def _arrange(widths: list[float]) -> tuple[list[tuple[int, float, float]], int]:
    """(line, left, width) of each box, wrapped like text, and the number of lines."""
    places, line, left = [], 0, 0.0
    for width in widths:
        width = min(width, PLACES)
        if left + width > PLACES:
            line, left = line + 1, 0.0
        places.append((line, left, width))
        left += width + 0.35
    return places, line + 1


def _box(
    axes: Axes, corner: tuple[float, float], width: float, text: str, kind: str, label: int
) -> None:
    left, line = corner
    ground, edge = KINDS[kind]
    axes.add_patch(
        FancyBboxPatch(
            (left, line - 0.46),
            width,
            0.46,
            boxstyle="round,pad=0,rounding_size=0.12",
            mutation_aspect=0.6,
            facecolor=ground,
            edgecolor=edge,
            linewidth=0.9,
        )
    )
    middle = left + width / 2
    size = 9.5 if width < PLACES else 6
    # parse_math off: a "$" in a token is a dollar, not a formula
    axes.text(middle, line - 0.24, text, ha="center", va="center", fontsize=size, parse_math=False)
    trained = label != IGNORED
    axes.text(
        middle,
        line - 0.63,
        str(label).replace("-", "−"),
        ha="center",
        va="center",
        fontsize=6.5,
        color="#1F1F1F" if trained else GREY,
    )


def _frame(axes: Axes, lines: int, kinds: list[str], title: str | None) -> None:
    """Limits, legend and title above the first line."""
    axes.set_axis_off()
    axes.set_xlim(-0.4, PLACES + 0.4)
    axes.set_ylim(-1.0 * lines + 0.2, 0.6)
    if title:
        axes.text(0, 0.36, title, fontsize=10, va="center", parse_math=False)
    shown = [kind for kind in KINDS if kind in kinds and len(set(kinds)) > 1]
    handles = [Patch(facecolor=KINDS[k][0], edgecolor=KINDS[k][1], label=k) for k in shown]
    axes.legend(
        handles=handles,
        loc="center right",
        bbox_to_anchor=(PLACES, 0.36),
        bbox_transform=axes.transData,
        ncols=4,
        fontsize=8,
        handlelength=1.2,
        borderaxespad=0.0,
        columnspacing=1.4,
    )
