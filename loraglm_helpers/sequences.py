"""Token sequences: a layout orders context, special tokens and target; labels mark the target.

    glm           context [gMASK] sop | target eos
    chatglm2      [gMASK] sop context | target eos
    chatglm3      [gMASK] sop <|user|> ⏎ text <|assistant|> ⏎ | target eos
    chat_template the checkpoint's own template                | target …

Everything left of the bar is the prompt. Its labels are -100 (no loss); the target's labels are
its own ids, and the model shifts them by one inside. One builder makes the prompt for training,
evaluation, generation and the playground.

In a dialogue every assistant turn is a target, and each is learnt after the very ids that stand
before it when the model is asked. Turns share a sequence where that holds in it:

    ids      [gMASK] sop <|user|> ⏎ q <|assistant|> ⏎ a1 b1  <|user|> ⏎ … <|assistant|> ⏎ a2 eos
    labels                                            a1 b1  eos      –                   a2 eos
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from . import chat_layouts
from .chat_layouts import Context

IGNORED = -100


class Layout(StrEnum):
    """The order of context, special tokens and target that a GLM was pre-trained for."""

    GLM = "glm"
    CHATGLM2 = "chatglm2"
    CHATGLM3 = "chatglm3"
    CHAT_TEMPLATE = "chat_template"


@dataclass(frozen=True)
class Example:
    """One training sequence: ``input_ids`` and ``labels`` of one length, unpadded."""

    input_ids: list[int]
    labels: list[int]


def format_context(instruction: str, input_text: str = "") -> str:
    """The seed's context: instruction, input (its line is left out when empty) and the cue."""
    middle = f"Input: {input_text}\n" if input_text else ""
    return f"Instruction: {instruction}\n{middle}Answer: "


def build_prompt(
    context: Context,
    tokenizer: Any,
    layout: str = "glm",
    max_source_seq_len: int | None = None,
) -> list[int]:
    """Every id before the first target token, special tokens included.

    ``context`` is a text, or messages ``{"role": ..., "content": ...}`` of which the last is the
    one to be answered. A prompt longer than ``max_source_seq_len`` loses tokens just before its
    last line, so the instruction at the front and the answer cue at the end both stay.
    Raises ValueError for an unknown layout or a limit that leaves no room.
    """
    layout = Layout(layout)
    if layout is Layout.CHATGLM3:
        return chat_layouts.chatglm3_prompt(context, tokenizer, max_source_seq_len)
    if layout is Layout.CHAT_TEMPLATE:
        return chat_layouts.template_prompt(context, tokenizer, max_source_seq_len)
    text = context if isinstance(context, str) else chat_layouts.rounds(context)
    start = [chat_layouts.special_id(tokenizer, name) for name in ("[gMASK]", "sop")]
    room = None if max_source_seq_len is None else max_source_seq_len - len(start)
    ids = chat_layouts.encode_within(text, tokenizer, room)
    return ids + start if layout is Layout.GLM else start + ids


def build_target(
    target: str, tokenizer: Any, layout: str = "glm", max_target_seq_len: int | None = None
) -> list[int]:
    """The target's ids and eos; a longer one is cut so that eos is always the last id."""
    if Layout(layout) is Layout.CHAT_TEMPLATE:
        ids, end = chat_layouts.template_target(target, tokenizer)
    else:
        ids, end = chat_layouts.encode(target, tokenizer), [tokenizer.eos_token_id]
    if max_target_seq_len is not None:
        if max_target_seq_len <= len(end):
            raise ValueError(f"max_target_seq_len {max_target_seq_len} leaves no room for a target")
        ids = ids[: max_target_seq_len - len(end)]
    return ids + end


def context_and_target(row: Any) -> tuple[Context, str]:
    """What a row asks and answers; in ``messages`` the last assistant turn is the answer."""
    messages = getattr(row, "messages", None)
    if not messages:
        return row.context, row.target
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, row.target


def build_example(
    row: Any,
    tokenizer: Any,
    layout: str = "glm",
    max_source_seq_len: int | None = 400,
    max_target_seq_len: int | None = 300,
) -> Example:
    """A row as ids and labels; labels are -100 on the prompt, then the target's ids and eos.

    The limits count special tokens: no example is longer than their sum. Of a dialogue this is
    the last sequence of ``build_examples``.
    """
    return build_examples(row, tokenizer, layout, max_source_seq_len, max_target_seq_len)[-1]


def build_examples(
    row: Any,
    tokenizer: Any,
    layout: str = "glm",
    max_source_seq_len: int | None = 400,
    max_target_seq_len: int | None = 300,
) -> list[Example]:
    """A row as the sequences that hold each of its assistant turns once as a target.

    An example for most rows. In a dialogue a turn shares the next one's sequence when its ids
    are the beginning of that; its eos is then a label only, for the next role stands there. In
    the rounds of glm and chatglm2, which are one text, an answer lacks the "▁" that it began with
    when it was given: there each turn has a sequence of its own.
    """
    examples: list[Example] = []
    for context, answer in answered_turns(row):
        prompt = build_prompt(context, tokenizer, layout, max_source_seq_len)
        target = build_target(answer, tokenizer, layout, max_target_seq_len)
        labels = [IGNORED] * len(prompt)
        if examples and _begins(examples[-1], prompt):
            earlier = examples.pop().labels
            labels[: len(earlier)] = earlier
        examples.append(Example(prompt + target, labels + target))
    return examples


def answered_turns(row: Any) -> list[tuple[Context, str]]:
    """Every question of a row with its answer: one, or one an assistant turn of a dialogue.

    What the assistant says before any user has spoken, such as a greeting, answers nothing.
    """
    messages = getattr(row, "messages", None) or ()
    roles = [message["role"] for message in messages]
    turns = [
        (messages[:at], messages[at]["content"])
        for at in range(len(messages) - 1)
        if roles[at] == "assistant" and "user" in roles[:at]
    ]
    return [*turns, context_and_target(row)]


def _begins(earlier: Example, prompt: list[int]) -> bool:
    """Whether a later turn's prompt goes on where an earlier example ended, its eos aside."""
    end = len(earlier.input_ids) - 1
    return len(prompt) > end and prompt[:end] == earlier.input_ids[:end]


def collate(
    examples: Sequence[Example], padding_free: bool = True, pad_token_id: int = 0
) -> dict[str, torch.Tensor]:
    """A batch of int64 tensors.

    ``padding_free``: ``input_ids``, ``position_ids`` and ``labels`` of shape (1, tokens), the
    examples end to end, positions counted from 0 in each. Otherwise (batch, longest) tensors
    padded on the right, with ``attention_mask``. The first label of an example is always -100:
    nothing stands before it to predict it from.
    """
    if not examples:
        raise ValueError("collate needs at least one example")
    if padding_free:
        return _concatenate(examples)
    longest = max(len(example.input_ids) for example in examples)
    pads = [longest - len(example.input_ids) for example in examples]
    pairs = list(zip(examples, pads, strict=True))
    return {
        "input_ids": torch.tensor([e.input_ids + [pad_token_id] * p for e, p in pairs]),
        "attention_mask": torch.tensor([[1] * (longest - p) + [0] * p for p in pads]),
        "labels": torch.tensor([_labels(e) + [IGNORED] * p for e, p in pairs]),
    }


def _concatenate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[i for e in examples for i in e.input_ids]]),
        "position_ids": torch.cat([torch.arange(len(e.input_ids)) for e in examples])[None],
        "labels": torch.tensor([[i for e in examples for i in _labels(e)]]),
    }


def _labels(example: Example) -> list[int]:
    return [IGNORED, *example.labels[1:]]
