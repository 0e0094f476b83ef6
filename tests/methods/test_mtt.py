"""MTT: settings, agreement with the plain reference, whitening from the data to the score, the step size."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmark import data
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers.budget import Budget
from benchmark.containers.pixels import Pixels
from benchmark.data import Dataset, DatasetSpec
from benchmark.evaluation.evaluate import evaluate
from benchmark.grid import registry
from benchmark.objectives.trajectory_matching import StepSize, inner_batches, trajectory_distance
from benchmark.store.cells import Evaluation
from benchmark.store.condensed_set import ArtifactError, load_artifact, save_artifact
from benchmark.store.preview import viewable
from benchmark.system import files
from benchmark.system.runtime import Runtime
from benchmark.testing import check_method
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Training
from benchmark.training.training_set import training_set
from methods.mtt import MTT, MTTHyper, MTTLoop
from tests.methods.reference_mtt import closed_form, mtt
from tests.toy_task import float64, toy_task

PAPER = Schedule.parse("paper")
ROWS = [
    row for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] == "mtt" and row["use"] == "default"
]  # fmt: skip
NAMES = {"SVHN": "svhn", "CIFAR10": "cifar10", "CIFAR100": "cifar100", "TinyImageNet": "tiny-imagenet"}


def pairs(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.strip().partition("=") for part in text.split(";"))}


def test_all_cells_are_listed():
    assert len(ROWS) == 12


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['dataset']}-{row['ipc']}" for row in ROWS])
def test_every_default_row_is_reproduced(row):
    spec, ipc = data.spec(NAMES[row["dataset"]], Path()), int(row["ipc"])
    hyper, inner, evaluation = MTT.hyper_parameters(spec, ipc, PAPER), pairs(row["inner"]), pairs(row["eval"])
    assert hyper.iterations == int(row["outer_its"])
    for name in ("syn_steps", "expert_epochs", "max_start_epoch"):
        assert getattr(hyper, name) == int(inner[name]), name
    for name in ("lr_img", "mom_img", "lr_lr", "alpha0", "lr_net"):
        assert getattr(hyper, name) == float(row[name]), name
    assert hyper.zca == (row["zca"] == "1") == (row["variant"] == "zca")
    assert hyper.batch_real == int(row["batch_real"])
    assert hyper.batch_syn == (0 if row["batch_syn"] == "all" else int(row["batch_syn"]))
    assert (hyper.init, row["init"]) == ("real", "random real")
    assert row["aug"] == "color_crop_cutout_" + ("flip_" if spec.flip else "") + "scale_rotate"
    assert (hyper.experts, hyper.starts) == (100, hyper.max_start_epoch)
    recipe = MTT(hyper).native_recipe(spec, ipc)
    assert (recipe.epochs, recipe.batch) == (int(evaluation["epochs"]), int(evaluation["batch"]))
    assert (recipe.lr, evaluation["lr"]) == (None, "learned alpha")
    assert (recipe.decay, evaluation["drop"]) == ("halfway", "x0.1 after epoch index E//2+1")
    assert (recipe.weight_decay, recipe.momentum) == (float(evaluation["wd"]), 0.9)
    assert (recipe.augment, recipe.align_corners) == (evaluation["aug"], True)
    budget = Budget(ipc, spec.classes, spec.image_shape)
    assert MTT(hyper).cost(spec, budget).floats == int(row["stored_floats"]) == int(row["budget_floats"])


def test_unlisted_cells():
    def schedule(spec, ipc):
        hyper = MTT.hyper_parameters(spec, ipc, PAPER)
        return hyper.syn_steps, hyper.expert_epochs, hyper.max_start_epoch, hyper.lr_lr, hyper.alpha0, hyper.zca

    mnist, fashion, digits = (data.spec(name, Path()) for name in ("mnist", "fashion-mnist", "digits"))
    assert schedule(mnist, 1) == (50, 2, 5, 1e-7, 1e-2, False)
    assert schedule(mnist, 10) == schedule(mnist, 50) == (30, 2, 15, 1e-5, 1e-2, False)
    assert schedule(fashion, 1) == (50, 2, 5, 1e-7, 1e-2, False)
    assert schedule(fashion, 10) == (60, 2, 15, 1e-5, 1e-2, False)
    assert schedule(digits, 1) == (50, 2, 5, 1e-7, 1e-2, False)
    small = DatasetSpec("folder:/x", "x", 3, 16, 16, 5, True, "")
    assert schedule(small, 1) == (50, 2, 2, 1e-7, 1e-2, True)


def test_a_short_schedule_limits_where_students_start():
    spec = data.spec("cifar10", Path())
    tenth = MTT.hyper_parameters(spec, 50, Schedule.parse("0.1"))
    assert (tenth.iterations, tenth.experts, tenth.starts, tenth.expert_length) == (500, 10, 40, 41)
    short = MTT.hyper_parameters(spec, 50, PAPER, {"train_epochs": 6})
    assert (short.starts, short.expert_length) == (5, 6)
    shortest = MTT.hyper_parameters(spec, 50, PAPER, {"train_epochs": 1})
    assert (shortest.starts, shortest.expert_length) == (1, 2)


HYPER = MTTHyper(
    iterations=4, syn_steps=3, experts=2, train_epochs=3, expert_epochs=1, max_start_epoch=2, batch_real=8, lr_img=0.05,
    lr_lr=1e-3, alpha0=0.05,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch_syn": 4}, {"zca": True}, {"alpha_param": "log"}, {"alpha_floor": 0.0499}],
    ids=["all images", "batches", "whitened", "log", "floor"],
)
def test_agrees_with_the_reference(changes, narrow, tmp_path):
    losses = []

    class Listening(Run):
        def log(self, **values):
            if "step_size" in values:
                losses.append(values["loss"].item())

    with float64():
        hyper = dataclasses.replace(HYPER, **changes)
        first = MTT(hyper).start(toy_task(), Run())
        assert (first.whitening is not None) == hyper.zca, "it begins in the space it is stored in"
        task, twin = (dataclasses.replace(toy_task(), cache=tmp_path) for _ in range(2))
        container = MTT(hyper).condense(task, Listening())
        images, alpha, true_losses = mtt(twin, hyper, Run())
    assert container.space == ("zca" if hyper.zca else "normalised")
    moved = (images - first.pixels).norm()
    assert moved > 1e-4
    assert (container.pixels - images).norm() <= 1e-7 * moved
    assert container.learned_lr == pytest.approx(alpha, rel=1e-10)
    assert container.learned_lr != hyper.alpha0
    assert losses == pytest.approx(true_losses, rel=1e-9)


def test_tesla_is_another_gradient(narrow, tmp_path):
    task, twin = (dataclasses.replace(toy_task(), cache=tmp_path) for _ in range(2))
    exact = MTT(HYPER).condense(task, Run()).pixels
    tesla = MTT(dataclasses.replace(HYPER, gradient="tesla")).condense(twin, Run()).pixels
    assert (exact - tesla).abs().max() > 1e-4


def test_the_loop_moves_containers_of_any_space(narrow, tmp_path):
    """A raw or normalised set under a whitened loop: kept as it is stored, seen and scored whitened."""
    for space in ("raw", "normalised"):
        task = dataclasses.replace(toy_task(), cache=tmp_path)
        images = task.real_batch(2) if space == "normalised" else task.train.raw(task.real_indices(2).flatten())
        container = Pixels.of(images.view(3, 2, *task.spec.image_shape), space)
        before = container.pixels.detach().clone()
        loop = MTTLoop(dataclasses.replace(HYPER, zca=True))
        loop.drive(container, torch.optim.SGD(container.parameters(), 0.01), task, Run())
        assert (container.space, container.whitening is not None) == (space, True)
        assert (container.pixels - before).abs().max() > 1e-6
        raw = task.train.to_raw(container.pixels, space)
        seen = training_set(container, task.train).gather(torch.arange(6))
        torch.testing.assert_close(seen, container.whitening.whiten(raw))


def test_another_loop_sees_what_it_would_of_any_other_container(narrow):
    """Whitening is trajectory matching's: containers are compared under one loop on the same images."""
    other = registry.get("dm")
    method = MTT(dataclasses.replace(HYPER, zca=True), other.Loop(other.Hyper(iterations=2, batch_real=4)))
    container = method.condense(toy_task(), Run())
    assert (container.space, container.whitening, container.learned_lr) == ("normalised", None, HYPER.alpha0)


