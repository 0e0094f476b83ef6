"""IDC and IDC-I: golden vectors, the literal reference, the joint step, the container, and the published settings."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import data
from benchmark.augment import Params
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers import build
from benchmark.containers.budget import Budget
from benchmark.containers.multi_formation import MultiFormation
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.objectives import value_and_grad
from benchmark.objectives.gradient_matching import GradientMatching
from benchmark.training.passes import Passes
from methods.idc import IDC, IDCI, IDCHyper, IDCLoop, joint_momentum
from tests.methods.reference_idc import decode_class, idc, mix_start
from tests.toy_task import BATCHED, LOOP, float64, toy_task

PAPER = Schedule.parse("paper")
ROWS = [
    row
    for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] in ("idc", "idc-i") and row["use"] == "default"
]
# Two networks of three passes, real batches beyond a class's size, more decoded images than a step takes.
HYPER = IDCHyper(outer=2, passes=3, n_data=11, lr_img=0.02, batch_real=5, batch_syn=7, batch_net=4)


def spec_of(dataset: str) -> DatasetSpec:
    names = {"TinyImageNet": "tiny-imagenet", "FashionMNIST": "fashion-mnist"}
    return data.spec(names.get(dataset, dataset.lower()), Path("nowhere"))


# -- objective and container ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True], ids=["loop", "batched"])
@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_golden_distance(golden, golden_convnet, metric, batched):
    vectors = golden(f"gradient_matching_idc_{metric}")
    objective, passes = GradientMatching(metric, matched="conv"), Passes(batched=batched)
    chunk, network = len(vectors["real"]) if batched else 1, golden_convnet(vectors)
    loss, gradient = value_and_grad(objective, network, vectors["real"], vectors["syn"], chunk, passes=passes)
    torch.testing.assert_close(loss, vectors["loss"], rtol=1e-4, atol=1e-7)
    error = (gradient - vectors["grad_syn"]).norm() / vectors["grad_syn"].norm()
    assert error < 1e-4


@pytest.mark.parametrize("factor", [2, 3])
def test_golden_decoding(golden, factor):
    vectors = golden(f"idc_decode_factor{factor}")
    images = MultiFormation.of(vectors["images"][None], factor).decode()[0]
    torch.testing.assert_close(images, vectors["decoded"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decoding_by_index_and_back_from_its_configuration(factor):
    stored = torch.rand(3, 2, 1, 8, 10)
    container = MultiFormation.of(stored, factor)
    images, labels = container.decode()
    assert images.shape == (3 * 2 * factor**2, 1, 8, 10)
    for c in range(3):
        torch.testing.assert_close(images[labels == c], decode_class(stored[c], factor))
    some = torch.tensor([5, 0, len(images) - 1])
    torch.testing.assert_close(container.images(some), images[some])
    again = build("multi-formation", container.config())
    again.load_state_dict(container.state_dict())
    assert torch.equal(again.decode()[0], images)
    assert container.num_floats == stored.numel()


def test_tiles_show_the_given_images_in_decoding_order():
    """Images of one colour each survive reduction and enlargement, up to the blur that padding brings."""
    colours = torch.rand(2, 8, 1, 1, 1).expand(2, 8, 3, 8, 8).contiguous()
    torch.testing.assert_close(MultiFormation.tiled(colours, 2).decode_classes(), colours)
    colours = torch.rand(2, 9, 1, 1, 1).expand(2, 9, 3, 8, 8).contiguous()
    decoded = MultiFormation.tiled(colours, 3).decode_classes()
    torch.testing.assert_close(decoded[:, :, :, 0, 0], colours[:, :, :, 0, 0])


def test_projection_and_impossible_factor():
    container = MultiFormation.of(torch.tensor([-0.5, 0.25, 1.5]).view(3, 1, 1, 1, 1).expand(3, 1, 1, 8, 8), 2)
    container.project_()
    assert container.pixels[:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="8 pixels"):
        MultiFormation(1, 1, [1, 8, 8], 7)


# -- the joint step -------------------------------------------------------------------------------------------------


class Walk(nn.Module):
    """One parameter per class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.per_class = classes, 1
        self.position = nn.Parameter(torch.zeros(classes))


