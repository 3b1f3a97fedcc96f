"""What a notebook of the series looks like: each rule takes a notebook and returns its problems.

A rule's docstring is the rule. A position in a message counts all cells from 0.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
from folded_exercises import check_call, exercises
from markdown_links import FENCED, LINK, broken_links
from nbformat import NotebookNode

# What nbval compares of a stored output, after conftest's addition.
NOT_COMPARED = {"image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"}
NOT_COMPARED_TAGS = {"nbval-ignore-output", "nbval-skip"}
FOLDED = re.compile(r"<details>.*?</details>", re.S)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|tmp|Users|mnt|usr|opt|var|work)/|\b[A-Z]:\\")
OPENING = ("**You will build**", "**You need first**", "**Time**", "**Previous**", "**Next**")
CLOSING = ("What we saw", "Exercises", "Next")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    return ((i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def texts(cell: NotebookNode) -> Iterator[str]:
    """Every text of a cell: its source and what it shows, pictures left out."""
    yield cell.source
    for output in cell.get("outputs", ()):
        yield output.get("text", "")
        data = output.get("data", {})
        yield from (str(value) for kind, value in data.items() if not kind.startswith("image/"))


def compared(cell: NotebookNode) -> bool:
    """Whether nbval compares anything of what this cell shows."""
    if NOT_COMPARED_TAGS & set(cell.metadata.get("tags", ())):
        return False
    return any(
        output.get("name") == "stdout" or set(output.get("data", {})) - NOT_COMPARED
        for output in cell.outputs
    )


def format_is_clean(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """nbformat 4.5, unique ids, kernelspec python3, no metadata but tags, under 500 KB."""
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"nbformat is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5"
    ids = [cell.get("id") for cell in notebook.cells]
    yield from (f"id {key!r} is there twice" for key in {k for k in ids if ids.count(k) > 1})
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "kernelspec is not python3"
    extra = set(notebook.metadata) - {"kernelspec", "language_info"}
    extra |= {key for cell in notebook.cells for key in cell.metadata if key != "tags"}
    yield from (f"metadata {key!r} is stored" for key in sorted(extra))
    if path.exists() and path.stat().st_size >= 500_000:
        yield f"{path.stat().st_size} bytes, 500,000 at most"


def cells_were_run_in_order(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Execution counts are 1, 2, 3 … and no stored output is an error."""
    for count, (i, cell) in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != count:
            yield f"cell {i}: execution count {cell.execution_count}, {count} expected: store it"
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"cell {i}: the stored output is an error"


