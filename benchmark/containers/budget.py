"""The storage budget of a cell: floats, counted for everything a user needs to rebuild the training images."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from benchmark.system.errors import BudgetError

BudgetMode = Literal["strict", "native"]


@dataclass(frozen=True)
class Budget:
    """IPC as a float budget: B = IPC x classes x channels x height x width (docs/methods.md 1.8). Labels are free.

    mode: `strict` refuses a container that stores more than B; `native` runs the authors' size and prints its multiple.
    """

    ipc: int
    classes: int
    image_shape: tuple[int, int, int]
    mode: BudgetMode = "strict"

    @property
    def floats(self) -> int:
        return self.ipc * self.classes * prod(self.image_shape)

    def multiple(self, floats: int) -> float:
        """Return the stored floats as a multiple of the budget; 0 if there is no budget (the whole training set)."""
        return floats / self.floats if self.floats else 0.0

    def check(self, floats: int) -> None:
        """Raise BudgetError if a strict budget does not hold that many floats."""
        if self.mode == "strict" and self.floats and floats > self.floats:
            raise BudgetError(
                f"the container stores {floats:,} floats, {self.multiple(floats):.2f} times the budget of "
                f"{self.floats:,} (IPC {self.ipc}); raise --ipc, or use --budget native to run it at its own size"
            )
