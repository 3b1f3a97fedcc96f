import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import train_tokenizer

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.data import (
    DataError,
    Problem,
    Row,
    lint,
    parse_line,
    read_rows,
    row_problem,
    task_of,
)
from loraglm_helpers.evaluation import make_examples
from loraglm_helpers.sequences import answered_turns, build_prompt, build_target
from loraglm_helpers.tokenizer import load_tokenizer

CONTEXT = "Instruction: 提问\nInput: 青州的梨。\nAnswer: "
DIALOGUE = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "您好"},
    {"role": "user", "content": "梨多少钱？"},
    {"role": "assistant", "content": "三元。"},
]


def write(path, *lines, end="\n"):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(text + end for text in texts).encode())
    return path


def pair(context=CONTEXT, target="梨产于哪里？"):
    return {"context": context, "target": target}


def test_rows_of_both_forms(tmp_path):
    file = write(tmp_path / "a.jsonl", pair(), {"messages": DIALOGUE, "id": 7})
    assert read_rows(file) == [
        Row(CONTEXT, "梨产于哪里？", None, 1),
        Row("", "三元。", tuple(DIALOGUE), 2),
    ]


def test_byte_order_mark_crlf_and_a_missing_last_newline(tmp_path):
    file = tmp_path / "a.jsonl"
    line = json.dumps(pair()).encode()
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line)
    assert [row.line for row in read_rows(file)] == [1, 2]
    assert {row.target for row in read_rows(file)} == {"梨产于哪里？"}


def test_only_newlines_end_a_line(tmp_path):
    text = "a\u2028b\u0085c\x0b"
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(pair(target=text), ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(file)[0].target == text


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"", "", "blank line"),
        (b" \t", "", "blank line"),
        (b'{"context": "a"', "", "not JSON: Expecting ',' delimiter at character 16"),
        (b"\xff\xfe{", "", "byte 1 is not UTF-8"),
        (b"[" * 100_000, "", "nested too deep"),
        (b"9" * 5_000, "", "a number too long"),
        (b'["a", "b"]', "", "a list instead of an object"),
        (b"3", "", "a number instead of an object"),
        (b"{}", "context", "missing; this line has no fields"),
        (b'{"content": "a", "target": "b"}', "context", "missing; this line has content, target"),
        (b'{"context": "a"}', "target", "missing"),
        (b'{"context": 3, "target": "b"}', "context", "a number instead of a text"),
        (b'{"context": "a", "target": null}', "target", "null instead of a text"),
        (b'{"context": "a", "target": " \\n"}', "target", "empty"),
        (b'{"context": "a", "target": "\\ud83d"}', "target", "half of a surrogate pair"),
        (b'{"context": "a", "messages": []}', "messages", "beside context or target"),
        (b'{"messages": []}', "messages", "a list of {role, content} objects"),
        (b'{"messages": [3]}', "messages[0]", "an object with role and content"),
    ],
)
def test_a_bad_line_has_a_field_and_a_reason(line, field, reason):
    found = parse_line(line)
    assert found[0] == field
    assert reason in found[1]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({3: {"role": "user", "content": "?"}}, "messages[3].role", "'user' is last; assistant"),
        ({0: {"role": "human", "content": "?"}}, "messages[0].role", "'human'; one of system"),
        ({2: {"role": "user", "content": ""}}, "messages[2].content", "empty"),
        ({2: {"role": "user"}}, "messages[2]", "role and content wanted"),
        ({0: DIALOGUE[1], 2: DIALOGUE[1]}, "messages", "no user turn"),
    ],
)
def test_a_bad_turn_is_named(changes, field, reason):
    turns = [changes.get(index, turn) for index, turn in enumerate(DIALOGUE)]
    found = row_problem({"messages": turns})
    assert found[0] == field
    assert reason in found[1]


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_line(b'{"context": "a", "target": "\\ud83d\\ude00"}').target == "😀"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60) | st.from_regex(rb'\{"(context|messages)": .{0,20}\}?', fullmatch=True)
)
def test_any_bytes_are_a_row_or_a_problem(line):
    found = parse_line(line, 4)
    assert isinstance(found, Row) or (len(found) == 2 and found[1])