def code_is_plain_python(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Code parses without magics and shell lines, and works without IPython's history."""
    for i, cell in code_cells(notebook):
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            yield f"cell {i}, line {error.lineno}: not plain Python"
            continue
        if cell.source.rstrip().endswith(";"):
            yield f"cell {i}: ends in a semicolon"
        yield from (f"cell {i}, line {line}: {what}" for line, what in _misuses(tree))


def _misuses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in {"_", "__", "___", "In", "Out"}:
                yield node.lineno, f"{node.id} needs IPython's history"
            if node.id == "clear_output":
                yield node.lineno, "clear_output flickers: update a display handle"
        elif isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
            yield node.lineno, "a star import"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "a bare except"
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            yield node.value.lineno, "remote code"
        elif isinstance(node, ast.Attribute) and node.attr in {"filterwarnings", "simplefilter"}:
            yield node.lineno, "a blanket filter on warnings"


def cells_are_short(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Code cells have 8 lines or fewer in the median, none has more than 25."""
    lines = {i: _code_lines(cell) for i, cell in code_cells(notebook)}
    if lines and statistics.median(lines.values()) > 8:
        yield f"{statistics.median(lines.values())} lines in the median cell, 8 at most"
    yield from (f"cell {i}: {n} lines, 25 at most" for i, n in lines.items() if n > 25)


def _code_lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def prose_and_code_are_balanced(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Five to twelve words of prose for a line of code (6-10 is the aim)."""
    lines = sum(_code_lines(cell) for _, cell in code_cells(notebook))
    text = FENCED.sub("", FOLDED.sub("", markdown(notebook)))
    words = prose_words(text)
    if lines and not 5 <= words / lines <= 12:
        yield f"{words:.0f} words to {lines} lines of code: {words / lines:.1f}, 5 to 12 wanted"


def prose_words(text: str) -> float:
    """Words, where a Chinese character is half a word and a link counts by its text."""
    text = LINK.sub(lambda link: link[2], text)
    chinese = re.findall(r"[\u4e00-\u9fff]", text)
    return len(re.findall(r"[A-Za-z0-9][\w'’.,-]*", text)) + len(chinese) / 2


def results_have_words_between(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Between two cells that show something stands what was seen, or what to expect."""
    for i, (first, second) in enumerate(zip(notebook.cells, notebook.cells[1:], strict=False)):
        if first.get("outputs") and second.get("outputs"):
            yield f"cells {i} and {i + 1} both show something, with no word between"


def opening_says_what_awaits(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Cell 0: title, what you build, what you need, minutes, links. Cell 1: the setup."""
    opening = notebook.cells[0].source if notebook.cells else ""
    number = path.stem.split("_")[0]
    if not opening.startswith(f"# {number} · "):
        yield f"cell 0 does not begin with '# {number} · '"
    positions = [opening.find(label) for label in OPENING]
    yield from (f"cell 0 lacks {OPENING[i]}" for i, at in enumerate(positions) if at < 0)
    if positions != sorted(positions):
        yield f"cell 0: the labels' order is {', '.join(OPENING)}"
    time = re.search(r"\*\*Time\*\*.*", opening)
    if time and not re.search(r"\d.*CPU.*\d.*GPU", time[0]):
        yield "cell 0: **Time** gives no minutes on a CPU and on a GPU"
    if len(notebook.cells) < 2 or notebook.cells[1].cell_type != "code":
        yield "cell 1 is not the setup cell"


def closing_sums_up(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The last three headings are: What we saw, Exercises, Next."""
    headings = re.findall(r"^## (.*)$", FENCED.sub("", markdown(notebook)), re.M)[-3:]
    pairs = zip(headings, CLOSING, strict=False)
    if len(headings) < 3 or not all(heading.startswith(words) for heading, words in pairs):
        yield f"the last headings are {headings}, not {list(CLOSING)}"


def exercises_are_complete(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Two or three exercises: stars, minutes, a stub ending in check(…), a folded answer."""
    found = list(exercises(notebook))
    if not 2 <= len(found) <= 3:
        yield f"{len(found)} exercises, 2 or 3 wanted"
    for number, exercise in enumerate(found, start=1):
        where = f"exercise {exercise.number}"
        if exercise.number != number:
            yield f"{where}: {number} expected"
        if not re.match(r"### Exercise \d · [★☆]{3} · \d+ minutes", exercise.task):
            yield f"{where}: its heading lacks '· ★☆☆ · N minutes'"
        if not exercise.answer:
            yield f"{where}: no folded answer with Python code follows the stub"
        if not check_call(exercise.stub):
            yield f"{where}: the stub does not end in a call of check"


def outputs_fit_every_machine(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No absolute paths, no memory addresses, no SVG and no widget views."""
    for i, cell in enumerate(notebook.cells):
        for text in texts(cell):
            if found := MACHINE_PATH.search(text):
                yield f"cell {i}: a path of one machine: {text[found.start() :][:40]!r}"
            if found := re.search(r"\b0x[0-9a-f]{6,}", text):
                yield f"cell {i}: a memory address: {found[0]}"
        kinds = {kind for output in cell.get("outputs", ()) for kind in output.get("data", {})}
        for kind in kinds & {"image/svg+xml", "application/vnd.jupyter.widget-view+json"}:
            yield f"cell {i}: stores {kind}"


def links_resolve(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Links and pictures point at files that exist; pictures have alt text."""
    yield from broken_links(markdown(notebook), path.parent)


RULES = (
    format_is_clean,
    cells_were_run_in_order,
    code_is_plain_python,
    cells_are_short,
    prose_and_code_are_balanced,
    results_have_words_between,
    opening_says_what_awaits,
    closing_sums_up,
    exercises_are_complete,
    outputs_fit_every_machine,
    links_resolve,
)
