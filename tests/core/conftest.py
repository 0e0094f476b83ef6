"""Fixtures of the core tests: digits in memory, and a cache folder that is nobody's."""

from pathlib import Path

import pytest

from benchmark import data
from tests.core.toys import TOYS, Drift, registered


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def digits():
    return data.load("digits", Path())


@pytest.fixture
def toys():
    """The toy methods are known by name."""
    Drift.condensed = 0
    with registered(*TOYS.values()):
        yield
