"""HMN: sizes, container, the literal reference, who sees which images, the controls, settings, and that it learns."""

import csv
import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import data
from benchmark.condensation.run import Prefixed, Run
from benchmark.condensation.settings import Schedule
from benchmark.condensation.warm_start import FITTING_COST
from benchmark.containers import build
from benchmark.containers.budget import Budget
from benchmark.containers.hierarchical import Hierarchical
from benchmark.containers.hierarchical_layout import LISTED, Layout, layout_for
from benchmark.data import DatasetSpec
from benchmark.engines.job import describe_condensation
from benchmark.grid import registry
from benchmark.grid.plan import parse_overrides
from benchmark.system.errors import BudgetError, TooFewImages
from benchmark.testing import check_method
from benchmark.training.recipes import unified
from benchmark.training.row_adam import RowAdam
from methods.hmn import HMN, HMNHyper, HMNLoop, HMNNoPrune, HMNRandom
from methods.linba import LinBaLoop
from tests.methods import reference_hmn
from tests.toy_task import BATCHED, LOOP, float64, toy_task

PAPER, QUICK = Schedule.parse("paper"), Schedule.parse("quick")
ROWS = [
    row
    for row in csv.DictReader((Path(__file__).parent / "hyperparameters.csv").open())
    if row["method"] == "hmn" and row["use"] == "default"
]
# METHODS 10: image shape, classes, IPC, B, dataset, class, extractors, decoder, shared, per, GIPC, GIPC+, stored
TABLE = """
3 32 32  10  1    30720   80    480    180  2547   3287    320   85   95     30487
3 32 32  10 10   307200  800   4800  15300 19355  40255    960  278  310    307135
3 32 32  10 50  1536000  800   4800  15300 19867  40767   1280 1168 1288   1535807
3 32 32 100  1   307200   80   4800   1800  2547   9227   3200   93  102    306827
3 32 32 100 10  3072000  800  48000 153000 19867 221667  12800  222  246   3063267
3 32 32 100 50 15360000  800  48000 153000 21403 223203  22400  675  744  15343203
3 64 64 200  1  2457600  320  38400   3600  2547  44867  25600   94  103   2451267
3 64 64 200 10 24576000 3200 384000 306000 19867 713067 102400  233  257  24572267
3 64 64 200 50 122880000 3200 384000 306000 21403 714603 179200 681  750 122749803
1 28 28  10  1     7840   48    320     80   939   1387    160   40   45      7787
1 28 28  10 10    78400  160    960    660  3313   5093    320  229  253     78373
1 28 28  10 50   392000  320   1920   2520  9113  13873    480  787  869    391633
1  8  8  10  1      640    8     40     30   131    209     40   10   12       609
1  8  8  10 10     6400   32    160    360   709   1261     80   64   72      6381
1  8  8  10 50    32000   32    160    360  1673   2225    160  186  206     31985
"""
TOTALS = [tuple(map(int, line.split())) for line in TABLE.strip().splitlines()]
SHORT = {
    "warm_start": 1,
    "outer": 1,
    "passes": 2,
    "n_data": 64,
    "batch_real": 4,
    "batch_syn": 4,
    "aum_steps": 2,
    "aum_points": 2,
    "beta_steps": 2,
    "beta_stride": 10,
}
# Three classes in chunks of two, fewer images in a step than there are, three networks of two passes.
TOY = HMNHyper(
    dataset_channels=2,
    class_channels=2,
    instance_channels=4,
    hidden="3",
    warm_start=1,
    warm_lr=0.05,
    outer=3,
    passes=2,
    n_data=9,
    lr_img=0.01,
    batch_real=3,
    batch_syn=4,
    classes_per_step=2,
    batch_net=4,
    aum_steps=6,
    aum_points=3,
    beta_steps=4,
    beta_stride=5,
    beta_nets=2,
)


def spec_of(shape: tuple[int, int, int], classes: int) -> DatasetSpec:
    return DatasetSpec("folder:x", "x", *shape, classes, True, "")


def container_of(shape: tuple[int, int, int], classes: int, per_class: int, layout: Layout) -> Hierarchical:
    channels = layout.dataset_channels, layout.class_channels, layout.instance_channels
    container = Hierarchical(classes, per_class, list(shape), *channels, list(layout.hidden))
    return container.initialise_(torch.Generator().manual_seed(3))


