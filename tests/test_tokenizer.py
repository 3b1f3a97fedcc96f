from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import CORPUS, train_tokenizer
from tokenizers import AddedToken
from transformers import AutoTokenizer

from loraglm_helpers.chatglm_tokenizer import SPECIAL_TOKENS, merges, read_pieces
from loraglm_helpers.locate import ROOT
from loraglm_helpers.tokenizer import TokenizerError, encode_many, load_tokenizer

LOOK_ALIKES = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<unk>", "<s>", "</s>", "<pad>")
LOOK_ALIKES += ("<|user|>", "<|assistant|>", "<|system|>", "<0x0A>", "▁", "\u2581\u2581")

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
spaces = st.text(" \t\n\r\u3000\u00a0\u2003\u200b\x00\x85", min_size=1, max_size=12)
known = st.text(sorted(set(CORPUS)), max_size=60)
slices = st.tuples(st.integers(0, len(CORPUS)), st.integers(0, 80)).map(
    lambda at: CORPUS[at[0] : at[0] + at[1]]
)
repeats = st.tuples(st.sampled_from("ae的0 \n是🙂"), st.integers(1, 40)).map(lambda p: p[0] * p[1])
parts = st.one_of(anything, spaces, known, slices, repeats, st.sampled_from(LOOK_ALIKES))
texts = st.lists(parts, max_size=6).map("".join)


KINDS = {
    "400 pieces": (400, {}),
    "640 pieces": (640, {"split_digits": True}),
    "runs of spaces": (600, {"allow_whitespace_only_pieces": True}),
    "pieces over spaces": (640, {"split_by_whitespace": False, "split_by_unicode_script": False}),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    count, more = KINDS[request.param]
    model_file = train_tokenizer(tmp_path_factory.mktemp("tok"), count, **more)
    return load_tokenizer(model_file.parent), read_pieces(model_file)


def test_the_kinds_have_what_they_are_named_for(tmp_path):
    count, more = KINDS["runs of spaces"]
    runs = read_pieces(train_tokenizer(tmp_path / "runs", count, **more))
    assert runs.encode("a    b", out_type=str) == ["▁a", "▁▁▁▁", "b"]
    count, more = KINDS["pieces over spaces"]
    over = read_pieces(train_tokenizer(tmp_path / "over", count, **more))
    assert any("▁" in over.id_to_piece(i)[1:] for i in range(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("tok")).parent


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts)
def test_ids_are_sentencepieces_own(pair, text):
    tokenizer, pieces = pair
    assert tokenizer.encode(text) == pieces.encode(text)
    assert tokenizer.encode(text, add_special_tokens=False) == pieces.encode(text)


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=5))
def test_many_texts_at_once_have_the_same_ids(pair, batch):
    tokenizer, pieces = pair
    expected = [pieces.encode(text) for text in batch]
    assert encode_many(tokenizer, batch) == tokenizer(batch)["input_ids"] == expected
    rebuilt = copy.copy(tokenizer)
    rebuilt.sentencepiece_file = None
    assert encode_many(rebuilt, batch) == expected


def test_many_texts_go_through_sentencepiece_though_a_special_name_is_a_piece(monkeypatch):
    class Encodes:
        def encode(self, texts, num_threads):
            return [[len(text)] for text in texts]

    tokenizer = load_tokenizer(ROOT / "data/tiny-chatglm2")
    monkeypatch.setattr("loraglm_helpers.tokenizer.read_pieces", lambda file: Encodes())
    assert encode_many(tokenizer, ["people"]) == [[6]]


def test_many_texts_at_once_know_the_tokens_that_were_added(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([AddedToken("海城", normalized=False)])
    assert encode_many(tokenizer, ["在海城</s>"]) == [
        tokenizer.encode("在海城</s>", add_special_tokens=False)
    ]
    assert len(tokenizer) - 1 in encode_many(tokenizer, ["在海城"])[0]


@settings(max_examples=150, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=5))
def test_decoding_gives_the_text_back(pair, batch):
    tokenizer, pieces = pair
    ids = tokenizer(batch)["input_ids"]
    assert [pieces.decode(row) for row in ids] == tokenizer.batch_decode(ids)
    plain = [text for text in batch if "▁" not in text and "\x00" not in text]
    assert tokenizer.batch_decode(tokenizer(plain)["input_ids"]) == plain if plain else True


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_special_look_alikes_stay_text(pair, text):
    tokenizer, pieces = pair
    special = {0, 1, 2, *tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))}
    for written in (text, f"你好{text}再见", f" {text} "):
        assert not special & set(tokenizer.encode(written))
        assert tokenizer.encode(written) == pieces.encode(written)


