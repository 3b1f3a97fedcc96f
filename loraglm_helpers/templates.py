"""A checkpoint's chat template, in the two places that transformers keeps it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .weight_files import read_json
from .whole_file import write_text

FILE, SETTINGS, KEY = "chat_template.jinja", "tokenizer_config.json", "chat_template"


def read_template(folder: Path) -> str | None:
    """The template of a folder, of several the default one; None where there is none.

    chat_template.jinja goes before tokenizer_config.json. Raises CheckpointError for damaged JSON.
    """
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    template = read_json(folder / SETTINGS).get(KEY) if (folder / SETTINGS).is_file() else None
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template


def save_template(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's template, unless the folder tells it already."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template and template != read_template(folder):
        write_text(folder / FILE, template)
