"""The trainer: one batched computation against a loop, ensembles of any size, and plain torch.optim."""

import dataclasses
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.augment import cutmix, diffaug, dsa
from benchmark.system.runtime import Runtime
from benchmark.training.passes import loss_and_gradients
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet, accuracies, train_epochs

CPU = torch.device("cpu")
BATCHED, LOOP = Runtime(CPU, "float32"), Runtime(CPU, "reference")
STRATEGY = "color_crop_cutout_flip_scale_rotate"
CLASSES, IMAGES, BATCH = 3, 10, 4  # three steps an epoch, the last of two images

RECIPES = {
    "cosine": Recipe(steps=8, batch=BATCH, lr=0.02),
    "cosine, plain": Recipe(steps=8, batch=BATCH, augment="none"),
    "halfway": Recipe(epochs=3, batch=BATCH, decay="halfway", augment="none"),
    "halfway, dsa": Recipe(epochs=3, batch=BATCH, decay="halfway"),
    "multistep": Recipe(epochs=6, batch=BATCH, decay="multistep", augment="none"),
    "multistep, cutmix": Recipe(
        epochs=6, batch=BATCH, decay="multistep", augment="diffaug", strategy="color_crop_flip", cutmix=0.5
    ),
    "constant": Recipe(steps=8, batch=BATCH, decay="constant", weight_decay=0.0, augment="none"),
    "constant, cutmix": Recipe(steps=8, batch=BATCH, decay="constant", augment="none", cutmix=0.7),
    "whole batches": Recipe(steps=5, batch=IMAGES, augment="none"),
}
EACH = pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(IMAGES, 2, 8, 8, generator=draw)
    return TrainingSet.of(images, torch.arange(IMAGES) % CLASSES)


def small():
    return networks.build("convnet", (2, 8, 8), CLASSES, width=8)


def trained(runtime, seeds, data, recipe, lr=None):
    training = Training(Ensemble(small(), seeds, runtime), data, recipe, STRATEGY, lr)
    losses = torch.stack([training.step(step) for step in range(training.total_steps)])
    return training.ensemble, losses


def same(first, second, tolerance=1e-5):
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)


@EACH
def test_one_batched_computation_equals_the_loop(data, recipe):
    batched, losses = trained(BATCHED, [1, 2, 3], data, recipe)
    loop, losses_loop = trained(LOOP, [1, 2, 3], data, recipe)
    torch.testing.assert_close(losses, losses_loop, rtol=1e-5, atol=1e-5)
    same(batched.parameters, loop.parameters)


def test_the_fast_path_is_the_batched_one(data):
    """What the test above compares is indeed two paths."""
    assert Training(Ensemble(small(), [1], BATCHED), data, RECIPES["cosine"], STRATEGY).batched
    assert not Training(Ensemble(small(), [1], LOOP), data, RECIPES["cosine"], STRATEGY).batched


@pytest.mark.parametrize("runtime", [BATCHED, LOOP], ids=["batched", "loop"])
@pytest.mark.parametrize("recipe", [RECIPES["cosine"], RECIPES["multistep, cutmix"]], ids=["dsa", "diffaug, cutmix"])
def test_three_and_seven_more_are_the_ten_of_one_run(data, recipe, runtime):
    seeds = list(range(100, 110))
    (ten, losses), (three, _), (seven, later) = (
        trained(runtime, part, data, recipe) for part in (seeds, seeds[:3], seeds[3:])
    )
    for index in range(10):
        part = three.member(index) if index < 3 else seven.member(index - 3)
        same(ten.member(index), part)
    torch.testing.assert_close(losses[:, 3:], later, rtol=1e-5, atol=1e-5)


def test_members_differ(data):
    ensemble, _ = trained(BATCHED, [1, 2], data, RECIPES["cosine"])
    assert not torch.allclose(ensemble.member(0)["classifier.weight"], ensemble.member(1)["classifier.weight"])


def plain(seed, data, recipe):
    """One network trained with torch.optim and torch's own schedulers, as the authors write such loops."""
    generator = torch.Generator().manual_seed(seed)
    network = networks.initialise_(small(), generator)

    def sgd(lr):
        return torch.optim.SGD(network.parameters(), lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def epoch(advance):
        for indices in torch.randperm(len(data), generator=generator).split(recipe.batch):
            yield indices
            if not advance():
                return

    def train(indices, optimiser):
        images, labels = data.gather(indices), data.labels[indices]
        if recipe.augment == "dsa":
            images = augment.apply(images, dsa.sample(STRATEGY, 1, len(indices), (8, 8), generator))
        if recipe.augment == "diffaug":
            images = augment.apply(images, diffaug.sample(recipe.strategy, len(indices), (8, 8), generator))
        optimiser.zero_grad()
        if recipe.cutmix:
            mix = cutmix.sample(len(indices), (8, 8), recipe.cutmix, generator)
            r, logits = mix.kept, network(cutmix.apply(images, mix))
            loss = r * F.cross_entropy(logits, labels) + (1 - r) * F.cross_entropy(logits, labels[mix.partner])
        else:
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    losses, optimiser = [], sgd(recipe.lr)
    if recipe.decay == "halfway":
        lr = recipe.lr
        for index in range(recipe.epochs + 1):
            losses += [train(indices, optimiser) for indices in epoch(lambda: True)]
            if index == recipe.epochs // 2 + 1:
                lr *= 0.1
                optimiser = sgd(lr)
        return network, losses
    if recipe.decay == "multistep":
        marks = [2 * recipe.epochs // 3, 5 * recipe.epochs // 6]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, marks, gamma=0.2)
        for _ in range(recipe.epochs):
            losses += [train(indices, optimiser) for indices in epoch(lambda: True)]
            scheduler.step()
        return network, losses
    scheduler = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.steps, eta_min=0.0),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0),
    }[recipe.decay]()
    while len(losses) < recipe.steps:
        for indices in epoch(lambda: len(losses) < recipe.steps):
            losses.append(train(indices, optimiser))
            scheduler.step()
    return network, losses


