"""pytest at the repository's root: what tests/ and notebooks/ have in common."""

from __future__ import annotations

import os

# Everything that the tests need is in this repository: never ask a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Notebooks under test draw into build/: figures/ holds what `make notebooks` stored.
os.environ.setdefault("LORAGLM_FIGURES", "build/figures")


def pytest_collectstart(collector) -> None:
    """Compare what notebooks show, not what libraries write to stderr about themselves."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
