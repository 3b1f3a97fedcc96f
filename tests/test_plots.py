"""Pictures: no empty boxes, small files, the same bytes again; the live plot is one output."""

from __future__ import annotations

import io
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image
from tiny_tokenizer import train_tokenizer

from loraglm_helpers import figure_style, live_plot
from loraglm_helpers.plots import (
    LivePlot,
    plot_confusion,
    plot_history,
    plot_scores,
    save_figure,
    token_strip,
    use_style,
)
from loraglm_helpers.token_strip import token_text
from loraglm_helpers.tokenizer import load_tokenizer

RECORDS = [
    {"step": 10, "loss": 4.0, "lr": 0.004, "tokens": 1000, "seconds": 2.0},
    {"step": 20, "loss": 2.0, "lr": 0.002, "tokens": 3000, "seconds": 4.0, "dev_loss": 2.5},
    {"step": 30, "loss": 1.0, "lr": 0.0, "tokens": 4000, "seconds": 5.0, "dev_loss": float("nan")},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent)


@pytest.fixture
def only_latin(monkeypatch):
    """A machine without a Chinese font."""
    monkeypatch.setattr(figure_style, "chinese_font", lambda: None)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def state(records=(), total=40):
    history = SimpleNamespace(records=list(records))
    return SimpleNamespace(history=history, total_steps=total, step=len(records), record={})


def test_a_strip_shows_each_token_and_its_label(tokenizer):
    gmask, sop = tokenizer.convert_tokens_to_ids(["[gMASK]", "sop"])
    ids = [*tokenizer.encode("a film\n"), gmask, sop, *tokenizer.encode("$1"), 2]
    labels = [-100] * (len(ids) - 3) + ids[-3:]
    figure = token_strip(ids, labels, tokenizer, title="a $row$")
    shown = words(figure)
    assert shown[-1] == "a $row$"
    assert shown[0:-1:2] == [token_text(i, tokenizer) for i in ids]
    assert shown[1:-1:2] == ["−100"] * (len(ids) - 3) + [str(i) for i in ids[-3:]]
    assert {"[gMASK]", "sop", "</s>", "⏎", "␣", "$", "1"} <= set(shown)
    legend = figure.axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [
        "special token",
        "no loss (label −100)",
        "target (trained)",
    ]


def test_what_no_font_can_draw_is_shown_by_its_id(tokenizer, only_latin):
    ids = tokenizer.encode("文\U0001f9ea a", add_special_tokens=False)
    shown = [token_text(i, tokenizer) for i in ids]
    assert all(figure_style.drawable(text) for text in shown)
    assert f"#{ids[0]}" in shown or "␣" in shown[0]
    assert shown[-2:] == ["␣", "a"] or shown[-1] == "␣a"
    assert token_text(10**6, tokenizer) == f"#{10**6}" and token_text(5, None) == "#5"
    assert not figure_style.drawable("文") and figure_style.drawable("␣⏎⇥−[gMASK]")


def test_nothing_is_drawn_as_an_empty_box(tokenizer, recwarn):
    texts = "年利率4.35%，小说《风》🧪 καλη\tx\u3000y"
    figure_style.to_png(token_strip(tokenizer.encode(texts), None, tokenizer))
    figure_style.to_png(plot_confusion({"体育": {"体育": 1, "\u1fff": 2}}))
    missing = [str(w.message) for w in recwarn if "missing from font" in str(w.message)]
    assert missing == []


def test_a_long_strip_wraps_inside_the_picture(tokenizer):
    figure = token_strip(list(range(100, 300)), None, tokenizer)
    boxes = [patch.get_bbox() for patch in figure.axes[0].patches]
    assert len(boxes) == 200 and len({box.y0 for box in boxes}) > 5
    assert max(box.x1 for box in boxes) <= 92.0
    assert figure.get_size_inches()[1] > 4


def test_a_strip_needs_one_label_an_id(tokenizer):
    with pytest.raises(ValueError, match="3 ids and 2 labels"):
        token_strip([5, 6, 7], [1, 2], tokenizer)
    with pytest.raises(ValueError, match="0 ids"):
        token_strip([], [], tokenizer)


def test_saved_figures_are_small_white_and_the_same_again(tmp_path, monkeypatch):
    noise = Figure(figsize=(5, 5))  # about 200 KB at 150 dots an inch
    noise.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    save_figure(noise, "noise", tmp_path)
    for number in "01":
        save_figure(plot_history(RECORDS), "curve.png", tmp_path / number)
    first, second = (tmp_path / n / "curve.png" for n in "01")
    assert first.read_bytes() == second.read_bytes()
    assert 50_000 < (tmp_path / "noise.png").stat().st_size <= 150_000
    with Image.open(first) as picture:
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert picture.size[0] > 1200 and "Software" not in picture.info
    monkeypatch.setenv("LORAGLM_FIGURES", str(tmp_path / "elsewhere"))
    save_figure(plot_history(RECORDS), "a")
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["a.png"]


