"""CAFE and CAFE+DSA: golden vector, the literal reference, the dynamic loop, and the published settings."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmark import data, networks
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers.budget import Budget
from benchmark.engines.job import describe_condensation
from benchmark.objectives import feature_alignment, value_and_grad
from benchmark.objectives.feature_alignment import FeatureAlignment
from benchmark.system.errors import Stopped
from benchmark.training.passes import Passes
from methods.cafe import CAFE, CAFEDSA, BiLevel, CAFEHyper, Window
from tests.methods.reference_cafe import cafe, loss_parts
from tests.toy_task import BATCHED, LOOP, float64, toy_task

PAPER = Schedule.parse("paper")
ROWS = [
    row
    for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] in ("cafe", "cafe-dsa") and row["use"] == "default"
]
# Small windows and caps such that networks end either way, and the milestones of the learning rate are passed.
HYPER = CAFEHyper(
    iterations=5, lr_img=0.05, batch_real=5, query=5, window=3, lambda1=0.1, lambda2=0.12,
    max_image_steps=4, max_inner_epochs=5, batch_net=4,
)  # fmt: skip


@pytest.mark.parametrize("batched", [False, True], ids=["loop", "batched"])
def test_golden_alignment(golden, golden_convnet, batched):
    vectors = golden("feature_alignment_cafe")
    network, objective, passes = golden_convnet(vectors), FeatureAlignment(0.01), Passes(batched=batched)
    align, discriminate = objective.parts(network, vectors["real"], vectors["syn"], passes)
    torch.testing.assert_close(align, vectors["align_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(discriminate, vectors["discrimination_loss"], rtol=1e-4, atol=0)
    loss, gradient = value_and_grad(objective, network, vectors["real"], vectors["syn"], passes=passes)
    torch.testing.assert_close(loss, vectors["loss"], rtol=1e-4, atol=0)
    assert (gradient - vectors["grad_syn"]).norm() < 1e-4 * vectors["grad_syn"].norm()


@float64()
@pytest.mark.parametrize(("shape", "depth"), [((1, 8, 8), 3), ((3, 16, 24), 4)])
def test_any_depth_and_parts_that_are_computed_again(monkeypatch, shape, depth):
    network = networks.build("convnet", shape, 3, width=6, depth=depth)
    real, synthetic = torch.randn(3, 4, *shape), torch.randn(3, 2, *shape)
    whole = value_and_grad(FeatureAlignment(), network, real, synthetic)
    monkeypatch.setattr(feature_alignment, "PIXELS_AT_ONCE", 1)
    parts = value_and_grad(FeatureAlignment(), network, real, synthetic)
    leaf = synthetic.clone().requires_grad_()
    align, discriminate = loss_parts(network, list(real), list(leaf))
    loss = align + 0.01 * discriminate
    expected = loss.detach(), torch.autograd.grad(loss, leaf)[0]
    for found in (whole, parts):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@float64()
def test_classes_are_coupled():
    """The classes are never taken apart, whatever the chunk."""
    network = networks.build("convnet", (1, 8, 8), 3, width=6)
    real, synthetic = torch.randn(3, 4, 1, 8, 8), torch.randn(3, 2, 1, 8, 8)
    whole, one = (value_and_grad(FeatureAlignment(), network, real, synthetic, chunk) for chunk in (3, 1))
    torch.testing.assert_close(one, whole, rtol=0, atol=0)
    apart = sum(FeatureAlignment()(network, real[c][None], synthetic[c][None], torch.tensor([c])) for c in range(3))
    assert abs(apart - whole[0]) > 1e-3 * abs(whole[0])


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize(
    ("method", "changes"),
    [(CAFE, {}), (CAFEDSA, {}), (CAFE, {"leaky_query": True, "init": "real"})],
    ids=["cafe", "cafe-dsa", "leaky"],
)
def test_agrees_with_the_reference(runtime, method, changes):
    hyper = dataclasses.replace(HYPER, **changes)
    twin, task, begin = toy_task(), toy_task(runtime=runtime), toy_task()
    expected, counts = cafe(twin, hyper, twin.strategy if method is CAFEDSA else "none")
    run = Run()
    actual = method(hyper).condense(task, run).decode_classes().detach()
    first = begin.noise(begin.ipc) if hyper.init == "noise" else begin.start_images(begin.ipc)
    assert (actual - expected).norm() < 1e-9 * (expected - first).norm()
    assert run.notes["bi_level_loop"] == counts
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_the_reference_settings_end_networks_either_way():
    """So that the comparison above passes through every branch of the loop."""
    _, counts = cafe(toy_task(), HYPER, "none")
    assert 0 < counts["image_step_caps_hit"] < HYPER.iterations
    assert counts["inner_epochs"] > 0
    rounds = counts["image_steps"] - counts["networks"]
    assert 0 < counts["inner_epoch_caps_hit"] < rounds


def test_windows():
    window = Window(3, leaky=False)
    for accuracies in ([0.0, 0.2], [0.4, 0.4], [0.5, 0.7]):
        assert not window.full
        window.add(accuracies)
    assert window.full
    assert window.spread == pytest.approx(0.5)
    window.add([0.4, 0.4])
    assert window.spread == pytest.approx(0.2)
    leaky = Window(10, leaky=True)
    for _ in range(10):
        leaky.add([0.6] * 10)
    assert leaky.accuracies[-1] == pytest.approx(0.6 * 10 / 9), "the steady state is C / (C - 1) times the accuracy"


def test_caps_stop_endless_loops_and_are_counted():
    """lambda1 0: no network ever settles; lambda2 1: no training ever moves enough."""
    hyper = dataclasses.replace(HYPER, iterations=2, lambda1=0.0, lambda2=1.0)
    run = Run()
    CAFE(hyper).condense(toy_task(), run)
    assert run.notes["bi_level_loop"] == {
        "networks": 2, "image_steps": 8, "inner_epochs": 30, "image_step_caps_hit": 2, "inner_epoch_caps_hit": 6,
    }  # fmt: skip


def test_the_steps_that_are_reported_are_those_taken():
    """A network that settles leaves out the rest of its steps."""
    run, task = Run(), toy_task()
    container = CAFE(dataclasses.replace(HYPER, iterations=2, lambda1=2.0)).condense(task, run)
    taken = describe_condensation(container, task, run, task.runtime)["steps"]
    most = 2 * HYPER.max_image_steps
    assert taken == run.phases["condense"]["steps"] == run.notes["bi_level_loop"]["image_steps"] < most == 8


def test_learning_rate_halves_at_60_80_and_90_percent(monkeypatch):
    rates = []
    step = type(toy_task()).step

    def spy(self, objective, network, real, synthetic, optimiser, *rest):
        rates.append(optimiser.param_groups[0]["lr"])
        return step(self, objective, network, real, synthetic, optimiser, *rest)

    monkeypatch.setattr("benchmark.condensation.task.Task.step", spy)
    CAFE(dataclasses.replace(HYPER, iterations=10, max_image_steps=1, lr_img=0.8)).condense(toy_task(), Run())
    assert rates == [0.8] * 6 + [0.4] * 2 + [0.2, 0.1]


def test_the_loop_is_part_of_the_checkpoint(tmp_path):
    """Stopped within a network at every image step, and gone on with from the file."""
    hyper = dataclasses.replace(HYPER, iterations=2)
    whole, reference = Run(), toy_task()
    expected = CAFE(hyper).condense(reference, whole).pixels
    for _ in range(2 * HYPER.max_image_steps + 1):
        task = toy_task()
        run = Run(tmp_path, "key", should_stop=lambda: True, shared={"generator": task.generator})
        try:
            container = CAFE(hyper).condense(task, run)
            break
        except Stopped:
            continue
    assert torch.equal(container.pixels, expected)
    assert run.notes == whole.notes


def test_state_comes_back():
    loop, again = BiLevel(Window(3, False)), BiLevel(Window(3, False))
    loop.next_network()
    loop.window.add([0.1, 0.3])
    again.load_state_dict(loop.state_dict())
    assert (again.window.accuracies, again.counts) == ([0.2], loop.counts)
    assert loop.counts["networks"] == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}-{row['dataset']}-{row['ipc']}")
def test_published_settings(row):
    names = {"TinyImageNet": "tiny-imagenet"}
    cls, ipc = {"cafe": CAFE, "cafe-dsa": CAFEDSA}[row["method"]], int(row["ipc"])
    spec = data.spec(names.get(row["dataset"], row["dataset"].lower()), Path("nowhere"))
    hyper = cls.hyper_parameters(spec, ipc, PAPER)
    inner = {k: float(v) for k, v in (pair.strip().split("=") for pair in row["inner"].split(";"))}
    assert inner == {
        "window": hyper.window, "lambda1": hyper.lambda1, "lambda2": hyper.lambda2, "query_real_per_class": hyper.query,
    }  # fmt: skip
    assert (row["init"], int(row["outer_its"])) == (hyper.init, hyper.iterations)
    assert (hyper.lr_img, hyper.mom_img, hyper.lr_net) == tuple(
        float(row[name]) for name in ("lr_img", "mom_img", "lr_net")
    )
    assert (hyper.batch_real, hyper.max_image_steps, hyper.max_inner_epochs) == (int(row["batch_real"]), 200, 200)
    assert not hyper.leaky_query
    assert hyper.discrimination == 0.01
    strategy = toy_task(flip=spec.flip).strategy if cls.Loop.augments else "none"
    assert strategy == row["aug"]
    budget = Budget(ipc, spec.classes, spec.image_shape)
    assert cls(hyper).cost(spec, budget).floats == int(row["stored_floats"])
    evaluation = dict(pair.strip().split("=", 1) for pair in row["eval"].split(";"))
    recipe = cls(hyper).native_recipe(spec, ipc)
    assert (recipe.epochs, recipe.batch) == (int(evaluation["epochs"]), int(evaluation["batch"]))
    assert (recipe.lr, recipe.weight_decay) == (float(evaluation["lr"]), float(evaluation["wd"]))
    assert (recipe.augment, recipe.cutmix, recipe.decay) == (evaluation["aug"], 0.0, "halfway")
