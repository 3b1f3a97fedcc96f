"""A warning when the layout chosen is not the one a checkpoint was trained for.

A wrong layout raises no error: the model is asked in an order of special tokens that it has never
seen, answers worse, and the fine-tuning has to teach it the order first.

    checkpoint                                     its own layout
    ChatGLM2-6B, -32k                              chatglm2
    ChatGLM3-6B, -32k                              chatglm3
    ChatGLM3-6B-base, a renamed one of the two     chatglm2 or chatglm3
    GLM-4, GLM-Edge and newer, with a template     chat_template
    any other, such as the miniature               not known: no warning

The config's ``_name_or_path`` tells ChatGLM2 from ChatGLM3, else the folder's name together with
their vocabulary of 65,024 rows; everything else about the two is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .locate import local_folder
from .official_config import is_official
from .sequences import Layout
from .templates import read_template
from .weight_files import read_json

CHATGLM_VOCABULARY = 65024
BOTH = (Layout.CHATGLM2, Layout.CHATGLM3)


class LayoutWarning(UserWarning):
    """The layout chosen is not the checkpoint's own."""


def own_layouts(model_config: Any, tokenizer: Any = None, name: str = "") -> tuple[Layout, ...]:
    """The layouts that a checkpoint was trained for; empty when nothing tells.

    ``model_config`` is the native configuration, ``name`` the checkpoint's folder or hub name.
    """
    official = getattr(model_config, "chatglm", None) or {}
    return _layouts(official, bool(getattr(tokenizer, "chat_template", None)), name)


def folder_layouts(path: str | Path) -> tuple[Layout, ...]:
    """``own_layouts`` of a folder or hub name, from its small files alone."""
    folder = local_folder(path, weights=False)
    config = read_json(folder / "config.json")
    official = config if is_official(config) else config.get("chatglm", {})
    template = bool(read_template(folder))
    return _layouts(official, template, f"{path} {folder.resolve().name}")


def _layouts(official: dict[str, Any], template: bool, name: str) -> tuple[Layout, ...]:
    published = official.get("padded_vocab_size") == CHATGLM_VOCABULARY
    for text in (official.get("_name_or_path") or "", name if published else ""):
        if "chatglm3" in text.lower():
            return BOTH if "-base" in text.lower() else (Layout.CHATGLM3,)
        if "chatglm2" in text.lower():
            return (Layout.CHATGLM2,)
    if published:
        return BOTH
    return (Layout.CHAT_TEMPLATE,) if template else ()


def layout_problem(layout: str, own: Sequence[str]) -> str:
    """What is wrong with a layout for a checkpoint of these own ones, and what to set; "" if fine.

    Nothing is wrong where ``own`` is empty: it is not known.
    """
    if not own or Layout(layout) in own:
        return ""
    which = " or ".join(repr(str(one)) for one in own)
    return (
        f"layout is {str(layout)!r}, but this checkpoint was trained for {which}: set "
        f"layout={str(own[0])!r}, or it has to learn another order of special tokens first"
    )


def warn_of_layout(config: Any, model: Any, tokenizer: Any) -> None:
    """Warn (LayoutWarning) when ``config.layout`` is not the own layout of ``model``."""
    own = own_layouts(model.config, tokenizer, str(config.pre_model))
    problem = layout_problem(config.layout, own)
    if problem:
        warnings.warn(problem, LayoutWarning, stacklevel=3)