# -- how many images a budget holds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TOTALS, ids=lambda row: "x".join(map(str, row[:3])) + f"-{row[3]}-ipc{row[4]}")
def test_every_total_of_the_table(row):
    shape, (classes, ipc, floats), parts = row[:3], row[3:6], row[6:10]
    shared, per, final, start, stored = row[10:]
    layout = LISTED[shape, classes, ipc]
    assert layout_for(classes, shape, ipc) is layout
    assert (layout.shared_floats(classes, shape), layout.image_floats(classes, shape)) == (shared, per)
    budget = Budget(ipc, classes, shape)
    assert budget.floats == floats
    spec = spec_of(shape, classes)
    hyper = HMN.hyper_parameters(spec, ipc, PAPER)
    assert HMN(hyper).sizes(spec, budget) == (final, start)
    cost = HMN(hyper).cost(spec, budget)
    assert (cost.floats, cost.images) == (stored, classes * final)
    assert stored <= floats
    with torch.device("meta"):
        channels = layout.dataset_channels, layout.class_channels, layout.instance_channels
        container = Hierarchical(classes, final, list(shape), *channels, list(layout.hidden))
    assert container.num_floats == stored
    decoder = sum(p.numel() for p in container.decoder.parameters())
    extractors = container.extractor_weight.numel() + container.extractor_bias.numel()
    assert (container.dataset_memory.numel(), container.class_memory.numel(), extractors, decoder) == parts


def test_the_table_is_complete():
    assert {(row[:3], row[3], row[4]) for row in TOTALS} == LISTED.keys()


@pytest.mark.parametrize(("ipc", "floats", "expected"), [(10, 3_072_000, 219), (50, 15_360_000, 673)])
def test_the_named_alternative_decoder(ipc, floats, expected):
    spec = spec_of((3, 32, 32), 100)
    hyper = HMN.hyper_parameters(spec, ipc, PAPER, parse_overrides(["hmn.hidden=40-24"])["hmn"])
    assert HMN(hyper).sizes(spec, Budget(ipc, 100, (3, 32, 32)))[0] == expected
    assert Budget(ipc, 100, (3, 32, 32)).floats == floats


def test_unlisted_cells():
    """The two checks of METHODS 10."""
    layout = layout_for(10, (3, 32, 32), 5)
    assert (layout.dataset_channels, layout.class_channels, layout.hidden) == (20, 12, (16, 8))
    assert (layout.instance_channels, layout.shared_floats(10, (3, 32, 32))) == (2, 13_875)
    assert layout.images_per_class(5 * 30_720, 10, (3, 32, 32)) == 436
    layout = layout_for(2, (3, 64, 64), 1)
    assert (layout.dataset_channels, layout.class_channels, layout.hidden) == (5, 3, (10, 6))
    assert (layout.instance_channels, layout.shared_floats(2, (3, 64, 64))) == (2, 3287)
    assert layout.images_per_class(24_576, 2, (3, 64, 64)) == 83


def test_the_rule_fits_or_refuses_every_cell():
    shapes = [(1, 8, 8), (3, 12, 20), (3, 17, 16), (1, 28, 28), (3, 50, 34), (3, 128, 96)]
    refused = 0
    for shape, classes, ipc in itertools.product(shapes, (2, 10, 60), (1, 3, 10, 50, 120)):
        spec, budget, layout = spec_of(shape, classes), Budget(ipc, classes, shape), layout_for(classes, shape, ipc)
        hyper = HMN.hyper_parameters(spec, ipc, PAPER)
        try:
            final, start = HMN(hyper).sizes(spec, budget)
        except BudgetError:
            assert layout.floats(2, classes, shape) > budget.floats
            refused += 1
            continue
        assert 2 <= final <= start
        assert layout.floats(final, classes, shape) <= budget.floats < layout.floats(final + 1, classes, shape)
        more = budget.floats + Fraction(1, 10) * budget.floats
        assert layout.floats(start, classes, shape) <= more < layout.floats(start + 1, classes, shape)
    assert 0 < refused < 10


def test_a_budget_of_less_than_two_images_per_class_is_too_small():
    spec = spec_of((1, 8, 8), 2)  # two classes share 128 floats, of which the decoder alone takes more
    hyper = HMN.hyper_parameters(spec, 1, PAPER)
    with pytest.raises(BudgetError, match=r"needs \d+ floats for 2 images per class"):
        HMN(hyper).cost(spec, Budget(1, 2, (1, 8, 8)))
    with pytest.raises(BudgetError):
        HMN(hyper).start(toy_task(ipc=1, counts=(5, 5), shape=(1, 8, 8)), Run())


