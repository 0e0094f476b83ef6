"""Why a cell failed: the reason that tables print, and a hint that says what to do about it."""

from __future__ import annotations

import datetime
import errno
import traceback

import torch

from benchmark.grid import registry
from benchmark.store.cells import Cell
from benchmark.store.records import Failure
from benchmark.system.errors import CellError
from benchmark.system.files import FULL

MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "alloc_failed")
"""How allocators word their errors, in lower case. The words are needed because torch raises one RuntimeError for all
sorts of things."""
CANONICAL_IPC = (50, 10, 1)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def failure_reason(error: BaseException) -> str:
    """Return the short reason that tables print for a failed cell."""
    if isinstance(error, CellError):
        return error.reason
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in MEMORY):
        return "out of memory"
    if is_full(error):
        return "disk full"
    return "error"


def failure_message(cell: Cell, error: BaseException) -> str:
    """Return one sentence that says what happened and what to do about it."""
    reason = failure_reason(error)
    if reason == "out of memory":
        told = str(error).partition("\n")[0]
        return "; ".join(part for part in (told, less_memory(cell)) if part)
    if reason == "error":
        return f"{type(error).__name__}: {error}{hint(error)}"
    return f"{error}{hint(error)}"


def failure_text(cell: Cell, error: BaseException) -> str:
    """Return reason and message, as the terminal shows them."""
    return f"{failure_reason(error)}: {failure_message(cell, error)}"


def describe_failure(cell: Cell, error: BaseException) -> Failure:
    """Return what failure.json keeps."""
    return Failure(
        cell=cell.config(),
        error=failure_reason(error),
        message=failure_message(cell, error),
        traceback="".join(traceback.format_exception(error)),
        time=now(),
    )


def less_memory(cell: Cell) -> str:
    """Return the settings that make this cell smaller: a part of its real batches at once, half of each batch of its
    loop, the next smaller budget."""
    loop, values = cell.loop
    halved = {name: v // 2 for name, v in values.items() if name.startswith("batch") and type(v) is int and v > 1}
    ways = []
    known = registry.all_methods().get(loop)
    if known and known.Loop.microbatches and (quarter := values.get("batch_real", 0) // 4):
        ways += [f"its real batches in parts, with the same result (--microbatch {quarter})"]
    if halved:
        ways += [f"smaller batches (--set {' '.join(f'{loop}.{n}={v}' for n, v in halved.items())})"]
    ways += [f"a smaller budget (--ipc {ipc})" for ipc in CANONICAL_IPC if ipc < cell.ipc][:1]
    return f"needs less: {', '.join([*ways, 'fewer networks at a time (--nets)'])}"


def is_full(error: BaseException) -> bool:
    """Return whether a disk or a quota has no room left."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or FULL in str(error)


def hint(error: BaseException) -> str:
    """Return what helps against an error of the disk, to be put behind its message; empty for any other error."""
    if is_full(error):
        return "; free some space and give the same command again, it goes on from there"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; give yourself the right to write there, or choose another folder with --results-dir"
    return ""
