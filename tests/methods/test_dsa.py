"""DSA against its literal reference."""

import pytest
import torch

from benchmark.condensation.run import Run
from methods.dc import DC
from methods.dsa import DSA, DSAHyper
from tests.methods.reference_gradient_matching import gradient_matching
from tests.toy_task import BATCHED, LOOP, float64, toy_task

HYPER = DSAHyper(iterations=2, outer_loop=3, inner_epochs=2, batch_net=4, batch_real=5, lr_img=0.2)


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize(("init", "flip"), [("real", True), ("noise", False)])
def test_agrees_with_the_reference(runtime, init, flip):
    hyper = DSAHyper(**{**vars(HYPER), "init": init})
    twin, task, begin = toy_task(flip=flip), toy_task(flip=flip, runtime=runtime), toy_task()
    expected = gradient_matching(twin, hyper, twin.strategy)
    actual = DSA(hyper).condense(task, Run()).decode_classes().detach()
    first = begin.noise(begin.ipc) if init == "noise" else begin.start_images(begin.ipc)
    assert (actual - expected).norm() < 1e-9 * (expected - first).norm()
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_ipc_1_works():
    container = DSA(DSAHyper(iterations=2)).condense(toy_task(ipc=1), Run())
    assert torch.isfinite(container.pixels).all()


def test_differs_from_dc_by_augmentation_and_start_alone():
    hyper = DSAHyper(iterations=1)
    dsa, dc = (cls(hyper).condense(toy_task(), Run()).pixels for cls in (DSA, DC))
    assert not torch.allclose(dsa, dc)
    assert DSAHyper().init == "real"
