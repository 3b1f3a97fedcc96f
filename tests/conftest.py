"""What the unit tests share."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pytest
import torch

# Set here and not in the environment, which the notebooks' kernels inherit: they draw inline.
matplotlib.use("Agg")


@pytest.fixture(scope="session", autouse=True)
def beside_the_notebooks() -> None:
    """Under `make test` take what the notebooks' process leaves: one thread, at low priority."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        if hasattr(os, "nice"):
            os.nice(19)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]
