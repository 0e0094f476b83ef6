"""Every registered method keeps the contract on digits, and runs on every data set as its files lie on a disk."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torchvision import datasets

from benchmark import data
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers.budget import Budget
from benchmark.engines.job import JobRunner
from benchmark.grid import registry
from benchmark.grid.plan import Grid
from benchmark.networks.convnet import Block
from benchmark.speed.units import UNROLLED
from benchmark.store.cells import Evaluation
from benchmark.store.folder import Store
from benchmark.system.errors import CellError, TooFewImages
from benchmark.system.runtime import Runtime
from benchmark.testing import check_method, short_job
from benchmark.training.recipes import Recipe
from tests.data.conftest import (  # noqa: F401  (fixtures)
    offline,
    rng,
    write_cifar,
    write_image,
    write_mnist,
    write_svhn,
    write_tiny,
)
from tests.short import scaled_settings, short_settings, smallest_ipc
from tests.toy_task import float64, toy_task

METHODS = sorted(registry.all_methods())
CHEAP = ("random", "herding", "kcenter", "whole", "dc", "dsa", "dm")
MIRRORED = tuple(name for name in METHODS if name.startswith("fyi-"))
"""They refuse data sets whose images show something else in the mirror."""
MOMENT = Evaluation("unified", "convnet", 1, Recipe(steps=2, batch=32), 1.0)


def once(name):
    """A method as a parameter; a variant shares most of its code with another one, and `make test-fast` skips it."""
    variant = registry.get(name).category == "variant"
    return pytest.param(name, marks=pytest.mark.slow if variant else ())


@pytest.mark.parametrize("name", map(once, METHODS))
def test_the_contract(name, tmp_path, monkeypatch):
    method = registry.get(name)
    settings = short_settings(method)
    digits = data.load("digits", tmp_path)
    if name in MIRRORED:  # as if a mirrored digit were the same digit
        digits = dataclasses.replace(digits, spec=dataclasses.replace(digits.spec, flip=True))
    check_method(method, digits, smallest_ipc(method, digits.spec, **settings), **settings)


@pytest.mark.parametrize("name", [name for name in METHODS if registry.get(name).Loop.microbatches])
def test_a_microbatch_takes_more_passes_and_changes_nothing_but_rounding(name, monkeypatch):
    method, ends, passes, forward = registry.get(name), [], [0], Block.forward

    def counted(block, maps):
        passes[-1] += 1
        return forward(block, maps)

    monkeypatch.setattr(Block, "forward", counted)
    for size in (None, 2):
        with float64():
            task = dataclasses.replace(toy_task(), microbatch=size)
            settings = scaled_settings(method, 3) | short_settings(method)
            ipc = smallest_ipc(method, task.spec, **short_settings(method))
            task = dataclasses.replace(task, budget=Budget(ipc, task.classes, task.spec.image_shape))
            hyper = method.hyper_parameters(task.spec, ipc, Schedule.parse("quick"), settings)
            ends.append(method(hyper).condense(task, Run()).state_dict())
            passes.append(0)
    assert passes[1] > passes[0] > 0
    for whole, parts in zip(ends[0].values(), ends[1].values(), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-9)


# The axes: every container under every loop.
CONTAINERS = ("dm", *(cls.name for cls in registry.all_methods().values() if cls.container_row))
LOOPS = ("dc", "dm", "cafe", "mtt", "idc", "haba", "linba", "hmn")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_moves_under_every_loop(container, loop, narrow):
    task = toy_task(counts=(12, 10, 11))
    cls, other = registry.get(container), registry.get(loop)
    ipc = max(smallest_ipc(method, task.spec, **short_settings(method)) for method in (cls, other))
    task = dataclasses.replace(task, budget=Budget(ipc, task.classes, task.spec.image_shape))

    def hyper(method):
        settings = scaled_settings(method, 1) | short_settings(method)
        return method.hyper_parameters(task.spec, ipc, Schedule.parse("quick"), settings)

    moves = []

    class Watched(Run):
        def loop(self, phase, steps, **state):
            for step in super().loop(phase, steps, **state):
                before = [p.detach().clone() for p in state["container"].parameters()] if phase == "condense" else []
                yield step
                after = list(state["container"].parameters()) if phase == "condense" else []
                moves.extend(not torch.equal(*pair) for pair in zip(before, after, strict=True))

    foreign = None if container == loop else other.Loop(hyper(other))
    made = cls(hyper(cls), foreign).condense(task, Watched())
    assert any(moves)
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())
    assert made.num_floats <= task.budget.floats


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100", "tiny-imagenet"])
def test_containers_are_compared_under_one_loop(dataset, tmp_path):
    """The same settings of it for all of them, whatever each method's own are."""
    rows, spec, quick = registry.expand(["containers"]), data.spec(dataset, tmp_path), Schedule.parse("quick")
    grid = Grid(rows, (spec,), (1,), 1, 1, quick, ("unified",), ("convnet",), "strict", "float32")
    loops = {job.cell.method: job.cell.loop for job in grid.jobs()}
    assert set(loops) == {cls.name for cls in registry.all_methods().values() if cls.container_row}
    assert all(loop == loops["idc"] for loop in loops.values())
    assert loops["idc"][0] == "idc"


