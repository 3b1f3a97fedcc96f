"""What makes a parsed line of JSON a row, and what is said of one that is none."""

from __future__ import annotations

from typing import Any

ROLES = ("system", "user", "assistant", "observation", "tool")


def row_problem(fields: Any) -> tuple[str, str] | None:
    """Field and reason for which a parsed line is no row; None for a good one."""
    if not isinstance(fields, dict):
        return "", f"{_kind(fields)} instead of an object with context and target"
    if "messages" in fields:
        if "context" in fields or "target" in fields:
            return "messages", "beside context or target: a row has one form or the other"
        return _messages_problem(fields["messages"])
    for name in ("context", "target"):
        if name not in fields:
            return name, f"missing; this line has {', '.join(fields) or 'no fields'}"
        problem = _text_problem(fields[name])
        if problem:
            return name, problem
    return None


def _messages_problem(messages: Any) -> tuple[str, str] | None:
    if not isinstance(messages, list) or not messages:
        return "messages", "a list of {role, content} objects wanted"
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            return where, "an object with role and content wanted"
        if message["role"] not in ROLES:
            return f"{where}.role", f"{message['role']!r}; one of {', '.join(ROLES)} wanted"
        problem = _text_problem(message["content"])
        if problem:
            return f"{where}.content", problem
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant":
        return f"messages[{len(roles) - 1}].role", f"{roles[-1]!r} is last; assistant wanted"
    return None if "user" in roles[:-1] else ("messages", "no user turn before the answer")


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{_kind(value)} instead of a text"
    return None if value.strip() else "empty"


def surrogate_problem(fields: dict[str, Any]) -> tuple[str, str] | None:
    """Half of a \\u pair is no character: no tokenizer can encode it."""
    parts = {name: fields[name] for name in ("context", "target") if name in fields}
    for index, message in enumerate(fields.get("messages", ())):
        parts[f"messages[{index}].content"] = message["content"]
    for name, text in parts.items():
        if any("\ud800" <= character <= "\udfff" for character in text):
            return name, "half of a surrogate pair (\\ud800 to \\udfff), which is no character"
    return None


def _kind(value: Any) -> str:
    words = {bool: "true or false", type(None): "null", list: "a list", dict: "an object"}
    return words.get(type(value), "a text" if isinstance(value, str) else "a number")
