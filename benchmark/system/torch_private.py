"""The names of torch that its documentation does not promise, in one place: what breaks with a new torch breaks here.

Tried on torch 2.15.0; setup.cfg asks for 2.11 at least, where these names exist as well. They change how fast something
is computed, never what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def add_to_each_(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float = 1.0) -> None:
    """Add alpha times each of `others` to the tensor at its place, with one kernel for all of them on a GPU."""
    torch._foreach_add_(list(tensors), list(others), alpha=alpha)


def mark_size_dynamic(tensor: Tensor, dimension: int) -> None:
    """Tell the compiler that functions of this tensor will see other sizes of `dimension`, so that it compiles one
    version for all of them if it can."""
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def allow_versions(count: int) -> None:
    """Let the compiler keep up to `count` compiled versions of one function before it falls back to eager calls."""
    torch._dynamo.config.recompile_limit = count
