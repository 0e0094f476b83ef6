"""The conformance test notices what it is there for: each of these methods breaks one promise."""

import itertools

import pytest
import torch

from benchmark.condensation.cost import Cost
from benchmark.containers.pixels import Pixels
from benchmark.testing import check_method
from tests.toys import Drift, DriftHyper, registered

counter = itertools.count()


class Forgetful(Drift):
    """Keeps its pixels out of the state."""

    name, title = "forgetful", "Forgetful"

    def condense(self, task, run):
        pixels = torch.zeros(task.classes, task.ipc, *task.spec.image_shape)
        for _ in run.loop("condense", self.hyper.iterations):
            pixels += task.noise(task.ipc)
        return Pixels.of(pixels)


class Clockwork(Drift):
    """Draws from something that is not the task's generator."""

    name, title = "clockwork", "Clockwork"

    def condense(self, task, run):
        return Pixels.of(task.noise(task.ipc) + next(counter))


class Modest(Drift):
    """Announces less than it stores."""

    name, title = "modest", "Modest"

    def cost(self, spec, budget):
        return Cost(budget.floats - 1, budget.ipc * spec.classes)


class Boastful(Drift):
    """Announces more images than it decodes."""

    name, title = "boastful", "Boastful"

    def cost(self, spec, budget):
        return Cost(budget.floats, budget.ipc * spec.classes + 1)


class Exploding(Drift):
    """Ends with pixels that are not finite."""

    name, title = "exploding", "Exploding"

    def condense(self, task, run):
        return Pixels.of(task.noise(task.ipc) / 0)


class Greedy(Drift):
    """Stores more than the budget."""

    name, title = "greedy", "Greedy"

    def condense(self, task, run):
        return Pixels.of(task.noise(task.ipc + 1))


class Stuck(Drift):
    """Long work without a phase's loop around it: it never gets further than its first stop."""

    name, title = "stuck", "Stuck"

    def condense(self, task, run):
        for _attempt in range(3):
            for _ in run.loop(f"phase {next(counter)}", 3):
                pass
        return Pixels.of(task.noise(task.ipc))


BROKEN = {
    Forgetful: "stop and resume gave other bits",
    Clockwork: "the same seed gave other bits",
    Modest: r"cost\(\) says 639 floats, not 640",
    Boastful: r"cost\(\) says 11 images, not 10",
    Exploding: "values that are not finite",
    Greedy: "2.00 times the budget",
    Stuck: "does not advance",
}


@pytest.mark.parametrize(("method", "complaint"), BROKEN.items(), ids=[cls.name for cls in BROKEN])
def test_a_broken_promise_is_noticed(method, complaint, digits):
    with registered(method), pytest.raises(Exception, match=complaint):
        check_method(method, digits)


def test_a_kept_one_is_not(digits):
    with registered(Drift):
        check_method(Drift, digits)
        check_method(Drift, digits, ipc=2, rate=0.5)


def test_a_method_that_is_not_registered_is_noticed(digits):
    class Stranger(Drift):
        """Not in the registry."""

        name, title, Hyper = "stranger", "Stranger", DriftHyper

    with pytest.raises(ValueError, match="unknown method 'stranger'"):
        check_method(Stranger, digits)
