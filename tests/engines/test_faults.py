"""Disks that are full or take no files, and clocks that jump: no traceback, nothing half-written that looks finished,
and the same command goes on to the same bits."""

import errno
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmark import cli
from benchmark.store.folder import Store
from benchmark.system import files as system_files
from tests.toys import Drift

pytestmark = pytest.mark.slow  # a grid is run for every fault

GRID = (
    "--methods", "drift", "herding", "--ipc", "2", "--nets", "1", "--workers", "1", "--set", "herding.feature_steps=4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch, toys):
    """Evaluations of two steps, no plots, and the process's way of showing warnings given back."""
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("benchmark.grid.hours.probe_speed", lambda runtime: 1e10)
    monkeypatch.setattr("benchmark.report.plots.draw", lambda *_: [])


@pytest.fixture
def bench(capsys):
    """bench(results) -> (exit status, all that was printed)."""

    def call(results: Path, *arguments: str) -> tuple[int, str]:
        status = cli.main([*(arguments or GRID), "--results-dir", str(results)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, " ".join((out + err).split())

    return call


@pytest.fixture
def mounted():
    """mounted(folder, kilobytes) -> a function that remounts: a file system of that size, where this user may mount."""
    folders = []

    def mount(folder: Path, kilobytes: int) -> None:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs needs Linux and the right to")
        folders.append(folder)

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


def tensors(results: Path) -> dict:
    """The condensed set of every cell that counts as done, by folder; each must be whole."""
    return {
        record.directory.name: load_file(record.directory / "condensed.safetensors")
        for record in Store(results).records()
        if record.status == "done"
    }


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(tensor, two[cell][name]) for cell, found in one.items() for name, tensor in found.items()
    )


@pytest.fixture
def whole(bench, tmp_path):
    """What the grid gives where nothing goes wrong."""
    assert bench(tmp_path / "whole")[0] == 0
    return tensors(tmp_path / "whole")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Full:
    """A disk that is full from the given write on, for one write; counts them all."""

    def __init__(self, monkeypatch) -> None:
        self.writes, self.at = 0, 0
        for module, name in ((os, "fsync"), (os, "replace"), (tempfile, "mkstemp"), (system_files, "save_file")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def _counted(self, function):
        def write(*given, **named):
            self.writes += 1
            if self.writes == self.at:
                raise OSError(errno.ENOSPC, "No space left on device", "/results/somewhere")
            return function(*given, **named)

        return write


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_disk_that_is_full_at_every_write_in_turn(bench, tmp_path, whole, monkeypatch, every):
    full = Full(monkeypatch)
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache-0"))
    assert bench(tmp_path / "counted")[0] == 0
    sites = full.writes
    assert sites > 40
    for site in range(1, sites + 1, every):
        results = tmp_path / f"full-{site}"
        monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / f"cache-{site}"))
        full.writes, full.at = 0, site
        status, said = bench(results)
        full.at = 0
        if status:  # otherwise it hit what the run can do without, such as keeping the feature network
            assert "No space left on device" in said
            assert "free some space" in said
        else:
            assert "cannot keep" in said
        for name, found in tensors(results).items():
            assert same({name: found}, {name: whole[name]})
        assert not [name for name in files(results) if "/." in f"/{name}"], "a temporary file was left"
        assert bench(results)[0] == 0
        assert same(tensors(results), whole)
        assert not any(record.failure for record in Store(results).records())


@pytest.mark.parametrize("kilobytes", [4, 16, 28, 44, 68, 120])
def test_a_small_disk(bench, tmp_path, whole, mounted, kilobytes):
    small = tmp_path / "small"
    mounted(small, kilobytes)
    status, said = bench(small / "results")
    assert status in (1, 2)
    assert "No space left on device" in said and "free some space" in said
    for name, found in tensors(small / "results").items():
        assert same({name: found}, {name: whole[name]})
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    assert bench(small / "results")[0] == 0
    assert same(tensors(small / "results"), whole)


@pytest.fixture
def read_only(mounted):
    """read_only(folder): nothing can be written below it any more. Permissions do not stop root, a mount does."""

    def freeze(folder: Path) -> None:
        if os.geteuid():
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    return freeze


def test_a_results_folder_that_takes_no_files(bench, tmp_path, mounted, read_only, whole):
    folder = tmp_path / "frozen"
    if os.geteuid():
        folder.mkdir()
    else:
        mounted(folder, 10_000)
    assert bench(folder / "results", "--methods", "drift", "--ipc", "2", "--nets", "1")[0] == 0
    before = files(folder)
    read_only(folder)
    for arguments in (GRID, ("--report",)):
        status, said = bench(folder / "results", *arguments)
        assert status == 2
        assert "bench.py: " in said and "choose another folder with --results-dir" in said
    assert bench(folder / "results", *GRID, "--plan")[0] == 0  # looking is allowed
    assert files(folder) == before


def test_the_clock_may_jump(bench, tmp_path, whole, monkeypatch):
    """The time of day goes back a day at every look at it, and nothing but the stamps of results shows it."""
    looks = [0]

    def backwards():
        looks[0] += 1
        return 2e9 - 86_400 * looks[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    monkeypatch.setattr("benchmark.engines.failures.now", lambda: time.strftime("%Y-%m-%d", time.gmtime(backwards())))
    monkeypatch.setattr("benchmark.engines.job.now", lambda: time.strftime("%Y-%m-%d", time.gmtime(backwards())))
    assert bench(tmp_path / "jumps")[0] == 0
    assert looks[0]
    assert same(tensors(tmp_path / "jumps"), whole)
    for record in Store(tmp_path / "jumps").records():
        assert all(entry.seconds >= 0 for entry in record.result.evaluations)
        assert record.result.condensation.seconds >= 0
    Drift.condensed = 0
    assert bench(tmp_path / "jumps")[0] == 0
    assert Drift.condensed == 0, "what is done was done again"
