"""The notebooks keep the rules of notebook_rules.py, and each rule can fail."""

from __future__ import annotations

from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPENING = """# 07 · A small lesson

- **You will build** a sum.
- **You need first** nothing.
- **Time** about 2 minutes on a CPU, 1 on a GPU
- **Previous** [README](../README.md) · **Next** [README](../README.md)
"""
ANSWER = """<details><summary>Answer</summary>

```python
def double(x):
    return 2 * x
```
</details>"""


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    problems = list(rule(rules.read(path), path))
    assert not problems, "\n".join([f"{path.name}: {rule.__doc__}", *problems])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_valid(path):
    nbformat.validate(rules.read(path))


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")
def test_most_outputs_are_compared():
    shown = [cell for path in NOTEBOOKS for _, cell in rules.code_cells(rules.read(path))]
    shown = [cell for cell in shown if cell.outputs]
    share = sum(map(rules.compared, shown)) / len(shown)
    assert share >= 0.7, f"nbval compares {share:.0%} of {len(shown)} cells with output"


def test_figures_are_small_pictures():
    figures = sorted((ROOT / "figures").glob("*"))
    assert [path.name for path in figures if path.suffix != ".png"] == []
    assert [path.name for path in figures if path.stat().st_size > 150_000] == []


# One good notebook, and for every rule what breaks it.


def lesson():
    def code(source, count, text):
        output = [new_output("stream", text=text)] if text else []
        return new_code_cell(source, execution_count=count, outputs=output)

    stub = "def double(x):\n    ...\n\ncheck(double, like=[4], on=[(2,)])"
    words = "A sentence which says what the next cell shows, and why a reader cares."
    exercise = "### Exercise {} · ★☆☆ · 2 minutes\n\n" + words
    cells = [
        new_markdown_cell(OPENING),
        code("from loraglm_helpers.exercises import check\nprint(2)", 1, "2\n"),
        new_markdown_cell(words + "\n\n## What we saw\n\nTwo.\n\n## Exercises"),
        new_markdown_cell(exercise.format(1)),
        code(stub, 2, "Not solved yet"),
        new_markdown_cell(ANSWER),
        new_markdown_cell(exercise.format(2)),
        code(stub, 3, "Not solved yet"),
        new_markdown_cell(ANSWER + "\n\n## Next\n\nOn."),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


PATH = ROOT / "notebooks" / "07_lesson.ipynb"


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_every_rule(rule):
    assert list(rule(lesson(), PATH)) == []


def source(cell, text):
    return lambda notebook: notebook.cells[cell].update(source=text)


def shows(cell, output):
    return lambda notebook: notebook.cells[cell].outputs.append(output)


def remove(cell):
    return lambda notebook: notebook.cells.pop(cell)


BROKEN = [
    (rules.format_is_clean, lambda n: n.metadata.update(widgets={}), "metadata 'widgets'"),
    (rules.format_is_clean, lambda n: n.metadata.kernelspec.update(name="x"), "not python3"),
    (rules.format_is_clean, lambda n: n.cells[1].update(id=n.cells[0].id), "there twice"),
    (rules.cells_were_run_in_order, lambda n: n.cells[1].update(execution_count=None), "store it"),
    (rules.cells_were_run_in_order, shows(1, new_output("error", ename="E")), "is an error"),
    (rules.code_is_plain_python, source(1, "!ls"), "not plain Python"),
    (rules.code_is_plain_python, source(1, "%matplotlib inline"), "not plain Python"),
    (rules.code_is_plain_python, source(1, "x = 1;"), "semicolon"),
    (rules.code_is_plain_python, source(1, "print(_)"), "IPython's history"),
    (rules.code_is_plain_python, source(1, "from math import *"), "star import"),
    (rules.code_is_plain_python, source(1, "try:\n    1\nexcept:\n    2"), "bare except"),
    (rules.code_is_plain_python, source(1, "f(trust_remote_code=x)"), "remote code"),
    (rules.code_is_plain_python, source(1, "clear_output()"), "flickers"),
    (rules.code_is_plain_python, source(1, "warnings.simplefilter('ignore')"), "blanket"),
    (rules.cells_are_short, source(1, "x = 1\n" * 26), "26 lines, 25 at most"),
    (rules.cells_are_short, lambda n: [source(i, "x = 1\n" * 9)(n) for i in (1, 4, 7)], "median"),
    (rules.prose_and_code_are_balanced, source(1, "x = 1\n" * 40), "5 to 12 wanted"),
    (rules.results_have_words_between, lambda n: [n.cells.pop(2) for _ in "ab"], "cells 1 and 2"),
    (rules.opening_says_what_awaits, source(0, "# Lesson"), "does not begin"),
    (rules.opening_says_what_awaits, source(0, OPENING.replace(" CPU", "")), "no minutes"),
    (rules.opening_says_what_awaits, source(0, OPENING.replace("**Next**", "")), "lacks **Next**"),
    (rules.opening_says_what_awaits, remove(1), "not the setup cell"),
    (rules.closing_sums_up, source(8, ANSWER), "the last headings are"),
    (rules.exercises_are_complete, remove(3), "1 exercises, 2 or 3 wanted"),
    (rules.exercises_are_complete, remove(5), "no folded answer"),
    (rules.exercises_are_complete, source(4, "print(1)"), "does not end in a call of check"),
    (rules.exercises_are_complete, source(3, "### Exercise 1"), "lacks '· ★☆☆"),
    (rules.outputs_fit_every_machine, source(1, "open('/" + "home/me/x')"), "path of one machine"),
    (rules.outputs_fit_every_machine, shows(1, new_output("stream", text="0x7f3a9c0d")), "address"),
    (
        rules.outputs_fit_every_machine,
        shows(1, new_output("display_data", data={"image/svg+xml": "<svg/>"})),
        "stores image/svg+xml",
    ),
    (rules.links_resolve, source(2, "[a](missing.md)"), "no such file"),
    (rules.links_resolve, source(2, "![](missing.png)"), "no alt text"),
    (rules.links_resolve, source(2, '<img src="missing.png">'), "no alt text"),
]


@pytest.mark.parametrize(("rule", "break_it", "words"), BROKEN)
def test_a_broken_notebook_is_caught(rule, break_it, words):
    notebook = lesson()
    break_it(notebook)
    assert words in "\n".join(rule(notebook, PATH))


def test_what_counts_as_compared():
    cell = new_code_cell("x", outputs=[new_output("stream", text="2\n")])
    assert rules.compared(cell)
    cell.metadata["tags"] = ["nbval-ignore-output"]
    assert not rules.compared(cell)
    picture = new_output("display_data", data={"image/png": "iVBO"})
    assert not rules.compared(new_code_cell("x", outputs=[picture]))
    assert not rules.compared(new_code_cell("x", outputs=[new_output("stream", name="stderr")]))


def test_words_of_prose():
    assert rules.prose_words("LoRA trains [two matrices](x.md), 低秩矩阵.") == 6.0
