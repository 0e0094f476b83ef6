"""Training recipes: how a network is trained on a condensed set before it is scored.

`UNIFIED` is the same for every method and coreset row: equal optimiser steps, one augmentation, one learning-rate
curve. A method's native recipe is its authors' evaluation, kept beside the method.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Literal

MINIMUM_STEPS = 500
"""A schedule scales the length of a training, but never below this (or below the full length, if that is shorter)."""

Decay = Literal["cosine", "halfway", "multistep", "constant"]


@dataclass(frozen=True)
class Recipe:
    """One way to train a network: SGD with momentum on cross-entropy.

    The length is given either in optimiser steps or in epochs. `decay`: `cosine` falls to zero; `halfway` multiplies
    the rate by 0.1 and loses the momentum after epoch index epochs // 2 + 1, and takes epochs + 1 epochs in all (as the
    DC family's code trains); `multistep` multiplies it by 0.2 at 2/3 and at 5/6; `constant` keeps it. `augment`:
    `none`, or `dsa` or `diffaug` with the operations of `strategy` (the data set's own if empty). `lr` None means the
    step size that was learned with the condensed set.
    """

    steps: int | None = None
    epochs: int | None = None
    batch: int = 256
    lr: float | None = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: Decay = "cosine"
    augment: Literal["none", "dsa", "diffaug"] = "dsa"
    strategy: str = ""
    align_corners: bool = False
    cutmix: float = 0.0
    """Probability that a batch is mixed by CutMix."""
    one_variant: bool = False
    """An epoch shows every sample once, in a form drawn anew (HaBa: a basis through a random hallucinator), instead of
    every decoded image."""
    standardise: bool = False
    """Shift and scale every batch to mean 0 and deviation 1 over all of its values, before it is augmented."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a recipe has either steps or epochs")
        if self.decay == "halfway" and self.epochs is None:
            raise ValueError("the halfway decay counts epochs")

    @property
    def epoch_count(self) -> int:
        """The length in epochs, of a recipe that gives it so."""
        assert self.epochs is not None, "the length of this recipe is given in steps"
        return self.epochs

    def steps_per_epoch(self, images: int) -> int:
        return ceil(images / self.batch)

    def total_steps(self, images: int) -> int:
        """Return the optimiser steps of the whole training on a set of `images` images."""
        if self.steps is not None:
            return self.steps
        epochs = self.epoch_count + 1 if self.decay == "halfway" else self.epoch_count
        return epochs * self.steps_per_epoch(images)

    def scaled(self, factor: float, images: int) -> Recipe:
        """Return the same training, `factor` times as long, but not below `MINIMUM_STEPS` optimiser steps."""
        if factor == 1:
            return self
        if self.steps is not None:
            return dataclasses.replace(self, steps=max(min(self.steps, MINIMUM_STEPS), round(self.steps * factor)))
        shortest = min(self.epoch_count, ceil(MINIMUM_STEPS / self.steps_per_epoch(images)))
        return dataclasses.replace(self, epochs=max(shortest, round(self.epoch_count * factor)))

    def lr_factor(self, step: int, images: int) -> float:
        """Return the factor on the learning rate at optimiser step `step`, counted from 0."""
        total = self.total_steps(images)
        if self.decay == "cosine":
            return 0.5 * (1 + cos(pi * step / total))
        if self.decay == "multistep":
            return 0.2 ** ((3 * step >= 2 * total) + (6 * step >= 5 * total))
        reset = self.momentum_reset(images)
        return 1.0 if reset is None or step < reset else 0.1

    def momentum_reset(self, images: int) -> int | None:
        """Return the step before which the optimiser is made anew and its momentum lost; None if that never happens."""
        if self.decay != "halfway":
            return None
        return (self.epoch_count // 2 + 2) * self.steps_per_epoch(images)


WHOLE_SET_STEPS = 60_000


def unified(ipc: int) -> Recipe:
    """Return the suite's own recipe: equal for all methods, its length set by the budget alone.

    It has 10,000 / 20,000 / 30,000 steps at IPC 1-9 / 10-49 / 50 and more, and 60,000 for the whole training set (IPC
    0).
    """
    if ipc == 0:
        return Recipe(steps=WHOLE_SET_STEPS)
    return Recipe(steps=10_000 if ipc < 10 else 20_000 if ipc < 50 else 30_000)
