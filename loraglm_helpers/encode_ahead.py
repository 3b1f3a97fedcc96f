"""Rows to examples, thousands at a time: the texts of many rows are encoded in one call.

``build_examples`` stays the only builder. It is given a tokenizer that knows the ids of the rows'
texts already, and asks the real one for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .chat_layouts import rounds
from .data import Row, about_line
from .sequences import Example, Layout, answered_turns, build_examples
from .tokenizer import encode_many

ROWS_AT_ONCE = 4096
PLAIN = {"add_special_tokens": False, "split_special_tokens": True}


class EncodedAhead:
    """A tokenizer that has encoded ``texts`` as plain text; all else is ``tokenizer``'s own."""

    def __init__(self, tokenizer: Any, texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        unique = list(dict.fromkeys(texts))
        self._ids = dict(zip(unique, encode_many(tokenizer, unique), strict=True))
        self._special: dict[str, int | None] = {}
        self.unk_token_id = getattr(tokenizer, "unk_token_id", None)  # both slow to look up
        self.eos_token_id = tokenizer.eos_token_id

    def encode(self, text: str, **options: Any) -> list[int]:
        """Ids of a text, the very ones that the tokenizer would give."""
        if options != PLAIN:
            return self._tokenizer.encode(text, **options)
        if text not in self._ids:
            self._ids[text] = self._tokenizer.encode(text, **options)
        return list(self._ids[text])

    def convert_tokens_to_ids(self, name: str) -> int | None:
        """Id of a token."""
        if name not in self._special:
            self._special[name] = self._tokenizer.convert_tokens_to_ids(name)
        return self._special[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def examples_of(
    rows: Iterable[Row],
    file: str | Path,
    tokenizer: Any,
    layout: str,
    max_source: int,
    max_target: int,
) -> Iterator[Example]:
    """``build_examples`` of each row of ``file`` in turn; a few thousand in memory at a time.

    Raises DataError with the place of a row that cannot be built.
    """
    waiting = iter(rows)
    while chunk := list(islice(waiting, ROWS_AT_ONCE)):
        ahead = EncodedAhead(tokenizer, (text for row in chunk for text in texts_of(row, layout)))
        for row in chunk:
            with about_line(file, row.line):
                examples = build_examples(row, ahead, layout, max_source, max_target)
            yield from examples


def texts_of(row: Any, layout: str) -> Sequence[str]:
    """The texts that ``build_examples`` encodes for a row."""
    texts = []
    for context, answer in answered_turns(row):
        if isinstance(context, str):
            texts.append(context)
        elif layout in (Layout.GLM, Layout.CHATGLM2):
            texts.append(rounds(context))
        else:
            texts += [message["content"] for message in context]
        texts.append(answer)
    return texts
