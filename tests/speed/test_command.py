"""`python -m benchmark.speed`: what is timed, stored and drawn, and what is refused."""

import json

import pytest

from benchmark import data, networks
from benchmark.speed import measure, units
from benchmark.speed.__main__ import QUICK_UNITS, Options, chosen, main

pytestmark = pytest.mark.slow  # units are timed

CEILINGS = {"matrix product": 2e11, "convolution": 1e11}


@pytest.fixture(autouse=True)
def _ceilings(monkeypatch):
    monkeypatch.setattr(measure, "ceilings", lambda runtime: CEILINGS)


def test_measurements_are_stored_and_drawn(tmp_path, capsys):
    arguments = ["--dataset", "digits", "--units", "dm", "loading", "--ipc", "1", "--repetitions", "1"]
    assert main([*arguments, "--device", "cpu", "--results-dir", str(tmp_path)]) == 0
    measured = json.loads((tmp_path / "speed.json").read_text())
    dm, loading = measured["units"]
    assert (dm["unit"], dm["ipc"], loading["unit"], loading["ipc"]) == ("dm", 1, "loading", None)
    assert dm["ratio"] == dm["plain"]["milliseconds"] / dm["product"]["milliseconds"]
    largest = max(map(len, data.load("digits", tmp_path).train.class_indices))  # all of them: fewer than 256
    per_image = networks.flops_per_image(networks.build_matching((1, 8, 8), 10), (1, 8, 8))
    assert dm["flops"] == 10 * (largest + 3) * per_image
    assert dm["flops"] == pytest.approx(dm["product"]["flops_per_second"] * dm["product"]["milliseconds"] / 1000)
    assert dm["product"]["ceiling_share"] == dm["product"]["flops_per_second"] / CEILINGS["convolution"]
    assert loading["flops"] is loading["product"]["ceiling_share"] is None
    assert measured["ceilings"] == CEILINGS and measured["skipped"] == []
    assert "DM step, IPC 1" in capsys.readouterr().out
    assert "DM step, IPC 1" in (tmp_path / "plots" / "speed.svg").read_text()
    assert 'id="speed"' in (tmp_path / "index.html").read_text()


def test_without_the_data_noise_of_its_shape(tmp_path, capsys):
    dataset, real = units.dataset_or_noise("mnist", tmp_path)
    assert not real
    assert dataset.train.images.shape == (10 * units.RANDOM_PER_CLASS, 1, 28, 28)
    arguments = ["--dataset", "mnist", "--data-dir", str(tmp_path / "none"), "--units", "loading", "--device", "cpu"]
    assert main([*arguments, "--results-dir", str(tmp_path)]) == 1
    [skipped] = json.loads((tmp_path / "speed.json").read_text())["skipped"]
    assert skipped["unit"] == "loading" and "MNIST is not there" in skipped["reason"]


def test_units_and_sizes():
    assert chosen(Options(units=("dm", "expert"), ipc=(1, 10, 1))) == [("dm", 1), ("dm", 10), ("expert", 1)]
    assert {name for name, _ in chosen(Options())} == set(units.names())
    assert [name for name, _ in chosen(Options(quick=True, ipc=(1,)))] == list(QUICK_UNITS)


def test_the_help_names_every_unit(capsys):
    assert main(["--help"]) == 0
    text = "".join(capsys.readouterr().out.replace("│", "").split())
    assert all(name in text for name in units.names())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--units", "dsm"], "unknown unit 'dsm'"),
        (["--ipc", "0"], "--ipc needs whole numbers"),
        (["--repetitions", "0"], "--repetitions needs whole numbers"),
        (["--dataset", "cifar11"], "Unknown data set 'cifar11'"),
        (["--device", "nowhere"], "--device nowhere is not available"),
    ],
)
def test_bad_arguments_end_with_a_message(arguments, complaint, tmp_path, capsys):
    assert main([*arguments, "--results-dir", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "speed.json").exists()
