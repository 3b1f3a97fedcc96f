"""The notebooks' lifecycle: run the series in order, or run it and store its outputs.

    python -m loraglm_helpers.notebooks tutorial     01-05, executed copies in build/
    python -m loraglm_helpers.notebooks store        every notebook, outputs kept in place

Stored notebooks hold outputs and execution counts, which the tests compare, and no other trace
of the run: no timings, no kernel version, no widget state (a notebook with `metadata.widgets`
is "Invalid" on GitHub).
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm.auto import tqdm

from loraglm_helpers.figure_style import FIGURES
from loraglm_helpers.tutorial_report import report
from loraglm_helpers.whole_file import write_text

ROOT = Path(__file__).resolve().parents[1]
SERIES = "0[1-5]_*.ipynb"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
BAR_MODELS = ["HTMLModel", "FloatProgressModel", "HTMLModel"]  # what tqdm's bar is made of
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message names notebook, cell and error."""


def execute(path: Path, folder: Path) -> NotebookNode:
    """Run the notebook in a new kernel whose working directory is `folder`; returns it normalised.

    Raises NotebookError at the first cell that fails. The file itself is not changed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tqdm(total=len(notebook.cells), desc=path.stem, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=None,
            startup_timeout=180,
            kernel_name=KERNEL["name"],
            resources={"metadata": {"path": str(folder)}},
            # Below an error, the kernel's own log speaks of transports, not of the lesson.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            record_timing=False,
            coalesce_streams=True,
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise NotebookError(f"{path.name}, {_failed_cell(notebook)}:\n{error}") from None
        except DeadKernelError as error:
            raise NotebookError(
                f"{path.name}: its Python process died, most often for lack of memory. "
                "Close other programs, or lower batch_size in the notebook."
            ) from error
        bar.update(bar.total - bar.n)
    return normalise(notebook)


def _failed_cell(notebook: NotebookNode) -> str:
    """Position in the file, from 0, and the first line of the cell that failed."""
    for index, cell in enumerate(notebook.cells):
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            return f"cell {index} ({cell.source.strip().splitlines()[0]})"
    return "a cell"


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Strip all but source, ids, tags, outputs and execution counts, in place.

    Progress bars are stored in the final state that `metadata.widgets` tells of them.
    """
    widgets = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": KERNEL["language"]}}
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        for output in cell.get("outputs", ()):
            _normalise_output(output, widgets)
    return notebook


def _normalise_output(output: NotebookNode, widgets: dict[str, dict]) -> None:
    """Drop an output's metadata and widget view: without its state the view shows an error."""
    if "metadata" in output:
        output.metadata = NotebookNode()
    view = output.get("data", {}).pop(WIDGET_VIEW, None)
    final = _progress_text(widgets, view["model_id"]) if view else None
    if final:
        output.data["text/plain"] = final


def _progress_text(widgets: dict[str, dict], model_id: str) -> str | None:
    """The final state of a tqdm bar, e.g. 'train: 100%|██████████| 40/40'; None if it is no bar."""
    models = [widgets.get(key, {}) for key in _children(widgets, model_id)]
    if [model.get("model_name") for model in models] != BAR_MODELS:
        return None
    before, bar, after = (model["state"] for model in models)
    done = bar.get("value", 0) / (bar.get("max") or 1)
    count = html.unescape(after.get("value", "")).split("[")[0].strip()
    label = re.sub(r"\d+%", "", html.unescape(before.get("value", ""))).strip()
    return f"{label} {done:.0%}|{'█' * round(10 * done):10}| {count}".strip()


def _children(widgets: dict[str, dict], model_id: str) -> list[str]:
    children = widgets.get(model_id, {}).get("state", {}).get("children", ())
    return [child.removeprefix("IPY_MODEL_") for child in children]


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook atomically, with a newline at its end."""
    nbformat.validate(notebook)
    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def run_series(folder: Path, build: Path) -> None:
    """Execute notebooks 01-05 of `folder` in order, each on the previous one's results.

    The executed copies lie in `build`, one level below the root as the originals are, so that
    their links work; the pictures that they save lie there too, since figures/ holds stored ones.
    """
    os.environ.setdefault(FIGURES, str(build / "figures"))  # the kernels inherit it
    for path in sorted(folder.glob(SERIES)):
        write(execute(path, folder), build / path.name)


def store(paths: Sequence[Path]) -> None:
    """Execute each notebook in its own folder and keep its outputs in the file."""
    for path in paths:
        write(execute(path, path.parent), path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loraglm_helpers.notebooks",
        description="Run the notebook series.",
        epilog="example: … store notebooks/03_low_rank_math.ipynb",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tutorial", help="run 01-05 into build/ and say what was trained")
    storing = commands.add_parser("store", help="run notebooks and store their outputs in place")
    storing.add_argument("notebooks", nargs="*", type=Path, help="default: all, in order")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        if options.command == "tutorial":
            run_series(ROOT / "notebooks", ROOT / "build")
            print(report(ROOT / "build", seconds=time.perf_counter() - start))
        else:
            store(options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")))
    except (NotebookError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
