"""Notebooks executed, stored and compared: what the team of nbclient, nbval and ours does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from loraglm_helpers import notebooks
from loraglm_helpers.tutorial_report import report

ROOT = Path(__file__).resolve().parents[1]
LIVE_PLOT = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
handle = display(figure, display_id=True)
for value in range(3):
    axes.plot([0, value])
    handle.update(figure)
plt.close(figure)
"""
PROGRESS = """
from tqdm.auto import tqdm
for step in tqdm(range(20), desc="train"):
    if step == 15:
        break
"""
WIDGET = """
import sys
import ipywidgets
answer = ipywidgets.HTML()
button = ipywidgets.Button(description="Run")
button.on_click(lambda clicked: setattr(answer, "value", "答案"))
print("noise", id(button), file=sys.stderr)
display(ipywidgets.VBox([button, answer]))
"""


def save(path: Path, *sources: str) -> Path:
    cells = [new_code_cell(source.strip()) for source in sources]
    notebooks.write(new_notebook(cells=[new_markdown_cell("# Title"), *cells]), path)
    return path


def nbval(*paths: Path) -> subprocess.CompletedProcess:
    """Run the stored notebooks as `make test` does; the plugin is the root's conftest.py."""
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "conftest"]
    return subprocess.run(
        [*command, "-q", "--color=no", "-p", "no:cacheprovider", *paths],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_stored_outputs_are_compared_strictly(tmp_path):
    path = save(
        tmp_path / "live.ipynb", LIVE_PLOT, PROGRESS, WIDGET, "button.click(); answer.value"
    )
    notebooks.store([path])
    stored = nbformat.read(path, as_version=4)
    plot, progress, panel, value = (cell.outputs for cell in stored.cells[1:])
    assert [set(output.data) for output in plot] == [{"image/png", "text/plain"}]
    assert progress[0].data == {"text/plain": "train: 75%|████████  | 15/20"}
    assert set(panel[-1].data) == {"text/plain"}
    assert value[0].data["text/plain"] == "'答案'"
    assert stored.metadata.keys() == {"kernelspec", "language_info"}
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, 3, 4]

    value[0].data["text/plain"] = "'another answer'"
    changed = path.with_name("changed.ipynb")
    notebooks.write(stored, changed)
    done = nbval(path, changed)
    assert done.returncode == 1
    assert "1 failed, 7 passed" in done.stdout, done.stdout
    assert done.stdout.startswith(".......F")  # the cell that another answer was stored for


def test_a_failing_cell_is_named_and_the_file_stays_as_it_was(tmp_path, capsys):
    path = save(tmp_path / "05_broken.ipynb", "x = 1", "1 / 0")
    before = path.read_bytes()
    assert notebooks.main(["store", str(path)]) == 1
    said = capsys.readouterr().err
    assert "05_broken.ipynb, cell 2 (1 / 0):" in said
    assert "ZeroDivisionError" in said
    assert path.read_bytes() == before


def test_the_series_runs_in_order_on_each_other_s_results(tmp_path, monkeypatch):
    monkeypatch.delenv("LORAGLM_FIGURES", raising=False)
    lessons, build = tmp_path / "notebooks", tmp_path / "build"
    pictures = "import os; print(os.environ['LORAGLM_FIGURES'])"
    save(lessons / "02_second.ipynb", "print(open('../result.txt').read())", pictures)
    save(lessons / "01_first.ipynb", "open('../result.txt', 'w').write('from 01')")
    save(lessons / "A_appendix.ipynb", "1 / 0")
    notebooks.run_series(lessons, build)
    assert sorted(path.name for path in build.iterdir()) == ["01_first.ipynb", "02_second.ipynb"]
    copy = nbformat.read(build / "02_second.ipynb", as_version=4)
    assert copy.cells[1].outputs[0].text == "from 01\n"
    assert copy.cells[2].outputs[0].text == f"{build / 'figures'}\n"  # figures/ keeps stored ones
    assert not nbformat.read(lessons / "02_second.ipynb", as_version=4).cells[1].outputs


def test_normalise_keeps_tags_outputs_and_counts_only():
    output = new_output("display_data", data={"text/plain": "1"}, metadata={"needs": "light"})
    metadata = {"tags": ["nbval-ignore-output"], "execution": {"iopub.execute_input": "now"}}
    cell = new_code_cell("1", execution_count=7, outputs=[output], metadata=metadata)
    version = {"language_info": {"name": "python", "version": "3.11.7"}, "widgets": {}}
    notebook = notebooks.normalise(new_notebook(cells=[cell], metadata=version))
    assert notebook.metadata["language_info"] == {"name": "python"}
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.cells[0].metadata == {"tags": ["nbval-ignore-output"]}
    assert notebook.cells[0].execution_count == 7
    assert notebook.cells[0].outputs[0].data == {"text/plain": "1"}
    assert notebook.cells[0].outputs[0].metadata == {}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "build" / "finetune"
    folder.mkdir(parents=True)
    records = [
        {"step": 10, "loss": 3.0, "dev_loss": 2.5, "seconds": 4.0},
        {"step": 20, "loss": 1.0, "seconds": 8.0},
        {"step": 30, "loss": 0.5, "dev_loss": 0.25, "seconds": 12.0},
    ]
    (folder / "history.json").write_text(json.dumps({"records": records}))
    before = {"exact_match": 0.0, "by_task": {"triples": {"exact_match": 0.0}}}
    after = {"exact_match": 0.875, "by_task": {"triples": {"exact_match": 0.9}}}
    (folder / "scores.json").write_text(json.dumps({"before": before, "after": after}))
    return tmp_path / "build"


def test_the_report_says_what_was_trained_and_its_scores(results):
    words = report(results, seconds=90).splitlines()
    assert "The series ran in 1.5 minutes." in words
    assert any("trained for 30 steps in 12 s: build/finetune/best" in line for line in words)
    assert "Its loss on the dev rows: 2.500 after 10 steps, 0.250 at its best." in words
    assert "  all tasks                          0%      88%" in words
    assert "  triples                            0%      90%" in words


def test_the_report_names_what_is_missing(tmp_path):
    words = report(tmp_path, seconds=60)
    assert "history.json is missing or empty" in words
    assert "scores.json is missing" in words
