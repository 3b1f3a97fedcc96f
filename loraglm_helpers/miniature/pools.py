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


@cache
def common_characters() -> tuple[str, ...]:
    """Chinese characters in common use."""
    return tuple("".join(read_sections("characters")["characters"]))


@cache
def english_words() -> tuple[str, ...]:
    """The English words of all topics."""
    sections = read_sections("words").items()
    lines = [line for topic, lines in sections if topic.isascii() for line in lines]
    return tuple(word for line in lines for word in line.split(",") if word)
