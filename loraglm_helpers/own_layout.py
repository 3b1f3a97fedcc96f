"""Which layout a checkpoint was trained for: what to use, and a word when another one is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .locate import local_folder
from .weight_files import read_json

CHATGLM_VOCABULARY = 65024  # ChatGLM2 and ChatGLM3


def own_layouts(path: str | Path) -> tuple[str, ...]:
    """The layouts of a checkpoint's own training, the one to use first.

    By its config.json and name: ChatGLM2 and ChatGLM3 have the same sizes. The miniature was
    pre-trained in two layouts.
    """
    folder = local_folder(path, weights=False)
    config = read_json(folder / "config.json")
    official: dict[str, Any] = config.get("chatglm", config)
    size = official.get("padded_vocab_size", config.get("vocab_size"))
    name = f"{Path(path).name} {official.get('_name_or_path', '')}".lower()
    if size == CHATGLM_VOCABULARY:
        return ("chatglm3",) if "chatglm3" in name else ("chatglm2",)
    if "padded_vocab_size" in official and size < CHATGLM_VOCABULARY:
        return ("glm", "chatglm2")
    return ("chat_template",)


def layout_warning(path: str | Path, layout: str) -> str | None:
    """What to say when ``layout`` is none of the checkpoint's own; None when it is one."""
    own = own_layouts(path)
    if layout in own:
        return None
    return (
        f"layout {layout!r} is not the one {path} was trained in ({' or '.join(own)}): "
        f"answers may be poor; set layout={own[0]}"
    )