@float64()
@pytest.mark.parametrize("classes", [2, 10])
def test_joint_step_meets_the_same_gradients_as_literal_steps(classes):
    """Every class's gradient is taken at the same position, pass after pass, as with one shared buffer and C steps."""
    lr, momentum, passes = 0.3, 0.5, 12
    curvature, target = 0.2 + torch.rand(classes), torch.randn(classes)

    literal, velocity, visited = torch.zeros(classes), torch.zeros(classes), torch.zeros(passes, classes)
    for k in range(passes):
        for c in range(classes):
            visited[k, c] = literal[c]
            gradient = torch.zeros(classes)
            gradient[c] = curvature[c] * torch.tanh(literal[c] - target[c])
            velocity = momentum * velocity + gradient
            literal = literal - lr * velocity

    walk = Walk(classes)
    optimiser = IDC(IDCHyper(lr_img=lr, mom_img=momentum)).optimiser(walk)
    assert (optimiser.defaults["lr"], optimiser.defaults["momentum"]) == joint_momentum(lr, momentum, classes)
    for k in range(passes):
        assert (walk.position.detach() - visited[k]).abs().max() < 1e-12
        walk.position.grad = curvature * torch.tanh(walk.position.detach() - target)
        optimiser.step()
    per_class = IDC(IDCHyper(lr_img=lr, mom_img=momentum, step_per_class=True)).optimiser(walk)
    assert (per_class.defaults["lr"], per_class.defaults["momentum"]) == (lr, momentum)


# -- the loop -------------------------------------------------------------------------------------------------------


def agrees(hyper: IDCHyper, **toy) -> None:
    twin, task, begin = toy_task(**toy | {"runtime": LOOP}), toy_task(**toy), toy_task(**toy)
    expected = idc(twin, hyper)
    actual = IDC(hyper).condense(task, Run()).pixels.detach().unflatten(0, (task.classes, task.ipc))
    moved = (expected - mix_start(begin, hyper.factor)).norm()
    assert moved > 0.01, "the test moves nothing"
    assert (actual - expected).norm() < 1e-9 * moved
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


@float64()
@pytest.mark.parametrize("runtime", [LOOP, BATCHED], ids=["loop", "batched"])
@pytest.mark.parametrize(("metric", "factor"), [("mse", 2), ("l1", 1), ("dc", 3)])
def test_agrees_with_the_reference(runtime, metric, factor):
    agrees(dataclasses.replace(HYPER, metric=metric, factor=factor), runtime=runtime)


@float64()
def test_step_per_class_is_the_literal_order():
    agrees(dataclasses.replace(HYPER, step_per_class=True))


@float64()
def test_starts_outside_the_unit_interval_are_clamped_at_every_network():
    """A step size that throws pixels beyond [0, 1]: agreement needs the clamp at the same places."""
    agrees(dataclasses.replace(HYPER, outer=3, passes=2, lr_img=1.0))


def test_chunks_cover_every_class_once_in_random_order():
    task = toy_task(counts=(5, 4, 6, 5, 4))
    loop = IDCLoop(dataclasses.replace(HYPER, classes_per_step=2))
    orders = [torch.cat(loop.class_order(task)).tolist() for _ in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert [len(part) for part in loop.class_order(task)] == [2, 2, 1]
    assert len(IDCLoop(HYPER).class_order(task)) == 1


def test_a_chunk_moves_its_own_classes_by_their_own_loss(monkeypatch):
    """Chunks give each class the gradient it has in the joint step."""
    gradients = {}
    # The same batches whatever the chunk: the first real images, no transform.
    monkeypatch.setattr("methods.idc.by_class", lambda batch, params: batch)
    first = lambda task, per_class: torch.stack([members[:4] for members in task.train.class_indices])  # noqa: E731
    monkeypatch.setattr("benchmark.condensation.task.Task.real_indices", first)
    for size in (0, 2):
        task = toy_task(counts=(5, 4, 6, 5, 4), ipc=1)
        hyper = dataclasses.replace(HYPER, outer=1, passes=1, classes_per_step=size)
        container = Pixels.of(task.noise(1))
        start = container.pixels.detach().clone()
        IDCLoop(hyper).drive(container, torch.optim.SGD(container.parameters(), 0.1), task, Run())
        gradients[size] = container.pixels.detach() - start
    assert gradients[0].flatten(1).norm(dim=1).min() > 0
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-3, atol=1e-6)


def test_moves_a_container_in_normalised_space_and_one_transform_serves_both_sides(monkeypatch):
    seen = []

    def spy(batch, params: Params):
        seen.append(params)
        return batch

    monkeypatch.setattr("methods.idc.by_class", spy)
    task = toy_task()
    container = Pixels.of(task.noise(2))
    before = container.pixels.detach().clone()
    IDCLoop(HYPER).drive(container, torch.optim.Adam(container.parameters(), 0.01), task, Run())
    assert not torch.equal(container.pixels, before)
    assert container.pixels.min() < -0.5, "a normalised container is not clamped to [0, 1]"
    assert all(seen[i] is seen[i + 1] for i in range(0, len(seen), 2))
    assert len(seen) == 2 * HYPER.outer * HYPER.passes


