"""HaBa: what a budget buys, the authors' golden hallucinator, the loop against its reference, the native epochs."""

import csv
import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmark import data, networks
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.containers import build
from benchmark.containers.budget import Budget
from benchmark.containers.hallucinated import Hallucinated, HallucinatedLayout
from benchmark.objectives.supervised_contrastive import supervised_contrastive
from benchmark.system.errors import BudgetError, Stopped
from benchmark.testing import check_method
from benchmark.training.recipes import Recipe, unified
from benchmark.training.trainer import Ensemble, Training
from benchmark.training.training_set import training_set
from methods.dm import DM, DMHyper, DMLoop
from methods.haba import Critic, HaBa, HaBaHyper, HaBaLoop
from methods.mtt import MTT, MTTHyper, MTTLoop
from tests.methods.reference_haba import NAMES, contrastive, haba, hallucinate
from tests.toy_task import LOOP, float64, toy_task

ROWS = [
    row for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] == "haba" and row["use"] == "default"
]  # fmt: skip
DATASETS = {"SVHN": "svhn", "CIFAR10": "cifar10", "CIFAR100": "cifar100", "TinyImageNet": "tiny-imagenet"}

RGB32, RGB64, GREY28, GREY8 = (3, 32, 32), (3, 64, 64), (1, 28, 28), (1, 8, 8)

STRICT = [  # image shape, classes, IPC, full, half, J, half maps, bases floats, hallucinator floats, stored, decoded
    (RGB32, 10, 1, 0, 3, 5, True, 23_040, 7_590, 30_630, 15),
    (RGB32, 10, 10, 9, 0, 5, False, 276_480, 27_840, 304_320, 45),
    (RGB32, 10, 50, 49, 0, 5, False, 1_505_280, 27_840, 1_533_120, 245),
    (RGB32, 100, 1, 0, 3, 13, False, 230_400, 72_384, 302_784, 39),
    (RGB32, 100, 10, 9, 3, 5, False, 2_995_200, 27_840, 3_023_040, 60),
    (RGB32, 100, 50, 49, 3, 5, False, 15_283_200, 27_840, 15_311_040, 260),
    (RGB64, 200, 1, 0, 3, 26, False, 1_843_200, 604_032, 2_447_232, 78),
    (RGB64, 200, 10, 9, 3, 5, False, 23_961_600, 116_160, 24_077_760, 60),
    (RGB64, 200, 50, 49, 3, 5, False, 122_265_600, 116_160, 122_381_760, 260),
    (GREY28, 10, 1, 0, 3, 5, True, 5_880, 1_790, 7_670, 15),
    (GREY28, 10, 10, 9, 0, 5, False, 70_560, 6_860, 77_420, 45),
    (GREY28, 10, 50, 49, 0, 5, False, 384_160, 6_860, 391_020, 245),
    (GREY8, 10, 1, 0, 1, 5, False, 160, 460, 620, 5),
    (GREY8, 10, 10, 9, 1, 5, False, 5_920, 460, 6_380, 50),
    (GREY8, 10, 50, 49, 1, 5, False, 31_520, 460, 31_980, 250),
]

NATIVE = [  # image shape, classes, floats and percent of the budget at IPC 1, 10, 50, excess
    (RGB32, 10, (58_560, 335_040, 1_563_840), (190.62, 109.06, 101.81), 27_840),
    (RGB32, 100, (335_040, 3_099_840, 15_387_840), (109.06, 100.91, 100.18), 27_840),
    (RGB64, 200, (2_573_760, 24_692_160, 122_996_160), (104.73, 100.47, 100.09), 116_160),
    (GREY28, 10, (14_700, 85_260, 398_860), (187.50, 108.75, 101.75), 6_860),
    (GREY8, 10, (1_100, 6_860, 32_460), (171.88, 107.19, 101.44), 460),
]


