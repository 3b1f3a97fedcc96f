from __future__ import annotations

import base64
import json
from collections import Counter

import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import CORPUS
from transformers import AutoTokenizer

from loraglm_helpers.checkpoints import save_official
from loraglm_helpers.glm4_tokenizer import PATTERN
from loraglm_helpers.tiny_family import random_model
from loraglm_helpers.tokenizer import TokenizerError, encode_many, load_tokenizer

SPECIAL = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>")
TEMPLATE = "[gMASK]<sop>{% for m in messages %}<|user|>\n{{ m['content'] }}{% endfor %}"


def learn_ranks(count: int) -> dict[bytes, int]:
    """Byte-pair ranks learnt from the corpus: 256 bytes, then the commonest pairs in turn."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([b]) for b in w.encode()] for w in regex.findall(PATTERN, CORPUS)]
    while len(ranks) < count:
        pairs = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks.setdefault(b"".join(best), len(ranks))
        words = [join(word, best) for word in words]
    return ranks


def join(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    joined: list[bytes] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def encode_by_hand(text: str, ranks: dict[bytes, int]) -> list[int]:
    """The published rule: in each word join the neighbours of lowest rank until none is known."""
    ids = []
    for found in regex.findall(PATTERN, text):
        word = [bytes([byte]) for byte in found.encode()]
        while len(word) > 1:
            known = [
                (ranks.get(a + b, 1 << 30), i)
                for i, (a, b) in enumerate(zip(word, word[1:], strict=False))
            ]
            rank, at = min(known)
            if rank == 1 << 30:
                break
            word[at : at + 2] = [word[at] + word[at + 1]]
        ids += [ranks[piece] for piece in word]
    return ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, ranks = tmp_path_factory.mktemp("glm4"), learn_ranks(400)
    lines = [f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
    added = {str(len(ranks) + i): {"content": name} for i, name in enumerate(SPECIAL)}
    settings_ = {"added_tokens_decoder": added, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


@settings(max_examples=500, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        st.text(sorted(set(CORPUS)), max_size=60),
        st.integers(0, len(CORPUS)).map(lambda at: CORPUS[at : at + 60]),
        st.text(" \t\n\r'sST0129a，的", max_size=30),
    )
)
def test_ids_follow_the_published_rule(folder, text):
    assume(not any(name in text for name in SPECIAL))
    tokenizer, ranks = load_cached(folder)
    assert tokenizer.encode(text, add_special_tokens=False) == encode_by_hand(text, ranks)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


_cache: dict = {}


def load_cached(folder):
    if folder not in _cache:
        _cache[folder] = (load_tokenizer(folder), learn_ranks(400))
    return _cache[folder]


def test_special_tokens_start_and_chat_template(folder):
    tokenizer, _ = load_cached(folder)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(400, 407))
    assert tokenizer.encode("a")[:2] == [402, 404]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (
        400,
        400,
        "left",
    )
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "贷款"}], return_dict=False)
    assert ids[:3] == [402, 404, 406]
    assert encode_many(tokenizer, ["a", "b"]) == [
        tokenizer.encode(text, add_special_tokens=False) for text in ("a", "b")
    ]
    assert not set(encode_many(tokenizer, ["a<|user|>"])[0]) & set(range(400, 407))


def test_saved_tokenizer_reloads(folder, tmp_path):
    tokenizer, _ = load_cached(folder)
    tokenizer.save_pretrained(tmp_path)
    for again in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert again.encode("贷款 it's 1234\n") == tokenizer.encode("贷款 it's 1234\n")
        assert again.chat_template == TEMPLATE


def test_the_published_files_go_into_the_official_layout(folder, tmp_path):
    tokenizer, _ = load_cached(folder)
    model = random_model("chatglm3", rows=len(tokenizer))
    out = save_official(model, tokenizer, tmp_path / "out")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert {file.name for file in out.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json",
    }  # fmt: skip
    assert load_tokenizer(out).encode("贷款 it's") == tokenizer.encode("贷款 it's")
    assert load_tokenizer(out).chat_template == TEMPLATE


def test_a_damaged_line_is_named(folder, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nnot base64 !\n")
    with pytest.raises(TokenizerError, match="tokenizer.model:2"):
        load_tokenizer(tmp_path)
