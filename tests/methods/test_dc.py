"""DC against its literal reference, and what its loop promises."""

import pytest
import torch

from benchmark.condensation.run import Run
from methods.dc import DC, DCHyper, loops
from tests.methods.reference_gradient_matching import gradient_matching
from tests.toy_task import BATCHED, LOOP, float64, toy_task

# Several networks, image steps and epochs; batches of 4, 2 in the inner training; real batches beyond a class's size.
HYPER = DCHyper(iterations=2, outer_loop=3, inner_epochs=2, batch_net=4, batch_real=5, lr_img=0.2, mom_img=0.5)


def condense(method, task):
    return method.condense(task, Run()).decode_classes().detach()


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize("init", ["noise", "real"])
def test_agrees_with_the_reference(runtime, init):
    hyper = DCHyper(**{**vars(HYPER), "init": init})
    twin, task, begin = toy_task(), toy_task(runtime=runtime), toy_task()
    expected = gradient_matching(twin, hyper, "none")
    actual = condense(DC(hyper), task)
    first = begin.noise(begin.ipc) if init == "noise" else begin.start_images(begin.ipc)
    assert (actual - expected).norm() < 1e-9 * (expected - first).norm()
    # Both drew as often: their generators stand at the same place.
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_no_training_behind_the_last_image_step_of_a_network(monkeypatch):
    calls = []
    monkeypatch.setattr("benchmark.condensation.task.train_epochs", lambda *args, **kwargs: calls.append(args[4]))
    condense(DC(HYPER), toy_task())
    assert calls == [HYPER.inner_epochs] * (HYPER.outer_loop - 1) * HYPER.iterations


def test_only_the_images_move_by_the_matching_loss(monkeypatch):
    """The network's own parameters change in the inner training alone."""
    monkeypatch.setattr("benchmark.condensation.task.train_epochs", lambda *args, **kwargs: None)
    seen = []
    step = type(toy_task()).step

    def spy(self, objective, network, *rest):
        seen.append([p.detach().clone() for p in network.parameters()])
        return step(self, objective, network, *rest)

    monkeypatch.setattr("benchmark.condensation.task.Task.step", spy)
    condense(DC(HYPER), toy_task())
    for first in (0, 3):
        for later in (1, 2):
            assert all(torch.equal(a, b) for a, b in zip(seen[first], seen[first + later], strict=True))
    assert not torch.equal(seen[0][0], seen[3][0])


@pytest.mark.parametrize(
    ("ipc", "expected"),
    [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10)),
     (2, (2, 250)), (5, (5, 100)), (15, (15, 33)), (75, (50, 7)), (99, (50, 5)), (100, (50, 10)), (500, (50, 10))],
)  # fmt: skip
def test_loop_table(ipc, expected):
    assert loops(ipc) == expected
