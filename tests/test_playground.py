"""The playground driven by values and clicks: prompt, stream, errors, adapter, history."""

from __future__ import annotations

import asyncio
import html
import re
import signal
import threading
from types import SimpleNamespace
from unittest.mock import ANY

import peft
import pytest
import torch
from tiny_tokenizer import train_tokenizer
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers import panel_html, playground
from loraglm_helpers.data import Row, read_rows
from loraglm_helpers.generation import answer
from loraglm_helpers.panel_examples import one_of_each_task, panel_examples, split_context
from loraglm_helpers.playground import Playground
from loraglm_helpers.sequences import build_prompt, format_context
from loraglm_helpers.tokenizer import load_tokenizer

ASKED = ("判断文本的类别。", "白石大学在青州。")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(3)
    config = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        initializer_range=0.4,  # large weights: every context has an answer of its own
    )
    model = GlmForCausalLM(config).eval()
    bias = torch.zeros(len(tokenizer))
    bias[3:259] = -1e4  # the bytes: an answer is of whole characters
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


@pytest.fixture
def panel(model, tokenizer):
    made = Playground(model, tokenizer, examples=[("first", *ASKED), ("second", "Sum up.", "")])
    made.max_new_tokens.value = 12
    return made


@pytest.fixture
def pieces(monkeypatch):
    """Stands in for the stream: yields the texts, raises the errors, calls what can be called."""
    listed: list = []

    def scripted(*args, **settings):
        for piece in listed:
            if isinstance(piece, BaseException):
                raise piece
            if callable(piece):
                piece()
            else:
                yield piece

    monkeypatch.setattr(playground, "stream", scripted)
    monkeypatch.setattr(playground, "PAUSE", 0.0)
    return listed


def shown(widget) -> str:
    """A widget's HTML as the reader sees it."""
    return html.unescape(re.sub(r"<[^>]*>", "", widget.value))


def visible(widget) -> bool:
    return widget.layout.display != "none"


@pytest.mark.parametrize("layout", ["glm", "chatglm2"])
@pytest.mark.parametrize("text", ["白石大学在青州。", ""])
def test_the_prompt_is_the_training_s_prompt(model, tokenizer, layout, text):
    panel = Playground(model, tokenizer, layout)
    panel.instruction.value, panel.input.value = "找出三元组。", text
    panel.max_new_tokens.value = 3
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    panel.run.click()
    assert seen[0] == build_prompt(format_context("找出三元组。", text), tokenizer, layout)
    assert len(seen) <= 3


def test_a_long_input_is_cut_as_in_training(model, tokenizer):
    panel = Playground(model, tokenizer, max_source_seq_len=30)
    panel.max_new_tokens.value = 4
    context = format_context("a", "白石" * 60)
    wanted = answer(model, tokenizer, context, max_source_seq_len=30, max_new_tokens=4)
    assert panel.ask("a", "白石" * 60) == wanted


def test_a_click_and_ask_give_the_answer_of_generation(panel, model, tokenizer):
    wanted = answer(model, tokenizer, format_context(*ASKED), max_new_tokens=12)
    assert wanted
    panel.run.click()  # the first example is filled in from the start
    assert shown(panel.answer) == wanted
    assert panel.ask(*ASKED) == wanted
    assert (panel.instruction.value, panel.input.value) == ASKED
    assert [turn[:3] for turn in panel.history] == [(*ASKED, wanted)] * 2
    assert re.fullmatch(r"\d+\.\d s, greedy", panel.status.value)


def test_sampling_takes_its_settings_from_the_panel(panel, model, tokenizer):
    assert not visible(panel.sampling)
    panel.decoding.value = "sampled"
    assert visible(panel.sampling)
    panel.temperature.value, panel.top_p.value, panel.seed.value = 1.5, 0.95, 7
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.95, "seed": 7}
    wanted = answer(model, tokenizer, format_context(*ASKED), max_new_tokens=12, **settings)
    assert panel.ask(*ASKED) == wanted
    assert panel.history[-1].how == "sampled, temperature 1.5, top-p 0.95, seed 7"
    panel.seed.value = 8
    assert panel.ask(*ASKED) != wanted
    panel.decoding.value = "greedy"
    assert not visible(panel.sampling)