def test_every_bad_line_is_reported_and_the_first_twenty_shown(tmp_path):
    file = write(tmp_path / "a.jsonl", pair(), *["{}"] * 24, "", pair())
    with pytest.raises(DataError) as caught:
        read_rows(file)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{file}: 25 bad lines"
    assert lines[1] == f"{file}:2: context: missing; this line has no fields"
    assert lines[-1] == "… and 5 more"
    assert len(lines) == 22
    assert [problem.line for problem in caught.value.problems] == list(range(2, 27))
    assert caught.value.problems[-1] == Problem(
        str(file), 26, "", "blank line; a row may be missing here, else delete it"
    )


def test_files_without_rows_are_errors(tmp_path):
    with pytest.raises(DataError, match="none.jsonl: cannot be read .No such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="a.jsonl: no rows"):
        read_rows(write(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="cannot be read"):
        lint(tmp_path / "none.jsonl", progress=True)


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ('[{"predicate": "p", "subject": "s", "object": "o"}]', "triples"),
        ("[]", "triples"),
        ('["体育"]', "classification"),
        (' ["a", "b"]', "classification"),
        ("多少钱？", "question"),
        ("42", "question"),
        ('{"a": 1}', "other"),
        ('["a", 1]', "other"),
        ('[{"predicate": ', "other"),
    ],
)
def test_the_task_is_the_shape_of_the_target(target, task):
    assert task_of(Row(CONTEXT, target)) == task


@pytest.fixture
def messy(tmp_path):
    triple = '[{"predicate": "价格", "subject": "梨", "object": "三元"}]'
    return write(
        tmp_path / "messy.jsonl",
        pair("a" * 92 + "Answer: ", '["体育"]'),  # 1
        pair("bAnswer: ", '["科技"]'),  # 2
        pair("cAnswer: ", triple),  # 3
        "{",  # 4
        pair("dAnswer: ", '[{"predicate"'),  # 5: no JSON
        pair("bAnswer: ", '["科技"]'),  # 6: as 2
        pair("bAnswer: ", '["体育"]'),  # 7: 2 answered otherwise
        pair("no cue", "谁？"),  # 8
        pair("eAnswer: ", ""),  # 9
        {"messages": DIALOGUE},  # 10
        {"messages": DIALOGUE},  # 11
    )


def test_lint_counts_and_names_what_is_wrong(messy):
    report = lint(messy)
    assert (report.lines, report.rows, report.ok) == (11, 9, False)
    assert [(p.line, p.field) for p in report.problems] == [(4, ""), (9, "target")]
    assert dict(report.counts) == {
        "bad line": 2,
        "invalid JSON": 1,
        "no cue": 1,
        "duplicate": 2,
        "contradiction": 1,
    }
    assert {k: [p.line for p in kept] for k, kept in report.findings.items()} == {
        "bad line": [4, 9],
        "invalid JSON": [5],
        "no cue": [8],
        "duplicate": [6, 11],
        "contradiction": [7],
    }
    assert "stands in line 2 too, with another target" in report.findings["contradiction"][0].reason


def test_lint_balance_and_json_validity(messy):
    report = lint(messy)
    assert report.tasks == {"classification": 4, "triples": 1, "other": 1, "question": 3}
    assert report.classes["classification"] == {"体育": 2, "科技": 2}
    assert report.classes["triples"] == {"价格": 1}
    assert report.json_targets == 6
    assert report.json_valid == pytest.approx(5 / 6)


def test_lint_lengths_in_characters(messy):
    report = lint(messy)
    assert report.unit == "characters"
    assert report.truncated is None
    assert report.source_lengths.tolist() == [100, 9, 9, 9, 9, 9, 6, 9, 9]
    assert report.target_lengths.tolist()[-1] == 3
    assert report.over(50) == pytest.approx(1 / 9)
    counts, edges = report.histogram(bins=2)
    assert counts.tolist() == [8, 1] and edges.tolist() == [6, 53, 100]


def test_lint_leakage_against_another_file(messy, tmp_path):
    other = write(tmp_path / "other.jsonl", "{", pair("cAnswer: ", "x"), {"messages": DIALOGUE})
    report = lint(messy, other=other)
    assert [p.line for p in report.findings["leakage"]] == [3, 10, 11]
    assert report.findings["leakage"][0].reason == f"stands in {other}:2 too"


