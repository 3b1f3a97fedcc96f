"""The invented world, the tasks' rows and the pre-training objectives."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loraglm_helpers.miniature import (
    names,
    newspaper,
    probes,
    shapes,
    tasks,
    wellformed,
    wording,
    world,
)
from loraglm_helpers.miniature.deepening import deepen, depth
from loraglm_helpers.miniature.forms import BRACKETS, COMMAS, HEADINGS, framed
from loraglm_helpers.miniature.objectives import Blank, Objectives
from loraglm_helpers.miniature.plan import (
    COPYING,
    DEEPER_AT,
    PLANNED,
    STAGES,
    PretrainConfig,
    depth_at,
    rate_factor,
    stage_at,
)
from loraglm_helpers.miniature.pools import FOLDER, pool, read_sections
from loraglm_helpers.miniature.pretraining import pretrain
from loraglm_helpers.miniature.run import build_model
from loraglm_helpers.miniature.schema import KINDS, RELATIONS
from loraglm_helpers.miniature.vocabulary import train_tokenizer
from loraglm_helpers.tokenizer import load_tokenizer

DATA = Path(__file__).parents[1] / "data"
TINY = PretrainConfig(
    hidden_size=32,
    layers=2,
    added_layers=1,
    heads=2,
    groups=1,
    head_dim=16,
    intermediate_size=64,
    tokens=9000,
    compiled=False,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_tokenizer(folder, passages=60)
    return load_tokenizer(folder)


def shipped(split: str) -> list[dict]:
    path = DATA / f"mixed_{split}_dataset.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_name_has_one_split():
    owners = [names.split_of(name) for name in ("林知遥", "星河渡口", "Mara Keldon")]
    assert owners == ["pretrain", "pretrain", "pretrain"]
    rng = random.Random(0)
    for split in names.SPLITS:
        drawn = {names.draw("person", "zh", split, rng) for _ in range(50)}
        assert {names.split_of(name) for name in drawn} == {split}


def test_new_names_stand_in_known_patterns():
    rng = random.Random(4)
    entity = world.new_entity("zh", names.NEW_NAMES, rng)
    assert names.split_of(entity.name) == "probe"
    known = world.patterns("zh", entity.kind, "pretrain")
    assert world.patterns("zh", entity.kind, names.NEW_NAMES) == known


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_relation_is_stated_in_every_split(language, kind):
    wanted = {name for own, of, name in RELATIONS if (own, of) == (language, kind)}
    assert len(wanted) == 5
    for split in ("pretrain", "train", "dev"):
        stated = {r for p in world.patterns(language, kind, split) for r in p.relations}
        assert stated == wanted, f"{language}_{kind}.txt [{split}]"


def test_no_pattern_stands_in_two_splits():
    for language in ("zh", "en"):
        for kind in [*KINDS, "noise"]:
            sections = read_sections(f"{language}_{kind}")
            lines = [line for section in sections.values() for line in section]
            assert len(lines) == len(set(lines)), f"{language}_{kind}.txt"


SLOT = re.compile(r"\{[^}]+\}")


def alternatives(line: str) -> list[list[str]]:
    return [choice.split("|") for choice in re.findall(r"<([^<>]*)>", line)]


def test_alternatives_differ_in_words_and_not_in_slots():
    for language in ("zh", "en"):
        for kind in [*KINDS, "noise", "topics", "reports"]:
            for section, lines in read_sections(f"{language}_{kind}").items():
                for line in lines:
                    rest = re.sub(r"<[^<>]*>", "", line)
                    assert not set("<>|") & set(rest), line
                    for options in alternatives(line):
                        assert 1 < len(options) == len(set(options)), line
                        assert len({tuple(SLOT.findall(option)) for option in options}) == 1, line
                    # the rows are written once and for all: their patterns leave no choice
                    assert "pretrain" in section or rest == line


def test_the_end_of_a_persons_name_is_clear_in_the_rows():
    """Given names have one or two characters: none of theirs may follow where a name ends."""
    given = set("".join(pool("zh", "given")))
    for kind, (subject, _, _) in KINDS.items():
        sections = read_sections(f"zh_{kind}")
        for line in sections["train"] + sections["dev"]:
            for slot, following in re.findall(r"\{([^}]+)\}(?=(.))", line):
                if slot == "S":
                    holds = subject
                else:
                    holds = slot.removeprefix("?")
                    if holds == slot:
                        holds = RELATIONS["zh", kind, slot].objects
                assert holds != "person" or following not in given, line


def test_no_choice_of_words_is_a_pattern_of_the_rows():
    for language in ("zh", "en"):
        for kind in [*KINDS, "noise", "topics"]:
            rows: dict[tuple[str, ...], list[str]] = {}  # by their slots
            choices = []
            for section, lines in read_sections(f"{language}_{kind}").items():
                for line in lines:
                    if alternatives(line):
                        choices.append(line)
                    elif not section.startswith("pretrain"):
                        rows.setdefault(tuple(SLOT.findall(line)), []).append(line)
            assert choices and rows
            for line in choices:
                regex = re.compile(wellformed.as_regex(line))
                slots = tuple(SLOT.findall(wording.chosen(line, lambda options: options[0])))
                assert not [row for row in rows.get(slots, []) if regex.fullmatch(row)], line


def test_a_choice_is_drawn_anew_and_is_well_formed():
    rng = random.Random(8)
    found = [p for k in KINDS for p in world.patterns("zh", k, "pretrain") if "<" in p.text]
    pattern = rng.choice(found)
    wordings = {world.fill("<甲|乙>和<丙|>。", None, "zh", "pretrain", rng) for _ in range(60)}
    assert wordings == {"甲和丙。", "乙和丙。", "甲和。", "乙和。"}
    kind = next(k for k in KINDS if pattern in world.patterns("zh", k, "pretrain"))
    assert found.count(pattern) == 1 + len(alternatives(pattern.text))
    for _ in range(5):
        entity = world.new_entity("zh", "pretrain", rng, kind)
        sentence = wording.plain(world.state(pattern, entity, rng)[0])
        assert not set("<>|") & set(sentence) and wellformed.well_formed(sentence, "zh")


def test_a_passage_states_its_facts():
    rng = random.Random(5)
    for _ in range(100):
        passage = world.passage("zh", "train", rng)
        assert 1 <= len(passage.facts) <= 6 and len(passage.text) <= 200
        for fact in passage.facts:
            assert fact.subject in passage.text and fact.object in passage.text


def test_facts_come_in_the_order_of_their_objects():
    rng = random.Random(6)
    for _ in range(50):
        passage = world.passage("en", "train", rng, subjects=1)
        at = 0
        for fact in passage.facts:
            at = passage.text.index(fact.object, at)


def test_shipped_rows_are_what_the_command_writes():
    assert shipped("train") == tasks.make_rows("train", 3000, 0)
    assert shipped("dev") == tasks.make_rows("dev", 300, 0)


def test_shipped_rows_share_no_entity():
    def entities(rows):
        targets = [json.loads(r["target"]) for r in rows if r["target"].startswith("[{")]
        return {t[key] for target in targets for t in target for key in ("subject",)}

    train, dev = entities(shipped("train")), entities(shipped("dev"))
    assert len(train) > 1000 and len(dev) > 100 and not train & dev


TASK_SIGNS = ("Instruction:", "Input:", "Answer:", *tasks.INSTRUCTIONS.values())


def test_no_line_of_wording_holds_a_sign_of_the_tasks():
    """Every line, not only those that a sample of texts happens to draw."""
    files = sorted(FOLDER.glob("*.txt"))
    lines = [(file.name, line) for file in files for line in file.read_text("utf-8").splitlines()]
    assert len(lines) > 10_000
    assert not [found for found in lines if any(sign in found[1] for sign in TASK_SIGNS)]


def test_pretraining_never_sees_the_tasks_formats(tokenizer):
    objectives, rng = Objectives(tokenizer), random.Random(7)
    mixture = {name: w for stage in STAGES for name, w in stage.mixture.items()}
    texts = [tokenizer.decode(objectives.draw(mixture, rng).input_ids) for _ in range(400)]
    keys = ("predicate", "subject", "object")
    labels = [*tasks.labels("zh"), *tasks.labels("en")]
    for text in texts:
        assert not [sign for sign in TASK_SIGNS if sign in text]
        # a passage may be listed twice, each time under one of the words at most
        for line in text.splitlines():
            assert sum(f'"{key}":' in line for key in keys) < 2
        assert not [label for label in labels if f'["{label}"]' in text]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_frame_holds_passage_and_request_in_either_order(language):
    rng, seen = random.Random(4), set()
    for _ in range(200):
        text = framed("<passage>", "<request>", language, rng)
        assert text.count("<passage>") == text.count("<request>") == 1
        bare = text.replace("<passage>", "").replace("<request>", "")
        seen.add((text.index("<passage>") < text.index("<request>"), bare.strip() == ""))
    assert len(seen) == 4  # both orders, with labels and without


def test_keys_of_objects_are_three_words_from_the_request():
    rng = random.Random(4)
    passage, found = world.passage("zh", "pretrain", rng), set()
    tasks_own = {"predicate", "subject", "object"}
    for _ in range(400):
        request, answer = shapes.objects_with_keys(passage, rng)
        keys = set(json.loads(request)[0])
        assert len(keys) == 3 and all(set(item) == keys for item in json.loads(answer))
        assert len(keys & tasks_own) < 2  # their form is LoRA's to teach
        found |= keys
    assert len(found) > 100 and tasks_own < found


def test_layouts_by_literal_ids(tokenizer):
    objectives = Objectives(tokenizer)
    mask, gmask, sop, eos = objectives.mask, objectives.gmask, objectives.sop, 2
    plain, masked = Blank([300, 301], [400]), Blank([300, mask], [400, sop, 401], masked=True)
    assert objectives.assemble(plain, "glm").input_ids == [300, 301, gmask, sop, 400, eos]
    assert objectives.assemble(plain, "chatglm2").input_ids == [gmask, sop, 300, 301, 400, eos]
    turns = Blank([300], [400], more=(([301], [401]),))
    expected = [300, gmask, sop, 400, eos, 301, gmask, sop, 401, eos]
    assert objectives.assemble(turns, "glm").input_ids == expected
    expected = [-100, -100, -100, 400, eos, -100, 401, eos]
    assert objectives.assemble(turns, "chatglm2").labels == expected
    example = objectives.assemble(masked, "glm")
    assert example.input_ids == [300, mask, sop, 400, sop, 401, eos]
    assert example.labels == [-100, -100, -100, 400, -100, 401, eos]


def test_blanks_can_be_filled_back(tokenizer):
    """Part B's spans, put in the place of part A's masks, give the passage back."""
    objectives, rng, same = Objectives(tokenizer), random.Random(8), random.Random(8)
    for _ in range(30):
        blank = objectives.blanks(rng)
        entity = world.new_entity(objectives.language(same), objectives.split, same)
        told, _ = world.sentences_about(entity, same.randint(3, 9), same, repeat=True)
        same.setstate(rng.getstate())
        spans, filled = [[]], []
        for token in blank.part_b:
            spans.append([]) if token == objectives.sop else spans[-1].append(token)
        for token in blank.part_a:
            masked = token in (objectives.mask, objectives.smask)
            filled += spans.pop(0) if masked else [token]
        assert not spans
        assert filled == [i for sentence in told for i in objectives.ids(wording.plain(sentence))]


def test_a_repeated_fact_decides_its_blank(tokenizer):
    """With the blank filled, its text stands in the passage twice or more."""
    objectives, rng = Objectives(tokenizer), random.Random(8)
    for _ in range(60):
        blank = objectives.repeats(rng)
        assert blank.part_a.count(objectives.mask) == 1
        answer = tokenizer.decode(blank.part_b).strip()
        at = blank.part_a.index(objectives.mask)
        whole = [*blank.part_a[:at], *blank.part_b, *blank.part_a[at + 1 :]]
        assert answer and tokenizer.decode(whole).count(answer) >= 2


def test_filled_blanks_are_counted_where_they_are_exact(tokenizer, monkeypatch):
    objectives, rng = Objectives(tokenizer, "probe"), random.Random(4)
    filled = [tokenizer.decode(objectives.repeats(rng).part_b) for _ in range(20)]
    filled[:5] = [answer + "。" for answer in filled[:5]]
    monkeypatch.setattr(probes, "generate", lambda *given, **settings: filled)
    assert probes.blank_accuracy(None, tokenizer, count=20) == 0.75


@pytest.mark.parametrize("shape", [shape for shape, _ in shapes.SHAPES])
def test_shapes_answer_from_the_passage(shape):
    rng = random.Random(9)
    for _ in range(20):
        passage = world.passage("zh", "pretrain", rng)
        request, answer = shape(passage, rng)
        assert request and answer
        if answer.startswith(("[{", "[[", '{"')):
            json.loads(answer)


def test_the_rate_warms_up_and_follows_the_stages():
    config = PretrainConfig(tokens=round(PLANNED * 1000), warmup_steps=10)  # a thousandth
    assert rate_factor(config, 4, 0) == pytest.approx(0.5)
    assert rate_factor(config, 50, 2000) == 1.0
    assert rate_factor(config, 50, 7250) == pytest.approx(0.85)
    assert rate_factor(config, 50, 17_000) == pytest.approx(0.35)
    assert rate_factor(config, 50, 25_000) == pytest.approx(0.25)
    assert rate_factor(config, 50, 27_500) == pytest.approx(0.6)
    assert rate_factor(config, 50, config.tokens) == 0.0


def test_stages_follow_one_another():
    config = PretrainConfig(tokens=1000)
    assert stage_at(config, 10) is STAGES[0]
    assert stage_at(config, 999) is STAGES[-1]
    assert [stage.until for stage in STAGES] == sorted({stage.until for stage in STAGES})
    names = {name for stage in (COPYING, *STAGES) for name in stage.mixture}
    assert all(callable(getattr(Objectives, name)) for name in names)


def test_damage_spares_names_and_values():
    rng, name = random.Random(12), f"{wording.OPEN}.*?{wording.CLOSE}"
    for language in ("zh", "en"):
        passage = world.passage(language, "train", rng)
        assert wording.damaged(passage.marked, language, 0.0, rng) == passage.marked
        broken = wording.damaged(passage.marked, language, 0.9, rng)
        assert re.findall(name, broken) == re.findall(name, passage.marked) != []
        assert wording.plain(broken) != passage.text


def test_reported_speech_keeps_the_sentence_whole():
    fill = {"zh": "林知遥", "en": "Ann Lee"}
    zh, en = "\ue000星河\ue001上映了。", "The film was shown in \ue0001987\ue001."

    def told(frame, marked, language):
        return wording.plain(
            wording.reported(frame, marked, lambda text: text.replace("{?person}", fill[language]))
        )

    assert told("{?person}说：“{sentence}”", zh, "zh") == "林知遥说：“星河上映了。”"
    assert told("{clause}，{?person}说。", zh, "zh") == "星河上映了，林知遥说。"
    assert told("{?person} says that {clause}.", en, "en") == (
        "Ann Lee says that the film was shown in 1987."
    )
    assert told("{clause}, {?person} says.", en, "en") == (
        "The film was shown in 1987, Ann Lee says."
    )
    assert told("I heard that {clause}.", "I like \ue000Tea\ue001.", "en") == (
        "I heard that I like Tea."
    )
    assert wording.reportable(zh) and wording.reportable(en)
    for whole in ("“好。”他说。", "谁？是他。", "He came. She went.", '"Yes," he said.'):
        assert not wording.reportable(whole)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_frames_of_reported_speech_hold_one_sentence(language):
    for frame in read_sections(f"{language}_reports")["pretrain"]:
        before, _, after = re.split(r"(\{sentence\}|\{clause\})", frame)
        assert all(part.count("<") == part.count(">") for part in (before, after)), frame


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_report_holds_the_sentence_and_its_marks(language):
    rng, longer = random.Random(6), 0
    for _ in range(200):
        sentence = world.sentences_about(world.new_entity(language, "pretrain", rng), 3, rng)[0][0]
        told = world.report(sentence, language, "pretrain", rng)
        assert sentence[1:-1] in told  # a capital and the full stop may go
        assert (told == sentence) == (not wording.reportable(sentence))
        longer += told != sentence
    assert longer > 50


def test_further_subjects_can_take_the_first_ones_kind():
    rng = random.Random(6)

    def kinds(**how):
        passage = world.passage("zh", "pretrain", rng, subjects=2, **how)
        return {fact.relation.kind for fact in passage.facts}

    assert all(len(kinds(same_kind=1.0)) == 1 for _ in range(50))
    assert sum(len(kinds()) == 2 for _ in range(50)) > 30


def test_names_of_a_told_text_are_unforeseen(tokenizer):
    objectives = Objectives(tokenizer)
    ids, names_at = objectives.told(f"导演{wording.OPEN}林知遥{wording.CLOSE}说：“好。”")
    assert tokenizer.decode([ids[i] for i in sorted(names_at)]) == "林知遥"
    example = objectives.assemble(Blank([300], [400, 401, 402], unforeseen=frozenset([1])), "glm")
    assert example.labels == [-100, -100, -100, 400, -100, 402, 2]
    example = objectives.assemble(Blank([], ids, unforeseen=names_at), "chatglm2")
    kept = tokenizer.decode([i for i in example.labels if i != -100])
    assert kept.startswith("导演说") and "林" not in kept


def test_marked_items_come_in_order(tokenizer):
    objectives, rng = Objectives(tokenizer), random.Random(14)
    for _ in range(30):
        blank = objectives.marked(rng)
        rest = iter(blank.part_a)
        commas = [objectives.ids(comma) for comma in COMMAS]
        items = "".join(map(chr, blank.part_b))
        found = [items.split("".join(map(chr, comma))) for comma in commas]
        wanted = max(found, key=len)  # the comma that was drawn
        assert 1 <= len(wanted) <= 6
        assert all(ord(piece) in rest for item in wanted for piece in item)


def test_mentions_are_all_names_in_the_order_of_the_text(tokenizer):
    objectives, rng = Objectives(tokenizer), random.Random(15)
    for _ in range(30):
        blank = objectives.mentions(rng)
        text = tokenizer.decode(blank.part_a)
        comma = next(comma for comma in COMMAS if f"「」{comma}" in text)
        items = tokenizer.decode(blank.part_b).strip().split(comma)
        places = [text.index(name) for name in items]
        assert places and places == sorted(places)


def test_a_heading_is_the_topic_of_its_text(tokenizer):
    objectives, rng = Objectives(tokenizer), random.Random(3)
    sections = {**read_sections("zh_topics"), **read_sections("en_topics")}
    for _ in range(30):
        blank = objectives.headings(rng)
        parts = "".join(map(chr, blank.part_b)).split(chr(objectives.sop))
        topics = [tokenizer.decode(list(map(ord, part))) for part in parts]
        assert all(f"pretrain.{topic}" in sections for topic in topics)
        assert blank.part_a.count(objectives.mask) == len(topics)


@pytest.mark.parametrize(("left", "right"), HEADINGS)
def test_a_blank_heading_is_cut_out_of_its_line(tokenizer, left, right, monkeypatch):
    """Behind a bracket a word has other pieces than at the beginning of a text."""
    monkeypatch.setattr(newspaper, "HEADINGS", ((left, right),))
    objectives, rng = Objectives(tokenizer), random.Random(6)
    for _ in range(8):
        blank = objectives.headings(rng)
        at, gap = blank.part_a.index(objectives.mask), [*blank.part_b, objectives.sop]
        heading = gap[: gap.index(objectives.sop)]
        line = objectives.ids(f"{left}{tokenizer.decode(heading).strip()}{right}")
        whole = [*blank.part_a[:at], *heading, *blank.part_a[at + 1 :]]
        assert line in [whole[i : i + len(line)] for i in range(at + 1)]


@pytest.mark.parametrize("brackets", BRACKETS)
def test_texts_are_filed_in_the_brackets_asked_for(tokenizer, brackets, monkeypatch):
    monkeypatch.setattr(newspaper, "BRACKETS", (brackets,))
    objectives, rng = Objectives(tokenizer), random.Random(7)
    left, right = brackets
    for _ in range(5):
        blank = objectives.filing(rng)
        assert f"{left}…{right}" in tokenizer.decode(blank.part_a)
        for answer in (blank.part_b, *(b for _, b in blank.more)):
            filed = re.fullmatch(
                rf"{re.escape(left)}(.+){re.escape(right)}", tokenizer.decode(answer)
            )
            sections = {**read_sections("zh_topics"), **read_sections("en_topics")}
            assert f"pretrain.{filed[1]}" in sections


def test_a_short_sentence_is_cut_and_goes_on(tokenizer, monkeypatch):
    objectives, rng = Objectives(tokenizer), random.Random(9)
    monkeypatch.setattr(objectives, "language", lambda rng: "zh")
    for _ in range(4):
        blank = objectives.short_rest(rng)
        sentence = tokenizer.decode([*blank.part_a, *blank.part_b])
        assert blank.part_b and wellformed.well_formed(sentence, "zh")


@pytest.mark.parametrize("kind", list(KINDS))
def test_short_patterns_state_one_fact_of_the_thing_in_front(kind):
    for language in ("zh", "en"):
        found = world.short_patterns(language, kind, "pretrain")
        assert len(set(found)) >= 9
        for pattern in found:
            assert re.fullmatch(r"(《|The |\")?\{S\}[^{}]*\{[^{}?]+\}[^{}]*", pattern.text), pattern


def test_patterns_come_in_random_order_each_once():
    for many in (10, 1000):
        orders = [list(world.in_random_order(range(many), random.Random(n))) for n in (1, 2)]
        assert [sorted(order) for order in orders] == [list(range(many))] * 2
        assert orders[0] != orders[1]


@pytest.mark.parametrize("short", [True, False])
def test_sentences_that_become_whole_are_counted(tokenizer, short, monkeypatch):
    monkeypatch.setattr(probes, "generate", lambda *given, **settings: ["。"] * 3 + ["，"])
    monkeypatch.setattr(probes, "well_formed", lambda text, language: text.endswith("。"))
    assert probes.continuation_accuracy(None, tokenizer, count=4, short=short) == 0.75


def test_an_english_sentence_has_its_space_at_the_cut(tokenizer, monkeypatch):
    """An answer's text begins without the space that stood in front of its first word."""
    monkeypatch.setattr(probes, "generate", lambda *given, **settings: ["on"] * 9)
    whole = {"en": " on", "zh": "on"}
    monkeypatch.setattr(probes, "well_formed", lambda text, language: whole[language] in text)
    assert probes.continuation_accuracy(None, tokenizer, count=9) == 1.0


