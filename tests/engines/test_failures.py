"""The reason and the hint of every failure."""

import errno

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from benchmark.engines.failures import (
    describe_failure,
    failure_message,
    failure_reason,
    failure_text,
    hint,
    less_memory,
)
from benchmark.system.errors import BudgetError
from tests.toys import Drift, toy_job

CELL = toy_job(Drift, ipc=10).cell


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MemoryError(), "out of memory"),
        (np._core._exceptions._ArrayMemoryError((2, 3), np.dtype(float)), "out of memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("shapes do not match"), "error"),
        (ValueError("out of memory of better days"), "error"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk full"),
        (OSError(errno.EROFS, "Read-only file system"), "error"),
        (BudgetError("no room"), "budget too small"),
    ],
    ids=repr,
)  # fmt: skip
def test_words(error, word):
    assert failure_reason(error) == word
    assert describe_failure(CELL, error).error == word
    assert failure_text(CELL, error).startswith(f"{word}: ")


def test_a_real_allocation_that_fails():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert failure_reason(raised.value) == "out of memory"
    assert "needs less: a smaller budget (--ipc 1)" in failure_message(CELL, raised.value)


def test_out_of_memory_says_what_needs_less():
    from methods.dc import DC
    from methods.mtt import MTT
    from methods.whole import Whole

    large = less_memory(toy_job(DC, ipc=50, batch_real=256).cell)
    assert "--set dc.batch_net=128 dc.batch_real=128" in large
    assert "--microbatch 64" in large
    assert "--microbatch" not in less_memory(toy_job(MTT).cell), "its real batches are those of a training"
    assert "(--ipc 10)" in large
    assert "--ipc" not in less_memory(toy_job(DC, ipc=1).cell)
    assert less_memory(toy_job(Whole, ipc=0).cell) == "needs less: fewer networks at a time (--nets)"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "--results-dir"),
     (errno.EACCES, "--results-dir"), (errno.EPERM, "--results-dir")],
)  # fmt: skip
def test_errors_of_the_disk_name_the_mend(number, said):
    error = OSError(number, "it says", "/there")
    assert said in hint(error)
    assert "/there" in failure_message(CELL, error) and said in failure_message(CELL, error)
    assert hint(OSError(errno.ENOENT, "no such file")) == hint(ValueError("x")) == ""