@pytest.mark.parametrize("hidden", ["", "16-", "16x8", "0", "-3"])
def test_widths_that_are_none(hidden):
    hyper = dataclasses.replace(TOY, hidden=hidden)
    with pytest.raises(ValueError, match="write widths such as 16-8"):
        HMN(hyper).cost(spec_of((3, 8, 8), 3), Budget(2, 3, (3, 8, 8)))


# -- the container --------------------------------------------------------------------------------------------------

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 13, 22)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decodes_any_size_and_comes_back_from_its_configuration(shape):
    layout = layout_for(10, shape, 1)
    container = container_of(shape, 3, 4, layout)
    images, labels = container.decode()
    assert images.shape == (12, *shape)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert 0 < images.min() < images.max() < 1
    assert container.num_floats == layout.floats(4, 3, shape)
    again = build("hierarchical", container.config())
    again.load_state_dict(container.state_dict())
    assert torch.equal(again.decode()[0], images)
    some = torch.tensor([11, 0, 5, 5])
    torch.testing.assert_close(container.images(some), images[some])


@float64()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 22), (1, 28, 28)], ids=str)
def test_decoding_agrees_with_one_image_at_a_time(shape):
    task, hyper = toy_task(shape=shape), dataclasses.replace(TOY, hidden="5-4" if max(shape) > 16 else "3")
    task.generator.manual_seed(3)
    layout = Layout(2, 2, 4, tuple(map(int, hyper.hidden.split("-"))))
    container = container_of(shape, 3, 5, layout)
    literal = reference_hmn.Memories(task, hyper, 5, tuple(container.dataset_memory.shape[1:]))
    expected = torch.stack([literal.decode_class(c, torch.arange(5)) for c in range(3)])
    torch.testing.assert_close(container.decode_classes(), expected.detach(), rtol=1e-12, atol=1e-12)


def test_starts_as_pytorch_starts_its_layers():
    container = container_of((3, 32, 32), 100, 3, layout_for(10, (3, 32, 32), 50))
    for memory in (container.dataset_memory, container.class_memory, container.instance_memory):
        assert memory.mean().abs() < 5 / memory.numel() ** 0.5
        assert 0.9 < memory.std() < 1.1
    convolution = nn.Conv2d(*container.extractor_weight.shape[:0:-1], 1)
    pairs = [(container.extractor_weight, convolution.weight), (container.extractor_bias, convolution.bias)]
    for layer in container.decoder:
        pytorch = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1)
        pairs += [(layer.weight, pytorch.weight)]
    for ours, theirs in pairs:
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.1)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)


def test_images_are_dropped_added_and_exported_one_by_one():
    container = container_of((3, 32, 32), 3, 5, layout_for(10, (3, 32, 32), 1))
    images = container.decode_classes().detach()
    own = container.instance_memory[0, 0].numel()
    floats, exported = container.num_floats, torch.stack([container.instance(c, 2) for c in range(3)])
    assert exported.shape == (3, *container.instance_memory.shape[2:])
    kept = torch.tensor([[0, 1, 3, 4], [1, 2, 3, 4], [0, 1, 2, 4]])
    container.keep_(kept)
    assert (container.per_class, container.num_images) == (4, 12)
    assert container.num_floats == floats - 3 * own
    rows = torch.arange(3)[:, None]
    torch.testing.assert_close(container.decode_classes(), images[rows, kept])
    container.add_(exported[:, None])
    assert container.num_floats == floats
    torch.testing.assert_close(container.decode_classes()[:, 4], images[:, 2])
    assert container.labels.tolist() == [c for c in range(3) for _ in range(5)], "class-major"
    container.images(torch.tensor([4])).sum().backward()
    assert container.instance_memory.grad[0, 4].abs().sum() > 0, "the new parameter learns"
    for ragged in (torch.tensor([0, 1]), torch.zeros(2, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="of each of 3 classes"):
            container.keep_(ragged)
    for one in (container.instance(0, 2), exported, exported[:2, None]):
        with pytest.raises(ValueError, match="for each of 3 classes"):
            container.add_(one)


def test_each_image_is_its_own_memory_and_its_classes_share():
    container = container_of((1, 8, 8), 3, 4, layout_for(10, (1, 8, 8), 10))
    before = container.decode_classes().detach()
    with torch.no_grad():
        container.instance_memory[1, 2] += 1
    changed = (container.decode_classes() != before).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]
    with torch.no_grad():
        container.class_memory[2] += 1
    changed = (container.decode_classes() != before).flatten(2).any(-1)
    assert changed.tolist() == [[False] * 4, [False, False, True, False], [True] * 4]


