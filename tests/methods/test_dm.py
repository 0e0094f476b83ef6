"""DM against its literal reference, and its independence of how many classes are computed at once."""

import itertools

import pytest
import torch

from benchmark import networks
from benchmark.condensation.run import Run
from methods.dm import DM, DMHyper
from tests.methods.reference_gradient_matching import distribution_matching
from tests.toy_task import BATCHED, LOOP, float64, toy_task


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize(("init", "flip"), [("real", True), ("noise", False)])
def test_agrees_with_the_reference(runtime, init, flip):
    hyper = DMHyper(iterations=4, batch_real=5, lr_img=0.1, init=init)
    twin, task, begin = toy_task(flip=flip), toy_task(flip=flip, runtime=runtime), toy_task()
    expected = distribution_matching(twin, hyper)
    actual = DM(hyper).condense(task, Run()).decode_classes().detach()
    first = begin.noise(begin.ipc) if init == "noise" else begin.start_images(begin.ipc)
    assert (actual - expected).norm() < 1e-9 * (expected - first).norm()
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_a_fresh_network_for_every_iteration(monkeypatch):
    drawn = []
    real = networks.initialise_

    def spy(network, generator):
        drawn.append(next(real(network, generator).parameters()).detach().clone())
        return network

    monkeypatch.setattr(networks, "initialise_", spy)
    DM(DMHyper(iterations=3, batch_real=4)).condense(toy_task(), Run())
    assert len(drawn) >= 3
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(drawn))