def test_inits():
    hyper = dataclasses.replace(HYPER, outer=1, passes=1)
    task = toy_task(counts=(12, 9, 10))
    first = IDC(dataclasses.replace(hyper, init="first")).start(task, Run()).decode_classes()
    for c, members in enumerate(task.train.class_indices):
        # Cells keep pixels of the first 2 * 2^2 images, in order; the corner pixel is one of them.
        torch.testing.assert_close(first[c, :, :, 0, 0], task.train.raw(members[:8])[:, :, 0, 0])
    random = IDC(dataclasses.replace(hyper, init="random")).start(task, Run())
    pool = task.train.raw()
    assert all((pool == image).flatten(1).all(1).any() for image in random.pixels)
    mixes = [IDC(hyper).start(dataclasses.replace(task, seed=seed), Run()).pixels for seed in range(2)]
    assert not torch.equal(*mixes)


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}-{row['dataset']}-{row['ipc']}")
def test_published_settings(row):
    cls, spec, ipc = {"idc": IDC, "idc-i": IDCI}[row["method"]], spec_of(row["dataset"]), int(row["ipc"])
    hyper = cls.hyper_parameters(spec, ipc, PAPER)
    inner = dict(pair.strip().split("=") for pair in row["inner"].split(";"))
    assert f"factor={hyper.factor}" == row["container"]
    assert hyper.outer == int(row["outer_its"])
    assert (hyper.passes, hyper.n_data) == (int(inner["passes"]), int(inner["real_samples_per_pass"]))
    assert inner["class_steps_per_pass"] == "C"
    assert hyper.batch_net == int(inner["real_batch"])
    assert hyper.lr_img == pytest.approx(float(row["lr_img"]), rel=1e-12)
    assert (hyper.mom_img, hyper.lr_net, hyper.mom_net) == tuple(
        float(row[name]) for name in ("mom_img", "lr_net", "mom_net")
    )
    assert hyper.wd_net == float(row["wd_net"])
    assert (hyper.batch_real, hyper.batch_syn) == (int(row["batch_real"]), int(row["batch_syn"]))
    assert hyper.strategy == row["aug"]
    assert (hyper.metric, hyper.strategy_net, hyper.cutmix, hyper.init) == ("mse", "color_crop", 0.5, "mix")
    budget = Budget(ipc, spec.classes, spec.image_shape)
    assert cls(hyper).cost(spec, budget).floats == int(row["stored_floats"])
    assert ipc * hyper.factor**2 == int(row["decoded_per_class"])

    evaluation = dict(pair.strip().split("=", 1) for pair in row["eval"].split(";"))
    recipe = cls(hyper).native_recipe(spec, ipc)
    assert (recipe.epochs, recipe.batch) == (int(evaluation["epochs"]), int(evaluation["batch"]))
    assert (recipe.lr, recipe.weight_decay) == (float(evaluation["lr"]), float(evaluation["wd"]))
    assert recipe.decay == "multistep"
    assert f"idc:{recipe.strategy}" == evaluation["aug"]
    assert recipe.augment == "diffaug"
    assert recipe.cutmix == float(evaluation["cutmix"])


def test_the_grey_sets_have_settings_of_their_own():
    mnist, fashion = spec_of("MNIST"), spec_of("FashionMNIST")
    for cls in (IDC, IDCI):
        for spec, scale in ((mnist, 1.0), (fashion, (28 / 32) ** 2)):
            hyper = cls.hyper_parameters(spec, 50, PAPER)
            assert (hyper.metric, hyper.n_data) == ("l1", 500)
            assert hyper.lr_img == pytest.approx(5e-4 * scale)
    hyper = IDC.hyper_parameters(mnist, 1, PAPER)
    assert (hyper.strategy, hyper.cutmix) == ("color_crop", 0.0)
    recipe = IDC(hyper).native_recipe(mnist, 1)
    assert (recipe.strategy, recipe.cutmix) == ("color_crop_scale_rotate", 0.0)
    hyper = IDC.hyper_parameters(fashion, 1, PAPER)
    assert (hyper.strategy, hyper.cutmix) == ("color_crop_cutout", 0.5)
    assert IDC(hyper).native_recipe(fashion, 1).strategy == "color_crop_flip_scale_rotate"


def test_unlisted_cells_follow_the_formula():
    cifar = spec_of("CIFAR10")
    assert IDC.hyper_parameters(cifar, 20, PAPER).lr_img == pytest.approx(0.01)
    large = DatasetSpec("folder:x", "x", 3, 128, 128, 5, True, "")
    hyper = IDC.hyper_parameters(large, 10, PAPER)
    assert (hyper.factor, hyper.lr_img, hyper.n_data) == (3, pytest.approx(5e-3 * 16), 1000)
    assert IDCI.hyper_parameters(large, 10, PAPER).factor == 1


def test_work_counts_images():
    cifar = spec_of("CIFAR10")
    work = IDC(IDC.hyper_parameters(cifar, 50, PAPER)).cost(cifar, Budget(50, 10, cifar.image_shape)).loop.work
    assert work.matched == 2000 * 100 * 10 * 128
    assert work.trained == 2000 * 100 * 10 * 64 + 2000 * 99 * 2048