def test_lint_contexts_without_any_cue_are_another_form(tmp_path):
    assert not lint(write(tmp_path / "a.jsonl", pair("a"), pair("b"))).counts


def test_lint_compares_the_cue_among_rows_that_are_no_dialogues(tmp_path):
    file = write(tmp_path / "a.jsonl", pair("a"), {"messages": DIALOGUE}, pair("b"))
    assert not lint(file).counts


def test_lint_report_as_table_and_text(messy):
    report = lint(messy)
    frame = report.to_frame()
    assert frame.columns.tolist() == ["kind", "line", "field", "reason"]
    assert frame.line.tolist() == [4, 9, 5, 8, 6, 11, 7]
    text = report.summary()
    assert "messy.jsonl: 11 lines, 9 rows" in text
    assert "classification: 4 rows (体育 2, 科技 2)" in text
    assert "JSON targets valid: 83.33% of 6" in text
    assert "bad line: 2" in text and "messy.jsonl:9: target: empty" in text


def test_lint_an_empty_file(tmp_path):
    report = lint(write(tmp_path / "a.jsonl"), other=write(tmp_path / "b.jsonl"))
    assert (report.rows, report.ok, report.json_valid) == (0, False, None)
    assert report.summary().endswith("a.jsonl: 0 lines, 0 rows")
    assert len(report.to_frame()) == 0


def test_lint_counts_findings_beyond_those_it_keeps(tmp_path):
    report = lint(write(tmp_path / "a.jsonl", *["{}"] * 1_005))
    assert report.counts["bad line"] == 1_005
    assert len(report.problems) == 1_000
    assert "… and 1,000 more" in report.summary()


def test_a_role_without_a_token_has_its_line_in_training_and_in_the_linter(tmp_path):
    tokenizer = load_tokenizer(train_tokenizer(tmp_path / "tok").parent)
    turns = {"messages": [DIALOGUE[0], {"role": "tool", "content": "3"}, DIALOGUE[1]]}
    file = write(tmp_path / "a.jsonl", pair(), turns, {"messages": DIALOGUE})
    missing = r"the tokenizer has no '<\|tool\|>' token"
    config = FineTuneConfig(layout="chatglm3")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(DataError, match=f"^{file}:2: {missing}"):
            make_examples(file, tokenizer, config.replace(token_cache=cache))
    with pytest.raises(DataError, match=f"^rows:2: {missing}"):
        make_examples([Row("a", "b"), Row(messages=turns["messages"])], tokenizer, config)
    report = lint(file, tokenizer, "chatglm3")
    assert [(p.line, p.field) for p in report.problems] == [(2, "messages")]
    assert "'<|tool|>'" in report.problems[0].reason
    assert report.rows == len(report.source_lengths) == 2 and not report.ok
    alone = lint(write(tmp_path / "b.jsonl", turns), tokenizer, "chatglm3")
    assert "1 lines, 0 rows" in alone.summary()


@pytest.mark.parametrize("layout", ["glm", "chatglm2", "chatglm3"])
def test_lint_lengths_in_tokens_are_those_of_training(messy, tmp_path, layout):
    train_tokenizer(tmp_path / "tok")
    tokenizer = load_tokenizer(tmp_path / "tok")
    report = lint(messy, tokenizer, layout, max_source_seq_len=50, max_target_seq_len=6)
    good = [row for row in map(parse_line, messy.read_bytes().splitlines()) if type(row) is Row]
    turns = [answered_turns(row) for row in good]  # of a dialogue every answer is learnt
    sources = [max(len(build_prompt(c, tokenizer, layout)) for c, _ in row) for row in turns]
    targets = [max(len(build_target(a, tokenizer, layout)) for _, a in row) for row in turns]
    assert max(map(len, turns)) > 1
    assert report.unit == "tokens"
    assert report.source_lengths.tolist() == sources
    assert report.target_lengths.tolist() == targets
    assert report.truncated["source"] == sum(length > 50 for length in sources) / 9 > 0
    assert report.truncated["target"] == sum(length > 6 for length in targets) / 9 > 0
    assert "over the limit of 50" in report.summary()
