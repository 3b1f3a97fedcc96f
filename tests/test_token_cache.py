"""Tokenised rows on disk: the same examples and the same run; whole or not there at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_tokenizer import train_tokenizer
from tiny_training import make_config, rows, stop_at, tiny, weights
from tokenizers import AddedToken

from loraglm_helpers import token_cache, token_cache_key, token_cache_writer
from loraglm_helpers.data import DataError, read_rows
from loraglm_helpers.evaluation import evaluate_loss
from loraglm_helpers.example_digest import digest_of
from loraglm_helpers.sequences import Example, Layout
from loraglm_helpers.token_cache import TokenCache, TokenCacheError, TokenCacheWarning
from loraglm_helpers.token_cache_writer import write_examples
from loraglm_helpers.tokenizer import load_tokenizer
from loraglm_helpers.training import make_examples, train

TURNS = [
    {"role": "user", "content": "白石大学在哪里？"},
    {"role": "assistant", "content": "白石大学在青州。"},
    {"role": "user", "content": "[gMASK] 小说是谁写的？</s>"},
    {"role": "assistant", "content": '[{"predicate": "所在地"}]'},
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("pieces")).parent)


@pytest.fixture(scope="module")
def templated(tokenizer):
    made = load_tokenizer(tokenizer.sentencepiece_file.parent)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def data(tmp_path) -> Path:
    """Twelve rows, every third a dialogue; one is cut at both ends."""
    made = []
    for number in range(12):
        context = f"Instruction: 找出文中的三元组。\nInput: 白石大学在青州{number}。\nAnswer: "
        made.append({"context": context, "target": f"第{number}街"})
        if number % 3 == 0:
            made[-1] = {"messages": [*TURNS[:3], {"role": "assistant", "content": str(number)}]}
    made[1] = {"context": context.replace("青州", "青州在海城" * 40), "target": "第一街" * 60}
    file = tmp_path / "train.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in made]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def config(tmp_path, data):
    return make_config(
        train_path=str(data),
        dev_path=str(data),
        save_dir=str(tmp_path / "run"),
        token_cache=str(tmp_path / "tokens"),
        max_source_seq_len=60,
        max_target_seq_len=20,
    )


def caches(config) -> list[str]:
    """The names in the cache's folder, locks aside."""
    folder = Path(config.token_cache)
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


@pytest.mark.parametrize("layout", Layout)
def test_a_cache_holds_the_examples_that_are_made_without_it(config, data, templated, layout):
    config = replace(config, layout=str(layout))
    plain = make_examples(read_rows(data), templated, config)
    for cached in (make_examples(data, templated, config), make_examples(data, templated, config)):
        assert isinstance(cached, TokenCache)
        assert list(cached) == plain and len(cached) == len(plain)
        assert cached[-1] == plain[-1] and cached[2:7:2] == plain[2:7:2]
        assert list(cached.lengths) == [len(example.input_ids) for example in plain]
        assert sum(cached.targets) == sum(
            label != -100 for example in plain for label in example.labels[1:]
        )
        assert cached.digest == digest_of(plain)
    assert len(plain) == (16 if layout in (Layout.GLM, Layout.CHATGLM2) else 12)
    with pytest.raises(IndexError):
        cached[len(plain)]


def test_labels_of_any_kind_come_back(tmp_path):
    made = [Example([5, 6, 7], [-100] * 3), Example([5, 6], [5, -100]), Example([4] * 3, [4, 1, 2])]
    facts = write_examples(tmp_path, made)
    (tmp_path / "cache.json").write_text(json.dumps(facts))
    assert list(TokenCache(tmp_path)) == made
    assert list(TokenCache(tmp_path).targets) == [0, 0, 2]


def test_training_from_the_cache_is_the_same_run(config, tokenizer, tmp_path):
    def clockless(history):
        clocks = {"seconds", "tokens_per_second"}
        return [{k: v for k, v in record.items() if k not in clocks} for record in history.records]

    plain = replace(config, token_cache=None, save_dir=str(tmp_path / "plain"))
    histories = [
        train(settings, model=tiny(vocab_size=512), tokenizer=tokenizer)
        for settings in (plain, config)
    ]
    assert clockless(histories[0]) == clockless(histories[1])
    one, other = weights(plain.save_dir), weights(config.save_dir)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(caches(config)) == 1  # train and dev rows are the same file here


