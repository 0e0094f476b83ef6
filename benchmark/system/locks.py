"""Locks that tell, among processes that share a folder, who works on what. They belong to the file system and end with
their process.

By them, several `bench.py` on one results folder share its cells, and cells that want the same experts or the same
feature network train it once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.system.errors import Stopped

LOOK_SECONDS = 0.5
"""Seconds between two attempts to get a lock."""


class Claimed(Exception):
    """Another process is working on it."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; raises Claimed if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Claimed(str(path)) from None
    try:
        yield
    finally:
        lock.release()


def is_free(path: Path) -> bool:
    """Return whether no process holds the lock file `path` right now."""
    if not path.exists():
        return True
    try:
        with claim(path):
            return True
    except Claimed:
        return False


@contextmanager
def turn(cache: Path | None, name: str, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Wait for the turn to make `name` in a cache folder, and hold it. Raises Stopped if `should_stop` says so while it
    waits.

    If there is no cache, or one that takes no files, nothing is shared and there is nobody to wait for.
    """
    if not cache:
        yield
        return
    path = cache / "locks" / f"{name}.lock"
    lock, held = FileLock(path), False
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not (held := acquired(lock)):
            if should_stop():
                raise Stopped(f"stopped while another process was at {name}")
    try:
        yield
    finally:
        if held:
            lock.release()


def acquired(lock: FileLock) -> bool:
    """Return whether the lock was got within `LOOK_SECONDS`."""
    try:
        lock.acquire(timeout=LOOK_SECONDS)
    except Timeout:
        return False
    return True