@pytest.fixture
def whitened():
    """(a data set, a whitened set of its images) at an odd size."""
    task = toy_task(shape=(2, 6, 5))
    train = task.train
    dataset = Dataset(task.spec, train, train, (0.45,) * 2, (0.22,) * 2, ("a", "b", "c"))
    seen = task.whitened()
    container = Pixels.of(seen.start_images(2), "zca")
    container.whitening, container.learned_lr = seen.train.whitening, 0.02
    return dataset, container


def test_real_images_are_whitened_by_the_closed_form(whitened):
    dataset, container = whitened
    mean, transform = closed_form(dataset.train.raw().double())
    expected = (dataset.train.raw().double().flatten(1) - mean) @ transform
    seen = dataset.train.whitened(container.whitening)
    torch.testing.assert_close(seen.gather().flatten(1).double(), expected, rtol=1e-3, atol=1e-4)
    part = torch.tensor([3, 0])
    torch.testing.assert_close(seen.subset(part).gather(), seen.gather(part))
    raw = seen.to_raw(seen.gather(), "zca", seen.whitening)
    torch.testing.assert_close(raw, dataset.train.raw(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="matrix"):
        dataset.train.to_raw(container.pixels, "zca")


def test_a_whitened_set_is_saved_with_its_matrix_and_scored_on_whitened_images(whitened, tmp_path, monkeypatch):
    dataset, container = whitened
    path = tmp_path / "condensed.safetensors"
    save_artifact(path, container, dataset, {})
    loaded = load_artifact(path, dataset)
    assert loaded.card["zca"] == container.whitening.digest == loaded.container.whitening.digest
    assert (loaded.card["space"], loaded.card["mean"], loaded.card["std"]) == ("zca", [0.45] * 2, [0.22] * 2)
    assert (loaded.container.learned_lr, loaded.container.num_floats) == (0.02, container.pixels.numel())
    for name in ("mean", "transform", "inverse"):
        assert torch.equal(getattr(loaded.container.whitening, name), getattr(container.whitening, name))

    scored = []
    monkeypatch.setattr("benchmark.evaluation.evaluate.accuracies", lambda ensemble, test: scored.append(test) or [0.0])
    trained = []
    monkeypatch.setattr(Training, "step", lambda self, step: trained.append(self) or torch.zeros(1))
    wanted = Evaluation("native", "convnet", 1, Recipe(steps=1, lr=None), 1.0)
    seen = training_set(loaded.container, dataset.train)
    evaluate(wanted, seen, dataset, Runtime(torch.device("cpu")), Run(), "key", loaded.container.learned_lr)
    every = torch.arange(len(dataset.test))
    torch.testing.assert_close(scored[0].gather(every), container.whitening.whiten(dataset.test.raw()))
    assert torch.equal(trained[0].data.gather(torch.arange(6)), container.pixels.detach())
    assert trained[0].lr == 0.02

    shown = viewable(container.pixels, loaded.container, dataset.train)
    distance = torch.cdist(shown.flatten(1), dataset.train.raw().flatten(1)).min(1).values
    assert distance.max() < 1e-3


def test_a_changed_matrix_is_refused(whitened, tmp_path):
    dataset, container = whitened
    path = tmp_path / "condensed.safetensors"
    save_artifact(path, container, dataset, {})
    tensors, texts = files.read_tensors(path)
    save_file(tensors | {"zca.mean": tensors["zca.mean"] + 1}, path, texts)
    with pytest.raises(ArtifactError, match="digest"):
        load_artifact(path, dataset)


def test_batches_are_chunks_of_permutations(generator):
    batches = inner_batches(10, 4, 7, generator)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4]
    for first in (0, 3):
        assert sorted(torch.cat(batches[first : first + 3]).tolist()) == list(range(10))
    assert inner_batches(10, 10, 3, generator) == [None] * 3


