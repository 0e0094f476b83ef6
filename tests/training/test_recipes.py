"""Recipe arithmetic: lengths, scaled floors, learning-rate curves."""

import pytest

from benchmark.training.recipes import MINIMUM_STEPS, Recipe, unified


@pytest.mark.parametrize(
    ("ipc", "steps"), [(1, 10_000), (9, 10_000), (10, 20_000), (49, 20_000), (50, 30_000), (200, 30_000), (0, 60_000)]
)
def test_unified_steps_depend_on_the_budget_alone(ipc, steps):
    recipe = unified(ipc)
    assert recipe.total_steps(10) == recipe.total_steps(50_000) == steps
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch) == (0.01, 0.9, 5e-4, 256)
    assert (recipe.decay, recipe.augment, recipe.strategy, recipe.cutmix) == ("cosine", "dsa", "", 0.0)


@pytest.mark.parametrize(("images", "each"), [(1, 1), (256, 1), (257, 2), (512, 2), (513, 3)])
def test_epochs_count_partial_batches(images, each):
    assert Recipe(epochs=3).steps_per_epoch(images) == each
    assert Recipe(epochs=3).total_steps(images) == 3 * each
    assert Recipe(epochs=3, decay="halfway").total_steps(images) == 4 * each  # the authors' loop runs E + 1 epochs


def test_either_steps_or_epochs():
    for lengths in ({}, {"steps": 5, "epochs": 5}):
        with pytest.raises(ValueError, match="either steps or epochs"):
            Recipe(**lengths)
    with pytest.raises(ValueError, match="counts epochs"):
        Recipe(steps=5, decay="halfway")


@pytest.mark.parametrize(
    ("steps", "factor", "expected"),
    [(10_000, 1.0, 10_000), (10_000, 0.5, 5_000), (10_000, 0.05, 500), (10_000, 0.01, 500), (10_000, 0.0, 500),
     (300, 0.0, 300), (300, 0.5, 300), (500, 0.1, 500), (60_000, 0.0, 500)],
)  # fmt: skip
def test_scaled_steps_have_a_floor(steps, factor, expected):
    assert Recipe(steps=steps).scaled(factor, 10).steps == expected


@pytest.mark.parametrize(
    ("epochs", "factor", "images", "expected"),
    [(1000, 1.0, 10, 1000),  # untouched
     (1000, 0.6, 10, 600),
     (1000, 0.1, 10, 500),  # one step an epoch: 500 steps
     (1000, 0.0, 512, 250),  # two steps an epoch
     (1000, 0.0, 513, 167),  # three: 501 steps, not 498
     (300, 0.0, 10, 300),  # never longer than the full length
     (300, 0.0, 50_000, 3)],  # 196 steps an epoch
)  # fmt: skip
def test_scaled_epochs_have_a_floor(epochs, factor, images, expected):
    scaled = Recipe(epochs=epochs).scaled(factor, images)
    assert scaled.epochs == expected
    assert factor == 1 or scaled.total_steps(images) >= min(MINIMUM_STEPS, Recipe(epochs=epochs).total_steps(images))


def test_scaling_changes_nothing_else():
    recipe = Recipe(epochs=1000, decay="halfway", lr=None, cutmix=0.5, augment="diffaug", strategy="color", batch=64)
    assert recipe.scaled(0.6, 100) == Recipe(
        epochs=600, decay="halfway", lr=None, cutmix=0.5, augment="diffaug", strategy="color", batch=64
    )


def test_halfway_drops_behind_epoch_index_half_plus_one():
    recipe = Recipe(epochs=10, decay="halfway", batch=4)
    factors = [recipe.lr_factor(step, 8) for step in range(recipe.total_steps(8))]
    # 11 epochs of 2 steps; epochs 0 .. 6 at the full rate, 7 .. 10 at a tenth.
    assert factors == [1.0] * 14 + [0.1] * 8
    assert recipe.momentum_reset(8) == 14


def test_multistep_at_two_thirds_and_five_sixths():
    recipe = Recipe(epochs=6, decay="multistep", batch=4)
    factors = [recipe.lr_factor(step, 8) for step in range(12)]
    assert factors == pytest.approx([1.0] * 8 + [0.2] * 2 + [0.04] * 2)
    assert recipe.momentum_reset(8) is None


def test_cosine_starts_at_one_and_would_end_at_zero():
    recipe = Recipe(steps=8)
    factors = [recipe.lr_factor(step, 8) for step in range(9)]
    assert factors[0] == 1
    assert factors[4] == pytest.approx(0.5)
    assert factors[8] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


def test_constant_is_constant():
    assert {Recipe(steps=9, decay="constant").lr_factor(step, 4) for step in range(9)} == {1.0}
