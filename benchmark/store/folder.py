"""The results folder: where every cell's files lie, and how they become visible.

    runs/<cell>/config.json             what was asked, written when the cell is planned
    runs/<cell>/result.json             the only sign that a cell is done; appears by atomic rename
    runs/<cell>/failure.json            why the last attempt failed; never counts as done
    runs/<cell>/condensed.safetensors   the condensed set with everything needed to decode and train on it
    runs/<cell>/steps.jsonl             loss and seconds along the way
    runs/<cell>/preview.png             a sheet of the condensed images
    runs/<cell>/checkpoint/             only while running: state that resumes to the same bits
    speed.json                          what `benchmark.speed` measured last

The store knows files, not methods: what a result means is the reader's business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmark.store.cells import RESULT_FORMAT, Cell, Evaluation, Job
from benchmark.store.records import EvaluationResult, Failure, MethodCard, Request, Result, Speed, as_json, from_json
from benchmark.system.files import read_json, sealed, write_atomically, write_json

CHECKPOINT = "checkpoint"
FAILURE = "failure.json"
CONFIG = "config.json"
RESULT = "result.json"
SPEED_FORMAT = 1
"""Format number of speed.json; raised when its fields change."""

T = TypeVar("T")


def _read_object(path: Path, consequence: str = "it is ignored") -> dict[str, Any] | None:
    """Return the object in a JSON file; None if the file is absent or, after a warning, damaged."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({error}); {consequence}", stacklevel=4)
        return None


def _read(path: Path, kind: type[T], what: str, consequence: str = "it is ignored") -> T | None:
    """Return the record in a JSON file; None if the file is absent or, after a warning, damaged or not `what`."""
    value = _read_object(path, consequence)
    try:
        return None if value is None else from_json(value, kind)
    except ValueError as error:
        warnings.warn(f"{path} is not {what} ({error}); {consequence}", stacklevel=3)
        return None


def _read_result(directory: Path, key: str, consequence: str = "it is ignored") -> Result | None:
    """Return the result in a cell's folder; a result of another format or of another cell counts as none too."""
    path = directory / RESULT
    result = _read(path, Result, "a result of this cell", consequence)
    if result and (result.format, result.key) != (RESULT_FORMAT, key):
        warnings.warn(f"{path} is not a result of this cell; {consequence}", stacklevel=3)
        return None
    return result


@dataclass(frozen=True)
class Record:
    """What the store holds of one cell.

    `cell` is what was condensed, and `config` its identity, with fields that another version may have added (see
    `Cell.config`). `requested` are the evaluations that were last asked of it. `result` is None unless the cell is
    done, and `failure` is None unless the last attempt failed.
    """

    directory: Path
    cell: Cell
    config: dict[str, Any]
    requested: tuple[Request, ...]
    result: Result | None
    failure: Failure | None
    method: MethodCard | None = None
    """How the report names the method before there is a result."""

    @property
    def status(self) -> Literal["done", "failed", "missing"]:
        return "failed" if self.failure else "done" if self.result else "missing"


