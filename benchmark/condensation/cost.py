"""What a cell costs, as known before anything runs: stored floats, decoded images, and work counted in images.

The plan turns a cost into hours and memory. A running cell decides by the cost of its loop how its passes are computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """Images that go through the network of a condensation, by what is done with them."""

    forward: float = 0.0
    """Images that go forward only, without a graph."""
    trained: float = 0.0
    """Images that go forward, then backward to the parameters."""
    matched: float = 0.0
    """Images that go forward, backward with a graph, and backward through both to the pixels."""
    experts: float = 0.0
    """Images that experts are trained on before the loop, as `trained`. Several networks train at once, at a speed of
    their own."""
    flops: float = 0.0
    """Floating-point operations of anything else, such as a warm start, at the speed of a network's convolutions."""

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> Work:
        return Work(**{name: value * times for name, value in vars(self).items()})

    __rmul__ = __mul__


@dataclass(frozen=True)
class LoopCost:
    """The cost of one run of a loop: `steps` times `step`, and what comes before and between the steps."""

    steps: int = 0
    step: Work = Work()
    between: Work = Work()
    """All network training between the steps of the container, of all steps together."""
    before: Work = Work()
    """What the first step needs, such as experts, counted as if no other cell had made it."""
    unrolled: int = 0
    """How many training steps one step of the loop differentiates through, with all classes in one graph; 0 if it does
    not."""

    @property
    def work(self) -> Work:
        """All work of the loop together."""
        return self.before + self.steps * self.step + self.between


@dataclass(frozen=True)
class Cost:
    """What a cell stores, decodes and computes."""

    floats: int
    """Floats stored: everything that is needed to rebuild the images."""
    images: int
    """Images decoded, of all classes together; 0 stands for the whole training set."""
    loop: LoopCost = LoopCost()
    loops: int = 1
    """How often the loop runs for one cell: twice where a pilot run comes first."""
    before: Work = Work()
    """Work at the start of each loop, whichever method the loop is from: a warm start, or the training of an
    embedding."""
    after: Work = Work()
    """Work that follows the loop, such as pruning."""

    @property
    def work(self) -> Work:
        """All work of the cell together."""
        return self.loops * (self.before + self.loop.work) + self.after

    def without_experts(self) -> Work:
        """Return `work` without the training of experts."""
        return replace(self.work, experts=0.0)
