"""Ids to text that stays as it is when more ids follow, so that it can be shown while it comes.

    ids    … x   <0xE5> <0xA5>   <0xBD>          <0x80>  y
    text   … x   (held back)     好  — shown     �       y

Byte-fallback pieces give one character in up to four ids. `tokenizers` decodes a run of such
pieces as a whole: one byte that fits nowhere turns every character of the run, shown or not, into
replacement characters. Here only the bytes that fit nowhere do, one each, as in SentencePiece.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # what stands in a decoded text for bytes that make no character
BYTE_PIECES = {f"<0x{value:02X}>": bytes([value]) for value in range(256)}


def settled_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids without special tokens, up to a last character whose bytes are not all there.

    The text of ids is the beginning of the text of the same ids and more.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    if BYTE_PIECES.keys() & set(pieces):
        return _decode(tokenizer, _with_whole_characters(tokenizer, ids, pieces))
    text = _decode(tokenizer, ids)
    if tokenizer.convert_tokens_to_ids("<0x00>") not in (None, tokenizer.unk_token_id):
        return text
    # A byte-level tokenizer: what is not all there yet is decoded to one replacement character.
    return text.removesuffix(BROKEN)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    # Cleaned-up spaces would take back a space that was shown before a full stop came.
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _with_whole_characters(tokenizer: Any, ids: Sequence[int], pieces: list[str]) -> list[int]:
    """The ids with each run of bytes made valid UTF-8, an unfinished character at the end left out.

    Bytes that make no character are exchanged for those of the replacement character.
    """
    waiting = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    made: list[int] = []
    for index, piece in zip(ids, pieces, strict=True):
        if piece in BYTE_PIECES:
            made += _byte_ids(tokenizer, waiting.decode(BYTE_PIECES[piece]))
        else:
            made += [*_byte_ids(tokenizer, waiting.decode(b"", final=True)), index]
    return made


def _byte_ids(tokenizer: Any, text: str) -> list[int]:
    """A decoded text as byte pieces; escaped bytes as replacement characters."""
    whole = re.sub("[\udc80-\udcff]", BROKEN, text).encode()
    return [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in whole]
