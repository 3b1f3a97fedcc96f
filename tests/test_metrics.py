import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraglm_helpers.data import Row
from loraglm_helpers.metrics import score

A = {"predicate": "价格", "subject": "梨", "object": "三元"}
B = {"predicate": "产地", "subject": "梨", "object": "青州"}


def dump(*items):
    return json.dumps(items, ensure_ascii=False)


def rows(*targets):
    return [Row("Answer: ", target) for target in targets]


def test_perfect_answers_score_one():
    targets = [dump(A, B), dump(), '["体育"]', "多少钱？"]
    result = score([f" {target}\n" for target in targets], rows(*targets))
    assert result["exact_match"] == 1.0
    assert result["triple_precision"] == result["triple_recall"] == result["triple_f1"] == 1.0
    assert result["json_valid"] == 1.0
    assert result["question_chrf"] == 100.0
    assert result["classification"]["macro_f1"] == 1.0
    assert result["count"] == 4 and result["empty"] == 0


def test_triples_are_counted_over_all_rows():
    # wanted 4; given 5 (one doubled, one wrong); right 3
    result = score([dump(A, A, B), dump(A), dump(B)], rows(dump(A, B), dump(A, B), dump()))
    assert result["triple_precision"] == pytest.approx(3 / 5)
    assert result["triple_recall"] == pytest.approx(3 / 4)
    assert result["triple_f1"] == pytest.approx(2 * 3 / 9)
    assert result["exact_match"] == 0.0


def test_a_triple_wanted_twice_counts_twice():
    result = score([dump(A)], rows(dump(A, A)))
    assert (result["triple_precision"], result["triple_recall"]) == (1.0, 0.5)


def test_the_order_of_triples_and_fields_is_no_matter_but_for_exact_match():
    answer = dump(B, dict(reversed(A.items())))
    result = score([answer], rows(dump(A, B)))
    assert (result["triple_f1"], result["exact_match"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "precision"),
    [
        ("", 0.0),
        (dump(A)[:-1], 0.0),  # cut off
        (dump(A, {"predicate": "p", "subject": "s"}), 0.5),  # an item without object
        (dump(A, "x"), 0.5),
        (dump(A | {"object": ["三元"]}), 0.0),
        (json.dumps(A), 0.0),  # no list
        ("[" * 100_000, 0.0),
        ("9" * 5_000, 0.0),
    ],
)
def test_broken_lists_are_wrong_and_never_an_error(answer, precision):
    assert score([answer], rows(dump(A)))["triple_precision"] == precision


def test_nothing_wanted_and_nothing_given_is_right():
    assert score([dump()], rows(dump()))["triple_f1"] == 1.0
    assert score(["没有"], rows(dump()))["json_valid"] == 0.0
    assert score([dump(A)], rows(dump()))["triple_f1"] == 0.0


def test_empty_answers_score_zero():
    result = score([""] * 4, rows(dump(A), '["体育"]', "多少钱？", '{"a": 1}'))
    for name in ("exact_match", "triple_precision", "triple_recall", "triple_f1", "json_valid"):
        assert result[name] == 0.0
    assert result["question_chrf"] == 0.0
    assert result["classification"]["macro_f1"] == 0.0
    assert result["empty"] == 4


def test_json_is_checked_where_the_target_is_json():
    answers = ["[1]", "no", "free text", "{}"]
    result = score(answers, rows(dump(A), '["a"]', "谁？", '{"a": 1}'))
    assert result["json_valid"] == pytest.approx(2 / 3)
    assert result["by_task"]["other"] == {"count": 1, "exact_match": 0.0, "json_valid": 1.0}
    assert "json_valid" not in result["by_task"]["question"]
    valid = [score([answer], rows("[]"))["json_valid"] for answer in ("null", "NaN", "[Infinity]")]
    assert valid == [1.0, 0.0, 0.0]


def test_a_number_is_not_the_text_that_looks_like_it():
    year = A | {"object": "1987"}
    assert score([dump(year)], rows(dump(year)))["triple_f1"] == 1.0
    assert score([dump(year | {"object": 1987})], rows(dump(year)))["triple_f1"] == 0.0


def test_classes_and_their_confusion():
    targets = ['["体育"]', '["体育"]', '["科技"]', '["科技"]', '["健康"]']
    answers = ['["体育"]', '["科技"]', '["科技"]', "科技", '["美食"]']
    result = score(answers, rows(*targets))["classification"]
    assert result["per_class"]["体育"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "count": 2,
    }
    assert result["per_class"]["科技"]["precision"] == 0.5
    assert result["per_class"]["健康"]["f1"] == 0.0
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert result["confusion"] == {
        "体育": {"体育": 1, "科技": 1},
        "健康": {"美食": 1},
        "科技": {"科技": 1, "(none)": 1},
    }


def test_several_labels_count_one_by_one():
    result = score(['["a", "c"]'], rows('["a", "b"]'))["classification"]
    assert result["per_class"]["a"]["f1"] == 1.0
    assert result["per_class"]["b"]["f1"] == 0.0
    assert result["confusion"] == {"a, b": {"a, c": 1}}


def test_chrf_is_the_mean_over_character_ngrams():
    # one of 8 characters differs: shared 1-grams to 6-grams
    shared = [7 / 8, 5 / 7, 3 / 6, 1 / 5, 0 / 4, 0 / 3]
    result = score(["青州的梨多少钱？"], rows("青州的桃多少钱？"))
    assert result["question_chrf"] == pytest.approx(100 * sum(shared) / 6)
    assert result["by_task"]["question"]["chrf"] == result["question_chrf"]


def test_by_task_holds_only_what_there_is():
    result = score(["谁？", "x"], rows("谁？", "何时？"))
    assert list(result["by_task"]) == ["question"]
    assert result["by_task"]["question"]["exact_match"] == 0.5
    assert result["triple_f1"] is None and result["json_valid"] is None
    assert result["classification"] is None


def test_one_answer_a_row():
    with pytest.raises(ValueError, match="1 answers for 2 rows"):
        score(["a"], rows("a", "b"))
    with pytest.raises(ValueError, match="0 answers for 0 rows"):
        score([], [])


PIECES = st.sampled_from(
    ["[", "]", "{", "}", '"', ",", ":", "predicate", "1", "null", "梨", "\ud800"]
)


TARGETS = [dump(A), '["体育"]', "多少钱？", '{"a": 1}']


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join) | st.sampled_from(TARGETS))
def test_any_answer_has_scores_that_json_can_hold(answer):
    result = score([answer] * 4, rows(*TARGETS))
    json.dumps(result, allow_nan=False)
    assert result["exact_match"] == (answer.strip() in TARGETS) / 4
    for task in ("triples", "classification", "other"):  # a right answer parses
        scores = result["by_task"][task]
        assert scores["exact_match"] <= scores["json_valid"] == result["json_valid"]
