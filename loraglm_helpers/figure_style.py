"""How the pictures look, which fonts they may use, and how they are saved.

White ground, Okabe and Ito's eight colours (told apart by colour-blind readers), no frame on top
and right. Chinese is drawn with an installed font; a text that no font can draw is never drawn as
empty boxes: ``drawable`` says so beforehand.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from IPython import get_ipython
from matplotlib import font_manager
from matplotlib.figure import Figure

from .whole_file import whole_file

ROOT = Path(__file__).resolve().parent.parent
FIGURES = "LORAGLM_FIGURES"  # environment variable: another folder for saved figures
LIMIT = 150_000  # bytes of a saved picture
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#8A8A8A"
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # one file for all regions is known by its first name
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti TC",
    "STHeiti",
    "Arial Unicode MS",
    "Droid Sans Fallback",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
)


def use_style() -> None:
    """Give matplotlib this project's style, for the whole process."""
    matplotlib.rcParams.update(style())
    if in_notebook():  # else a notebook's first figure would be the last that its cell shows
        matplotlib.interactive(True)


def style() -> dict[str, Any]:
    """matplotlib's settings for a picture of this project."""
    colours = [BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, YELLOW, "#000000"]
    return {
        "axes.prop_cycle": matplotlib.cycler(color=colours),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.facecolor": "white",
        "axes.unicode_minus": True,
        "figure.facecolor": "white",
        "figure.dpi": 100,
        "font.family": list(fonts()),
        "font.size": 9,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.8,
        "image.cmap": "cividis",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "white",
    }


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code."""
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def new_figure(
    width: float, height: float, alone: bool = False, layout: str | None = "constrained"
) -> Figure:
    """A figure of a size in inches; in a notebook it appears at the end of its cell.

    Elsewhere, or ``alone``, pyplot does not know it, and nothing has to be closed.
    """
    if in_notebook() and not alone:
        from matplotlib import pyplot

        return pyplot.figure(figsize=(width, height), layout=layout)
    return Figure(figsize=(width, height), layout=layout)


def chinese_font() -> str | None:
    """An installed font with Chinese characters, or None."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in installed), None)


def fonts() -> tuple[str, ...]:
    """The fonts to draw with: each character is taken from the first that has it."""
    chinese = chinese_font()
    return (LATIN, chinese) if chinese else (LATIN,)


def drawable(text: str) -> bool:
    """Whether some font has every character of the text."""
    return all(ord(character) in characters(fonts()) for character in text)


@cache
def characters(names: tuple[str, ...]) -> frozenset[int]:
    """Every code point that fonts of these names can draw."""
    found: set[int] = set()
    for name in names:
        file = font_manager.findfont(name, fallback_to_default=False)
        found.update(font_manager.get_font(file).get_charmap())
    return frozenset(found)


def save_figure(figure: Figure, name: str, directory: str | Path | None = None) -> None:
    """Save as ``figures/name.png`` of the project.

    White ground, at most 150 KB (fewer dots an inch until it fits), no time and no version inside:
    the same figure gives the same bytes. ``directory``, else the environment variable
    LORAGLM_FIGURES, names another folder. Raises ValueError for a name with a folder in it.
    """
    if Path(name).name != name or not name:
        raise ValueError(f"name is {name!r}: a plain file name without folder wanted")
    folder = Path(directory or os.environ.get(FIGURES) or _figures())
    content = next((png for png in _renderings(figure) if len(png) <= LIMIT), None)
    if content is None:
        raise ValueError(f"{name}: over {LIMIT // 1000} KB even at 60 dots an inch; draw less")
    path = folder / f"{name.removesuffix('.png')}.png"
    with whole_file(path) as draft:
        draft.write_bytes(content)


def to_png(figure: Figure, dpi: int = 100, **settings: Any) -> bytes:
    """A figure as PNG bytes, white behind, without matplotlib's version in it."""
    settings = {"facecolor": "white", "metadata": {"Software": None}} | settings
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, **settings)
    return buffer.getvalue()


def short(texts: Mapping[str, Any] | list[str]) -> list[str]:
    """Labels as they can be drawn: a text no font has becomes its number, "#1", "#2" …"""
    return [t if drawable(t) else f"#{i}" for i, t in enumerate(texts, 1)]


def _figures() -> Path:
    """The project's figures/, from whichever folder a notebook runs in."""
    return (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / "figures"


def _renderings(figure: Figure) -> Iterator[bytes]:
    """PNG with 256 colours, which no chart misses, at ever fewer dots an inch."""
    from PIL import Image

    for dpi in (150, 120, 100, 80, 60):
        png = to_png(figure, dpi, bbox_inches="tight", pad_inches=0.1)
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(png)) as picture:
            few = picture.convert("RGB").quantize(dither=Image.Dither.NONE)
            few.save(buffer, "png", optimize=True, dpi=(dpi, dpi))
        yield buffer.getvalue()