def test_only_what_a_step_shows_has_a_gradient():
    container = container_of((1, 8, 8), 3, 4, layout_for(10, (1, 8, 8), 10))
    container.images(torch.tensor([1, 9])).square().sum().backward()
    rows = {name: p.grad.flatten(1).any(1).tolist() for name, p in container.named_parameters() if len(p) == 3}
    for name in ("class_memory", "extractor_weight", "extractor_bias"):
        assert rows[name] == [True, False, True]
    assert container.instance_memory.grad.flatten(2).any(-1).nonzero().tolist() == [[0, 1], [2, 1]]
    declared = {id(p): dims for p, dims in container.row_dimensions()}
    assert declared.keys() == {id(p) for p in container.parameters()}
    assert declared[id(container.instance_memory)] == 2
    assert declared[id(container.class_memory)] == 1


# -- the loop -------------------------------------------------------------------------------------------------------


def state_of(literal: reference_hmn.Memories) -> torch.Tensor:
    return torch.cat([leaf.detach().flatten() for leaf in literal.leaves()])


def tensors_of(container: Hierarchical) -> torch.Tensor:
    parts = [container.dataset_memory, container.class_memory, container.extractor_weight, container.extractor_bias]
    parts += [container.instance_memory, *container.decoder.parameters()]
    return torch.cat([part.detach().flatten() for part in parts])


@float64()
@pytest.mark.parametrize(
    ("runtime", "settings"),
    [(LOOP, {}), (BATCHED, {"classes_per_step": 10, "metric": "l1", "warm_start": 0, "outer": 1})],
    ids=["loop-chunks", "batched-all-l1-cold"],
)
def test_agrees_with_the_reference(runtime, settings):
    """Warm start, and passes under several networks while the learning rate falls: every tensor."""
    hyper = dataclasses.replace(TOY, **settings)
    task, twin, begin = toy_task(runtime=runtime), toy_task(), toy_task()
    method, run = HMN(hyper), Run()
    container = method.start(task, run)
    images, sides = container.per_class, tuple(container.dataset_memory.shape[1:])
    assert images > hyper.batch_syn
    method.loop.drive(container, method.optimiser(container), task, run)
    expected = state_of(reference_hmn.hmn(twin, hyper, images, sides))
    first = state_of(reference_hmn.Memories(begin, hyper, images, sides))
    actual = tensors_of(container)
    assert (actual - expected).norm() < 1e-7 * (expected - first).norm()
    assert torch.equal(task.generator.get_state(), twin.generator.get_state())