def test_the_answer_grows_and_nothing_in_it_acts_as_html(panel, pieces):
    pieces += ["<b>粗", "</b> & <script>", "x()\n</script>"]
    values = []
    panel.answer.observe(lambda change: values.append(change.new), "value")
    assert panel.ask("<i>1</i>", "a < b") == "<b>粗</b> & <script>x()\n</script>"
    written = [value for value in values if value]
    assert len(written) == 3
    assert "&lt;b&gt;粗&lt;/b&gt; &amp; &lt;script&gt;x()\n&lt;/script&gt;</div>" in written[-1]
    panel.ask("next")
    assert "&lt;i&gt;1&lt;/i&gt;\na &lt; b" in panel.earlier.value
    everything = panel.answer.value + panel.earlier.value
    assert set(re.findall(r"</?\w+", everything)) == {"<div", "</div"}


def test_fast_pieces_are_written_together_and_the_last_never_left_out(panel, pieces, monkeypatch):
    monkeypatch.setattr(playground, "PAUSE", 60.0)
    pieces += list("abcdef")
    written = []
    panel.answer.observe(lambda change: written.append(shown(panel.answer)), "value")
    assert panel.ask("x") == "abcdef"
    assert written == ["a", "abcdef"]


def test_the_button_is_disabled_while_the_model_answers(panel, pieces):
    states = []
    pieces += ["a", "b"]
    panel.answer.observe(lambda change: states.append(panel.run.disabled), "value")
    panel.status.observe(lambda change: states.append(change.new), "value")
    panel.run.click()
    assert states == ["waiting for the cell that is running …", "answering …", True, True, ANY]
    assert panel.run.disabled is False


def test_a_second_click_while_the_button_is_disabled_asks_nothing(panel, pieces):
    pieces += ["a"]
    panel.answer.observe(lambda change: panel.run.click(), "value")
    panel.run.click()
    assert len(panel.history) == 1


def test_an_answer_is_filed_under_the_question_it_was_given_to(panel, pieces):
    def edit():
        panel.instruction.value, panel.input.value = "another", "text"
        panel.decoding.value = "sampled"

    pieces += ["an ", edit, "answer"]
    panel.run.click()
    assert list(panel.history) == [(*ASKED, "an answer", "greedy")]
    assert panel.status.value.endswith("s, greedy")


def test_an_error_is_one_line_in_the_panel_and_the_panel_goes_on(panel, pieces):
    pieces += ["so ", RuntimeError("out of <memory>\n  at layer 3")]
    panel.run.click()
    assert shown(panel.answer) == "so RuntimeError: out of <memory> at layer 3"
    assert "--jp-error-color1" in panel.answer.value
    assert (panel.status.value, panel.run.disabled) == ("no answer", False)
    assert isinstance(panel.error, RuntimeError) and panel.error.__traceback__ is None
    assert not panel.history
    pieces[:] = ["fine"]
    panel.run.click()
    assert shown(panel.answer) == "fine"
    assert panel.error is None


def test_an_empty_answer_is_said_to_be_empty(panel, pieces):
    assert panel.ask("x") == ""
    assert panel.status.value.endswith("s, greedy; the answer is empty")
    assert panel.history[-1].answer == ""


def test_ask_raises_what_the_panel_shows(panel, pieces):
    pieces += [ValueError("no such thing")]
    with pytest.raises(ValueError, match="no such thing"):
        panel.ask("x")
    assert shown(panel.answer) == "ValueError: no such thing"


def test_an_empty_instruction_never_reaches_the_model(panel, pieces):
    pieces += ["an answer"]
    panel.instruction.value = "  "
    panel.run.click()
    assert "instruction is empty" in shown(panel.answer)
    assert not panel.history


def test_an_interrupt_keeps_the_answer_so_far(panel, pieces):
    before = signal.getsignal(signal.SIGINT)
    pieces += ["ha", lambda: signal.raise_signal(signal.SIGINT), "lf", " and more"]
    panel.run.click()
    assert shown(panel.answer) == "half"
    assert panel.status.value.startswith("interrupted")
    assert panel.run.disabled is False and not panel.history
    with pytest.raises(KeyboardInterrupt):
        panel.ask("x")
    assert shown(panel.answer) == "half"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_click_in_another_thread_is_answered_on_the_main_thread(model, tokenizer, pieces):
    threads = []
    pieces += [lambda: threads.append(threading.current_thread()), "late"]

    async def notebook() -> Playground:
        panel = Playground(model, tokenizer)
        click = threading.Thread(target=panel.run.click)
        click.start()
        click.join()  # the cell goes on: nothing is answered yet
        assert (panel.run.disabled, panel.answer.value) == (True, "")
        assert panel.status.value.startswith("waiting for the cell")
        await asyncio.sleep(0)
        return panel

    panel = asyncio.run(notebook())
    assert threads == [threading.main_thread()]
    assert shown(panel.answer) == "late" and panel.run.disabled is False


