"""LinBa: what a budget buys, the authors' golden vectors, the loop against its literal reference."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from benchmark import data
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers import build
from benchmark.containers.addressed import Addressed, AddressedLayout, default_bases
from benchmark.containers.budget import Budget
from benchmark.objectives import real_parts
from benchmark.system.errors import BudgetError, Stopped, TooFewImages
from benchmark.testing import check_method
from benchmark.training.unroll import Unroll, flatten, unflatten
from methods.dm import DM, DMHyper, DMLoop
from methods.linba import EarlyStop, LinBa, LinBaHyper, LinBaLoop
from tests.methods.reference_linba import linba
from tests.toy_task import float64, toy_task

ROWS = [
    row for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] == "linba" and row["use"] == "default"
]  # fmt: skip
DATASETS = {"SVHN": "svhn", "CIFAR10": "cifar10", "CIFAR100": "cifar100", "TinyImageNet": "tiny-imagenet"}

TABLE = [  # image shape, classes, IPC, K, r, stored, budget (METHODS 9)
    ((3, 32, 32), 10, 1, 16, 115, 30_688, 30_720),
    ((3, 32, 32), 10, 10, 64, 403, 307_072, 307_200),
    ((3, 32, 32), 10, 50, 128, 1_123, 1_535_744, 1_536_000),
    ((3, 32, 32), 100, 1, 64, 40, 305_152, 307_200),
    ((3, 32, 32), 100, 10, 128, 232, 3_067_904, 3_072_000),
    ((3, 32, 32), 100, 50, 256, 592, 15_351_808, 15_360_000),
    ((3, 64, 64), 200, 1, 64, 176, 2_449_408, 2_457_600),
    ((3, 64, 64), 200, 10, 256, 464, 24_543_232, 24_576_000),
    ((3, 64, 64), 200, 50, 512, 1_184, 122_814_464, 122_880_000),
    ((1, 28, 28), 10, 1, 16, 29, 7_776, 7_840),
    ((1, 28, 28), 10, 10, 64, 102, 77_824, 78_400),
    ((1, 28, 28), 10, 50, 64, 592, 391_424, 392_000),
    ((1, 8, 8), 10, 1, 8, 6, 608, 640),
    ((1, 8, 8), 10, 10, 8, 78, 6_368, 6_400),
    ((1, 8, 8), 10, 50, 8, 398, 31_968, 32_000),
]

# More classes than one, minibatches smaller than a class, a clip that bites; 12 floats a basis.
HYPER = LinBaHyper(iterations=3, inner_steps=3, bases=4, batch_syn=2, batch_real=5, lr_img=0.3, lr_net=0.1, clip=0.01)


def addressed(task, hyper=HYPER):
    return LinBa(hyper).start(task, Run())


@pytest.mark.parametrize(("shape", "classes", "ipc", "bases", "per_class", "stored", "floats"), TABLE)
def test_what_a_budget_buys(shape, classes, ipc, bases, per_class, stored, floats):
    basis_floats = shape[0] * shape[1] * shape[2] // 4
    assert default_bases(ipc, classes, basis_floats) == bases
    budget = Budget(ipc, classes, shape)
    layout = AddressedLayout.of(budget, bases, 2)
    assert (layout.per_class, layout.floats, budget.floats) == (per_class, stored, floats)
    with torch.device("meta"):
        container = Addressed(classes, per_class, bases, list(shape))
    assert container.num_floats == sum(t.numel() for t in container.state_dict().values()) == stored


def test_a_tie_between_two_powers_takes_the_smaller():
    assert default_bases(2, 10, 768) == 16  # 16 sqrt(2) = 2^4.5
    assert default_bases(8, 10, 768) == 32


def test_a_budget_without_room_for_an_image_is_refused():
    with pytest.raises(BudgetError, match="leave no coefficients"):
        AddressedLayout.of(Budget(1, 2, (1, 8, 8)), 8, 2)


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 7, 9), (2, 5, 5)])
def test_any_image_size(shape):
    container = Addressed(3, 4, 5, list(shape)).initialise_(torch.Generator().manual_seed(0))
    images, labels = container.decode()
    assert images.shape == (12, *shape)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    some = torch.tensor([7, 0, 11])
    torch.testing.assert_close(container.images(some), images[some])
    again = build(container.kind, container.config())
    again.load_state_dict(container.state_dict())
    assert torch.equal(again.images(), container.images())


def test_real_images_are_approximated_as_well_as_so_many_bases_can():
    images = torch.randn(3, 4, 2, 8, 6)
    container = Addressed(3, 4, 5, [2, 8, 6]).initialise_(torch.Generator().manual_seed(0)).fit_(images)
    small = F.avg_pool2d(images.flatten(0, 1), 2).flatten(1)
    error = (container.coefficients @ container.bases - small).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(small)[5:].square().sum(), rtol=1e-3, atol=1e-4)
    few = Addressed(1, 2, 5, [2, 8, 6]).initialise_(torch.Generator().manual_seed(0)).fit_(images[:1, :2])
    torch.testing.assert_close(few.coefficients @ few.bases, small[:2], rtol=1e-4, atol=1e-4)


def test_more_images_than_a_class_has_take_turns():
    task = toy_task(ipc=2)
    container = LinBa(dataclasses.replace(HYPER, init="real")).start(task, Run())
    assert container.per_class > 7, "the toy's largest class"
    assert torch.isfinite(container.images()).all()


def test_golden_vectors_of_the_authors(golden, golden_convnet):
    vectors = golden("bptt_linba")
    real, indices = vectors["real"], vectors["batch_indices"]
    network = golden_convnet(vectors).double()
    bases, classes = vectors["basis"], int(vectors["labels"].max()) + 1
    per_class = len(vectors["labels"]) // classes
    downsample = real.shape[-1] // bases.shape[-1]
    container = Addressed(classes, per_class, len(bases), list(real.shape[1:]), downsample).double()
    container.load_state_dict({"bases": bases.flatten(1), "coefficients": vectors["coefficients"]})
    torch.testing.assert_close(container.images(), vectors["decoded"], rtol=1e-8, atol=1e-12)
    assert torch.equal(container.labels, vectors["labels"])

    lr, momentum = (round(vectors[name].item(), 6) for name in ("lr", "momentum"))  # float32 in the file only
    unroll = Unroll(network, lambda step: container.decode(indices[step]), len(indices), momentum)
    weights = unroll.forward(flatten(network), torch.tensor(lr, dtype=torch.float64)).requires_grad_()
    loss = F.cross_entropy(functional_call(network, unflatten(weights, network), (real,)), vectors["real_labels"])
    unroll.backward(torch.autograd.grad(loss, weights)[0])
    torch.testing.assert_close(loss.detach(), vectors["loss"], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(container.bases.grad, vectors["grad_basis"].flatten(1), rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(container.coefficients.grad, vectors["grad_coefficients"], rtol=1e-8, atol=1e-11)


@float64()
@pytest.mark.parametrize(("intervention", "flip", "clip"), [("none", True, 0.01), ("flip_rotate", True, 2.0),
                                                            ("flip_rotate", False, 0.01)])  # fmt: skip
def test_agrees_with_the_reference(intervention, flip, clip):
    hyper = dataclasses.replace(HYPER, intervention=intervention, clip=clip)
    task, twin = toy_task(ipc=1, flip=flip), toy_task(ipc=1, flip=flip)
    container = LinBa(hyper).condense(task, Run())
    bases, coefficients = linba(twin, hyper, container.per_class)
    first = addressed(toy_task(ipc=1, flip=flip), hyper)
    for actual, expected, begin in (
        (container.bases, bases, first.bases),
        (container.coefficients, coefficients, first.coefficients),
    ):
        assert (actual - expected).norm() < 1e-8 * (expected - begin).norm()
        assert (expected - begin).norm() > 0
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['dataset']}-{row['ipc']}")
def test_published_settings(row):
    spec, ipc = data.spec(DATASETS[row["dataset"]], Path()), int(row["ipc"])
    hyper = LinBa.hyper_parameters(spec, ipc, Schedule.parse("paper"))
    budget = Budget(ipc, spec.classes, spec.image_shape)
    layout, cost = LinBa(hyper).layout(budget), LinBa(hyper).cost(spec, budget)
    assert row["container"] == f"K={hyper.bases}; ds={hyper.downsample}; r={layout.per_class}"
    assert row["inner"] == f"T={hyper.inner_steps}; syn_per_class_per_step={hyper.batch_syn}"
    assert row["optimiser"] == f"SGD; clip global norm {hyper.clip:g}"
    assert int(row["stored_floats"]) == cost.floats
    assert int(row["budget_floats"]) == budget.floats
    assert int(row["decoded_per_class"]) == layout.per_class == cost.images / spec.classes
    for column, value in {
        "outer_its": hyper.iterations, "lr_img": hyper.lr_img, "mom_img": hyper.mom_img, "lr_net": hyper.lr_net,
        "mom_net": hyper.mom_net, "batch_real": hyper.batch_real, "batch_syn": hyper.batch_syn,
    }.items():  # fmt: skip
        assert float(row[column]) == value, column
    assert (row["aug"], hyper.validate_every) == (hyper.intervention, 0)
    recipe = LinBa(hyper).native_recipe(spec, ipc)
    assert row["eval"].startswith(f"epochs={recipe.epochs}; batch={recipe.batch}; lr={recipe.lr} {recipe.decay}; wd=0")
    assert (recipe.weight_decay, recipe.momentum, recipe.augment) == (0, 0.9, "none")


def test_evaluation_augments_as_condensation_did():
    hyper = LinBaHyper(intervention="flip_rotate")
    for name, strategy in (("cifar10", "flip_rotate"), ("digits", "rotate")):
        recipe = LinBa(hyper).native_recipe(data.spec(name, Path()), 1)
        assert (recipe.augment, recipe.strategy) == ("dsa", strategy)


class Script(EarlyStop):
    """An early stop that reads its scores from a list."""

    scores = (0.2, 0.5, 0.5, 0.4, 0.9)

    def look(self, score, step):
        super().look(self.scores[step], step)


def test_early_stop_takes_the_best_and_sees_only_the_held_out_tenth(monkeypatch):
    monkeypatch.setattr("methods.linba.EarlyStop", Script)
    looked = []
    monkeypatch.setattr("methods.linba.accuracy", lambda network, weights, split: looked.append(split) or 0.0)
    hyper = dataclasses.replace(HYPER, iterations=5, validate_every=1, patience=2, clip=1.0)
    task = toy_task(ipc=1)
    seen = []
    real_batch = type(task).real_batch
    monkeypatch.setattr(
        "benchmark.condensation.task.Task.real_batch", lambda self, n: seen.append(self.train) or real_batch(self, n)
    )
    run = Run()
    container = LinBa(hyper).condense(task, run)
    fit, held_out = task.train.stratified(0.1, 0)
    assert len(looked) == 4, "two looks without improvement end the loop before the fifth step"
    assert all(torch.equal(split.images, held_out.images) for split in looked)
    assert all(torch.equal(split.images, fit.images) for split in seen)
    assert run.notes["early_stop"] == {"step": 1, "held_out_accuracy": 0.5}
    assert run.train_images == len(fit)
    assert run.phases["condense"]["steps"] == 4
    # The images that the network of the best look was trained on: those of a run of one step on the same part.
    short = dataclasses.replace(toy_task(ipc=1), train=fit)
    expected = LinBa(dataclasses.replace(hyper, iterations=1, validate_every=0)).condense(short, Run())
    assert torch.equal(container.bases, expected.bases)


def test_early_stop_needs_a_class_with_two_images():
    with pytest.raises(TooFewImages, match="of two training images"):
        LinBa(dataclasses.replace(HYPER, validate_every=1)).condense(toy_task(ipc=1, counts=(1, 1, 1)), Run())


def test_a_start_from_real_images_sees_none_of_the_held_out_ones():
    """The tenth is set apart before the bases are fitted, not after."""
    hyper, seen = dataclasses.replace(HYPER, iterations=1, validate_every=1, init="real"), []

    class Watched(LinBa):
        def start(self, task, run):
            seen.append(task.train.images)
            return super().start(task, run)

    task = toy_task(ipc=1)
    Watched(hyper).condense(task, Run())
    assert torch.equal(seen[0], task.train.stratified(0.1, 0)[0].images)


def test_early_stop_resumes_to_the_same_bits(tmp_path):
    hyper = dataclasses.replace(HYPER, iterations=4, validate_every=1, patience=2, clip=1.0)
    expected = LinBa(hyper).condense(toy_task(ipc=1), Run())
    for _ in range(10):
        task = toy_task(ipc=1)
        run = Run(tmp_path, should_stop=lambda: True, shared={"generator": task.generator})
        try:
            actual = LinBa(hyper).condense(task, run)
            break
        except Stopped:
            continue
    assert torch.equal(actual.bases, expected.bases)
    assert torch.equal(actual.coefficients, expected.coefficients)


def test_other_loops_move_it_and_it_moves_other_containers():
    task = toy_task(ipc=2)
    begin = addressed(toy_task(ipc=2))
    moved = LinBa(HYPER, DMLoop(DMHyper(iterations=2, batch_real=4))).condense(task, Run())
    assert not torch.equal(moved.bases, begin.bases)
    assert not torch.equal(moved.coefficients, begin.coefficients)
    pixels = DM(DMHyper(), LinBaLoop(dataclasses.replace(HYPER, clip=2.0))).condense(toy_task(ipc=2), Run())
    first = DM(DMHyper()).start(toy_task(ipc=2), Run())
    assert not torch.equal(pixels.pixels, first.pixels)


def test_a_microbatch_is_so_many_images_of_every_class(monkeypatch):
    seen = []
    monkeypatch.setattr("methods.linba.real_parts", lambda *args: seen.append(real_parts(*args)) or seen[-1])
    task = dataclasses.replace(toy_task(ipc=2, counts=(9, 8, 7)), microbatch=2)
    LinBa(dataclasses.replace(HYPER, iterations=1, batch_real=5)).condense(task, Run())
    assert [[len(part) for part, _ in parts] for parts in seen] == [[2 * 3, 2 * 3, 3]]


@pytest.mark.long
def test_keeps_the_contract_at_another_ipc():
    check_method(LinBa, ipc=2, inner_steps=2, batch_syn=2, batch_real=4)
