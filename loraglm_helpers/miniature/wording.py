"""The wording of marked texts: choices, damage, and sentences put into somebody's mouth.

A marked text has OPEN and CLOSE around every name and value; `plain` takes them away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .pools import common_characters, english_words

_CHOICE = re.compile(r"<([^<>]*)>")
OPEN, CLOSE = "\ue000", "\ue001"  # private-use characters, which no pattern contains
_MARKED = re.compile(f"({OPEN}[^{CLOSE}]*{CLOSE})")
_REPORT = re.compile(r"(\{sentence\}|\{clause\})")


def plain(marked: str) -> str:
    """The text without its marks."""
    return marked.replace(OPEN, "").replace(CLOSE, "")


def chosen(pattern: str, choose: Callable[[list[str]], str]) -> str:
    """The pattern with one alternative of each `<a|b>`, picked by `choose`."""
    return _CHOICE.sub(lambda match: choose(match.group(1).split("|")), pattern)


def choices(pattern: str) -> int:
    """How many choices the pattern leaves."""
    return len(_CHOICE.findall(pattern))


def damaged(marked: str, language: str, share: float, rng: random.Random) -> str:
    """The text with about `share` of its wording lost or replaced; names and values stay whole.

    Characters in Chinese, words in English. Who reads such texts cannot lean on one turn of phrase.
    """
    if language == "zh":
        units, others = re.compile(r"\w"), common_characters()
    else:
        units, others = re.compile(r"\w+"), english_words()

    def unit(match: re.Match[str]) -> str:
        if rng.random() >= share:
            return match.group()
        return "" if rng.random() < 0.5 else rng.choice(others)

    parts = _MARKED.split(marked)
    parts[::2] = [re.sub(" +", " ", units.sub(unit, part)) for part in parts[::2]]
    return "".join(parts)


def reportable(marked: str) -> bool:
    """Whether this is one sentence without quotation marks, which can be quoted as a whole."""
    text = plain(marked)
    return text[-1] in "。." and not re.search(r"[“”\"。！？!?]|\. ", text[:-1])


def reported(frame: str, marked: str, fill: Callable[[str], str]) -> str:
    """The sentence within a frame such as `{?person}说，{clause}。`, whose slots `fill` fills.

    `{sentence}` is the whole sentence, `{clause}` the same without its full stop and without a
    capital that only the beginning of an English sentence asks for.
    """
    before, slot, after = _REPORT.split(frame)
    if slot == "{clause}":
        marked = marked[:-1]
        if before and re.match(r"[A-Z][a-z' ]", marked) and not re.match(r"I\b", marked):
            marked = marked[0].lower() + marked[1:]
    return fill(before) + marked + fill(after)
