"""What the unit tests share."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

# Set here and not in the environment, which the notebooks' kernels inherit: they draw inline.
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]
