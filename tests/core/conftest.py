"""Fixtures of the core tests: digits in memory, and a cache folder that is nobody's."""

from pathlib import Path

import pytest
import torch

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


@pytest.fixture
def norm_in_float32():
    """Autocast treats the norm on the CPU as it does on CUDA, the only place where uncompiled bfloat16 is used."""

    def precise(maps, groups, weight, bias, *rest):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
            return torch.ops.aten.group_norm(maps.float(), groups, weight, bias, *rest)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("group_norm", precise, "AutocastCPU")
        yield
