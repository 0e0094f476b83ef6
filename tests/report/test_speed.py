"""The bars of `benchmark.speed` in the report."""

import json

import pytest

from benchmark.report import build
from benchmark.store.folder import SPEED_FORMAT, Store
from benchmark.store.records import Speed, from_json


def measured(**other):
    unit = {
        "label": "DM step, IPC 10",
        "ratio": 2.5,
        "plain": {"milliseconds": 3000.0, "peak_mib": 700.0},
        "product": {"milliseconds": 1200.0, "peak_mib": 200.0},
    }
    bare = {"label": "loading <Toy>", "plain": {"milliseconds": 80.0}, "product": {"milliseconds": 10.0}}
    return {
        "format": SPEED_FORMAT,
        "environment": {"device": "a CPU", "torch": "2.15"},
        "dataset": "CIFAR-10",
        "precision": "float32",
        "ceilings": {"convolution": 2.5e11},
        "load": 3.0,
        "contended": True,
        "units": [unit, bare],
    } | other


def test_bars_and_circumstances_are_shown(tmp_path):
    store = Store(tmp_path)
    store.keep_speed(from_json(measured(), Speed))
    page = build(store).read_text()
    assert 'id="speed"' in page and "convolution at most 250 GFLOP/s" in page
    assert "contended by 3.0 other processes" in page
    drawn = (tmp_path / "plots" / "speed.svg").read_text()
    for text in ("DM step, IPC 10", "2.50  (3,000 → 1,200 ms)", "3.50  (700 → 200 MiB)", "8.00  (80 → 10 ms)"):
        assert text in drawn
    assert (tmp_path / "plots" / "speed.png").stat().st_size > 1000


def test_without_measurements_there_are_no_bars(tmp_path):
    store = Store(tmp_path)
    stored = store.keep_speed(from_json(measured(), Speed))
    build(store)
    stored.unlink()
    assert 'id="speed"' not in build(store).read_text()
    assert not list((tmp_path / "plots").glob("speed.*"))


@pytest.mark.parametrize(
    "damage",
    [
        "no JSON",
        "[]",
        json.dumps(measured(format=0)),
        json.dumps(measured(units=[{"label": "DM"}])),
        json.dumps(measured(units=[{"label": "DM", "plain": {"milliseconds": 0}, "product": {"milliseconds": 1}}])),
    ],
)
def test_a_damaged_file_is_named_and_ignored(damage, tmp_path):
    (tmp_path / "speed.json").write_text(damage)
    with pytest.warns(UserWarning, match="speed.json"):
        assert 'id="speed"' not in build(Store(tmp_path)).read_text()
