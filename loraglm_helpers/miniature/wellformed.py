"""Is a continued sentence one of the world's? Judged by matching it against the patterns."""

from __future__ import annotations

import re
from functools import cache

from .schema import KINDS, RELATIONS
from .world import patterns

# What a slot may hold, by the generator of its values; names proper may hold any short text.
_TYPED = {
    ("zh", "year"): r"\d{4}年",
    ("zh", "minutes"): r"\d{2,3}分钟",
    ("zh", "pages"): r"\d{2,3}页",
    ("zh", "people"): r"[\d.]+万?人",
    ("zh", "price"): r"\d+元",
    ("zh", "small price"): r"\d+元",
    ("zh", "weight"): r"[\d.]+(克|公斤)",
    ("zh", "length"): r"\d分\d{1,2}秒",
    ("zh", "metres"): r"\d+米",
    ("zh", "floors"): r"\d+层",
    ("zh", "date"): r"\d{1,2}月\d{1,2}日",
    ("zh", "number"): r"\d{1,3}",
    ("en", "year"): r"\d{4}",
    ("en", "minutes"): r"\d{2,3} minutes",
    ("en", "pages"): r"\d{2,3} pages",
    ("en", "people"): r"[\d,]+",
    ("en", "price"): r"\$\d+",
    ("en", "small price"): r"\$\d+",
    ("en", "weight"): r"\d+ g",
    ("en", "length"): r"\d:\d{2}",
    ("en", "metres"): r"\d+ m",
    ("en", "floors"): r"\d+ floors",
    ("en", "date"): r"[A-Z][a-z]+ \d{1,2}",
    ("en", "number"): r"\d{1,3}",
}
_NAME = {"zh": r"[^，。！？“”《》、；]{1,16}", "en": r"[A-Za-z0-9'’ -]{1,40}"}


def _slot(language: str, kind: str, slot: str) -> str:
    if slot == "S":
        return _NAME[language]
    values = slot[1:] if slot.startswith("?") else RELATIONS[language, kind, slot].objects
    return _TYPED.get((language, values), _NAME[language])


def as_regex(text: str) -> str:
    """A regular expression for literal text and the choices in it (see `world`)."""
    return re.escape(text).translate({ord("<"): "(?:", ord(">"): ")"}).replace(r"\|", "|")


@cache
def _regexes(language: str) -> tuple[re.Pattern[str], ...]:
    found = []
    for kind in KINDS:
        for pattern in dict.fromkeys(patterns(language, kind, "pretrain")):
            parts = re.split(r"\{([^}]+)\}", pattern.text)
            regex = "".join(
                _slot(language, kind, part) if i % 2 else as_regex(part)
                for i, part in enumerate(parts)
            )
            found.append(re.compile(regex))
    return tuple(found)


def well_formed(text: str, language: str) -> bool:
    """Whether `text` begins with a whole sentence of some pre-training pattern."""
    return any(regex.match(text) for regex in _regexes(language))
