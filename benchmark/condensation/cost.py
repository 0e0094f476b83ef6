"""What a cell costs, known before anything runs: floats, images, and the work of its loop, in images.

The plan turns it into hours and memory, and the loop of a cell into how its passes are computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """Images that go through the network of a condensation, by what is done with them."""

    forward: float = 0.0
    """Forward, without a graph."""
    trained: float = 0.0
    """Forward, and backward to the parameters."""
    matched: float = 0.0
    """Forward, backward with a graph, and backward through both to the pixels."""
    experts: float = 0.0
    """As `trained`, of the networks that are trained before the loop, several at once and at a speed of their own."""
    flops: float = 0.0
    """Floating-point operations of anything else, such as a warm start, at the speed of a network's convolutions."""

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> Work:
        return Work(**{name: value * times for name, value in vars(self).items()})

    __rmul__ = __mul__


@dataclass(frozen=True)
class LoopCost:
    """What a loop costs that runs once: `steps` times `step`, and what lies before and between the steps."""

    steps: int = 0
    step: Work = Work()
    between: Work = Work()
    """All network training between two steps of the container together."""
    before: Work = Work()
    """What the first step needs, such as experts, as if no other cell had made it."""
    unrolled: int = 0
    """Steps of a training that one step of the loop differentiates through, with all classes in one graph; 0 where it
    does not."""

    @property
    def work(self) -> Work:
        """Everything together."""
        return self.before + self.steps * self.step + self.between


@dataclass(frozen=True)
class Cost:
    """What a cell stores, decodes to and computes."""

    floats: int
    """Stored, for everything that is needed to rebuild the images."""
    images: int
    """Decoded, of all classes together; 0 stands for the whole training set."""
    loop: LoopCost = LoopCost()
    loops: int = 1
    """How often the loop runs for one cell: twice where a pilot run comes first."""
    before: Work = Work()
    """Of each loop's start, whichever method's loop it is: a warm start, the training of an embedding."""
    after: Work = Work()
    """What follows the loop, such as pruning."""

    @property
    def work(self) -> Work:
        """Everything together."""
        return self.loops * (self.before + self.loop.work) + self.after

    def without_experts(self) -> Work:
        """`work`, less the experts."""
        return replace(self.work, experts=0.0)