def test_the_warm_start_shows_real_images_each_its_own():
    """Enough steps at 8x8 bring every image nearer to the real one it was given than to any other on average."""
    task = toy_task(ipc=1, counts=(6, 6, 6))
    hyper = dataclasses.replace(TOY, instance_channels=16, warm_start=60, batch_syn=2, over_budget=0.0)
    log = []

    class Logged(Run):
        def log(self, **values):
            log.append(values["pixel_error"].item())

    container = HMN(dataclasses.replace(hyper, hidden="8")).start(toy_task(ipc=6, counts=(6, 6, 6)), Logged())
    assert len(log) == 60 * -(-container.per_class // 2)
    real = task.train.raw().flatten(1)
    decoded = container.decode()[0].detach().flatten(1)
    nearest = torch.cdist(decoded, real).argmin(1)
    assert (task.train.labels[nearest] == container.labels).float().mean() > 0.9
    assert sum(log[-20:]) < 0.6 * sum(log[:20])
    for c in range(3):
        assert len(nearest[container.labels == c].unique()) >= min(5, container.per_class)


def test_rate_and_decay_go_by_the_size_of_the_images():
    found = {"digits": (0.01, 0.1), "mnist": (0.01, 1.0), "cifar10": (0.01, 1.0), "tiny-imagenet": (0.003, 1.0)}
    for name, expected in found.items():
        hyper = HMN.hyper_parameters(data.spec(name, Path()), 1, QUICK)
        assert (hyper.lr_img, hyper.decay) == expected
    assert HMN.hyper_parameters(data.spec("cifar10", Path()), 1, QUICK, {"decay": 0.1}).decay == 0.1


def test_learning_rate_falls_twice():
    loop = HMNLoop(dataclasses.replace(TOY, decay=0.5))
    shares = (0.0, 0.59, 0.6, 0.79, 0.8, 0.99)
    assert [loop.lr_factor(share) for share in shares] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", ["dm", "dc", "idc"])
def test_another_methods_loop_moves_the_container_with_its_own_optimiser(name):
    task, other = toy_task(), registry.get(name)
    short = {"dm": {"iterations": 2}, "dc": {"iterations": 1, "outer_loop": 2}, "idc": {"outer": 1, "passes": 2}}[name]
    loop = other.Loop(other.Hyper(**short))
    method, run = HMN(TOY, loop), Run()
    assert isinstance(method.optimiser(method.start(toy_task(), Run())), RowAdam)
    before = HMN(TOY, loop).start(toy_task(), Run())
    container = method.condense(task, run)
    assert container.num_floats <= task.budget.floats
    assert torch.isfinite(container.decode()[0]).all()
    assert not torch.equal(container.dataset_memory, before.dataset_memory)


# -- pruning, controls, and who sees which images -------------------------------------------------------------------


def repainted(task, seed: int):
    """The task with other pixels in the held-out tenth of its training images."""
    images = task.train.images.clone()
    _, held_out = data.dataset.stratified_indices(task.train.labels, 0.1, 0)
    draw = torch.Generator().manual_seed(seed)
    images[held_out] = torch.randint(0, 256, images[held_out].shape, dtype=torch.uint8, generator=draw)
    return dataclasses.replace(task, train=dataclasses.replace(task.train, images=images))


def tall_task(**settings):
    return toy_task(counts=(12, 11, 13), **settings)


def test_prunes_to_the_budget_what_double_end_says():
    task, run = tall_task(), Run()
    over = Budget(2, 3, task.spec.image_shape)
    final, start = HMN(TOY).sizes(task.spec, over)
    assert start - final >= 1
    method, seen = HMN(TOY), {}

    class Watched(HMN):
        def kept(self, container, *arguments):
            seen["images"] = container.decode_classes().detach()
            seen["kept"] = super().kept(container, *arguments)
            return seen["kept"]

    container = Watched(TOY).condense(task, run)
    rows = torch.arange(3)[:, None]
    torch.testing.assert_close(container.decode_classes(), seen["images"][rows, seen["kept"]])
    assert container.per_class == final
    assert container.num_floats == HMN(TOY).cost(task.spec, over).floats <= over.floats
    notes = run.notes
    assert (notes["gipc"], notes["gipc_over"], notes["pruned_per_class"]) == (final, start, start - final)
    assert set(notes["beta_scores"]) == {"0.0", "0.5", "1.0"}
    best = max(sum(values) for values in notes["beta_scores"].values())
    assert notes["beta"] == min(float(b) for b, values in notes["beta_scores"].items() if sum(values) == best)
    assert (notes["trainings_for_beta"], notes["trainings_for_aum"]) == (6, 1)
    assert (run.train_images, notes["beta_scored_on"]) == (33, 3)
    assert notes["split"] == "holdout"
    assert method.category == "method"
    record = describe_condensation(container, task, run, task.runtime)
    assert record["images_per_class"] == final


@pytest.mark.parametrize("cls", [HMNNoPrune, HMNRandom])
def test_held_out_images_reach_nothing_but_beta(cls):
    """Controls choose no beta: other held-out pixels change no bit. HMN's un-pruned set is the same too."""
    ends = [tensors_of(cls(TOY).condense(repainted(tall_task(), seed), Run())) for seed in (1, 2)]
    assert torch.equal(*ends)


def test_held_out_images_decide_beta_alone():
    seen = []

    class Watched(HMN):
        def kept(self, container, task, *arguments):
            held_out = task.validation
            seen.append((tensors_of(container), task.train.fingerprint, held_out.fingerprint, len(held_out)))
            return super().kept(container, task, *arguments)

    for seed in (1, 2):
        Watched(TOY).condense(repainted(tall_task(), seed), Run())
    assert torch.equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]
    assert seen[0][2] != seen[1][2]
    assert seen[0][3] == 3