SEVERAL = {
    "outer_loop": 3, "inner_epochs": 1, "max_image_steps": 3, "max_inner_epochs": 2, "passes": 3, "syn_steps": 3,
    "inner_steps": 3,
}  # fmt: skip
"""Of what lies inside a step of some loop, more than one."""

ALL_THERE = {"n_data": 8, "batch_net": 4, "batch_real": 4}
"""Batches that the classes of the toy fill."""


def images_seen(monkeypatch) -> list[int]:
    """How many images went into a network, pass by pass, none twice because its activations are computed again."""
    seen, forward = [], Block.forward

    def counted(block, maps):
        if maps.shape[1] == 3 and maps.device.type != "meta":  # the first block of one
            seen.append(len(maps))
        return forward(block, maps)

    monkeypatch.setattr(Block, "forward", counted)
    monkeypatch.setattr("methods.haba.checkpoint", lambda function, *args, **how: function(*args))
    return seen


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_costs_what_it_says(name, narrow, monkeypatch, tmp_path):
    """As many steps as it counts move the container, each once, and as many images as it counts go through networks."""
    method, task = registry.get(name), dataclasses.replace(toy_task(counts=(12, 10, 11)), cache=tmp_path)
    ipc, own = smallest_ipc(method, task.spec, **short_settings(method)), method.Hyper.__dataclass_fields__
    task = dataclasses.replace(task, budget=Budget(ipc, task.classes, task.spec.image_shape))
    several = short_settings(method) | {k: v for k, v in (SEVERAL | ALL_THERE).items() if k in own}
    several |= {"batch_syn": 2} if name == "linba" else {}
    hyper = method.hyper_parameters(task.spec, ipc, Schedule.parse("paper"), several | scaled_settings(method, 2))
    cell, moved = method(hyper), []
    for wanted in cell.prerequisites():
        wanted.make(task, Run())
    container = cell.start(task, Run())
    optimiser = cell.optimiser(container)
    optimiser.register_step_post_hook(lambda *_: moved.append(1))
    seen = images_seen(monkeypatch)
    cell.loop.drive(container, optimiser, task, Run())
    cost = cell.cost(task.spec, task.budget).loop
    assert len(moved) == cost.steps > 1
    counted = cost.work.forward + cost.work.trained + cost.work.matched
    if name == "cafe":  # the training behind a network's last image step is counted, and left out
        network = hyper.iterations * hyper.max_inner_epochs * task.classes
        counted -= network * (hyper.query + container.per_class)
    assert sum(seen) == counted


@pytest.mark.parametrize("name", LOOPS)
def test_a_single_step_is_one(name):
    """What the plan's memory and the speed table take for a step of the loop does not go by how many there are, nor an
    inner step of one that it differentiates through by how many of those."""
    method, spec = registry.get(name), toy_task().spec
    ipc = smallest_ipc(method, spec, **short_settings(method))
    budget, paper = Budget(ipc, spec.classes, spec.image_shape), Schedule.parse("paper")

    def cost(**settings):
        return method(method.hyper_parameters(spec, ipc, paper, settings)).cost(spec, budget).loop

    many, few = (cost(**scaled_settings(method, count)) for count in (6, 2))
    assert many.steps == 3 * few.steps
    assert many.step == few.step
    assert many.work.matched + many.work.trained > many.step.matched + many.step.trained > 0
    inner = UNROLLED.get(name)
    assert many.unrolled == (getattr(method.hyper_parameters(spec, ipc, paper), inner) if inner else 0)
    if inner:
        one, three = (cost(**{inner: count}) for count in (1, 3))
        assert (one.unrolled, three.unrolled) == (1, 3)
        assert three.step.matched == pytest.approx(3 * one.step.matched)


