"""A picture of the fused query_key_value weight and of q, k and v that are cut out of it."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from .figure_style import BLUE, GREEN, ORANGE, new_figure, style
from .mapping import FusedRows

COLOURS = {"q": BLUE, "k": ORANGE, "v": GREEN}
WIDTH, GAP = 1.0, 0.9  # of a column; between the native weights, in heads
Block = tuple[str, int]  # "q", "k" or "v" and the number of its head


def draw_split(*layouts: FusedRows) -> Figure:
    """For each layout: the fused weight on the left, a row of blocks a head; native ones right."""
    with matplotlib.rc_context(style()):
        figure = new_figure(4.4 * len(layouts), 4.6)
        panels = figure.subplots(1, len(layouts), squeeze=False)[0]
        for axes, rows in zip(panels, layouts, strict=True):
            _draw(axes, rows)
    return figure


def fused_order(rows: FusedRows) -> list[Block]:
    """The blocks of the fused weight from its first row to its last, ``head_dim`` rows each."""
    if rows.per_head:
        return [(part, head) for head in range(rows.heads) for part in "qkv"]
    counts = {"q": rows.heads, "k": rows.groups, "v": rows.groups}
    return [(part, head) for part, count in counts.items() for head in range(count)]


def _draw(axes: Axes, rows: FusedRows) -> None:
    order = fused_order(rows)
    top, places = 0.0, {}
    for part in "qkv":
        blocks = [block for block in order if block[0] == part]
        places |= {block: top + i for i, block in enumerate(blocks)}
        count = len(blocks) * rows.head_dim
        middle = top + len(blocks) / 2
        axes.text(3.6, middle, f"{part}_proj\n{count} rows", va="center", color="#1F1F1F")
        top += len(blocks) + GAP
    shift = GAP  # the left column stands in the middle of the right one's height
    for row, block in enumerate(order):
        _block(axes, (0.0, row + shift), block)
        _block(axes, (2.5, places[block]), block)
        _line(axes, row + shift, places[block], block)
    flag = "false" if rows.per_head else "true"
    axes.set_title(f"multi_query_attention: {flag}")
    axes.text(0.5, shift - 0.25, "query_key_value", ha="center", va="bottom")
    axes.text(0.5, len(order) + shift + 0.25, f"{sum(rows.sizes)} rows", ha="center", va="top")
    axes.set_xlim(-0.2, 5.0)
    axes.set_ylim(top, -0.6)
    axes.set_axis_off()


def _block(axes: Axes, corner: tuple[float, float], block: Block) -> None:
    colour = COLOURS[block[0]]
    axes.add_patch(Rectangle(corner, WIDTH, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
    name, middle = f"{block[0]}{block[1] + 1}", (corner[0] + WIDTH / 2, corner[1] + 0.5)
    axes.text(*middle, name, ha="center", va="center", color="white", fontweight="bold")


def _line(axes: Axes, left: float, right: float, block: Block) -> None:
    ends = (1.05, left + 0.5), (2.45, right + 0.5)
    arrow = ConnectionPatch(*ends, "data", "data", arrowstyle="->", color=COLOURS[block[0]])
    axes.add_artist(arrow)