def test_pilot_freezes_beta_and_then_uses_every_training_image():
    hyper, run, pools = dataclasses.replace(TOY, split="pilot"), Run(), []

    class Watched(HMN):
        def start(self, task, run):
            pools.append((type(run) is Prefixed, len(task.train)))
            return super().start(task, run)

    container = Watched(hyper).condense(tall_task(), run)
    assert pools == [(True, 33), (False, 36)]
    assert {"pilot condense", "pilot beta 0.5", "condense", "margins"} <= run.phases.keys()
    assert "beta 0.5" not in run.phases, "beta is frozen"
    assert (run.train_images, run.notes["trainings_for_aum"], run.notes["trainings_for_beta"]) == (36, 2, 6)
    assert container.num_floats <= tall_task().budget.floats
    control = Run()
    HMNNoPrune(hyper).condense(tall_task(), control)
    assert control.train_images == 36
    assert "pilot condense" not in control.phases


def test_a_given_beta_is_searched_no_more():
    """One a pilot found, for the repetitions after it: the pilot's set without the pilot."""
    hyper, run, pools = dataclasses.replace(TOY, beta="0.5"), Run(), []

    class Watched(HMN):
        def start(self, task, run):
            pools.append(len(task.train))
            return super().start(task, run)

    Watched(hyper).condense(tall_task(), run)
    assert pools == [36]
    assert set(run.phases) == {"warm start", "condense", "margins"}
    assert (run.notes["beta"], run.notes["trainings_for_beta"], run.notes["beta_scored_on"]) == (0.5, 0, 0)
    spec, budget = tall_task().spec, tall_task().budget
    search = len(range(0, 11, TOY.beta_stride)) * TOY.beta_nets * TOY.beta_steps
    seen = min(unified(budget.ipc).batch, HMN(hyper).sizes(spec, budget)[0] * spec.classes)
    searched, given = (HMN(settings).cost(spec, budget).after.trained for settings in (TOY, hyper))
    assert searched - given == search * seen
    assert parse_overrides(["hmn.beta=0.3"]) == {"hmn": {"beta": "0.3"}}
    with pytest.raises(ValueError, match="choose from search, 0, 0.1"):
        parse_overrides(["hmn.beta=0.35"])


def test_beta_needs_a_class_with_two_images():
    with pytest.raises(TooFewImages, match="of two training images"):
        HMN(TOY).condense(toy_task(ipc=6, counts=(1, 1, 1)), Run())


def test_controls():
    """At budget without pruning; over budget and random; the over-budget set itself where the budget is native."""
    spec, strict = tall_task().spec, tall_task().budget
    native = dataclasses.replace(strict, mode="native")
    final, start = HMN(TOY).sizes(spec, strict)
    assert HMNNoPrune(TOY).sizes(spec, strict) == (final, final)
    assert HMNRandom(TOY).sizes(spec, strict) == HMN(TOY).sizes(spec, native) == (final, start)
    assert HMNNoPrune(TOY).sizes(spec, native) == (start, start)
    run, task = Run(), tall_task()
    noprune = HMNNoPrune(TOY).condense(task, run)
    assert (noprune.per_class, run.notes["pruned_per_class"], "margins" in run.phases) == (final, 0, False)
    over = HMNNoPrune(TOY).condense(dataclasses.replace(tall_task(), budget=native), Run())
    assert (over.per_class, over.num_floats > strict.floats) == (start, True)
    assert over.num_floats == HMNNoPrune(TOY).cost(spec, native).floats
    run = Run()
    random = HMNRandom(TOY).condense(tall_task(), run)
    assert (random.per_class, "margins" in run.phases, "beta" in run.notes) == (final, False, False)
    twice = HMNRandom(TOY).condense(tall_task(), Run())
    assert torch.equal(tensors_of(random), tensors_of(twice))


def test_nothing_over_budget_means_no_search():
    run = Run()
    hyper = dataclasses.replace(TOY, over_budget=0.0, split="pilot")
    HMN(hyper).condense(tall_task(), run)
    assert set(run.phases) == {"warm start", "condense"}
    assert run.notes["pruned_per_class"] == 0