def test_figures_go_to_the_projects_folder_from_anywhere(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert figure_style._figures() == root / "figures"
    with pytest.raises(ValueError, match="plain file name"):
        save_figure(Figure(), "../a", tmp_path)


def test_the_history_picture_has_three_panels_and_marks_the_best(recwarn):
    figure = plot_history(SimpleNamespace(records=RECORDS), total_steps=40)
    loss, rate, speed = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "loss per target token",
        "learning rate",
        "tokens per second",
    ]
    assert loss.lines[0].get_xydata().tolist() == [[10, 4], [20, 2], [30, 1]]
    assert loss.lines[1].get_xydata().tolist() == [[20, 2.5]]
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels == ["train", "dev, best 2.500 at step 20"]
    assert rate.lines[0].get_ydata().tolist() == [0.004, 0.002, 0.0]
    assert speed.lines[0].get_ydata().tolist() == [500.0, 1000.0, 1000.0]
    assert loss.get_xlim() == (0, 40) and loss.get_ylim()[0] == 0
    figure_style.to_png(figure)
    figure_style.to_png(plot_history([]))
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_the_live_plot_only_records_outside_a_notebook(monkeypatch):
    monkeypatch.setattr(live_plot, "display", lambda *a, **k: pytest.fail("shown"))
    live = LivePlot()
    live("start", state())
    live("log", state(RECORDS[:1]))
    live("end", state(RECORDS))
    assert live.records == RECORDS and live.total_steps == 40 and live.handle is None


def test_a_live_plot_takes_each_run_s_own_length_unless_it_was_given_one():
    live, fixed = LivePlot(), LivePlot(total_steps=9)
    for total in (40, 60):
        live("start", state(total=total))
        fixed("start", state(total=total))
        assert (live.total_steps, fixed.total_steps) == (total, 9)


def test_the_live_plot_updates_one_output_and_seldom(monkeypatch):
    shown, clock = [], [100.0]
    handle = SimpleNamespace(update=lambda picture: shown.append(("update", picture)))

    def display(picture, display_id):
        assert display_id is True
        shown.append(("display", picture))
        return handle

    def draw(figure):
        clock[0] += 0.1  # a tenth of a second: the next update waits for two seconds
        return to_png(figure)

    to_png = live_plot.to_png
    monkeypatch.setattr(live_plot, "display", display)
    monkeypatch.setattr(live_plot, "to_png", draw)
    monkeypatch.setattr(live_plot, "in_notebook", lambda: True)
    monkeypatch.setattr(live_plot.time, "monotonic", lambda: clock[0])
    live = LivePlot()
    live("start", state())
    for number in range(60):  # six seconds
        clock[0] += 0.1
        live("step", state(RECORDS[:1]))
        live("log" if number % 2 else "evaluate", state(RECORDS[:1]))
    live("end", state(RECORDS))
    kinds = [kind for kind, picture in shown]
    assert kinds[0] == "display" and set(kinds[1:]) == {"update"} and 3 <= len(kinds) <= 5
    with Image.open(io.BytesIO(shown[-1][1].data)) as picture:
        assert picture.size == (920, 320)
    assert pyplot.get_fignums() == []


def test_a_kernel_keeps_one_picture_with_the_last_state(root):
    code = f"""
from types import SimpleNamespace as S
from loraglm_helpers.plots import LivePlot, plot_history
records = {RECORDS[:2]}
live = LivePlot()
live("start", S(history=S(records=[]), total_steps=30))
live("log", S(history=S(records=records[:1]), total_steps=30))
live("end", S(history=S(records=records), total_steps=30))
"""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(code),
            nbformat.v4.new_code_cell("figure = plot_history(records)"),
        ]
    )
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(root)}}).execute()
    live, final = (cell.outputs for cell in notebook.cells)
    assert [output.output_type for output in live] == ["display_data"]
    assert live[0].data["text/plain"] == "<IPython.core.display.Image object>"
    assert "image/png" in live[0].data
    assert [set(output.data) for output in final] == [{"image/png", "text/plain"}]


def test_scores_before_and_after_stand_side_by_side():
    before = {"exact_match": 0.0, "by_task": {"triples": {"exact_match": 0.0}}}
    after = {
        "exact_match": 0.9,
        "by_task": {"triples": {"exact_match": 0.95}, "question": {"exact_match": 0.5}},
    }
    figure = plot_scores(before, after)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["all rows", "question", "triples"]
    assert [[bar.get_width() for bar in group] for group in axes.containers] == [
        [0, 0, 0],
        [90, 50, 95],
    ]
    assert "95 %" in words(figure)


def test_a_confusion_has_the_other_answers_on_the_right(only_latin):
    figure = plot_confusion({"体育": {"体育": 3, "(none)": 1}, "food": {"food": 2}})
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["#1", "food", "(none)"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["#1", "food"]
    assert axes.images[0].get_array().tolist() == [[3, 0, 1], [0, 2, 0]]
    with pytest.raises(ValueError, match="no classes"):
        plot_confusion({})


def test_the_style_is_set_only_when_asked():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = matplotlib.rcParams.copy()
        plot_confusion({"a": {"a": 2, "b": 1}})
        assert matplotlib.rcParams == before
        use_style()
        assert matplotlib.rcParams["figure.facecolor"] == "white"
        assert matplotlib.rcParams["font.family"][0] == "DejaVu Sans"
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0] == "#0072B2"
