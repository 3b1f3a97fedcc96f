"""Values of settings: written as text, read by the setting's type, and checked.

``"False"`` is False, ``"none"`` is None where None is allowed, ``"q_proj,v_proj"`` is a list. The
same checks hold for values from Python, JSON and the command line.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable
from typing import Any, get_args, get_origin

TRUE, FALSE, NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null", "")
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list of texts",
    type(None): "none",
}


class ConfigError(ValueError):
    """A setting that cannot be; the message names the field, its value and what is allowed."""


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raise ConfigError unless ``value`` is of the annotated type ``kind``.

    A whole number passes as a float; True and False are no numbers, "False" is no truth value.
    """
    if not any(_is(value, member) for member in members(kind)):
        raise ConfigError(f"{name} is {value!r}; allowed: {describe(kind)}")


def parse(name: str, text: str, kind: Any) -> Any:
    """The value that ``text`` stands for in a setting of type ``kind``."""
    wanted, word = members(kind), text.strip()
    if type(None) in wanted and word.lower() in NONE:
        return None
    if bool in wanted and word.lower() in TRUE + FALSE:
        return word.lower() in TRUE
    if list in wanted and (word.startswith("[") or "," in word):
        return _parse_list(name, word)
    for number in (int, float):
        if number in wanted:
            try:
                return number(word)
            except ValueError:
                continue
    if str in wanted:
        return word
    raise ConfigError(f"{name}={text}: allowed: {describe(kind)}")


def split_setting(setting: str) -> tuple[str, str]:
    """Name and text of ``"key=value"``."""
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"setting {setting!r}: key=value wanted, for example lora_rank=16")
    return name.strip(), text


def unknown(name: str, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest names that do."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}"
    return ConfigError(f"{name!r} is no setting; {hint}")


def members(kind: Any) -> tuple[type, ...]:
    """The plain types of an annotation: ``str | list[str]`` → (str, list)."""
    parts = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return tuple(get_origin(part) or part for part in parts)


def describe(kind: Any) -> str:
    """The annotation in words."""
    return " or ".join(WORDS[member] for member in members(kind))


def _is(value: Any, member: type) -> bool:
    if isinstance(value, bool):
        return member is bool
    if member is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if member is list:
        return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return isinstance(value, member)


def _parse_list(name: str, word: str) -> list[str]:
    if not word.startswith("["):
        return [part.strip() for part in word.split(",") if part.strip()]
    try:
        return json.loads(word)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{name}={word}: not a JSON list ({error.msg}); write q_proj,v_proj or "
            '["q_proj", "v_proj"]'
        ) from error
