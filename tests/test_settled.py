"""Text shown while it comes is never taken back, whatever ids follow."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import CORPUS, train_tokenizer

from loraglm_helpers.chatglm_tokenizer import SPECIAL_TOKENS, read_pieces
from loraglm_helpers.settled import BROKEN, settled_text
from loraglm_helpers.tokenizer import load_tokenizer

# Parts of an answer: whole characters, single bytes of them, and bytes that occur nowhere.
texts = st.sampled_from(["好", "饕餮", "\U0001f9ea", "é", " x", "a", "年利率", BROKEN, "\n"])
loose = st.lists(st.sampled_from([0xE5, 0xA5, 0xBD, 0x80, 0xF0, 0x9F, 0xC3, 0xFF]), max_size=4)
parts = st.lists(st.one_of(texts, loose, st.just("special")), max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("tok")).parent


@pytest.fixture(scope="module")
def by_pieces(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def by_bytes(tmp_path_factory):
    """A byte-level tokenizer as GLM-4's, with pieces that end inside a character."""
    folder = tmp_path_factory.mktemp("glm4")
    pieces = [bytes([byte]) for byte in range(256)] + [b"\xe5\xa5", b"a\xe5", b"\xbd\xf0"]
    lines = [f"{base64.b64encode(piece).decode()} {i}" for i, piece in enumerate(pieces)]
    (folder / "tokenizer.model").write_text("\n".join(lines))
    names = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>")
    added = {str(len(pieces) + i): {"content": name} for i, name in enumerate(names)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return load_tokenizer(folder)


def ids_of(part, tokenizer) -> list[int]:
    if part == "special":
        return [tokenizer.convert_tokens_to_ids("<|user|>")]
    if isinstance(part, str):
        return tokenizer.encode(part, add_special_tokens=False)
    byte_level = tokenizer.convert_tokens_to_ids("<0x00>") is None
    return part if byte_level else tokenizer.convert_tokens_to_ids([f"<0x{b:02X}>" for b in part])


@pytest.mark.parametrize("kind", ["by_pieces", "by_bytes"])
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(parts=parts)
@example(parts=[[0xE5, 0xA5, 0xBD], [0x80]])
@example(parts=["好", [0x80] * 4, [0xE5], [0xA5], [0xBD], "a"])
def test_what_was_shown_is_never_taken_back(request, kind, parts):
    tokenizer = request.getfixturevalue(kind)
    ids = [i for part in parts for i in ids_of(part, tokenizer)]
    shown = ""
    for count in range(len(ids) + 1):
        text = settled_text(tokenizer, ids[:count])
        assert text.startswith(shown)
        shown = text


@settings(max_examples=300, deadline=None)
@given(parts=parts)
def test_wrong_bytes_are_read_as_by_sentencepiece(by_pieces, folder, parts):
    pieces = read_pieces(folder / "tokenizer.model")
    parts = [*[part for part in parts if part != "special"], "a"]  # "a": nothing stays unfinished
    ids = [i for part in parts for i in ids_of(part, by_pieces)]
    assert settled_text(by_pieces, ids) == pieces.decode(ids)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, len(CORPUS)), kind=st.sampled_from(["by_pieces", "by_bytes"]))
def test_whole_texts_come_back_whole(by_pieces, by_bytes, start, kind):
    tokenizer = by_pieces if kind == "by_pieces" else by_bytes
    text = CORPUS[start : start + 40] + "饕"
    assert settled_text(tokenizer, tokenizer.encode(text, add_special_tokens=False)) == text


def test_unfinished_characters_and_special_tokens_are_left_out(by_pieces):
    assert settled_text(by_pieces, []) == ""
    ids = by_pieces.encode("x饕", add_special_tokens=False)
    gmask = by_pieces.convert_tokens_to_ids(SPECIAL_TOKENS[1])
    assert [settled_text(by_pieces, ids[: len(ids) - n]) for n in range(3)] == ["x饕", "x", "x"]
    assert settled_text(by_pieces, [gmask, *ids, 2]) == "x饕"
    assert settled_text(by_pieces, [by_pieces.convert_tokens_to_ids("<0x80>")] * 6) == BROKEN * 6