def stored_by(layout):
    """(elements of the saved tensors, of the bases alone) of a container of that layout."""
    with torch.device("meta"):
        container = Hallucinated.of(layout)
    assert container.num_floats == sum(t.numel() for t in container.state_dict().values())
    assert container.num_images == layout.classes * layout.per_class
    return container.num_floats, sum(p.numel() for p in container.basis_parameters())


@pytest.mark.parametrize(
    ("shape", "classes", "ipc", "full", "half", "count", "half_maps", "bases", "hallucinators", "stored", "decoded"),
    STRICT,
)
def test_what_a_strict_budget_buys(
    shape, classes, ipc, full, half, count, half_maps, bases, hallucinators, stored, decoded
):
    layout = HallucinatedLayout.of(Budget(ipc, classes, shape, "strict"), 5)
    assert layout == HallucinatedLayout(classes, shape, full, half, count, half_maps)
    assert stored_by(layout) == (stored, bases)
    assert (layout.floats, layout.basis_floats, layout.per_class) == (stored, bases, decoded)
    assert count * layout.hallucinator_floats == hallucinators
    assert stored <= ipc * classes * torch.Size(shape).numel()


@pytest.mark.parametrize(("shape", "classes", "floats", "percent", "excess"), NATIVE)
def test_the_native_size_and_its_true_multiple(shape, classes, floats, percent, excess):
    for ipc, stored, share in zip((1, 10, 50), floats, percent, strict=True):
        budget = Budget(ipc, classes, shape, "native")
        layout = HallucinatedLayout.of(budget, 5)
        assert (layout.full, layout.half, layout.hallucinators, layout.half_maps) == (ipc, 0, 5, False)
        assert stored_by(layout)[0] == layout.floats == stored
        assert 100 * budget.multiple(stored) == pytest.approx(share, abs=0.005)
        assert stored - budget.floats == excess
        budget.check(stored)


@pytest.mark.parametrize(("shape", "floats"), [(RGB32, 5_568), (RGB64, 23_232), (GREY28, 1_372), (GREY8, 92)])
def test_floats_of_one_hallucinator(shape, floats):
    assert HallucinatedLayout(10, shape, 1, 0, 1).hallucinator_floats == floats


def test_a_budget_without_room_for_a_basis_is_refused():
    with pytest.raises(BudgetError, match="no basis"):
        HallucinatedLayout.of(Budget(1, 2, GREY8), 5)