def test_the_selection_has_no_way_to_the_test_split():
    """What condensing is handed holds the training split alone."""
    fields = {field.name for field in dataclasses.fields(tall_task())}
    parts = {"spec", "train", "validation", "budget", "runtime", "generator", "seed", "cache", "microbatch", "passes"}
    assert fields == parts
    assert tall_task().validation is None, "that of training images, where a loop sets one apart"


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['dataset']}-{row['ipc']}")
def test_settings_of_the_listed_cells(row):
    """As recalled, but for the learning rate: what was found for images of its size (docs/hmn.md)."""
    names = {"TinyImageNet": "tiny-imagenet"}
    spec, ipc = data.spec(names.get(row["dataset"], row["dataset"].lower()), Path("nowhere")), int(row["ipc"])
    hyper = HMN.hyper_parameters(spec, ipc, PAPER)
    container = dict(pair.strip().split("=") for pair in row["container"].split(";"))
    layout = layout_for(spec.classes, spec.image_shape, ipc)
    channels = hyper.dataset_channels, hyper.class_channels, hyper.instance_channels
    assert channels == tuple(int(container[name]) for name in ("dataset_ch", "class_ch", "instance_ch"))
    widths = f"{2 * hyper.class_channels + hyper.instance_channels}-{hyper.hidden}-{spec.channels}"
    assert widths == container["decoder"]
    assert layout.map_floats(spec.image_shape) == int(container["map"].split("x")[0]) ** 2
    budget = Budget(ipc, spec.classes, spec.image_shape)
    assert HMN(hyper).sizes(spec, budget) == (int(container["gipc"]), int(container["gipc_over"]))
    assert HMN(hyper).cost(spec, budget).floats == int(row["stored_floats"])
    inner = dict(pair.strip().split("=") for pair in row["inner"].split(";"))
    assert (hyper.outer, hyper.passes) == (int(row["outer_its"]), int(inner["passes"]))
    assert (hyper.n_data, hyper.batch_net) == (int(inner["real_samples_per_pass"]), int(inner["real_batch"]))
    assert hyper.classes_per_step == int(inner["classes_per_step"])
    assert row["optimiser"] == f"Adam ({hyper.beta1}; {hyper.beta2}); rows without gradient skipped"
    assert (row["lr_schedule"], hyper.decay) == ("x0.1 at 60 % and 80 %", 1.0)
    assert hyper.lr_img == (0.003 if spec.height == 64 else 0.01)
    assert (hyper.lr_net, hyper.mom_net, hyper.wd_net) == tuple(
        float(row[name]) for name in ("lr_net", "mom_net", "wd_net")
    )
    assert (hyper.batch_real, hyper.batch_syn) == (int(row["batch_real"]), int(row["batch_syn"]))
    assert hyper.strategy == row["aug"]
    assert f"metric={hyper.metric}" in row["note"]
    assert (hyper.over_budget, hyper.beta_stride, hyper.aum_nets, hyper.beta_nets) == (0.1, 1, 1, 2)
    assert HMN(hyper).native_recipe(spec, ipc) == unified(ipc)
    assert f"steps={unified(ipc).steps};" in row["eval"]


@pytest.mark.parametrize(
    ("schedule", "ipc", "aum", "beta"),
    [("paper", 1, 10_000, 3333), ("paper", 50, 30_000, 10_000), ("0.1", 10, 2000, 667), ("0.01", 1, 500, 500)],
)
def test_trainings_for_pruning_follow_the_schedule(schedule, ipc, aum, beta):
    spec, schedule = spec_of((3, 32, 32), 10), Schedule.parse(schedule)
    hyper = HMN.hyper_parameters(spec, ipc, schedule)
    assert (hyper.aum_steps, hyper.beta_steps) == (aum, beta)
    assert HMN.hyper_parameters(spec, ipc, schedule, {"aum_steps": 7}).aum_steps == 7


@pytest.mark.parametrize("changes", [{}, {"beta": "0.5"}])
def test_the_pool_is_what_the_loop_saw_where_that_holds_out_too(changes):
    """LinBa's early stop takes a tenth of what HMN leaves it."""
    task, run = tall_task(), Run()
    stopping = registry.get("linba").Hyper(iterations=1, inner_steps=1, validate_every=1, batch_real=2)
    HMN(dataclasses.replace(TOY, **changes), LinBaLoop(stopping)).condense(task, run)
    left = task if changes else task.split_validation()
    assert run.train_images == len(left.split_validation().train) < len(left.train) <= len(task.train)