def test_a_model_in_training_mode_answers_without_dropout_and_stays_in_it(panel, model):
    model.train()
    panel.run.click()
    assert panel.error is None and model.training


def test_the_adapter_can_be_switched_off_and_on(model, tokenizer):
    plain = Playground(model, tokenizer)
    plain.max_new_tokens.value = 12
    assert not visible(plain.adapter)
    base = plain.ask(*ASKED)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    adapted = Playground(peft.get_peft_model(model, lora), tokenizer)
    adapted.max_new_tokens.value = 12
    assert visible(adapted.adapter)
    tuned = adapted.ask(*ASKED)
    adapted.adapter.value = False
    assert adapted.ask(*ASKED) == base != tuned
    adapted.adapter.value = True
    assert adapted.ask(*ASKED) == tuned
    words = [turn.how for turn in adapted.history]
    assert words == ["greedy, adapter on", "greedy, adapter off", "greedy, adapter on"]


def test_the_history_is_short_and_newest_first(panel, pieces):
    for number in range(8):
        pieces[:] = [f"answer {number}"]
        panel.ask(f"question {number}")
    assert [turn.instruction for turn in panel.history] == [f"question {n}" for n in range(3, 8)]
    assert shown(panel.answer) == "answer 7"
    assert re.findall(r"→ answer (\d)", shown(panel.earlier)) == ["6", "5", "4", "3", "2"]


def test_choosing_an_example_fills_the_texts_and_editing_makes_them_your_own(panel):
    assert (panel.instruction.value, panel.input.value) == ASKED
    panel.examples.value = 1
    assert (panel.instruction.value, panel.input.value) == ("Sum up.", "")
    assert panel.examples.label == "second"
    panel.input.value = "mine"
    assert panel.examples.label == "your own text"
    assert (panel.instruction.value, panel.input.value) == ("Sum up.", "mine")
    panel.examples.value = 0
    assert (panel.instruction.value, panel.input.value) == ASKED
    assert panel.examples.label == "first"


def test_the_default_examples_ask_as_the_data_rows_do(root):
    rows = read_rows(root / "data" / "mixed_train_dataset.jsonl")
    asked = {split_context(row.context)[0] for row in rows}
    names = [example.name.split()[0] for example in one_of_each_task()]
    assert names == ["triples", "classification", "question"]
    assert {example.instruction for example in one_of_each_task()} <= asked
    texts = {split_context(row.context)[1] for row in rows}
    assert not {example.input for example in one_of_each_task()} & texts


def test_rows_can_be_examples():
    rows = [
        Row(context=format_context("分类：", "比赛\nInput: 结束了" * 9), target='["体育"]'),
        Row(context=format_context("写一首诗。"), target="好"),
    ]
    long, short = panel_examples(rows)
    text = "比赛\nInput: 结束了" * 9
    assert long == ("classification: 比赛 Input: 结束了比赛 Input: 结…", "分类：", text)
    assert short == ("question: 写一首诗。", "写一首诗。", "")
    with pytest.raises(ValueError, match="line 7: context '你好' is not"):
        panel_examples([SimpleNamespace(context="你好", target="", line=7)])


def test_a_panel_without_examples_is_empty(model, tokenizer):
    panel = Playground(model, tokenizer, examples=[])
    assert (panel.instruction.value, panel.examples.label) == ("", "your own text")


def test_an_unknown_layout_is_refused_at_once(model, tokenizer):
    with pytest.raises(ValueError, match="chatglm9"):
        Playground(model, tokenizer, "chatglm9")


def test_no_colour_is_fixed():
    styles = panel_html.TEXT + panel_html.ERROR + panel_html.QUIET
    assert not re.search(r"#[0-9a-f]{3}|rgb|background|black|white(?!-space)", styles)
