"""Reads the text files under patterns/: sections of lines, `[section]` above, `#` comments."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "patterns"


@cache
def read_sections(name: str) -> dict[str, tuple[str, ...]]:
    """The lines of patterns/`name`.txt by section; ValueError for a line above any section."""
    path = FOLDER / f"{name}.txt"
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif current is None:
            raise ValueError(f"{path.name}:{number}: a line stands above the first [section]")
        else:
            current.append(line)
    return {section: tuple(lines) for section, lines in sections.items()}


@cache
def pool(language: str, name: str) -> tuple[str, ...]:
    """The comma-separated words of one pool in patterns/names_zh.txt or names_en.txt."""
    lines = read_sections(f"names_{language}")[name]
    return tuple(word for line in lines for word in line.split(",") if word)