def test_experts_are_shared_only_by_those_who_condense_the_same_images():
    """Otherwise a cluster would first train experts that the cell has no use for."""
    mtt = registry.get("mtt")
    hyper = mtt.Hyper(syn_steps=1, expert_epochs=1, max_start_epoch=1)
    loop, own = mtt.Loop(hyper), mtt(hyper).prerequisites()
    assert HMN(TOY, loop).prerequisites() == ()
    (experts,) = HMN(dataclasses.replace(TOY, beta="0.5"), loop).prerequisites()
    assert (experts,) == loop.prerequisites() == own
    assert experts.identity() == own[0].identity()


def test_without_a_memory_of_the_data_set(generator):
    container = Hierarchical(2, 3, [1, 8, 8], 0, 2, 1, [4]).initialise_(generator)
    assert container.images().isfinite().all()
    assert container.num_floats == sum(p.numel() for p in container.parameters())


def test_disclosed_with_every_row():
    for cls in (HMN, HMNNoPrune, HMNRandom):
        assert cls.disclosure == "HMN configuration chosen by this suite; the paper's configuration is not public"
    assert [cls.category for cls in (HMN, HMNNoPrune, HMNRandom)] == ["method", "variant", "variant"]


def test_work_counts_images():
    spec = spec_of((3, 32, 32), 10)
    hyper, budget = HMN.hyper_parameters(spec, 10, PAPER), Budget(10, 10, (3, 32, 32))
    work = HMN(hyper).cost(spec, budget).loop.work
    assert work.matched == 2000 * 100 * 10 * 128
    assert work.trained == 2000 * 100 * 10 * 64 + 2000 * 99 * 2048  # of networks: whole batches of 64
    pilot = dataclasses.replace(hyper, split="pilot")
    costs = [HMN(settings).cost(spec, budget) for settings in (hyper, pilot)]
    assert [cost.loops for cost in costs] == [1, 2]
    assert costs[0].after.trained == (11 * 2 * 6666 + 20_000) * 256
    assert costs[1].after.trained == (11 * 2 * 6666 + 2 * 20_000) * 256
    assert costs[1].work.matched == 2 * costs[0].work.matched == 2 * work.matched
    assert HMNRandom(hyper).cost(spec, budget).after.trained == 0


def test_little_is_pruned_from_and_chosen_among():
    """AUM is measured on the over-budget set, beta on what it leaves: smaller than a batch, both."""
    spec, budget = data.spec("digits", Path()), Budget(1, 10, (1, 8, 8))
    hyper = HMN.hyper_parameters(spec, 1, QUICK)
    shown = 60 * 12 * 10 + 3 * 60 * 10 * 10
    assert HMN(hyper).cost(spec, budget).after.trained == shown


def test_the_plan_counts_the_warm_start_whichever_loop_follows():
    """72 images of a class, 40 in a step: two steps show each once or more, by two doublings of its 2x2 maps."""
    spec, budget = data.spec("digits", Path()), Budget(10, 10, (1, 8, 8))
    hyper = HMN.hyper_parameters(spec, 10, QUICK, {"warm_start": 300, "batch_syn": 40})
    per_image = 2 * 16 * (10 * 4 * 2 * 2 + 4 * 1 * 4 * 4) + 2 * 4 * 8 * 2 * 2 / 72  # decoder; extractor, once a class
    shown = 300 * 2 * 40 * 10
    changes = ({}, {"split": "pilot"}, {"warm_start": 0})
    fit, pilot, cold = (HMN(dataclasses.replace(hyper, **change)).cost(spec, budget).work.flops for change in changes)
    assert fit == pytest.approx(FITTING_COST * per_image * shown)
    assert pilot == 2 * fit
    assert cold == 0
    idc = registry.get("idc")
    assert HMN(hyper, idc.Loop(idc.Hyper())).cost(spec, budget).work.flops == fit


# -- the contract, and that it learns -------------------------------------------------------------------------------


@pytest.mark.long
def test_keeps_the_contract_at_another_ipc():
    check_method(HMN, ipc=2, **SHORT)


@pytest.mark.slow
def test_a_pilot_resumes_to_the_same_bits():
    check_method(HMN, split="pilot", **SHORT)
