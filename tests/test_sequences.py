from dataclasses import dataclass

import pytest
import torch
from tiny_tokenizer import train_tokenizer

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.evaluation import make_examples
from loraglm_helpers.sequences import (
    Example,
    Layout,
    build_example,
    build_examples,
    build_prompt,
    build_target,
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


def test_a_long_text_of_one_line_is_cut_without_a_search_through_all_of_it():
    class Counting(Letters):
        decoded = 0

        def decode(self, ids, skip_special_tokens=False):
            self.decoded += len(ids)
            return super().decode(ids)

    letters = Counting()
    prompt = build_prompt("a" * 5_000 + "z", letters, "glm", 12)
    assert Letters().decode(prompt[:-2]) == "aaaaaaaaaz"
    assert letters.decoded == 1 + 2 + 3 + 4 + 5


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


def test_a_message_that_the_template_leaves_out_is_an_error(tokenizer, monkeypatch):
    template = (
        "{% for m in messages %}{% if m['role'] != 'observation' %}<|{{ m['role'] }}|>"
        "{{ m['content'] }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template, raising=False)
    turns = [{"role": role, "content": "A"} for role in ("user", "observation", "user")]
    assert build_prompt(turns[:1], tokenizer, "chat_template")
    with pytest.raises(ValueError, match="'chat_template'.* leaves out.* 'observation'"):
        build_prompt(turns, tokenizer, "chat_template")


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


# --- dialogues: every assistant turn is a target -------------------------------------------------

DIALOGUE = (
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "BC"},
    {"role": "user", "content": "D"},
    {"role": "assistant", "content": "E"},
)
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAYOUTS = ["glm", "chatglm2", "chatglm3", "chat_template"]


def test_turns_of_chatglm3_share_a_sequence_by_literal_ids():
    [example] = build_examples(Row(messages=DIALOGUE), Letters(), "chatglm3")
    line, no = 110, -100  # the newline's id; no loss
    a, b, c, d, e = range(165, 170)
    assert example.input_ids == [3, 4, 5, line, a, 6, line, b, c, 5, line, d, 6, line, e, 2]
    assert example.labels == [no, no, no, no, no, no, no, b, c, 2, no, no, no, no, e, 2]
    assert build_example(Row(messages=DIALOGUE), Letters(), "chatglm3") == example


class Prefixed(Letters):
    """Letters with SentencePiece's dummy prefix, id 9, before every text."""

    def encode(self, text, add_special_tokens=False, split_special_tokens=True):
        return [9, *super().encode(text)]


def test_rounds_of_one_text_have_a_sequence_a_turn_by_literal_ids():
    # In the text of the rounds an answer has no dummy prefix: it is not the answer as given.
    first, second = build_examples(Row(messages=DIALOGUE), Prefixed(), "chatglm2")
    asked = [9, *Letters().encode("[Round 1]\n\n问：A\n\n答：")]
    assert first.input_ids == [3, 4, *asked, 9, 166, 167, 2]
    assert first.labels == [-100] * (2 + len(asked)) + [9, 166, 167, 2]
    asked += Letters().encode("BC\n\n[Round 2]\n\n问：D\n\n答：")
    assert second.input_ids == [3, 4, *asked, 9, 169, 2]
    assert second.labels == [-100] * (2 + len(asked)) + [9, 169, 2]
    assert build_example(Row(messages=DIALOGUE), Prefixed(), "chatglm2") == second


def dialogue(turns):
    texts = [
        "年利率是多少？",
        "百分之四。",
        "那去年呢？\n说短些",
        "The same: 4.",
        "谢谢",
        "不客气。",
    ]
    roles = ["user", "assistant"] * 3
    pairs = list(zip(roles, texts, strict=True))[:turns]
    return tuple({"role": role, "content": content} for role, content in pairs)


@pytest.fixture()
def templated(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE, raising=False)
    return tokenizer


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [None, 60])
def test_each_turn_is_learnt_after_the_prompt_it_is_asked_with(templated, layout, limit):
    row = Row(messages=dialogue(6))
    examples = build_examples(row, templated, layout, limit)
    seen = []
    for example in examples:
        labels = example.labels
        starts = [i for i, x in enumerate(labels) if x != -100 and labels[i - 1] == -100]
        for start in starts:
            end = labels.index(2, start) + 1
            seen.append((example.input_ids[:start], labels[start:end]))
            assert all(label == -100 for label in labels[end : end + 3])
            assert example.input_ids[start : end - 1] == labels[start : end - 1]
    expected = [
        (
            build_prompt(row.messages[:at], templated, layout, limit),
            build_target(row.messages[at]["content"], templated, layout),
        )
        for at in (1, 3, 5)
    ]
    assert seen == expected
    shared = limit is None and layout in ("chatglm3", "chat_template")
    assert len(examples) == 1 if shared else len(examples) > 1


def test_the_systems_and_a_greeting_carry_no_loss():
    system, greeting = ({"role": r, "content": "AB"} for r in ("system", "assistant"))
    [example] = build_examples(
        Row(messages=(system, greeting, *DIALOGUE[:2])), Letters(), "chatglm3"
    )
    assert [x for x in example.labels if x != -100] == [166, 167, 2]


def test_a_template_that_rewrites_history_splits_the_turns(tokenizer, monkeypatch):
    # GLM-4.5's template drops the thinking of earlier turns: what was generated is not history.
    template = TEMPLATE.replace(
        "{{ m['content'] }}", "{{ 'x' if loop.last else '' }}{{ m['content'] }}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template, raising=False)
    assert len(build_examples(Row(messages=DIALOGUE), tokenizer, "chat_template")) == 2


def test_training_learns_from_every_turn(tokenizer):
    config = FineTuneConfig(layout="chatglm2")
    examples = make_examples([Row(messages=DIALOGUE), Row("AB", "C")], tokenizer, config)
    assert len(examples) == 3
    assert make_examples(examples, tokenizer, config) == examples
