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
import json
import shutil
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.store.cells import RESULT_FORMAT, Cell, Evaluation, Job
from benchmark.system.files import canonical_json, is_number, write_atomically, write_json

CHECKPOINT = "checkpoint"
CHECKSUM = "checksum"
FAILURE = "failure.json"
CONFIG = "config.json"
RESULT = "result.json"
RESULT_FIELDS = ("format", "cell", "key", "condensation", "evaluations", "environment")
SPEED_FORMAT = 1
"""Of speed.json; raised when its fields change."""
EVALUATION_FIELDS = ("protocol", "network", "recipe", "factor", "steps", "accuracies", "seconds")


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """An object with the checksum that tells a measured digit from a flipped one once it is read; one that it has
    already, from another node's file, is made anew."""
    value = {name: part for name, part in value.items() if name != CHECKSUM}
    as_read = json.loads(json.dumps(value, allow_nan=False))
    return value | {CHECKSUM: _checksum(as_read)}


def _checksum(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(canonical_json(value).encode()):08x}"


def _read_json(path: Path, consequence: str = "it is ignored") -> dict[str, Any] | None:
    """The object in a JSON file, without its checksum if it has one; None where the file is absent or is not what was
    written (said once, by a warning)."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not an object")
        stored, found = value.pop(CHECKSUM, None), _checksum(value)  # refuses NaN and infinities, which JSON has not
        if stored is not None and stored != found:
            raise ValueError("its contents do not match their checksum")
        return value
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(f"{path} is damaged ({error}); {consequence}", stacklevel=3)
        return None


def _well_formed(result: dict[str, Any], key: str) -> bool:
    return (
        all(field in result for field in RESULT_FIELDS)
        and result["format"] == RESULT_FORMAT
        and result["key"] == key
        and all(isinstance(result[field], dict) for field in ("cell", "condensation", "environment"))
        and is_number(result["condensation"].get("seconds"))
        and isinstance(result["evaluations"], list)
        and all(_well_formed_evaluation(entry) for entry in result["evaluations"])
    )


def _well_formed_evaluation(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(field in entry for field in EVALUATION_FIELDS)
        and isinstance(entry["accuracies"], list)
        and entry["accuracies"] != []
        and all(is_number(accuracy) and 0 <= accuracy <= 1 for accuracy in entry["accuracies"])
        and is_number(entry["seconds"])
    )


def _well_formed_speed(measured: dict[str, Any]) -> bool:
    return (
        measured.get("format") == SPEED_FORMAT
        and isinstance(measured.get("environment"), dict)
        and isinstance(measured.get("units"), list)
        and all(
            isinstance(unit, dict)
            and isinstance(unit.get("label"), str)
            and all(
                isinstance(unit.get(side), dict)
                and is_number(unit[side].get("milliseconds"))
                and unit[side]["milliseconds"] > 0
                for side in ("product", "plain")
            )
            for unit in measured["units"]
        )
    )


@dataclass(frozen=True)
class Record:
    """What the store holds of one cell.

    `config` is the cell's identity (see `Cell.config`) and `evaluations` what was asked of it last; `result` is None
    unless the cell is done; `failure` is None unless the last attempt failed.
    """

    directory: Path
    config: dict[str, Any]
    requested: list[dict[str, Any]]
    result: dict[str, Any] | None
    failure: dict[str, Any] | None

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
        """The file that the process which does a cell holds locked, or one of its evaluations."""
        part = f".{evaluation.name}" if evaluation else ""
        return self.root / "locks" / f"{cell.directory}{part}.lock"

    def claims(self, job: Job) -> list[Path]:
        """All files that processes which do a part of a job hold locked."""
        return [self.claim(job.cell), *(self.claim(job.cell, evaluation) for evaluation in job.evaluations)]

    def evaluating(self, cell: Cell, evaluation: Evaluation) -> Path:
        """The folder that an evaluation of a cell has for itself while it is under way."""
        return self.directory(cell) / CHECKPOINT / evaluation.name

    def announce(self, job: Job) -> Path:
        """Record that a job was asked for, so that a report shows it as missing until it is done."""
        directory = self.directory(job.cell)
        directory.mkdir(parents=True, exist_ok=True)
        requested = [{"protocol": e.protocol, "network": e.network, "nets": e.nets} for e in job.evaluations]
        write_json(directory / CONFIG, {"key": job.cell.key, "cell": job.cell.config(), "requested": requested})
        return directory

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """The stored result of a cell, or None; a damaged or foreign one is named by a warning and counts as none."""
        path = self.directory(cell) / RESULT
        result = _read_json(path, "it is ignored and the cell redone")
        if result is not None and not _well_formed(result, cell.key):
            warnings.warn(f"{path} is not a result of this cell; it is ignored and the cell redone", stacklevel=2)
            return None
        return result

    def missing_evaluations(self, job: Job) -> tuple[Evaluation, ...]:
        """The evaluations of a job that its stored result does not hold yet (all of them where there is none)."""
        result = self.result(job.cell)
        done = result["evaluations"] if result else []
        return tuple(e for e in job.evaluations if not any(holds(entry, e) for entry in done))

    def is_done(self, job: Job) -> bool:
        return self.result(job.cell) is not None and not self.missing_evaluations(job)

    def finish(self, cell: Cell, result: dict[str, Any]) -> None:
        """Make a cell done: result.json appears; older failures, the checkpoints and what a killed process left go."""
        directory = self.directory(cell)
        (directory / FAILURE).unlink(missing_ok=True)  # first: a kill in between must not leave both
        write_json(directory / RESULT, sealed(result))
        shutil.rmtree(directory / CHECKPOINT, ignore_errors=True)
        for leftover in directory.glob(".*"):
            if not leftover.name.startswith(f".{CONFIG}."):  # written without the cell's claim, perhaps at this moment
                leftover.unlink(missing_ok=True)

    def fail(self, cell: Cell, failure: dict[str, Any]) -> None:
        directory = self.directory(cell)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / FAILURE, failure)

    def keep_speed(self, measured: dict[str, Any]) -> Path:
        """Store what `benchmark.speed` measured, in the place of earlier measurements; returns the file."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "speed.json"
        write_json(path, measured)
        return path

    def speed(self) -> dict[str, Any] | None:
        """What `benchmark.speed` measured last, or None; a damaged or foreign file is named by a warning."""
        path = self.root / "speed.json"
        measured = _read_json(path)
        if measured is not None and not _well_formed_speed(measured):
            warnings.warn(f"{path} holds no measurements of this version; it is ignored", stacklevel=2)
            return None
        return measured

    def export(self, cell: Cell) -> dict[str, bytes]:
        """What a cell's folder holds, to go on with elsewhere: contents by path inside it. Not config.json, which
        `announce` writes, and nothing half-written."""
        directory, files = self.directory(cell), {}
        for path in directory.rglob("*"):
            if path.is_file() and path.name != CONFIG and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # another process is at the cell
                    files[path.relative_to(directory).as_posix()] = path.read_bytes()
        return files

    def adopt(self, cell: Cell, files: dict[str, bytes]) -> None:
        """Write what `export` gave elsewhere, each file atomically and a result last: then all it speaks of is there.
        Raises ValueError for a path that leads out of the cell's folder."""
        directory = self.directory(cell)
        for name in sorted(files, key=lambda name: name == RESULT):
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()):
                raise ValueError(f"{name} leads out of the folder of {cell.label}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, files[name])

    def records(self) -> list[Record]:
        """Every cell in the folder, ordered by directory name; folders that hold no cell are skipped."""
        found = []
        for directory in sorted(self.runs.iterdir()) if self.runs.is_dir() else ():
            if not directory.is_dir():
                continue
            config = _read_json(directory / CONFIG) or {}
            key = str(config.get("key") or directory.name.rpartition("-")[2])
            result = _read_json(directory / RESULT)
            if result is not None and not _well_formed(result, key):
                warnings.warn(f"{directory / 'result.json'} is not a result of this cell; ignored", stacklevel=2)
                result = None
            cell = config.get("cell", result and result["cell"])  # a result outlives a damaged config.json
            if isinstance(cell, dict):
                wanted = config.get("requested")
                requested = [e for e in wanted if isinstance(e, dict)] if isinstance(wanted, list) else []
                failure = _read_json(directory / FAILURE)
                found.append(Record(directory, cell, requested, result, failure))
        return found


def same_training(entry: dict[str, Any], wanted: Evaluation) -> bool:
    """Whether a stored evaluation trained the same networks the same way; the protocol is only its name."""
    recipe = dataclasses.asdict(wanted.recipe)
    return (entry["network"], entry["recipe"], entry["factor"]) == (wanted.network, recipe, wanted.factor)


def holds(entry: dict[str, Any], wanted: Evaluation) -> bool:
    """Whether a stored evaluation is the wanted one, with at least as many networks."""
    enough = len(entry["accuracies"]) >= wanted.nets
    return entry["protocol"] == wanted.protocol and enough and same_training(entry, wanted)
