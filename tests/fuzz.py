"""What the fuzz tests share: how many inputs, what strange values look like, and a watch over all that is touched."""

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

hypothesis = pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis (pip install .[test])")
st = hypothesis.strategies

FEW, MANY = 40, 2000
"""Inputs of a fuzz test: in the default run, which draws the same ones every time, and in the long run. Six tests with
the many make more than 10,000."""

examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.long)])


def fuzz(count: int, check: Callable[[Any], None], strategy: st.SearchStrategy) -> None:
    """Call `check` with `count` values; the long run draws new ones every time and prints how to repeat a failure."""
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=count <= FEW, print_blob=True,
        phases=[hypothesis.Phase.generate],  # to shrink an input would take as long as to find it
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    settings(hypothesis.given(strategy)(check))()


STRANGE = (
    "", ".", "..", "../../outside", "/tmp/outside", "a/b", "a\\b", "a\0b", "~", "<script>alert(1)</script>",
    "\\input{x}", "[/]", "[bold]x", "$\\frac$", "{{ 7 * 7 }}", "%n", "\ud800", "\u202ex", "x" * 300, "NaN", "-", "\n",
    '"', "'; --",
    0, -1, 1, 10**30, 1e308, -0.0, True, None, [], {}, float("nan"), float("inf"),
)  # fmt: skip

values = st.recursive(
    st.sampled_from(STRANGE) | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: Callable, original: Any) -> Any:
    """A JSON value with one to three of its parts replaced or dropped."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(range(len(places))).map(places.__getitem__))
        if isinstance(holder, dict) and draw(st.booleans()) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(values)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@st.composite
def damaged(draw: Callable, content: bytes) -> bytes:
    """Bytes with some of them replaced, cut off, or put between."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("replace", "cut", "insert", "flip")))
        if how == "cut":
            del data[place:]
        elif how == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        else:
            new = draw(st.binary(min_size=1, max_size=8))
            data[place : place + (len(new) if how == "replace" else 0)] = new
    return bytes(data)


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


class Watch:
    """Hears of every file that Python opens to write, makes, renames or removes, every process and every connection."""

    allowed: tuple[str, ...] | None = None
    seen: list[str]


FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"}
ARRAYS = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""What CIFAR's published files ask of pickle. torchvision opens them only where they have the published checksum, which
tests give to the files they write; that it opens no other file is a test of its own (tests/data/test_vision.py)."""

MOVES = {"os.rename", "os.link", "os.symlink"}
CHANGES = {"os.mkdir", "os.remove", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _hear(event: str, arguments: tuple) -> None:
    if Watch.allowed is None:
        return
    if event in FORBIDDEN and not (event == "pickle.find_class" and arguments in ARRAYS):
        Watch.seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes | Path) and (arguments[2] or 0) & WRITING:
        _note(event, arguments[:1])
    elif event in MOVES:
        _note(event, arguments[:2])
    elif event in ("os.truncate", "shutil.rmtree") or (event in CHANGES and arguments[-1] == -1):
        _note(event, arguments[:1])  # an open folder instead of -1: rmtree, which named it before


def _note(event: str, paths: tuple) -> None:
    for path in paths:
        place = os.path.realpath(os.fsdecode(path))
        if not any(place == root or place.startswith(root + os.sep) for root in Watch.allowed):
            Watch.seen.append(f"{event} {place}")


sys.addaudithook(_hear)


@contextmanager
def watched(*allowed: Path) -> Iterator[None]:
    """Fails where something outside the `allowed` folders was changed, or data was executed."""
    Watch.seen, Watch.allowed = [], ("/dev/null", "/proc", *(os.path.realpath(folder) for folder in allowed))
    try:
        yield
    finally:
        Watch.allowed = None
    assert not Watch.seen, Watch.seen
