"""How dialogue turns become prompt ids, and how a prompt that is too long is shortened.

Text is always encoded as plain text: a "[gMASK]" or "<|user|>" typed by a user is never turned
into the special token of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

Context = str | Sequence[Mapping[str, str]]


def encode(text: str, tokenizer: Any, plain: bool = True) -> list[int]:
    """Ids of a text alone; names of special tokens in it are plain text unless ``plain`` is off."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)


def special_id(tokenizer: Any, name: str) -> int:
    """Id of a special token; ValueError when the tokenizer has none of that name."""
    found = tokenizer.convert_tokens_to_ids(name)
    if found is None or found == getattr(tokenizer, "unk_token_id", None):
        raise ValueError(f"the tokenizer has no {name!r} token: choose the layout of its family")
    return found


def as_messages(context: Context) -> list[Mapping[str, str]]:
    """A text as one user message; messages unchanged."""
    return [{"role": "user", "content": context}] if isinstance(context, str) else list(context)


def rounds(messages: Sequence[Mapping[str, str]]) -> str:
    """ChatGLM2's dialogue text: ``[Round 1]⏎⏎问：…⏎⏎答：`` and so on; the last 答 stays open."""
    text, number = "", 0
    for message in messages:
        if message["role"] == "system":
            text += message["content"] + "\n\n"
        elif message["role"] == "assistant":
            text += message["content"] + "\n\n"
        else:
            number += 1
            text += f"[Round {number}]\n\n问：{message['content']}\n\n答："
    return text


def cue_length(text: str, ids: Sequence[int], tokenizer: Any, most: int) -> int:
    """How many of the last ids spell the text's last line, its newline included ("⏎Answer: ").

    0 where they are more than ``most``: each count is decoded anew, so none is tried in vain.
    """
    _, newline, line = text.rstrip().rpartition("\n")
    cue = newline + line
    for count in range(1, min(most, len(cue) + 8) + 1):
        if cue in tokenizer.decode(ids[-count:], skip_special_tokens=False):
            return count
    return 0


def encode_within(text: str, tokenizer: Any, room: int | None) -> list[int]:
    """Ids of a text, at most ``room``: what is dropped stood just before the text's last line.

    A last line of more than half the room is no cue but content, and is cut in its middle.
    """
    ids = encode(text, tokenizer)
    if room is None or len(ids) <= room:
        return ids
    if room < 2:
        raise ValueError(f"{room} tokens are no room for a context: raise max_source_seq_len")
    half = room // 2
    return cut(ids, room, cue_length(text, ids, tokenizer, half) or half)


def cut(ids: list[int], room: int, tail: int) -> list[int]:
    """The first ``room - tail`` ids and the last ``tail``."""
    return ids[: room - tail] + ids[len(ids) - tail :] if len(ids) > room else ids


def chatglm3_prompt(context: Context, tokenizer: Any, limit: int | None = None) -> list[int]:
    """``[gMASK] sop``, then ``<|role|> ⏎ content`` a message, then ``<|assistant|> ⏎``.

    Each part is encoded for itself, as in the pre-training. ``limit`` shortens the longest
    contents, each just before its last line.
    """
    messages = as_messages(context)
    newline = encode("\n", tokenizer)
    roles = [special_id(tokenizer, f"<|{message['role']}|>") for message in messages]
    fixed = 2 + (1 + len(newline)) * (len(messages) + 1)
    contents = fit([message["content"] for message in messages], tokenizer, limit, fixed)
    ids = [special_id(tokenizer, "[gMASK]"), special_id(tokenizer, "sop")]
    for role, content in zip(roles, contents, strict=True):
        ids += [role, *newline, *content]
    return [*ids, special_id(tokenizer, "<|assistant|>"), *newline]


def fit(texts: list[str], tokenizer: Any, limit: int | None, fixed: int) -> list[list[int]]:
    """Ids of each text; the longest is shortened until all and ``fixed`` more are ``limit``."""
    parts = [encode(text, tokenizer) for text in texts]
    while limit is not None and (over := fixed + sum(map(len, parts)) - limit) > 0:
        *_, second, (length, index) = [(0, -1), *sorted((len(p), i) for i, p in enumerate(parts))]
        room = max(length - over, min(second[0], length - 1))
        parts[index] = encode_within(texts[index], tokenizer, room)
    return parts


def template_prompt(context: Context, tokenizer: Any, limit: int | None = None) -> list[int]:
    """The checkpoint's own chat template, up to and including its cue for the assistant.

    The template is rendered around marks, so that only its own text is read for special tokens
    and every content stays plain. Raises ValueError for a message that the template leaves out.
    """
    messages = [dict(message) for message in as_messages(context)]
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    shell = [m | {"content": mark} for m, mark in zip(messages, marks, strict=True)]
    rest = render(shell, tokenizer, add_generation_prompt=True)
    frame = []
    for mark, message in zip(marks, messages, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ValueError(
                f"layout 'chat_template': the template leaves out, or moves, the message of role "
                f"{message['role']!r}; drop such messages, or choose another layout"
            )
        frame.append(encode(before, tokenizer, plain=False))
    end = encode(rest, tokenizer, plain=False)
    fixed = len(end) + sum(map(len, frame))
    contents = fit([message["content"] for message in messages], tokenizer, limit, fixed)
    turns = zip(frame, contents, strict=True)
    return [i for before, content in turns for i in before + content] + end


def template_target(target: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of an answer as the template writes it after its cue, and the end: the eos id."""
    user, mark = {"role": "user", "content": "?"}, "\ue000"
    prompt = render([user], tokenizer, add_generation_prompt=True)
    turn = render([user, {"role": "assistant", "content": mark}], tokenizer, False)
    lead = turn[len(prompt) :].partition(mark)[0] if turn.startswith(prompt) else ""
    ids = encode(lead, tokenizer, plain=False) + encode(target, tokenizer)
    return ids, [tokenizer.eos_token_id]


def render(messages: list[dict], tokenizer: Any, add_generation_prompt: bool) -> str:
    """The template's text for these messages; ValueError where there is none, or it refuses."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("layout 'chat_template': this tokenizer has no chat template")
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        raise ValueError(f"layout 'chat_template': the template refuses: {error}") from error