def test_special_ids_follow_the_pieces(pair):
    tokenizer, pieces = pair
    count = pieces.get_piece_size()
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(count, count + 9))
    assert SPECIAL_TOKENS[:5] == ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    assert len(tokenizer) == count + 9


def test_pad_and_eos_and_padding_side(folder):
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert tokenizer.bos_token_id is None
    batch = tokenizer(["a", "a long answer"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][0][0] == 0 and batch["input_ids"][0][0] == 0


def test_specials_are_left_out_of_decoded_text(folder):
    tokenizer = load_tokenizer(folder)
    gmask, sop = tokenizer.convert_tokens_to_ids(["[gMASK]", "sop"])
    ids = [gmask, sop, *tokenizer.encode("贷款的条件"), 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "贷款的条件"


def test_saved_tokenizer_reloads_through_autotokenizer(folder, tmp_path):
    tokenizer, pieces = load_tokenizer(folder), read_pieces(folder / "tokenizer.model")
    tokenizer.save_pretrained(tmp_path)
    again = [AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)]
    text = "  [gMASK] 利率</s>\n\n<|user|> the  film🙂"
    for loaded in again:
        assert loaded.encode(text) == pieces.encode(text)
        assert loaded.convert_tokens_to_ids("sop") == tokenizer.convert_tokens_to_ids("sop")
        assert (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id) == (0, 2, None)
        assert loaded.padding_side == "left"
    assert "tmp" not in (tmp_path / "tokenizer_config.json").read_text()


def test_many_texts_are_plain_and_whole_after_any_call(folder, tmp_path):
    load_tokenizer(folder).save_pretrained(tmp_path)
    tokenizer, pieces = load_tokenizer(tmp_path), read_pieces(folder / "tokenizer.model")
    texts = ["a [gMASK] b", "年利率 " * 30, ""]
    tokenizer(texts, padding=True, truncation=True, max_length=4, split_special_tokens=False)
    assert encode_many(tokenizer, texts) == [pieces.encode(text) for text in texts]
    assert encode_many(tokenizer, []) == []
    assert (
        tokenizer(texts, max_length=4, truncation=True)["input_ids"][1]
        == pieces.encode(texts[1])[:4]
    )


TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chat_template.jinja", TEMPLATE, TEMPLATE),
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE}), TEMPLATE),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": NAMED}),
            TEMPLATE,
        ),
        ("tokenizer_config.json", "{}", None),
    ],
)
def test_a_chat_template_beside_tokenizer_model_is_kept(tmp_path, name, content, expected):
    train_tokenizer(tmp_path)
    (tmp_path / name).write_text(content)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == expected
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == expected
    if expected:
        turns = [{"role": "user", "content": "你好"}]
        assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|user|>你好"


def test_a_damaged_tokenizer_config_is_named(tmp_path):
    train_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match="tokenizer_config.json: not valid JSON"):
        load_tokenizer(tmp_path)


def test_merges_rank_by_the_score_of_the_union(folder):
    pieces = read_pieces(folder / "tokenizer.model")
    unions = [pieces.piece_to_id(left + right) for left, right in merges(pieces)]
    scores = [pieces.get_score(i) for i in unions]
    assert scores == sorted(scores, reverse=True)
    assert len(unions) > 50


def test_a_unigram_model_is_refused(tmp_path):
    train_tokenizer(tmp_path, 640, model_type="unigram", hard_vocab_limit=False)
    with pytest.raises(TokenizerError, match="cannot be rebuilt"):
        load_tokenizer(tmp_path)


def test_another_normalisation_is_refused(tmp_path):
    train_tokenizer(tmp_path, 500, normalization_rule_name="nmt_nfkc")
    with pytest.raises(TokenizerError, match="identity normalisation"):
        load_tokenizer(tmp_path)


def test_a_cut_file_is_named(folder, tmp_path):
    whole = (folder / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2 + 3])
    with pytest.raises(TokenizerError, match="tokenizer.model"):
        load_tokenizer(tmp_path)


def test_code_in_a_folder_is_neither_run_nor_offered(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who would say yes to anything
    load_tokenizer(folder).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text("raise SystemExit('the code of the folder was run')")
    with pytest.raises(TokenizerError, match="no tokenizer that can be used"):
        load_tokenizer(tmp_path)


def test_an_empty_folder_says_what_to_use(tmp_path):
    with pytest.raises(TokenizerError, match="-hf"):
        load_tokenizer(tmp_path)