class Store:
    """A results folder. Creating the object touches nothing; writing creates what it needs."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"

    def directory(self, cell: Cell) -> Path:
        return self.runs / cell.directory

    def claim(self, cell: Cell, evaluation: Evaluation | None = None) -> Path:
        """Return the lock file that a process holds while it works on a cell, or on one of its evaluations."""
        part = f".{evaluation.name}" if evaluation else ""
        return self.root / "locks" / f"{cell.directory}{part}.lock"

    def claims(self, job: Job) -> list[Path]:
        """Return all lock files that processes hold while they work on a part of a job."""
        return [self.claim(job.cell), *(self.claim(job.cell, evaluation) for evaluation in job.evaluations)]

    def evaluating(self, cell: Cell, evaluation: Evaluation) -> Path:
        """Return the folder that an evaluation of a cell has for itself while it is running."""
        return self.directory(cell) / CHECKPOINT / evaluation.name

    def announce(self, job: Job) -> Path:
        """Record that a job was asked for, so that a report shows it as missing until it is done; return the cell's
        folder."""
        directory = self.directory(job.cell)
        directory.mkdir(parents=True, exist_ok=True)
        requested = [as_json(Request(e.protocol, e.network, e.nets)) for e in job.evaluations]
        config = {"key": job.cell.key, "cell": job.cell.config(), "requested": requested}
        write_json(directory / CONFIG, config | {"method": as_json(job.card)})
        return directory

    def result(self, cell: Cell) -> Result | None:
        """Return the stored result of a cell, or None. A damaged or foreign result is named by a warning and counts as
        none."""
        return _read_result(self.directory(cell), cell.key, "it is ignored and the cell redone")

    def missing_evaluations(self, job: Job) -> tuple[Evaluation, ...]:
        """Return the evaluations of a job that its stored result does not hold yet (all of them if there is no
        result)."""
        result = self.result(job.cell)
        done = result.evaluations if result else ()
        return tuple(e for e in job.evaluations if not any(holds(entry, e) for entry in done))

    def is_done(self, job: Job) -> bool:
        return self.result(job.cell) is not None and not self.missing_evaluations(job)

    def finish(self, cell: Cell, result: Result) -> None:
        """Make a cell done: write result.json, and remove older failures, the checkpoints and what a killed process
        left."""
        directory = self.directory(cell)
        (directory / FAILURE).unlink(missing_ok=True)  # first: a kill in between must not leave both
        write_json(directory / RESULT, sealed(as_json(result)))
        shutil.rmtree(directory / CHECKPOINT, ignore_errors=True)
        for leftover in directory.glob(".*"):
            if not leftover.name.startswith(f".{CONFIG}."):  # written without the cell's claim, perhaps at this moment
                leftover.unlink(missing_ok=True)

    def fail(self, cell: Cell, failure: Failure) -> None:
        """Record why the last attempt at a cell failed."""
        directory = self.directory(cell)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / FAILURE, as_json(failure))

    def keep_speed(self, measured: Speed) -> Path:
        """Store what `benchmark.speed` measured, in place of earlier measurements; return the file."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "speed.json"
        write_json(path, as_json(measured))
        return path

    def speed(self) -> Speed | None:
        """Return what `benchmark.speed` measured last, or None. A damaged or foreign file is named by a warning."""
        path = self.root / "speed.json"
        measured = _read(path, Speed, "one of measurements of this version")
        if measured and measured.format != SPEED_FORMAT:
            warnings.warn(f"{path} holds no measurements of this version; it is ignored", stacklevel=2)
            return None
        return measured

    def export(self, cell: Cell) -> dict[str, bytes]:
        """Return the contents of a cell's folder by path inside it, so that another machine can continue with it. It
        leaves out config.json, which `announce` writes, and anything half-written."""
        directory, files = self.directory(cell), {}
        for path in directory.rglob("*"):
            if path.is_file() and path.name != CONFIG and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # another process is at the cell
                    files[path.relative_to(directory).as_posix()] = path.read_bytes()
        return files

    def adopt(self, cell: Cell, files: dict[str, bytes]) -> None:
        """Write what `export` returned elsewhere: each file atomically, and a result last, so that all it speaks of is
        there. Raises ValueError for a path that leads out of the cell's folder."""
        directory = self.directory(cell)
        for name in sorted(files, key=lambda name: name == RESULT):
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()):
                raise ValueError(f"{name} leads out of the folder of {cell.label}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, files[name])

    def records(self) -> list[Record]:
        """Return every cell in the folder, ordered by directory name. Folders that hold no cell are skipped, with a
        warning if one claims to hold one."""
        directories = sorted(path for path in self.runs.iterdir() if path.is_dir()) if self.runs.is_dir() else []
        return [record for record in map(_record, directories) if record]


def _record(directory: Path) -> Record | None:
    path = directory / CONFIG
    stored = _read_object(path) or {}
    key = stored.get("key")
    result = _read_result(directory, key if isinstance(key, str) else directory.name.rpartition("-")[2])
    configs: tuple[Any, Any] = stored.get("cell"), result.cell if result else None
    for config in configs:  # a result outlives a damaged config.json
        with contextlib.suppress(ValueError):
            cell = from_json(config, Cell)
            failure = _read(directory / FAILURE, Failure, "a failure of this version")
            card = None
            with contextlib.suppress(ValueError):
                card = from_json(stored.get("method"), MethodCard)
            return Record(directory, cell, config, _requests(path, stored), result, failure, card)
    if "cell" in stored or result:
        warnings.warn(f"{path} names no cell; it is ignored", stacklevel=3)
    return None


def _requests(path: Path, stored: dict[str, Any]) -> tuple[Request, ...]:
    try:
        return from_json(stored.get("requested", ()), tuple[Request, ...])
    except ValueError as error:
        warnings.warn(f"{path} is damaged ({error}); what was asked of the cell is ignored", stacklevel=4)
        return ()


def same_training(entry: EvaluationResult, wanted: Evaluation) -> bool:
    """Return whether a stored evaluation trained the same networks the same way; the protocol is only its name."""
    recipe = dataclasses.asdict(wanted.recipe)
    return (entry.network, entry.recipe, entry.factor) == (wanted.network, recipe, wanted.factor)


def holds(entry: EvaluationResult, wanted: Evaluation) -> bool:
    """Return whether a stored evaluation is the wanted one, with at least as many networks."""
    enough = len(entry.accuracies) >= wanted.nets
    return entry.protocol == wanted.protocol and enough and same_training(entry, wanted)
