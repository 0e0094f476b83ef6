"""Steps whose gradients are matched or unrolled: the pure functions that are compiled, alone and in whole runs."""

from pathlib import Path

import pytest
import torch

from benchmark import data, networks
from benchmark.condensation.cost import LoopCost
from benchmark.condensation.settings import Schedule
from benchmark.condensation.task import Task
from benchmark.containers.budget import Budget
from benchmark.grid import registry
from benchmark.objectives import value_and_grad
from benchmark.objectives.gradient_matching import DISTANCES, GradientMatching, distance_and_gradient
from benchmark.system.runtime import Runtime
from benchmark.training import passes, trainer
from benchmark.training.passes import EAGER, Passes, has_compiler
from benchmark.training.unroll import Unroll, adjoint_of_gradient, flatten
from tests.toy_task import Losses, float64, toy_task
from tests.training.test_unroll import Problem

CPU = torch.device("cpu")
STEPS = 10
SETTINGS = {
    "dsa": {"iterations": 5, "outer_loop": 2, "inner_epochs": 2, "batch_real": 16},
    "dm": {"iterations": STEPS, "batch_real": 16},
    "cafe": {"iterations": 2, "max_image_steps": 5, "max_inner_epochs": 2, "batch_real": 16, "query": 8},
    "idc": {"outer": 2, "passes": 5, "n_data": 64, "batch_real": 16},
    "mtt": {"iterations": STEPS, "syn_steps": 3, "experts": 1, "train_epochs": 3, "batch_real": 64},
    "haba": {"iterations": STEPS, "syn_steps": 3, "experts": 1, "train_epochs": 3, "batch_real": 64, "warm_start": 20},
    "linba": {"iterations": STEPS, "inner_steps": 3, "batch_real": 16, "lr_img": 0.1},
    "hmn-noprune": {"outer": 2, "passes": 5, "n_data": 64, "batch_real": 16, "warm_start": 20},
}
WITH_EXPERTS = ("mtt", "haba")


@pytest.fixture
def uncompiled(monkeypatch):
    """Passes take what they have compiled as it is, however short the run."""
    monkeypatch.setattr(passes, "has_compiler", lambda: True)
    monkeypatch.setattr(passes, "_compile", lambda function: function)
    monkeypatch.setattr(passes, "_refused", set())
    monkeypatch.setattr(passes, "WORTH_COMPILING", {"float32": 0.0})
    monkeypatch.setattr(passes, "WORTH_COMPILING_SECOND", 0.0)
    monkeypatch.setattr(passes, "SMALLEST_BATCH", {"float32": 0})
    with float64():
        yield
    assert not passes._refused


@pytest.fixture
def half_without_a_compiler(monkeypatch, norm_in_float32):
    """bfloat16 is used as on a GPU, uncompiled."""
    for module in (passes, trainer):
        monkeypatch.setattr(module, "eagerly_half", lambda runtime: runtime.precision == "bf16")


@pytest.mark.parametrize("matched", ["all", "conv"])
@pytest.mark.parametrize("distance", list(DISTANCES))
def test_matching_as_pure_functions_is_matching_by_autograd(golden, golden_convnet, uncompiled, distance, matched):
    vectors = golden("gradient_matching_dc")
    network = golden_convnet(vectors).double()
    real, synthetic = vectors["real"].double(), vectors["syn"].double()
    pure, objective = Passes(Runtime(CPU), tuple(real.shape[2:])), GradientMatching(distance, matched)
    assert pure.second_order(distance_and_gradient, network) is not None
    assert EAGER.second_order(distance_and_gradient, network) is None
    eager = value_and_grad(objective, network, real, synthetic)
    whole = value_and_grad(objective, network, real, synthetic, passes=pure)
    for actual, expected in zip(whole, eager, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_unroll_by_pure_functions_is_the_unroll_by_autograd(generator, uncompiled, momentum):
    problem = Problem(generator)
    pure = Passes(Runtime(CPU), (1, 4, 4))
    assert pure.second_order(adjoint_of_gradient, problem.network) is not None
    loss, gradients = problem.by_unroll(momentum)
    other_loss, other_gradients = problem.by_unroll(momentum, passes=pure)
    torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-9, atol=1e-12)


def test_of_a_real_side_in_half_precision_nothing_else_is(golden, golden_convnet, half_without_a_compiler):
    """METHODS' bound on what bfloat16 does to a matched gradient: a few per cent of the pixels' gradient."""
    vectors = golden("gradient_matching_dc")
    network, batches = golden_convnet(vectors), (vectors["real"], vectors["syn"])
    shape, runtime = tuple(vectors["real"].shape[2:]), Runtime(CPU, "bf16")
    true_loss, true_gradient = value_and_grad(GradientMatching(), network, *batches)
    for batched in (False, True):
        half = Passes(runtime, shape, batched=batched)
        loss, gradient = value_and_grad(GradientMatching(), network, *batches, chunk=4, passes=half)
        assert 1e-6 < abs(loss / true_loss - 1) < 0.02
        assert 1e-4 < (gradient - true_gradient).norm() / true_gradient.norm() < 0.1