def test_a_run_without_the_cache_goes_on_with_it(config, tokenizer):
    plain = replace(config, token_cache=None)
    train(plain, model=tiny(vocab_size=512), tokenizer=tokenizer, callbacks=[stop_at(2)])
    history = train(config, model=tiny(vocab_size=512), tokenizer=tokenizer, resume=True)
    assert history.stopped == "finished"


def test_dev_rows_are_scored_from_the_cache(config, data, tokenizer):
    model = tiny(vocab_size=512)
    cached = make_examples(data, tokenizer, config)
    expected = evaluate_loss(model, read_rows(data), config, tokenizer=tokenizer)
    assert evaluate_loss(model, cached, config) == expected


def test_rows_given_in_python_are_not_cached(config, tokenizer):
    made = make_examples(rows(3), tokenizer, config)
    assert type(made) is list and not Path(config.token_cache).exists()


def test_the_key_changes_with_every_ingredient(
    config, data, tokenizer, templated, tmp_path, monkeypatch
):
    def key(tokenizer=tokenizer, **changes) -> str:
        made_from = token_cache_key.made_from(data, tokenizer, replace(config, **changes))
        return token_cache_key.key_of(made_from)

    first = key()
    assert key() == first == key(seed=1, batch_size=2, token_cache="elsewhere")
    other_pieces = load_tokenizer(train_tokenizer(tmp_path / "other", 480).parent)
    grown = load_tokenizer(tokenizer.sentencepiece_file.parent)
    assert key(grown) == first
    grown.add_tokens(["白石大学"])
    keys = [first, key(other_pieces), key(templated), key(grown), key(layout="chatglm2")]
    keys += [key(max_source_seq_len=61), key(max_target_seq_len=21)]
    with monkeypatch.context() as patch:
        patch.setattr(token_cache_key, "FORMAT", token_cache_key.FORMAT + 1)
        keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(token_cache_key, "BUILDERS", (token_cache_key,))
        keys.append(key())
    os.utime(data)
    assert key() == first
    data.write_bytes(data.read_bytes().replace("第2街".encode(), "第3街".encode()))
    assert len({*keys, key()}) == len(keys) + 1 == 10


def test_earlier_calls_of_the_tokenizer_do_not_change_the_key(tokenizer):
    first = token_cache_key.tokenizer_hash(tokenizer)
    tokenizer(["a", "a long text"], padding=True, truncation=True, max_length=3)
    assert token_cache_key.tokenizer_hash(tokenizer) == first


def test_added_tokens_are_in_the_cache(config, data, tokenizer):
    grown = load_tokenizer(tokenizer.sentencepiece_file.parent)
    grown.add_tokens([AddedToken("白石大学", normalized=False)])
    cached = make_examples(data, grown, config)
    assert list(cached) == make_examples(read_rows(data), grown, config)
    assert len(grown) - 1 in cached[-1].input_ids


def test_other_rows_are_another_cache_and_the_old_one_stays(config, data, tokenizer):
    old = make_examples(data, tokenizer, config)
    data.write_text(json.dumps({"context": "问", "target": "答"}) + "\n")
    assert len(make_examples(data, tokenizer, config)) == 1
    assert len(caches(config)) == 2 and old[0] == TokenCache(old.folder)[0]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[(f"{name}.bin", how) for name in ("ids", "labels", "index") for how in ("cut", "flip")],
        ("ids.bin", "gone"),
        ("cache.json", "cut"),
        ("cache.json", "gone"),
    ],
)
def test_a_damaged_cache_is_named_and_made_anew(config, data, tokenizer, name, damage):
    cache = make_examples(data, tokenizer, config)
    expected, file = list(cache), cache.folder / name
    content = bytearray(file.read_bytes())
    content[9] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(TokenCacheError, match=name):
        TokenCache(cache.folder)
    with pytest.warns(TokenCacheWarning, match=f"{name}.* it is made anew"):
        again = make_examples(data, tokenizer, config)
    assert list(again) == expected and caches(config) == [cache.folder.name]


