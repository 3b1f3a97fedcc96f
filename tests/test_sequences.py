from dataclasses import dataclass

import pytest
import torch
from tiny_tokenizer import train_tokenizer

from loraglm_helpers.sequences import (
    Example,
    Layout,
    build_example,
    build_prompt,
    collate,
    format_context,
)
from loraglm_helpers.tokenizer import load_tokenizer

CONTEXT = "Instruction: 找出文中的三元组。\nInput: 白石大学在青州。\nAnswer: "


@dataclass(frozen=True)
class Row:
    context: str = ""
    target: str = ""
    messages: tuple[dict, ...] | None = None


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent)


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def special(tokenizer, *names):
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


class Letters:
    """A tokenizer of one id a character, so that ids can be written down in a test."""

    eos_token_id, unk_token_id = 2, 0
    specials = {"[gMASK]": 3, "sop": 4, "<|user|>": 5, "<|assistant|>": 6, "<|system|>": 7}

    def encode(self, text, add_special_tokens=False, split_special_tokens=True):
        return [100 + ord(letter) for letter in text]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(i - 100) for i in ids)

    def convert_tokens_to_ids(self, name):
        return self.specials.get(name, 0)


def test_format_context_is_the_seeds():
    assert format_context("找出三元组", "青州") == "Instruction: 找出三元组\nInput: 青州\nAnswer: "
    assert format_context("Say hi.") == "Instruction: Say hi.\nAnswer: "


@pytest.mark.parametrize(
    ("layout", "ids", "labels"),
    [
        ("glm", [165, 166, 3, 4, 167, 2], [-100, -100, -100, -100, 167, 2]),
        ("chatglm2", [3, 4, 165, 166, 167, 2], [-100, -100, -100, -100, 167, 2]),
        (
            "chatglm3",
            [3, 4, 5, 110, 165, 166, 6, 110, 167, 2],
            [-100, -100, -100, -100, -100, -100, -100, -100, 167, 2],
        ),
    ],
)
def test_layouts_and_labels_by_literal_ids(layout, ids, labels):
    example = build_example(Row("AB", "C"), Letters(), layout)
    assert example.input_ids == ids
    assert example.labels == labels


def test_layouts_of_the_real_tokenizer(tokenizer):
    ids, [gmask, sop] = plain(tokenizer, CONTEXT), special(tokenizer, "[gMASK]", "sop")
    assert build_prompt(CONTEXT, tokenizer) == [*ids, gmask, sop]
    assert build_prompt(CONTEXT, tokenizer, "chatglm2") == [gmask, sop, *ids]
    target = plain(tokenizer, "[]")
    example = build_example(Row(CONTEXT, "[]"), tokenizer, Layout.GLM)
    assert example.input_ids == [*ids, gmask, sop, *target, 2]
    assert example.labels == [-100] * (len(ids) + 2) + [*target, 2]


def test_dialogues_of_chatglm2_and_chatglm3(tokenizer):
    turns = [
        {"role": "system", "content": "短答"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "再见"},
    ]
    text = "短答\n\n[Round 1]\n\n问：你好\n\n答：好\n\n[Round 2]\n\n问：再见\n\n答："
    start = special(tokenizer, "[gMASK]", "sop")
    assert build_prompt(turns, tokenizer, "chatglm2") == start + plain(tokenizer, text)
    expected, newline = list(start), plain(tokenizer, "\n")
    for turn in turns:
        [role] = special(tokenizer, f"<|{turn['role']}|>")
        expected += [role, *newline, *plain(tokenizer, turn["content"])]
    expected += [*special(tokenizer, "<|assistant|>"), *newline]
    assert build_prompt(turns, tokenizer, "chatglm3") == expected


def test_the_last_assistant_turn_is_the_target(tokenizer):
    turns = ({"role": "user", "content": "你好"}, {"role": "assistant", "content": "再见"})
    example = build_example(Row(messages=turns), tokenizer, "chatglm3")
    prompt = build_prompt(turns[:1], tokenizer, "chatglm3")
    assert example.input_ids == [*prompt, *plain(tokenizer, "再见"), 2]