def test_layers_are_added_where_the_plan_says():
    at = round(DEEPER_AT / PLANNED * TINY.tokens)
    assert depth_at(TINY, at - 1) == 2
    assert depth_at(TINY, at + 1) == 3


def test_a_deeper_model_answers_as_before():
    model, ids = build_model(TINY, vocab_size=64), torch.arange(12)[None]
    deeper = build_model(TINY, vocab_size=64, layers=5)
    weights = deepen(model.state_dict(), added=3)
    assert (depth(model.state_dict()), depth(weights)) == (2, 5)
    deeper.load_state_dict(weights)
    assert deeper(ids).logits.equal(model(ids).logits)


def test_added_layers_are_spread_over_the_depth():
    weights = {f"model.layers.{n}.mlp.up_proj.weight": torch.tensor(n) for n in range(6)}
    assert [int(weight) for weight in deepen(weights, 2).values()] == [0, 1, 1, 2, 3, 3, 4, 5]


def test_a_stopped_pretraining_goes_on_bit_for_bit(tmp_path):
    """Stopped after every step, before and after the model became deeper."""
    settings = {"record_every": 1, "questions": 1, "log": [].append}
    whole = pretrain(TINY, tmp_path / "whole", **settings)
    for step in range(1, whole.position.step + 1):
        parts = pretrain(TINY, tmp_path / "parts", minutes=0, **settings)
        assert parts.position.step == step
    assert parts.position.step == whole.position.step > 1
    assert len(parts.model.model.layers) == len(whole.model.model.layers) == 3
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert a.equal(b)


def test_two_processes_train_one_model(tmp_path):
    """Each holds the momentum of its own matrices; a checkpoint serves any number of them."""
    changes = {"hidden_size": 32, "layers": 2, "heads": 2, "groups": 1, "head_dim": 16}
    changes |= {"intermediate_size": 64, "tokens": 3000, "compiled": False}
    train_tokenizer(tmp_path, passages=60)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-endpoint", "localhost:0", "--rdzv-backend", "c10d"]
    command += ["-m", "loraglm_helpers.miniature.pretraining", "--out", str(tmp_path), "--set"]
    command += [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["position"]["tokens"] >= 3000
    config = PretrainConfig(**{**changes, "tokens": 6000})
    alone = pretrain(config, tmp_path, log=[].append)
    assert alone.position.tokens >= 6000