def test_bad_rows_leave_nothing(config, data, tokenizer):
    data.write_text(data.read_text() + "no row\n")
    with pytest.raises(DataError, match=r"train.jsonl: 1 bad line\n.*:13: not JSON"):
        make_examples(data, tokenizer, config)
    assert caches(config) == []
    data.write_text("")
    with pytest.raises(DataError, match="no rows"):
        make_examples(data, tokenizer, config)
    data.unlink()
    with pytest.raises(DataError, match="train.jsonl: cannot be read"):
        make_examples(data, tokenizer, config)
    assert caches(config) == []


def test_a_file_that_changes_meanwhile_is_not_cached(config, data, tokenizer, monkeypatch):
    def change(folder, examples):
        data.write_text(data.read_text() * 2)
        return write_examples(folder, examples)

    monkeypatch.setattr(token_cache_writer, "write_examples", change)
    with pytest.raises(TokenCacheError, match="changed while it was tokenised"):
        make_examples(data, tokenizer, config)
    assert caches(config) == []


DIE = """
import json, os, signal, sys
from loraglm_helpers import token_cache_writer
from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.evaluation import make_examples
from loraglm_helpers.tokenizer import load_tokenizer

def kill(folder, examples):
    (folder / "ids.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

token_cache_writer.write_examples = kill
config = FineTuneConfig.from_json(sys.argv[1])
make_examples(config.train_path, load_tokenizer(sys.argv[2]), config)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX systems")
def test_a_killed_process_leaves_no_half_cache(config, data, tokenizer, tmp_path):
    config.to_json(tmp_path / "config.json")
    command = [sys.executable, "-c", DIE, tmp_path / "config.json"]
    run = subprocess.run([*command, tokenizer.sentencepiece_file.parent], check=False)
    assert run.returncode == -9
    assert [Path(name).suffix for name in caches(config)] == [".part"]
    plain = load_tokenizer(tokenizer.sentencepiece_file.parent)
    cached = make_examples(data, plain, config)
    assert list(cached) == make_examples(read_rows(data), plain, config)
    assert caches(config) == [cached.folder.name]


def test_one_makes_the_cache_and_the_others_wait(config, data, tokenizer, monkeypatch):
    """Threads stand for processes: a lock belongs to an open file, of which each has its own."""
    began, go_on, written, found = threading.Event(), threading.Event(), [], []

    def slow(folder, *rest):
        began.set()
        assert go_on.wait(60)
        token_cache_writer.write_cache(folder, *rest)
        written.append(folder)

    monkeypatch.setattr(token_cache, "write_cache", slow)
    work = [
        threading.Thread(target=lambda: found.append(make_examples(data, tokenizer, config)))
        for _ in range(3)
    ]
    for thread in work:
        thread.start()
    assert began.wait(60) and found == []
    go_on.set()
    for thread in work:
        thread.join(60)
    assert len(written) == 1 and len(found) == 3
    assert list(found[0]) == list(found[1]) == list(found[2])


def test_a_cache_is_mapped_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "READS", 3)  # pages are given back, and come again
    made = [Example([number] * 5000, [-100] * 10 + [number] * 4990) for number in range(300)]
    (tmp_path / "cache.json").write_text(json.dumps(write_examples(tmp_path, made)))
    tracemalloc.start()
    try:
        cache = TokenCache(tmp_path)
        assert all(cache[number].input_ids[7] == number for number in (250, 0, 299, 31))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    files = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert files > 11e6 and peak < 2e6


def test_a_folder_that_cannot_be_written_is_named(config, data, tokenizer, tmp_path):
    (tmp_path / "tokens").write_text("a file stands here")
    with pytest.raises(TokenCacheError, match=r"tokens cannot be written .*choose another folder"):
        make_examples(data, tokenizer, config)


def test_a_tokenizer_without_content_is_refused(config, data):
    with pytest.raises(TokenCacheError, match="a int has no content to be known by"):
        make_examples(data, 3, config)