def test_special_tokens_typed_by_a_user_stay_text(tokenizer):
    text = "a [gMASK] </s> <|user|>"
    marks = {2, *special(tokenizer, "[gMASK]", "<|user|>")}
    assert not marks & set(build_prompt(text, tokenizer, "glm")[:-2])
    assert build_prompt(text, tokenizer, "chatglm3").count(special(tokenizer, "<|user|>")[0]) == 1


@pytest.mark.parametrize("layout", ["glm", "chatglm2", "chatglm3"])
@pytest.mark.parametrize("limit", [40, 60, 100])
def test_truncation_keeps_instruction_and_cue(tokenizer, layout, limit):
    context = format_context("找出三元组", "白石大学在青州。" * 60)
    prompt = build_prompt(context, tokenizer, layout, limit)
    assert len(prompt) == limit
    text = tokenizer.decode(prompt, skip_special_tokens=True)
    assert "Instruction: 找" in text
    assert text.rstrip().endswith("\nAnswer:")
    whole = build_prompt(context, tokenizer, layout)
    assert set(special(tokenizer, "[gMASK]", "sop")) <= set(prompt)
    assert build_prompt(context, tokenizer, layout, len(whole)) == whole


def test_truncation_by_literal_ids():
    context = "abcdefgh\nQ:"
    kept = Letters().decode(build_prompt(context, Letters(), "glm", 10)[:-2])
    assert kept == "abcde\nQ:"
    kept = Letters().decode(build_prompt("abcdefghij", Letters(), "chatglm2", 8)[2:])
    assert kept == "abchij"


def test_truncated_target_ends_in_eos():
    example = build_example(Row("AB", "CDEFGH"), Letters(), max_target_seq_len=4)
    assert example.input_ids == [165, 166, 3, 4, 167, 168, 169, 2]
    assert len(build_example(Row("A" * 999, "C" * 999), Letters()).input_ids) == 700


def test_limits_without_room_are_errors():
    with pytest.raises(ValueError, match="max_source_seq_len"):
        build_prompt("abcdef", Letters(), "glm", 3)
    with pytest.raises(ValueError, match="max_target_seq_len 1"):
        build_example(Row("AB", "C"), Letters(), max_target_seq_len=1)
    with pytest.raises(ValueError, match="glm4"):
        build_prompt("AB", Letters(), "glm4")


def test_a_missing_special_token_is_named():
    letters = Letters()
    letters.specials = {}
    with pytest.raises(ValueError, match=r"\[gMASK\]"):
        build_prompt("AB", letters)


def test_chat_template_prompt_and_target(tokenizer, monkeypatch):
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template, raising=False)
    example = build_example(Row("你好 <|user|>", "再见"), tokenizer, "chat_template")
    [user, assistant] = special(tokenizer, "<|user|>", "<|assistant|>")
    words = [plain(tokenizer, text) for text in ("你好 <|user|>", "再见")]
    assert example.input_ids == [user, *words[0], assistant, *words[1], 2]
    assert example.labels == [-100] * (len(words[0]) + 2) + [*words[1], 2]
    with pytest.raises(ValueError, match="no chat template"):
        build_prompt("A", Letters(), "chat_template")


def test_collate_padding_free_and_padded():
    examples = [Example([5, 6, 2], [-100, 6, 2]), Example([7, 2], [7, 2])]
    row = collate(examples)
    assert row["input_ids"].tolist() == [[5, 6, 2, 7, 2]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert row["labels"].tolist() == [[-100, 6, 2, -100, 2]]
    padded = collate(examples, padding_free=False, pad_token_id=9)
    assert padded["input_ids"].tolist() == [[5, 6, 2], [7, 2, 9]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded["labels"].tolist() == [[-100, 6, 2], [-100, 2, -100]]
    assert all(tensor.dtype == torch.int64 for tensor in (*row.values(), *padded.values()))


def test_collate_needs_an_example():
    with pytest.raises(ValueError, match="at least one"):
        collate([])
