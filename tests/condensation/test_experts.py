"""Expert trajectories: what they are, and a cache that shares, extends, resumes and repairs them to the same bits."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from benchmark import augment, networks
from benchmark.condensation.experts import ExpertTrainer, expert_recipe, trajectories
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec, Split
from benchmark.system.errors import Stopped
from benchmark.system.runtime import Runtime, derive_seed
from benchmark.training.trainer import Training
from benchmark.training.unroll import flatten, unflatten

SPEC = DatasetSpec("toy", "Toy", 1, 4, 4, 3, flip=False, published="")
IMAGES, EPOCHS = 10, 2
RECIPE = expert_recipe(EPOCHS, lr=0.1, batch=4)
# One network at a time: then not even rounding depends on how many are trained together.
RUNTIME = Runtime(torch.device("cpu"), "reference")


def make_task(cache=None, seed=0):
    images = torch.randint(256, (IMAGES, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    split = Split(images, torch.arange(IMAGES) % 3, torch.tensor([0.5]), torch.tensor([0.25]), 3)
    budget = Budget(1, 3, SPEC.image_shape)
    return Task(SPEC, split, budget, RUNTIME, torch.Generator().manual_seed(seed), seed, cache)


def all_weights(experts):
    return torch.stack([
        torch.stack([experts.weights(expert, epoch) for epoch in range(experts.epochs + 1)])
        for expert in range(len(experts))
    ])  # fmt: skip


def test_a_trajectory_is_plain_sgd_from_initialisation_on(tmp_path):
    task = make_task(tmp_path)
    found = all_weights(trajectories(task, Run(), 2, RECIPE))
    purpose = ExpertTrainer(task, Run(), RECIPE).purpose
    network = networks.build_matching(SPEC.image_shape, 3)
    for expert in range(2):
        generator = torch.Generator().manual_seed(derive_seed(purpose, expert))
        weights = [flatten(networks.initialise_(network, generator))]
        for _ in range(EPOCHS):
            current = weights[-1]
            for indices in torch.randperm(IMAGES, generator=generator).split(4):
                params = augment.dsa.sample(task.strategy, 1, len(indices), (4, 4), generator)
                images = augment.apply(task.train.gather(indices), params, align_corners=True)
                leaf = current.clone().requires_grad_()
                logits = functional_call(network, unflatten(leaf, network), (images,))
                loss = F.cross_entropy(logits, task.train.labels[indices])
                current = current - 0.1 * torch.autograd.grad(loss, leaf)[0]
            weights.append(current)
        assert (weights[0] - weights[1]).abs().max() > 1e-3
        torch.testing.assert_close(found[expert], torch.stack(weights), rtol=1e-4, atol=1e-6)


def test_the_cache_is_shared_and_keyed_by_everything_that_matters(tmp_path):
    task = make_task(tmp_path)
    first = trajectories(task, Run(), 2, RECIPE)
    again = Run()
    second = trajectories(dataclasses.replace(task, budget=Budget(2, 3, SPEC.image_shape)), again, 2, RECIPE)
    assert not again.phases
    assert torch.equal(all_weights(first), all_weights(second))
    others = [
        (make_task(tmp_path, seed=1), RECIPE),
        (task.whitened(), RECIPE),
        (task, expert_recipe(EPOCHS, lr=0.2, batch=4)),
        (dataclasses.replace(task, runtime=Runtime(torch.device("cpu"))), RECIPE),
        (dataclasses.replace(task, train=task.train.subset(torch.arange(9))), RECIPE),
    ]
    folders = {ExpertTrainer(other, Run(), recipe).folder for other, recipe in [(task, RECIPE), *others]}
    assert len(folders) == 6


def test_more_experts_and_epochs_are_added_to_what_there_is(tmp_path):
    at_once = all_weights(trajectories(make_task(), Run(), 3, RECIPE))
    task, run = make_task(tmp_path), Run()
    trajectories(task, Run(), 2, expert_recipe(1, lr=0.1, batch=4))
    grown = all_weights(trajectories(task, run, 3, RECIPE))
    assert {phase: entry["steps"] for phase, entry in run.phases.items()} == {"experts 1-2": 3, "experts 3-3": 6}
    assert torch.equal(grown, at_once)
    longer = Run()
    fewer = trajectories(task, longer, 2, expert_recipe(1, lr=0.1, batch=4))
    assert not longer.phases
    assert torch.equal(all_weights(fewer), at_once[:2, :2])


@pytest.mark.parametrize("damage", ["cut", "weights", "generator", "foreign"])
def test_a_damaged_expert_is_named_and_trained_again(tmp_path, damage):
    task = make_task(tmp_path)
    experts = trajectories(task, Run(), 2, RECIPE)
    before, path = all_weights(experts), experts.paths[1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage != "foreign":
        content[-1000 if damage == "generator" else len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        other = trajectories(make_task(tmp_path, seed=1), Run(), 2, RECIPE)
        path.write_bytes(other.paths[1].read_bytes())
    run = Run()
    with pytest.warns(UserWarning, match=path.name):
        repaired = trajectories(task, run, 2, RECIPE)
    assert list(run.phases) == ["experts 2-2"]
    assert torch.equal(all_weights(repaired), before)
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("cached", [True, False])
def test_stop_and_resume_give_the_same_bits(tmp_path, cached):
    whole = all_weights(trajectories(make_task(), Run(), 2, RECIPE))
    task, attempts = make_task(tmp_path / "cache" if cached else None), 0
    while True:
        try:
            experts = trajectories(task, Run(tmp_path / "cell", "key", should_stop=lambda: True), 2, RECIPE)
            break
        except Stopped:
            attempts += 1
    assert attempts == 5
    assert torch.equal(all_weights(experts), whole)


def test_groups_are_neighbours_that_start_together(monkeypatch):
    trainer = ExpertTrainer(make_task(), Run(), RECIPE)
    assert trainer.groups([0, 1, 2, 5, 6, 7], [-1, -1, 1, 2, 2, -1, -1, 1]) == [[0, 1], [2], [5, 6], [7]]
    parameters = sum(p.numel() for p in trainer.network.parameters())
    monkeypatch.setattr("benchmark.condensation.experts.SNAPSHOT_BYTES", 2 * 4 * parameters * (EPOCHS + 1))
    assert trainer.groups([0, 1, 2, 3, 4], [-1] * 5) == [[0, 1], [2, 3], [4]]


def test_experts_see_what_the_task_sees(tmp_path, monkeypatch):
    task, seen = make_task(tmp_path).whitened(), []
    monkeypatch.setattr(Training, "_augment", lambda self, images, rows: seen.append(images) or images)
    trajectories(task, Run(), 1, RECIPE)
    whitened = task.train.whitening.whiten(task.train.raw())
    distances = torch.cdist(seen[0].flatten(1), whitened.flatten(1)).min(1).values
    assert distances.max() < 1e-5


def test_beyond_the_trajectory(tmp_path):
    experts = trajectories(make_task(tmp_path), Run(), 1, RECIPE)
    with pytest.raises(AssertionError, match="beyond"):
        experts.weights(0, EPOCHS + 1)
