"""The fast path of every loop, and of scoring, against the plain eager one on the same device: on a GPU where there is
one, and always on a CPU that computes its classes and networks together as a GPU does."""

import dataclasses

import pytest
import torch

from benchmark import networks
from benchmark.condensation import experts
from benchmark.condensation.settings import Schedule
from benchmark.containers.budget import Budget
from benchmark.grid import registry
from benchmark.system.runtime import Runtime
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet, accuracies
from tests.short import scaled_settings, short_settings, smallest_ipc
from tests.toy_task import BATCHED, Losses, float64, toy_task

LOOPS = ("dc", "dsa", "dm", "cafe", "cafe-dsa", "mtt", "idc", "idc-i", "haba", "linba", "hmn")
STEPS = 10
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = [
    pytest.param(BATCHED, id="cpu"),
    pytest.param(Runtime(torch.device("cuda")), id="gpu", marks=NEEDS_GPU),
]


def oracle(fast: Runtime) -> Runtime:
    return Runtime(fast.device, "reference")


def condense(name, runtime):
    """(losses, images [N, C, H, W]) of ten steps or more."""
    method, task = registry.get(name), toy_task(counts=(12, 10, 11), runtime=runtime)
    settings = scaled_settings(method, STEPS) | short_settings(method) | {"experts": 1}
    settings = {field: value for field, value in settings.items() if field in method.Hyper.__dataclass_fields__}
    ipc = smallest_ipc(method, task.spec, **short_settings(method))
    task = dataclasses.replace(task, budget=Budget(ipc, task.classes, task.spec.image_shape))
    hyper = method.hyper_parameters(task.spec, ipc, Schedule.parse("quick"), settings)
    run = Losses()
    container = method(hyper).condense(task, run)
    return torch.tensor(run.losses), container.decode_classes().detach()


@pytest.mark.parametrize("runtime", DEVICES)
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_s_fast_path_stays_with_the_plain_one(name, runtime, narrow, monkeypatch):
    monkeypatch.setattr(experts, "derive_seed", lambda purpose, expert: expert)  # else of other seeds, by precision
    assert runtime.batched and not oracle(runtime).batched
    with float64():
        losses, images = condense(name, runtime)
        true_losses, true_images = condense(name, oracle(runtime))
    assert len(losses) >= STEPS
    torch.testing.assert_close(losses, true_losses, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(images, true_images, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("runtime", DEVICES)
def test_networks_trained_together_are_those_trained_alone(runtime):
    scores = []
    with float64():
        for where in (runtime, oracle(runtime)):
            task = toy_task(counts=(12, 10, 11), runtime=where)
            real = TrainingSet.real(task.train)
            network = networks.build("convnet", task.spec.image_shape, task.classes, 16)
            training = Training(Ensemble(network, [1, 2, 3], where), real, Recipe(steps=STEPS, batch=16), task.strategy)
            losses = torch.stack([training.step(step) for step in range(STEPS)])
            scores.append((losses, torch.tensor(accuracies(training.ensemble, real))))
    for fast, plain in zip(*scores, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-9)