REFUSE = {"random", "herding", "kcenter", "kmeans-emb", "dsa", "dm", "mtt", "idc", "idc-i", "haba", *MIRRORED}
"""They begin with as many real images of a class as the budget says, no image twice; the others begin otherwise."""


@pytest.mark.parametrize("name", [name for name in METHODS if registry.get(name).condenses])
def test_more_images_than_the_smallest_class_holds(name, narrow):
    method, task = registry.get(name), toy_task(ipc=9, counts=(12, 4, 11))
    settings = scaled_settings(method, 1) | short_settings(method)
    cell = method(method.hyper_parameters(task.spec, 9, Schedule.parse("paper"), settings))
    if name in REFUSE:
        with pytest.raises(TooFewImages, match="a class of 4 training images"):
            cell.condense(task, Run())
    else:
        assert cell.condense(task, Run()).per_class >= 9


# The writers, by data set; the contract above is held on digits. Two to five training images of each class.
WRITERS = {
    "mnist": lambda request, folder: request.getfixturevalue("write_mnist")(datasets.MNIST, folder),
    "fashion-mnist": lambda request, folder: request.getfixturevalue("write_mnist")(datasets.FashionMNIST, folder),
    "svhn": lambda request, folder: request.getfixturevalue("write_svhn")(folder),
    "cifar10": lambda request, folder: request.getfixturevalue("write_cifar")(datasets.CIFAR10, folder, 10),
    "cifar100": lambda request, folder: request.getfixturevalue("write_cifar")(datasets.CIFAR100, folder, 200),
    "tiny-imagenet": lambda request, folder: request.getfixturevalue("write_tiny")(folder),
    "folder": lambda request, folder: write_folder(request, folder),
}
loaded: dict[str, data.Dataset] = {}


def write_folder(request, folder):
    """One grey channel, not square, classes of 4 and 7 images before the division."""
    write, draw = request.getfixturevalue("write_image"), np.random.default_rng(0)
    for name, count in (("few", 4), ("more", 7)):
        for number in range(count):
            write(folder / "own" / name / f"{number}.png", draw.integers(0, 256, (12, 20), dtype=np.uint8))


@pytest.fixture
def tiny_data(request, tmp_path):
    """tiny_data(name) -> the data set, written and loaded once in a session."""

    def load(name):
        if name not in loaded:
            folder = tmp_path / "data"
            folder.mkdir()
            WRITERS[name](request, folder)
            loaded[name] = data.load(f"folder:{folder / 'own'}" if name == "folder" else name, folder)
            shutil.rmtree(folder)
        return loaded[name]

    return load


def test_every_data_set_has_a_writer():
    assert set(WRITERS) | {"digits"} == {*data.names(), "folder"}


def pairs():
    """Every method on every data set; on the two large ones only the cheap methods outside the long run, and HMN, which
    decodes many images, on the folder only, which alone is quick for all."""
    for dataset_name in WRITERS:
        for name in METHODS:
            large = name not in CHEAP and dataset_name in ("cifar100", "tiny-imagenet")
            many_images = name.startswith("hmn") and dataset_name != "folder"  # 20 to 40 s each
            long = [pytest.mark.long] if large or many_images else []
            marks = [*long, pytest.mark.slow] if dataset_name != "folder" else long
            yield pytest.param(name, dataset_name, marks=marks, id=f"{name}-{dataset_name}")


@pytest.mark.parametrize(("name", "dataset_name"), list(pairs()))
def test_every_method_runs_on_every_data_set(name, dataset_name, tiny_data, tmp_path):
    method, dataset = registry.get(name), tiny_data(dataset_name)
    settings = scaled_settings(method, 1) | short_settings(method)
    if name in MIRRORED and not dataset.spec.flip:
        with pytest.raises(CellError, match="a mirrored image shows something else"):
            smallest_ipc(method, dataset.spec, **settings)
        return
    ipc = smallest_ipc(method, dataset.spec, **settings)
    job = dataclasses.replace(short_job(method, dataset, ipc, **settings), evaluations=(MOMENT,))
    store = Store(tmp_path / "results")
    result = JobRunner(store, Runtime(dataset.train.images.device), tmp_path / "cache").run(job, dataset)
    assert store.is_done(job)
    assert [record.status for record in store.records()] == ["done"]
    assert len(result.evaluations[0].accuracies) == 1
    assert result.dataset.classes == dataset.spec.classes
    assert (store.directory(job.cell) / "preview.png").stat().st_size > 100
