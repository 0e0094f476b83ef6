"""The former place of `Method`, kept for one release: `benchmark.condensation.method` is the new one."""

import warnings

from benchmark.condensation.method import Method

__all__ = ["Method"]

warnings.warn(
    "benchmark.method has moved; import Method from benchmark, and see docs/tutorial.md for what changed with it",
    DeprecationWarning,
    stacklevel=2,
)
