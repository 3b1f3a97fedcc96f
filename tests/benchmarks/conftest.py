"""Options of the benchmarks: ``pytest tests/benchmarks --record``."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: Any) -> None:
    """What to measure, and whether to keep it."""
    group = parser.getgroup("LoRA-GLM benchmarks")
    group.addoption("--record", action="store_true", help="write the results below data/runs/")
    group.addoption("--shape", default=None, help="model to train: 67M, chatglm2-6b, tiny")
    group.addoption("--rows", type=int, default=128, help="rows to train on (default 128)")


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> int:
    """Rows that each contender trains on."""
    return request.config.getoption("--rows")


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest) -> bool:
    """Whether results are to be written."""
    return request.config.getoption("--record")
