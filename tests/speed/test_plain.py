"""Every plain unit computes what the product's path computes: otherwise the ratio of their times would say nothing.

In float64, where a flipped ReLU cannot hide a difference; the steps behind the first one also see what the first moved.
"""

import dataclasses
from contextlib import nullcontext

import pytest
import torch

from benchmark import augment, data, networks
from benchmark.augment import diffaug, dsa
from benchmark.condensation import experts
from benchmark.data import Dataset
from benchmark.grid import registry
from benchmark.speed import units
from benchmark.speed.measure import Sampled
from benchmark.speed.plain import training
from benchmark.speed.plain.augmentation import augment as plain_augment
from benchmark.speed.plain.augmentation import draws
from benchmark.system.runtime import Runtime
from tests.toy_task import BATCHED, LOOP, NarrowTask, float64, toy_task

pytestmark = pytest.mark.slow  # every method beside its plain loop

STEPS = 2
TOLERANCE = 1e-6


class NarrowBench(units.Bench):
    def task(self, name, *args):
        task = super().task(name, *args)
        if name in ("mtt", "haba"):  # students are as wide as their experts
            return task
        return NarrowTask(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def bench(tmp_path, runtime):
    task = toy_task(ipc=2, counts=(12, 10, 11), runtime=runtime)
    names = tuple("abc")
    dataset = Dataset(task.spec, task.train, task.train, (0.45,) * 3, (0.22,) * 3, names)
    return NarrowBench(dataset, runtime, tmp_path, inner_steps=2, experts=2)


def run_product(unit, steps=STEPS):
    """The run, with what its loop moved."""
    run = Sampled(unit.phase, unit.steps, [nullcontext()] * steps)
    unit.product(run)
    return run


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize("name", ["dc", "dsa", "dm", "cafe", "idc", "hmn", "mtt", "haba", "linba"])
def test_a_method_moves_its_container_alike(name, runtime, tmp_path, monkeypatch):
    made = []
    method = registry.get(name)
    start = method.start

    def spy(self, task, run):
        made.append((container := start(self, task, run), [p.detach().clone() for p in container.parameters()]))
        return container

    monkeypatch.setattr(method, "start", spy)
    unit = units.build(name, 10 if name == "haba" else 2, bench(tmp_path, runtime))
    for _ in range(STEPS):
        unit.plain()
    run_product(unit)
    (plain, first), (product, same) = made
    assert (flat(plain.parameters()) - flat(first)).norm() > 0
    for p, q, before, again in zip(plain.parameters(), product.parameters(), first, same, strict=True):
        assert torch.equal(before, again)
        assert (p - q).norm() <= TOLERANCE * (p - before).norm()


@pytest.mark.parametrize(("name", "some"), [("mtt", 8), ("linba", 100)])
def test_an_unroll_has_no_more_inner_steps_than_memory_has_room_for(name, some, tmp_path, monkeypatch):
    """LinBa's plain graph of 20 steps takes 27 GB on CIFAR-10's shapes: the system would kill the process."""
    many = dataclasses.replace(bench(tmp_path, LOOP), inner_steps=20)
    for free, possible in ((None, {20}), (1e6, {20}), (some, range(2, 20)), (0.1, {1})):
        monkeypatch.setattr(Runtime, "free_memory_mib", lambda _, free=free: free)
        title = units.build(name, 2, many).title
        assert int(title.rpartition(" ")[2]) in possible


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize("name", ["expert", "evaluation-5"])
def test_networks_are_trained_alike(name, runtime, tmp_path, monkeypatch):
    made = []

    class Spy(training.PlainTraining):
        def __init__(self, *args):
            super().__init__(*args)
            made.append((self, [[p.detach().clone() for p in n.parameters()] for n in self.networks]))

    monkeypatch.setattr(training, "PlainTraining", Spy)
    unit = units.build(name, 2, bench(tmp_path, runtime))
    for _ in range(STEPS):
        unit.plain()
    ensemble = run_product(unit).state["training"].ensemble
    [(plain, first)] = made
    assert len(plain.networks) == len(ensemble) > 1
    for index, (network, before) in enumerate(zip(plain.networks, first, strict=True)):
        p, q, start = flat(network.parameters()), flat(ensemble.member(index).values()), flat(before)
        assert (p - q).norm() < TOLERANCE * (p - start).norm()


def test_as_many_experts_are_timed_as_one_group_takes(tmp_path, monkeypatch):
    """Both sides and the count of operations: on CIFAR-10's shapes a group of ten would be eight and two."""
    alone, pair, four = (dataclasses.replace(bench(tmp_path, LOOP), experts=count) for count in (1, 2, 4))
    flops = units.build("expert", 1, pair).flops
    assert flops == 2 * units.build("expert", 1, alone).flops
    network = networks.build_matching(pair.spec.image_shape, pair.spec.classes)
    snapshots = 4 * sum(p.numel() for p in network.parameters()) * (units.EXPERT_EPOCHS + 1)
    monkeypatch.setattr(experts, "SNAPSHOT_BYTES", 3 * snapshots - 1)
    made = []
    monkeypatch.setattr(training, "PlainTraining", lambda network, seeds, *rest: made.append(seeds))
    unit = units.build("expert", 1, four)
    assert unit.flops == flops and unit.title.startswith("epoch of 2 experts")
    assert len(run_product(unit, steps=1).state["training"].ensemble) == len(made[0]) == 2


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("strategy", ["color", "crop", "cutout", "flip", "scale", "rotate", "none"])
def test_operations_one_by_one_are_the_kernel(strategy, rows, align_corners, generator):
    images = torch.randn(6, 3, 12, 9, generator=generator)
    params = dsa.sample(strategy, 5, rows, (12, 9), generator)
    for call, draw in enumerate(draws(params, 5)):
        own = params.take(torch.arange(call * rows, (call + 1) * rows))
        expected = augment.apply(images, own, align_corners)
        torch.testing.assert_close(plain_augment(images, draw, align_corners), expected, rtol=1e-4, atol=1e-5)


def test_several_operations_at_once_are_the_kernel(generator):
    images = torch.randn(4, 3, 8, 8, generator=generator)
    params = diffaug.sample("color_crop_cutout", 1, (8, 8), generator, shared=True, calls=3)
    for call, draw in enumerate(draws(params, 3)):
        expected = augment.apply(images, params.take(torch.tensor([call])))
        torch.testing.assert_close(plain_augment(images, draw), expected, rtol=1e-4, atol=1e-5)


def test_loading_gives_what_networks_see(tmp_path):
    digits = data.load("digits", tmp_path)
    few = dataclasses.replace(digits, train=digits.train.subset(torch.arange(5)))
    images = training.as_seen(few)
    torch.testing.assert_close(images, few.train.gather(), rtol=1e-4, atol=1e-5)
