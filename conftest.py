"""pytest at the repository's root: what tests/ and notebooks/ have in common."""

from __future__ import annotations

import os

import pytest

# Everything that the tests need is in this repository: never ask a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Notebooks under test draw into build/: figures/ holds what `make notebooks` stored.
os.environ.setdefault("LORAGLM_FIGURES", "build/figures")


def pytest_collectstart(collector) -> None:
    """Compare what notebooks show, not what libraries write to stderr about themselves."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """`make test` has two processes: all notebooks in one, for they build on each other's results,
    and meanwhile test file after test file in the other.
    """
    from xdist.scheduler import LoadFileScheduling

    class NotebooksTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "notebooks" if file.endswith(".ipynb") else file

    return NotebooksTogether(config, log)
