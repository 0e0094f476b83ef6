"""Random, herding, K-Center and the whole set: selection by brute force, the shared feature network, odd data sets."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import data
from benchmark.condensation import embeddings
from benchmark.condensation.embeddings import trained_embedding
from benchmark.condensation.run import Run
from benchmark.engines.job import JobRunner
from benchmark.grid import registry
from benchmark.store.folder import Store
from benchmark.system.errors import TooFewImages
from benchmark.system.runtime import Runtime
from benchmark.testing import short_job
from methods.dm import DM
from methods.herding import Herding, HerdingHyper, herd
from methods.kcenter import KCenter, cover
from methods.random import Random, RandomHyper
from tests.toy_task import toy_task

CPU = Runtime(torch.device("cpu"))


def herding_by_hand(features, count):
    """The rule of the docstring, one candidate at a time: the next x minimises | t mean - sum of chosen - x |."""
    mean = [sum(row[d] for row in features) / len(features) for d in range(len(features[0]))]
    chosen = []
    for t in range(1, count + 1):
        best, smallest = None, None
        for i, x in enumerate(features):
            if i in chosen:
                continue
            total = [sum(features[j][d] for j in chosen) + x[d] for d in range(len(mean))]
            distance = sum((t * m - s) ** 2 for m, s in zip(mean, total, strict=True))
            if smallest is None or distance < smallest:
                best, smallest = i, distance
        chosen.append(best)
    return chosen


def k_center_by_hand(features, count):
    points = np.array(features)
    distances = [float(((p - points.mean(0)) ** 2).sum()) for p in points]
    chosen = [distances.index(min(distances))]
    while len(chosen) < count:
        gaps = [
            -1.0 if i in chosen else min(float(((points[i] - points[j]) ** 2).sum()) for j in chosen)
            for i in range(len(points))
        ]
        chosen.append(gaps.index(max(gaps)))
    return chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("rule", "by_hand"), [(herd, herding_by_hand), (cover, k_center_by_hand)])
def test_selection_by_brute_force(rule, by_hand, seed):
    points = torch.randn(11, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for count in (1, 4, 11):
        assert rule(points, count).tolist() == by_hand(points.tolist(), count)


@pytest.mark.parametrize("rule", [herd, cover])
def test_no_image_twice_even_among_duplicates(rule):
    for points in (torch.zeros(6, 2), torch.ones(1, 3), torch.tensor([[0.0], [0], [0], [5], [5]])):
        order = rule(points, len(points)).tolist()
        assert sorted(order) == list(range(len(points)))


def test_k_center_is_within_twice_the_best_cover():
    """What the greedy rule guarantees, against every choice that contains its first centre and all others."""
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(2))
    gaps = torch.cdist(points, points)

    def radius(chosen):
        return gaps[:, list(chosen)].min(1).values.max().item()

    for count in (2, 3, 4):
        best = min(radius(chosen) for chosen in combinations(range(9), count))
        assert radius(cover(points, count).tolist()) <= 2 * best + 1e-6


def test_herding_follows_the_mean():
    points = torch.randn(200, 8, generator=torch.Generator().manual_seed(4))
    herded = (points[herd(points, 20)].mean(0) - points.mean(0)).norm()
    draws = [torch.randperm(200, generator=torch.Generator().manual_seed(s))[:20] for s in range(30)]
    assert herded < min((points[draw].mean(0) - points.mean(0)).norm() for draw in draws)


@pytest.mark.parametrize("method", [Herding, KCenter])
def test_images_are_those_of_the_recorded_indices_by_class(method):
    task, run = toy_task(ipc=3), Run()
    container = method(HerdingHyper(feature_steps=2)).condense(task, run)
    indices = torch.tensor(run.notes["indices"])
    assert indices.shape == (3, 3)
    for c, row in enumerate(indices):
        assert (task.train.labels[row] == c).all()
        assert len(set(row.tolist())) == 3
    assert torch.equal(container.pixels, task.train.gather(indices.flatten()))
    embedding = trained_embedding(toy_task(ipc=3), Run(), 2)
    rule = {Herding: herding_by_hand, KCenter: k_center_by_hand}[method]
    for members, row in zip(task.train.class_indices, indices, strict=True):
        assert members[rule(embedding[members].double().tolist(), 3)].tolist() == row.tolist()


# The feature network


def fit(cache, seed=0, steps=3, **task):
    made = dataclasses.replace(toy_task(**task), cache=cache, seed=seed)
    return trained_embedding(made, Run(), steps)


@pytest.fixture
def trainings(monkeypatch):
    """How many feature networks were trained."""
    count = []
    training = embeddings.Training
    monkeypatch.setattr(embeddings, "Training", lambda *args: count.append(1) or training(*args))
    return count


def test_the_feature_network_is_shared_by_methods_and_ipcs(tmp_path, trainings):
    first = fit(tmp_path, ipc=1)
    assert torch.equal(fit(tmp_path, ipc=3), first)
    assert len(trainings) == 1
    assert torch.equal(fit(None), first)  # and what is kept is what would be trained
    assert len(trainings) == 2


def test_it_depends_on_data_repetition_and_length(tmp_path, trainings):
    first = fit(tmp_path)
    others = [fit(tmp_path, seed=1), fit(tmp_path, steps=4), fit(tmp_path, counts=(7, 4, 5))[: len(first) - 1]]
    assert len(trainings) == 4
    assert all(not torch.equal(other, first[: len(other)]) for other in others)


def test_it_does_not_draw_from_the_cells_generator(tmp_path):
    task = dataclasses.replace(toy_task(), cache=tmp_path)
    before = task.generator.get_state()
    trained_embedding(task, Run(), 2)
    assert torch.equal(task.generator.get_state(), before)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header", "foreign"])
def test_a_damaged_feature_network_is_named_and_trained_again(tmp_path, trainings, damage):
    first = fit(tmp_path)
    (path,) = (tmp_path / "features").iterdir()
    content = path.read_bytes()
    if damage == "foreign":
        fit(tmp_path / "other", seed=1)
        (other,) = (tmp_path / "other" / "features").iterdir()
        path.write_bytes(other.read_bytes())
        trainings.pop()
    else:
        path.write_bytes({
            "truncated": content[:-3], "empty": b"", "text": b"x" * 100, "header": content.replace(b"toy", b"tox"),
        }[damage])  # fmt: skip
    with pytest.warns(UserWarning, match=str(path)):
        again = fit(tmp_path)
    assert torch.equal(again, first)
    assert len(trainings) == 2
    assert torch.equal(fit(tmp_path), first)
    assert len(trainings) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "features").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot keep features/"):
        assert torch.equal(fit(tmp_path), fit(None))


# Random


def test_random_draws_distinct_indices_of_each_class():
    for ipc in (1, 3, 4):
        task, run = toy_task(ipc=ipc), Run()
        container = Random(RandomHyper()).condense(task, run)
        for c, row in enumerate(run.notes["indices"]):
            assert len(set(row)) == ipc
            assert all(task.train.labels[i] == c for i in row)
        assert torch.equal(container.pixels, task.train.gather(torch.tensor(run.notes["indices"]).flatten()))


def test_random_draws_every_image_equally_often():
    counts = torch.zeros(17)
    for seed in range(400):
        run = Run()
        Random(RandomHyper()).condense(dataclasses.replace(toy_task(ipc=2), seed=seed), run)
        counts[torch.tensor(run.notes["indices"]).flatten()] += 1
    task = toy_task()
    for members in task.train.class_indices:
        expected = 400 * 2 / len(members)
        spread = (expected * (1 - 2 / len(members))) ** 0.5
        assert (counts[members] - expected).abs().max() < 4.5 * spread


def test_a_repetition_begins_with_the_same_images_whatever_the_method_and_the_budget():
    run = Run()
    chosen = Random(RandomHyper()).condense(toy_task(ipc=2, seed=1), run).pixels
    begun = DM(DM.Hyper(iterations=1)).start(toy_task(ipc=2, seed=2), Run()).pixels
    assert torch.equal(chosen, begun)
    more = toy_task(ipc=4).start_indices(4)
    assert torch.equal(more[:, :2], torch.tensor(run.notes["indices"]))
    again = dataclasses.replace(toy_task(ipc=4), seed=1).start_indices(4)
    assert not torch.equal(more, again)


def test_a_class_smaller_than_the_real_batch_goes_round_evenly():
    task = toy_task(counts=(7, 4, 2))
    for _ in range(20):
        indices = task.real_indices(6)
        assert indices.shape == (3, 6)
        used = [torch.bincount(row, minlength=13)[members] for row, members in zip(
            indices, task.train.class_indices, strict=True)]  # fmt: skip
        assert (sum(int(u.sum()) for u in used), int(used[0].max())) == (18, 1)
        assert sorted(used[1].tolist()) == [1, 1, 2, 2]
        assert used[2].tolist() == [3, 3]
    assert task.real_indices(256).shape == (3, 7)


# On whole data sets


def run_job(job, dataset, folder):
    store = Store(folder)
    return store, JobRunner(store, CPU, folder / "cache").run(job, dataset)


@pytest.fixture(scope="module")
def small_digits():
    """Digits with 12, 3 and 20 images of three classes."""
    digits = data.load("digits", ".")
    rows = [members[:count] for members, count in zip(digits.train.class_indices, (12, 3, 20), strict=False)]
    train = dataclasses.replace(digits.train.subset(torch.cat(rows)), classes=3)
    test = digits.test.subset((digits.test.labels < 3).nonzero().flatten())
    spec = dataclasses.replace(digits.spec, classes=3)
    return dataclasses.replace(
        digits, spec=spec, train=train, test=dataclasses.replace(test, classes=3), class_names=("0", "1", "2")
    )


@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "dsa", "dm"])
def test_more_images_than_a_class_holds_fails_that_cell_alone(name, small_digits, tmp_path):
    method = registry.get(name)
    with pytest.raises(TooFewImages, match="a class of 3 training images; IPC 4 needs more"):
        run_job(short_job(method, small_digits, 4), small_digits, tmp_path)
    store, _ = run_job(short_job(method, small_digits, 3), small_digits, tmp_path)
    found = {record.config["ipc"]: record for record in store.records()}
    assert (found[3].status, found[4].status) == ("done", "failed")
    assert found[4].failure.error == "too few images"
    assert sorted(path.name for path in found[4].directory.iterdir()) == ["config.json", "failure.json"]


@pytest.mark.parametrize("name", ["dc", "dm"])
def test_a_class_with_fewer_images_than_the_real_batch(name, small_digits, tmp_path):
    _, result = run_job(short_job(registry.get(name), small_digits, 2, batch_real=16), small_digits, tmp_path)
    assert result.condensation.images == 6


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "dc", "dm", "whole"])
def test_odd_folders_run(name, grey, tmp_path):
    draw = np.random.default_rng(0)
    for label, count in (("a", 4), ("b", 6)):
        (tmp_path / "own" / label).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (9, 14) if grey else (14, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / label / f"{number}.png")
    dataset = data.load(f"folder:{tmp_path / 'own'}", tmp_path)
    assert dataset.spec.image_shape == ((1, 9, 14) if grey else (3, 14, 9))
    _, result = run_job(short_job(registry.get(name), dataset, 2), dataset, tmp_path / "results")
    assert result.condensation.images == (8 if name == "whole" else 4)