def test_only_what_nothing_is_differentiated_through_may_be_half(golden, golden_convnet, half_without_a_compiler):
    vectors = golden("gradient_matching_dc")
    network, images = golden_convnet(vectors), vectors["real"].flatten(0, 1)
    labels = torch.arange(len(vectors["real"])).repeat_interleave(vectors["real"].shape[1])
    half = toy_task(shape=tuple(images.shape[1:]), runtime=Runtime(CPU, "bf16")).for_loop(LoopCost()).passes

    def gradients(how, **options):
        return flatten(how.gradients(network, networks.detached(network), images, labels, **options))

    true = gradients(EAGER)
    assert torch.equal(gradients(half, exact=True), true)
    assert half.half
    assert 1e-4 < (gradients(half) - true).norm() / true.norm() < 0.1
    ends = [
        Unroll(network, lambda step: (images, labels), 2, passes=how).forward(flatten(network), torch.tensor(0.1))
        for how in (half, EAGER)
    ]
    assert torch.equal(*ends)


def condense(name, precision):
    method, digits = registry.get(name), data.load("digits", Path())
    hyper = method.hyper_parameters(digits.spec, 2, Schedule.parse("quick"), SETTINGS[name])
    budget = Budget(2, digits.spec.classes, digits.spec.image_shape)
    run, generator = Losses(), torch.Generator().manual_seed(1)
    container = method(hyper).condense(Task(digits.spec, digits.train, budget, Runtime(CPU, precision), generator), run)
    return torch.tensor(run.losses[-STEPS:]), container.decode_classes().detach()


ALSO = ("dsa", "haba", "linba", "hmn-noprune")
"""They compile what IDC and MTT do, for other shapes: minutes that `make test` leaves to `make test-long`."""

CASES = [pytest.param(name, marks=pytest.mark.long if name in ALSO else ()) for name in SETTINGS]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ten_compiled_steps_stay_with_the_eager_ones(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if not has_compiler():
        pytest.skip("torch finds no compiler here")
    monkeypatch.setattr(passes, "_refused", set())
    results, calls, original = [], [], passes._Compiled.__call__
    monkeypatch.setattr(passes._Compiled, "__call__", lambda self, *rest: (calls.append(1), original(self, *rest))[1])
    for worth in (float("inf"), 0.0):
        monkeypatch.setattr(passes, "WORTH_COMPILING_SECOND", worth)
        monkeypatch.setattr(passes, "WORTH_COMPILING_FORWARD", worth)
        if name not in WITH_EXPERTS:  # trainings, in which rounding grows from step to step
            monkeypatch.setattr(passes, "WORTH_COMPILING", {"float32": worth})
        results.append(condense(name, "float32"))
        assert bool(calls) == (worth == 0)
    assert not passes._refused
    (losses, images), (true_losses, true_images) = results
    assert (losses - true_losses).norm() <= 1e-4 * true_losses.norm()
    # MTT's step size of 100 and more lets single flips of a ReLU's sign show, which rounding decides.
    assert (images - true_images).norm() <= (1e-2 if name in WITH_EXPERTS else 1e-4) * true_images.norm()


@pytest.mark.parametrize("name", ["dsa", "dm", "cafe", "idc"])
def test_ten_steps_in_half_precision_stay_near_those_in_float32(name, half_without_a_compiler):
    """Of 32x32 images: the losses within 2 %, and how far the images came within 15 %."""
    method, ends = registry.get(name), []
    for precision in ("float32", "bf16"):
        task = toy_task(counts=(16, 16, 16), shape=(3, 32, 32), runtime=Runtime(CPU, precision))
        hyper = method.hyper_parameters(task.spec, 2, Schedule.parse("quick"), SETTINGS[name] | {"batch_real": 8})
        cell, run = method(hyper), Losses()
        container = cell.start(task, run)
        begin = container.decode_classes().detach().clone()
        cell.loop.drive(container, cell.optimiser(container), task, run)
        ends.append((torch.tensor(run.losses[-STEPS:]), container.decode_classes().detach() - begin))
    (true_losses, true_way), (losses, way) = ends
    assert 1e-6 < (losses - true_losses).norm() / true_losses.norm() < 0.02
    assert 1e-3 < (way - true_way).norm() / true_way.norm() < 0.15