def test_the_distance_is_one_where_the_student_stays(generator):
    start, target, student = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    assert trajectory_distance(start, target, start)[0] == 1
    assert trajectory_distance(target, target, start)[0] == 0
    leaf = student.clone().requires_grad_()
    loss, gradient = trajectory_distance(leaf, target, start)
    torch.testing.assert_close(gradient.detach(), torch.autograd.grad(loss, leaf)[0])


@pytest.mark.parametrize("kind", ["plain", "log"])
def test_the_step_size_stays_above_its_floor(kind):
    step_size = StepSize(0.01, 1e-3, kind)
    assert step_size().item() == pytest.approx(0.01)
    optimiser = step_size.optimiser(1e-6, 0.0)
    (10.0 * step_size()).backward()
    optimiser.step()
    assert step_size().item() == pytest.approx(0.01 - 1e-5, rel=1e-5)
    with torch.no_grad():
        step_size.value -= 20
    step_size.project_()
    assert step_size().item() == pytest.approx(1e-3)


def test_keeps_the_contract_whitened(narrow):
    short = {"experts": 2, "syn_steps": 2, "max_start_epoch": 1, "expert_epochs": 1, "iterations": 2, "batch_real": 720}
    check_method(MTT, ipc=1, zca=True, batch_syn=7, alpha_param="log", **short)
