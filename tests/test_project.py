"""The repository's own promises: set-up files in step, links that resolve, code that is tidy."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from markdown_links import broken_links
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = sorted((ROOT / "loraglm_helpers").rglob("*.py"))
IMPORT_NAMES = {"pytest-benchmark": "pytest_benchmark", "ipython": "IPython", "pillow": "PIL"}


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def requirements(*extras: str) -> list[Requirement]:
    listed = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [Requirement(line) for line in listed]


def test_constraints_pin_every_dependency_inside_its_range():
    pins = dict(line.split("==") for line in lines("constraints.txt") if line[:1] not in {"#", ""})
    wanted = {requirement.name: requirement for requirement in requirements(*EXTRAS)}
    assert set(pins) == set(wanted)
    outside = [name for name, pin in pins.items() if pin not in wanted[name].specifier]
    assert outside == []


def test_every_dependency_has_a_reason():
    listed = [line for line in lines("pyproject.toml") if re.match(r'\s+"\w[\w-]*>=', line)]
    assert len(listed) == len(requirements(*EXTRAS))
    assert [line for line in listed if not re.search(r"# \w", line)] == []


def test_conda_environment_is_in_step_with_pyproject():
    entries = [re.split(r"\s+# ", line.strip().removeprefix("- ")) for line in _environment()]
    assert [len(entry) for entry in entries] == [2] * len(entries), "each line with its reason"
    assert [entry[0] for entry in entries] == [
        f"python{PROJECT['requires-python']}",
        "pip",
        "-c constraints.txt",
        "-e .[test]",
    ]


def _environment() -> list[str]:
    """The dependency lines of environment.yml, the pip section's heading left out."""
    listed = lines("environment.yml")
    listed = listed[listed.index("dependencies:") + 1 :]
    return [line for line in listed if line.strip() != "- pip:"]


def test_make_and_readme_install_the_same():
    install = 'install --disable-pip-version-check -e ".[test]" -c constraints.txt'
    assert any(install in line for line in lines("Makefile"))
    assert 'pip install -e ".[test]" -c constraints.txt' in lines("README.md")


def test_continuous_integration_runs_the_readme_s_command():
    script = ROOT / ".ci" / "run"
    assert "make test" in lines(".ci/run")
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "data").glob("*.md")))
def test_links_resolve(path):
    assert list(broken_links(path.read_text(encoding="utf-8"), path.parent)) == []


def test_readme_lists_every_notebook_and_every_module_it_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    notebooks = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\]\(notebooks/(\w+\.ipynb)\)", text)) == notebooks
    named = re.findall(r"^  (\w+\.py) ", text, re.M)
    assert [name for name in named if not (ROOT / "loraglm_helpers" / name).exists()] == []


def test_every_import_is_a_listed_dependency():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    own = {"loraglm_helpers", *sys.stdlib_module_names}
    helpers = {path.stem for path in tests}
    # what the package imports must be there without the tests' extra; two are imported when asked
    for files, extras, more in (
        (MODULES, ("quantization", "tensorboard"), set()),
        (tests, tuple(EXTRAS), helpers),
    ):
        listed = {IMPORT_NAMES.get(r.name, r.name) for r in requirements(*extras)}
        known = own | listed | more
        unknown = {(f.name, name) for f in files for name in _imports(f) if name not in known}
        assert unknown == set()


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= 40] == []


def test_style_of_modules_tests_and_notebooks():
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    result = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


# Brackets keep these patterns from matching this file.
BANNED = {
    "remote code": r"trust_remote_cod[e] *= *True",
    "a path of one machine": r"(^|[\"'= (])/(roo[t]|hom[e]|wor[k]|User[s])/",
    "the address of a package registry": r"index[-]url|find[-]links|pypi[.]org|pythonhosted[.]",
}


@pytest.mark.parametrize("what", BANNED)
def test_no_file_holds(what):
    """Only what git knows is looked at; outside a git checkout there is nothing to ask."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    texts = {".py", ".md", ".toml", ".txt", ".yml", ".cfg", ".json", ".ipynb", ""}
    paths = [ROOT / name for name in listed if Path(name).suffix in texts]
    found = [
        path.name
        for path in paths
        if path.is_file() and re.search(BANNED[what], path.read_text(encoding="utf-8"), re.M)
    ]
    assert found == []
