"""A loop of small grids for a long time: memory stays flat, and no file, process or shared memory is left behind.

$SOAK_MINUTES sets how long; 20 by default.
"""

import contextlib
import gc
import io
import multiprocessing
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from benchmark import cli

MINUTES = float(os.environ.get("SOAK_MINUTES", "20"))
WARM_UP = 4
"""Rounds before the first look: imports, allocators and caches fill."""
GROWTH_MIB = 40
"""What the resident memory may grow by from then on; a leak of one round's data set alone would pass it in minutes."""


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(name for name in found if not name.startswith("/proc/"))


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir() if path.stat().st_uid == os.getuid()} if folder.is_dir() else set()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which only Linux has")
def test_grids_in_a_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.training.recipes.MINIMUM_STEPS", 2)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    grids = [
        ("--methods", "random", "dm", "--ipc", "1", "--nets", "2", "--set", "dm.iterations=3", "--workers", "1"),
        ("--methods", "herding", "dc", "--ipc", "1", "2", "--nets", "1", "--workers", "1",
         "--set", "dc.iterations=2", "dc.inner_epochs=1", "herding.feature_steps=4"),
        ("--methods", "random", "herding", "--ipc", "1", "--nets", "1", "--workers", "2",
         "--set", "herding.feature_steps=4"),
    ]  # fmt: skip
    began, rounds, at_first, files, shared = time.monotonic(), 0, 0.0, [], set()
    while time.monotonic() - began < 60 * MINUTES or rounds <= WARM_UP + 2:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            for grid in grids[: 2 + (rounds % 5 == 0)]:  # processes take seconds to start
                assert cli.main([*grid, "--results-dir", str(tmp_path / "results")]) == 0, said.getvalue()
        shutil.rmtree(tmp_path / "results")
        shutil.rmtree(tmp_path / "cache")
        gc.collect()
        rounds += 1
        if rounds == WARM_UP:
            at_first, files, shared = resident_mib(), open_files(), shared_memory()
    print(f"{rounds} rounds; resident {at_first:.0f} MiB after {WARM_UP}, {resident_mib():.0f} MiB at the end")
    assert resident_mib() < at_first + GROWTH_MIB
    assert open_files() == files
    assert shared_memory() <= shared
    assert multiprocessing.active_children() == []
    # Torch keeps precompiled headers there whatever it is told.
    left = [path for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
    assert left == [], "temporary files were left"