@EACH
@pytest.mark.parametrize("runtime", [BATCHED, LOOP], ids=["batched", "loop"])
def test_agrees_with_torch_optim(data, recipe, runtime):
    seeds = [7, 8]
    ensemble, losses = trained(runtime, seeds, data, recipe)
    for index, seed in enumerate(seeds):
        network, expected = plain(seed, data, recipe)
        torch.testing.assert_close(losses[:, index], torch.tensor(expected), rtol=1e-4, atol=1e-5)
        same(ensemble.member(index), dict(network.named_parameters()), 1e-4)


@pytest.mark.parametrize("runtime", [BATCHED, LOOP], ids=["batched", "loop"])
def test_the_learned_step_size_is_used_where_the_recipe_has_none(data, runtime):
    recipe = RECIPES["cosine, plain"]
    fixed, _ = trained(runtime, [1], data, dataclasses.replace(recipe, lr=0.03))
    learned, _ = trained(runtime, [1], data, dataclasses.replace(recipe, lr=None), lr=0.03)
    own, _ = trained(runtime, [1], data, dataclasses.replace(recipe, lr=0.03), lr=9.0)
    same(fixed.parameters, learned.parameters, 0)
    same(fixed.parameters, own.parameters, 0)
    with pytest.raises(ValueError, match="learned step size"):
        Training(Ensemble(small(), [1], runtime), data, dataclasses.replace(recipe, lr=None), STRATEGY)


def test_an_epoch_shows_every_image_once(data):
    shown = []
    watched = TrainingSet(lambda i: (shown.append(i.clone()), data.gather(i))[1], data.labels, data.image_shape)
    trained(BATCHED, [5], watched, Recipe(epochs=2, batch=BATCH, augment="none"))
    assert sorted(torch.cat(shown[:3]).tolist()) == sorted(torch.cat(shown[3:]).tolist()) == list(range(IMAGES))
    assert torch.cat(shown[:3]).tolist() != torch.cat(shown[3:]).tolist()


@pytest.mark.parametrize("augmentation", ["dsa", "diffaug"])
def test_the_recipe_names_the_operations_or_the_data_set_does(data, augmentation, monkeypatch):
    used = []
    module = {"dsa": dsa, "diffaug": diffaug}[augmentation]
    sample = module.sample
    monkeypatch.setattr(module, "sample", lambda strategy, *a, **k: used.append(strategy) or sample(strategy, *a, **k))
    trained(LOOP, [1], data, Recipe(steps=1, augment=augmentation))
    trained(LOOP, [1], data, Recipe(steps=1, augment=augmentation, strategy="crop"))
    assert used == [STRATEGY, "crop"]


def test_accuracies_are_fractions_of_right_answers(data):
    ensemble = Ensemble(small(), [1, 2], BATCHED)
    big = torch.randn(2500, 2, 8, 8)
    labels = torch.randint(0, CLASSES, (2500,))
    for index, accuracy in enumerate(accuracies(ensemble, TrainingSet.of(big, labels))):
        answers = torch.func.functional_call(small(), ensemble.member(index), (big,)).argmax(1)
        assert accuracy == pytest.approx((answers == labels).float().mean().item(), abs=1e-7)


@pytest.mark.parametrize("strategy", ["none", STRATEGY])
def test_the_inner_loop_is_plain_sgd(data, strategy):
    images, labels = data.gather(torch.arange(IMAGES)), data.labels
    one, two = (networks.initialise_(small(), torch.Generator().manual_seed(4)) for _ in range(2))
    first_order = partial(loss_and_gradients, small(), half=False)
    train_epochs(one, first_order, images, labels, 3, torch.Generator().manual_seed(9), 0.05, BATCH, strategy)
    generator = torch.Generator().manual_seed(9)
    sgd = torch.optim.SGD(two.parameters(), lr=0.05)
    for _ in range(3):
        for indices in torch.randperm(IMAGES, generator=generator).split(BATCH):
            batch = images[indices]
            if strategy != "none":
                batch = augment.apply(batch, dsa.sample(strategy, 1, len(indices), (8, 8), generator))
            sgd.zero_grad()
            F.cross_entropy(two(batch), labels[indices]).backward()
            sgd.step()
    same(dict(one.named_parameters()), dict(two.named_parameters()), 1e-6)