def filled(container, seed=0):
    """The container with every parameter drawn."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in container.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    return container


def test_golden_hallucinator_of_the_authors(golden):
    vectors = golden("haba_hallucinator")
    bases = vectors["bases"]
    container = Hallucinated(len(bases), 1, 0, 1, list(bases.shape[1:]))
    halves = torch.empty(len(bases), 0, *container.bases_half.shape[2:])
    container.load_state_dict({
        "bases_full": bases[:, None], "bases_half": halves,
        "encode_weight": vectors["enc_weight"][None], "encode_bias": vectors["enc_bias"][None],
        "scale": vectors["scale"], "shift": vectors["shift"],
        "decode_weight": vectors["dec_weight"][None], "decode_bias": vectors["dec_bias"][None],
    })  # fmt: skip
    torch.testing.assert_close(container.images(), vectors["decoded"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("half_maps", [False, True])
@pytest.mark.parametrize(("full", "half"), [(2, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 7, 9)])
def test_image_order_and_decoding(shape, full, half, half_maps, activation):
    classes, count = 2, 3
    container = filled(Hallucinated(classes, full, half, count, list(shape), half_maps, activation))
    named = {name: getattr(container, name) for name in NAMES}
    expected = [
        hallucinate(basis, named, j, shape, activation == "relu")
        for c in range(classes)
        for basis in [*container.bases_full[c], *container.bases_half[c]]
        for j in range(count)
    ]
    images, labels = container.decode()
    torch.testing.assert_close(images, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [0] * (full + half) * count + [1] * (full + half) * count
    some = torch.randperm(len(images))[:5]
    torch.testing.assert_close(container.images(some), images[some], rtol=1e-4, atol=1e-5)
    samples = torch.tensor([3, 0])
    one = container.variant_images(samples, torch.tensor(2))
    torch.testing.assert_close(one, images[samples * count + 2], rtol=1e-4, atol=1e-5)
    again = build(container.kind, container.config())
    again.load_state_dict(container.state_dict())
    assert torch.equal(again.images(), images)


def test_where_bases_and_hallucinators_begin():
    task = toy_task(ipc=1)
    layout = HallucinatedLayout(task.classes, task.spec.image_shape, 2, 1, 2, True)
    real = task.real_batch(3)
    container = Hallucinated.of(layout).initialise_(real, task.generator)
    assert torch.equal(container.bases_full, real[:, :2])
    torch.testing.assert_close(container.bases_half[:, 0], torch.nn.functional.avg_pool2d(real[:, 2], 2))
    assert (container.scale == 1).all()
    assert (container.shift == 0).all()
    for parameter in (container.encode_weight, container.encode_bias, container.decode_weight, container.decode_bias):
        assert 0 < parameter.abs().max() <= 27**-0.5


def test_supervised_contrastive_against_pairs():
    embeddings, labels = torch.randn(7, 5, dtype=torch.float64), [0, 1, 0, 2, 1, 0, 3]
    actual = supervised_contrastive(embeddings, torch.tensor(labels), 0.5)
    torch.testing.assert_close(actual, contrastive(list(embeddings), labels, 0.5))


HYPER = HaBaHyper(
    iterations=3, syn_steps=3, experts=2, train_epochs=2, expert_epochs=1, max_start_epoch=2, batch_real=8,
    lr_img=0.05, lr_hallucinator=0.01, lr_lr=1e-4, alpha0=0.05, hallucinators=3, lr_critic=0.01, diversity=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("ipc", "counts", "changes"),
    [
        (3, (7, 4, 6), {}),
        (3, (7, 4, 6), {"batch_syn": 4, "activation": "relu"}),
        (1, (7, 4, 6, 5), {"hallucinators": 2}),
    ],
    ids=["all bases", "batches", "half bases"],
)
def test_agrees_with_the_reference(ipc, counts, changes, narrow, tmp_path):
    with float64():
        hyper = dataclasses.replace(HYPER, **changes)
        task, twin = (dataclasses.replace(toy_task(ipc, counts), cache=tmp_path) for _ in range(2))
        begin = HaBa(hyper).start(toy_task(ipc, counts), Run())
        layout = HaBa(hyper).layout(task.budget)
        assert layout.half_maps == (layout.half == 1) == (ipc == 1)
        container = HaBa(hyper).condense(task, Run())
        bases, named, alpha = haba(
            twin, dataclasses.replace(hyper, hallucinators=layout.hallucinators), layout.full, layout.half,
            tuple(container.scale.shape[-2:]), Run(),
        )  # fmt: skip
    expected = {"bases_full": bases[0], "bases_half": bases[1]} | named
    for name, value in expected.items():
        moved = (value - getattr(begin, name)).norm()
        assert (getattr(container, name) - value).norm() <= 1e-7 * moved, name
        assert moved > 0 or not value.numel(), name
    assert container.learned_lr == pytest.approx(alpha, rel=1e-9)
    assert alpha != hyper.alpha0
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_step_size_stays_above_its_floor(narrow):
    hyper = dataclasses.replace(HYPER, lr_lr=10.0, iterations=4)
    assert HaBa(hyper).condense(toy_task(ipc=3), Run()).learned_lr >= 1e-3


def test_the_diversity_term_leaves_the_critic_alone(narrow):
    task = toy_task(ipc=3)
    container = HaBa(HYPER).start(task, Run())
    critic = Critic(HYPER, container, task)
    before = critic.network.classifier.weight.detach().clone()
    critic.add_gradients()
    assert all(p.grad is None for p in critic.network.parameters())
    assert container.bases_full.grad.abs().sum() > 0
    assert container.scale.grad.abs().sum() > 0
    for parameter in container.parameters():
        parameter.grad = None
    critic.step()
    assert all(p.grad is None for p in container.parameters())
    assert not torch.equal(before, critic.network.classifier.weight)


def test_a_student_step_sees_all_bases_through_one_hallucinator(narrow, monkeypatch):
    task = toy_task(ipc=3)
    container = HaBa(HYPER).start(task, Run())
    hyper = dataclasses.replace(HYPER, syn_steps=40)
    count, decode = HaBaLoop(hyper).decoder(container, task)
    assert count == container.classes * container.bases
    every = container.images().unflatten(0, (count, container.variants))
    seen = set()
    for step in range(40):
        images, labels = decode(step, None)
        matches = [j for j in range(container.variants) if torch.allclose(images, every[:, j], atol=1e-5)]
        assert len(matches) == 1
        assert labels.tolist() == [c for c in range(container.classes) for _ in range(container.bases)]
        seen |= set(matches)
    assert seen == set(range(container.variants))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['dataset']}-{row['ipc']}-{row['variant']}")
def test_published_settings(row):
    spec, ipc = data.spec(DATASETS[row["dataset"]], Path()), int(row["ipc"])
    hyper = HaBa.hyper_parameters(spec, ipc, Schedule.parse("paper"))
    budget = Budget(ipc, spec.classes, spec.image_shape, row["variant"])
    layout, cost = HaBa(hyper).layout(budget), HaBa(hyper).cost(spec, budget)
    maps = "half" if layout.half_maps else "full"
    assert row["container"] == (
        f"bases_full={layout.full}; bases_half={layout.half}; hallucinators={layout.hallucinators}; maps={maps}"
    )
    assert row["inner"] == (
        f"syn_steps={hyper.syn_steps}; expert_epochs={hyper.expert_epochs}; max_start_epoch={hyper.max_start_epoch}"
    )
    assert int(row["stored_floats"]) == cost.floats
    assert int(row["budget_floats"]) == budget.floats
    assert int(row["decoded_per_class"]) == layout.per_class == cost.images / spec.classes
    for column, value in {
        "outer_its": hyper.iterations, "lr_img": hyper.lr_img, "mom_img": hyper.mom_img, "lr_lr": hyper.lr_lr,
        "alpha0": hyper.alpha0, "lr_net": hyper.lr_net, "batch_real": hyper.batch_real, "zca": hyper.zca,
    }.items():  # fmt: skip
        assert float(row[column]) == float(value), column
    assert row["batch_syn"] == str(hyper.batch_syn or "all")
    said = f"hallucinator lr {hyper.lr_hallucinator:g} and momentum {hyper.mom_img}; alpha momentum {hyper.mom_lr}"
    assert f"{said} and floor 1e-3" in row["note"]
    assert (hyper.alpha_floor, hyper.alpha_param, hyper.batch_standardise) == (1e-3, "plain", "none")
    assert (hyper.init, row["init"]) == ("real", "random real")
    recipe = HaBa(hyper).native_recipe(spec, ipc)
    assert row["eval"].startswith(
        f"epochs={recipe.epochs}; batch={recipe.batch}; lr=learned alpha; drop=x0.1 after epoch index E//2+1; wd=5e-4; "
        "aug=dsa; one random hallucinator per image per epoch"
    )
    assert (recipe.lr, recipe.decay, recipe.weight_decay, recipe.augment) == (None, "halfway", 5e-4, "dsa")
    assert (recipe.one_variant, recipe.align_corners, recipe.standardise) == (True, True, False)


def test_standardised_batches_are_an_option_of_training_and_experts():
    spec = data.spec("cifar10", Path())
    hyper = HaBaHyper(batch_standardise="train")
    assert HaBa(hyper).native_recipe(spec, 1).standardise
    assert HaBa(hyper).loop.expert_recipe().standardise
    assert not HaBa(HaBaHyper()).loop.expert_recipe().standardise
    assert HaBa(HaBaHyper()).prerequisites() == MTT(MTTHyper()).prerequisites(), "experts are shared with MTT"
    assert HaBa(HaBaHyper()).prerequisites()[0].identity() == MTT(MTTHyper()).prerequisites()[0].identity()
    assert HaBa(hyper).prerequisites()[0].identity() != MTT(MTTHyper()).prerequisites()[0].identity()


def native_training(container, seeds=(1, 2), **changes):
    recipe = dataclasses.replace(Recipe(epochs=3, batch=4, augment="none", one_variant=True), **changes)
    network = networks.build("convnet", container.image_shape, container.classes)
    return Training(Ensemble(network, seeds, LOOP), training_set(container, toy_task().train), recipe, "none")


def test_a_native_epoch_shows_every_basis_once_through_a_hallucinator_of_its_own(narrow):
    task = toy_task(ipc=3)
    container = HaBa(HYPER).start(task, Run())
    count, variants = container.classes * container.bases, container.variants
    training = native_training(container)
    per_epoch = -(-count // 4)
    assert training.total_steps == 3 * per_epoch
    assert len(training.data) == count * variants, "the unified recipe trains on all decoded images"
    assert training.data.epoch_length(unified(1)) == count * variants
    orders = []
    for step in range(training.total_steps):
        training.step(step)
        if step % per_epoch == 0:
            orders.append(training.order_EN.clone())
    for order in (row for orders_EN in orders for row in orders_EN):
        assert sorted((order // variants).tolist()) == list(range(count))
    drawn = torch.stack(orders) % variants
    assert set(drawn.flatten().tolist()) == set(range(variants))
    assert len({tuple(row.tolist()) for orders_EN in orders for row in orders_EN}) == 6, "every network and epoch"


def test_a_native_training_resumes_to_the_same_bits(narrow, tmp_path):
    container = HaBa(HYPER).start(toy_task(ipc=3), Run())
    straight = native_training(container)
    for step in range(straight.total_steps):
        straight.step(step)
    for _ in range(straight.total_steps + 1):
        training = native_training(container)
        run = Run(tmp_path, should_stop=lambda: True)
        try:
            for step in run.loop("evaluate", training.total_steps, training=training):
                training.step(step)
            break
        except Stopped:
            continue
    for name, parameter in straight.ensemble.parameters.items():
        assert torch.equal(parameter, training.ensemble.parameters[name]), name


def test_a_standardised_batch_has_mean_0_and_deviation_1(narrow):
    container = HaBa(HYPER).start(toy_task(ipc=3), Run())
    images, *_ = native_training(container, standardise=True)._batch(0)
    for batch in images:
        assert batch.mean().abs() < 1e-5
        assert batch.std() == pytest.approx(1, abs=1e-4)


def test_other_loops_move_it_and_it_moves_other_containers(narrow, tmp_path):
    begin = HaBa(HYPER).start(toy_task(ipc=3), Run())
    moved = HaBa(HYPER, DMLoop(DMHyper(iterations=2, batch_real=4))).condense(toy_task(ipc=3), Run())
    for name in ("bases_full", *NAMES):
        assert not torch.equal(getattr(moved, name), getattr(begin, name)), name
    short = dataclasses.replace(HYPER, iterations=2)
    task = partial(dataclasses.replace, toy_task(ipc=3), cache=tmp_path)
    by_mtt = HaBa(short, MTTLoop(MTTHyper(**{f.name: getattr(short, f.name) for f in dataclasses.fields(MTTHyper)})))
    assert not torch.equal(by_mtt.condense(task(), Run()).bases_full, begin.bases_full)
    pixels = DM(DMHyper(), HaBaLoop(short)).condense(task(), Run())
    assert not torch.equal(pixels.pixels, DM(DMHyper()).start(toy_task(ipc=3), Run()).pixels)
    assert pixels.learned_lr is not None


@pytest.mark.long
def test_keeps_the_contract_at_another_ipc():
    check_method(HaBa, ipc=2, experts=1, train_epochs=1, expert_epochs=1, batch_real=1024, syn_steps=2, warm_start=2)
