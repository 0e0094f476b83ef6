"""Fixtures of the methods' tests."""

import pytest

from benchmark import networks


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ConvNet an eighth as wide, the experts' too."""
    build = networks.build

    def build_narrow(name, shape, classes, *_, depth=None):
        return build(name, shape, classes, 16, depth)

    monkeypatch.setattr(networks, "build", build_narrow)
