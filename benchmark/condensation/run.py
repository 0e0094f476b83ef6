"""The run of a cell: `for step in run.loop(...)` takes care of stopping, timing, checkpoints, logging and progress, so
that a method contains only the paper's algorithm box.

A run has phases ("features", "condense", "evaluate unified-convnet", ...), each a loop with a name. The state of a
phase is saved every so often and when it ends. The same command, given again, finds it and continues at that step with
the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.store.records import Pruning
from benchmark.system import checkpoint
from benchmark.system.errors import NotFinite, Stopped
from benchmark.system.files import write_atomically

SLOW_STEP_SECONDS = 5.0
"""State is saved after every step that takes longer than this. A cluster kills a process some seconds after asking it
to stop, which a slow step may not survive; with a save after each one, only the unfinished step is lost."""

LOG_LINES = 400
"""About how many lines a phase writes to steps.jsonl; between two of them, losses stay on the device."""

LOG = "steps.jsonl"

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with (phase, steps done, steps in all, last logged values)."""


class Run:
    """Drives the phases of one cell.

    directory: where steps.jsonl and checkpoint/ go; None keeps nothing. key: the cell's key, which a checkpoint must
    carry to be resumed. checkpoint_seconds: the longest time between two saves while steps are short. should_stop:
    asked after every step. shared: state that every phase changes, such as the cell's generator.
    """

    def __init__(
        self,
        directory: Path | None = None,
        key: str = "",
        checkpoint_seconds: float = 60.0,
        progress: Progress = lambda *_: None,
        should_stop: Callable[[], bool] = lambda: False,
        shared: checkpoint.State | None = None,
    ) -> None:
        self.directory, self.key, self.checkpoint_seconds = directory, key, checkpoint_seconds
        self.shared = shared or {}
        self.progress, self.should_stop = progress, should_stop
        self.notes: dict[str, Any] = {}
        self.phases: dict[str, dict[str, float]] = {}
        """Steps taken and seconds of every finished phase, by name; both include earlier attempts that were resumed."""
        self.train_images: int | None = None
        """Training images that the container was condensed from; None where that is all of them."""
        self.pruning: Pruning | None = None
        """How images of the container were dropped, where they were."""
        self._next = 0
        self._pending: dict[str, list[Tensor]] = {}

    def note(self, name: str, value: Any) -> None:
        """Record a JSON fact about this condensation for its result, such as chosen indices."""
        self.notes[name] = value

    def log(self, **values: Tensor | float) -> None:
        """Record values of this step. They are averaged and written every few steps; until then tensors stay on the
        device."""
        for name, value in values.items():
            self._pending.setdefault(name, []).append(torch.as_tensor(value).detach())

    def skip_to(self, step: int) -> None:
        """Leave out the steps before `step`, because nothing is left to do in them. Call it inside a loop; the number
        of all steps ends the phase. So a loop need not know in advance how many steps it takes."""
        self._next = step

    def loop(self, phase: str, steps: int, **state: Any) -> Iterator[int]:
        """Yield the numbers of the steps that a phase still has to do, counted from 0.

        `state` names everything that the steps change (see `benchmark.system.checkpoint`). If the phase was
        interrupted, its state is restored in place before the first step; if it had ended, the state at its end is
        restored. Raises Stopped, after saving, when asked to stop, and NotFinite when a logged value is not finite.
        """
        path = self._checkpoint_path(phase)
        state = self.shared | state
        done, taken, seconds = self._resume(path, phase, steps, state)
        resumed_at_end = done == steps
        clock = last_save = last = time.perf_counter()
        every = max(1, math.ceil(steps / LOG_LINES))
        values: dict[str, float] = {}
        self.progress(phase, done, steps, values)
        while done < steps:
            self._next = before = done
            yield done
            done, taken, now = min(steps, max(done + 1, self._next)), taken + 1, time.perf_counter()
            stop = done < steps and self.should_stop()
            due = now - last_save > self.checkpoint_seconds or now - last > SLOW_STEP_SECONDS
            save = path is not None and (stop or done == steps or due)
            if self._pending and (save or done // every > before // every or done == steps):
                values = self._flush(phase, done, seconds + now - clock)
            self.progress(phase, done, steps, values)
            if path is not None and save:
                self._save(path, phase, done, taken, steps, seconds + now - clock, state)
                last_save = time.perf_counter()
            last = time.perf_counter()
            if stop:
                raise Stopped(f"{phase} stopped after step {done} of {steps}")
        if resumed_at_end and path and not path.exists():  # a phase of no steps
            self._save(path, phase, steps, taken, steps, seconds, state)
        total = seconds if resumed_at_end else seconds + time.perf_counter() - clock
        self.phases[phase] = {"steps": taken, "seconds": total}

    def _checkpoint_path(self, phase: str) -> Path | None:
        if self.directory is None:
            return None
        return self.directory / "checkpoint" / (re.sub(r"[^A-Za-z0-9.-]+", "-", phase) + ".safetensors")

    def _log_path(self) -> Path | None:
        return self.directory / LOG if self.directory else None

    def _resume(self, path: Path | None, phase: str, steps: int, state: dict[str, Any]) -> tuple[int, int, float]:
        """(the next step, steps taken, seconds) of an earlier attempt, whose state is restored."""
        header = (checkpoint.read_header(path) if path else None) or {}
        done, taken, seconds = 0, 0, 0.0
        if path and (header.get("key"), header.get("phase"), header.get("steps")) == (self.key, phase, steps):
            try:
                checkpoint.load_state(path, state)
                done, seconds = header["done"], header["seconds"]
                taken = header.get("taken", done)
                self.notes.update(header["notes"])
            except checkpoint.CheckpointError as error:
                warnings.warn(f"{error}; {phase} starts anew", stacklevel=2)
        self._truncate_log(phase, done)
        return done, taken, seconds

    def _truncate_log(self, phase: str, done: int) -> None:
        """Drop what an interrupted attempt logged beyond the point it resumes from, whole or half-written lines."""
        path = self._log_path()
        if not path or not path.exists():
            return
        entries = ((line, json.loads(line)) for line in _log_lines(path))
        kept = [line for line, entry in entries if entry["phase"] != phase or entry["step"] <= done]
        write_atomically(path, "".join(line + "\n" for line in kept))

    def _flush(self, phase: str, done: int, seconds: float) -> dict[str, float]:
        values = {name: torch.stack(seen).float().mean().item() for name, seen in self._pending.items()}
        self._pending.clear()
        for name, value in values.items():
            if not math.isfinite(value):
                raise NotFinite(f"{name} is {value} at or shortly before step {done} of phase {phase}")
        path = self._log_path()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                line = {"phase": phase, "step": done, "seconds": round(seconds, 3)} | values
                file.write(json.dumps(line) + "\n")
        return values

    def _save(
        self, path: Path, phase: str, done: int, taken: int, steps: int, seconds: float, state: dict[str, Any]
    ) -> None:
        header = {"key": self.key, "phase": phase, "done": done, "taken": taken, "steps": steps, "seconds": seconds}
        checkpoint.save_state(path, state, header | {"notes": self.notes})


class Prefixed(Run):
    """A run inside another one, whose phases carry a prefix, so that one cell can condense twice.

    It keeps `train_images` and `pruning` for itself, and does everything else through the run around it.
    """

    def __init__(self, run: Run, prefix: str) -> None:
        super().__init__(should_stop=run.should_stop)
        self.run, self.prefix = run, prefix
        self.notes, self.phases = run.notes, run.phases

    def log(self, **values: Tensor | float) -> None:
        self.run.log(**values)

    def skip_to(self, step: int) -> None:
        self.run.skip_to(step)

    def loop(self, phase: str, steps: int, **state: Any) -> Iterator[int]:
        return self.run.loop(self.prefix + phase, steps, **state)


def append_log(part: Path, whole: Path) -> None:
    """Append what a run logged in the folder `part` to the log in the folder `whole`. Lines of the same phases there
    are replaced, so that nothing is logged twice."""
    new = _log_lines(part / LOG)
    if new:
        phases = {json.loads(line)["phase"] for line in new}
        old = [line for line in _log_lines(whole / LOG) if json.loads(line)["phase"] not in phases]
        write_atomically(whole / LOG, "".join(line + "\n" for line in [*old, *new]))


def _log_lines(path: Path) -> list[str]:
    """The lines of a log that are whole."""
    kept = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if isinstance(entry["phase"], str) and isinstance(entry["step"], int):
                kept.append(line)
    return kept
