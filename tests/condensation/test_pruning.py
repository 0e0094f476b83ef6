"""Area under the margin, double-end pruning, and the search for beta."""

import pytest
import torch

from benchmark.condensation.pruning import (
    best_beta,
    double_end,
    logged_moments,
    margins,
    measure_aum,
    random_positions,
    search_beta,
)
from benchmark.condensation.run import Run
from benchmark.containers.pixels import Pixels
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble
from benchmark.training.training_set import training_set
from tests.methods import reference_hmn
from tests.toy_task import toy_task


def test_golden_aum(golden):
    vectors = golden("aum")
    moments = [margins(logits, vectors["labels"]) for logits in vectors["logits"]]
    torch.testing.assert_close(torch.stack(moments).mean(0), vectors["aum"], rtol=1e-6, atol=1e-6)


def test_margins_by_hand():
    """3 - 1, 1 - 5, 0 - 2 and 4 - 4."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [5.0, 1.0, 2.0], [0.0, -1.0, 2.0], [4.0, 4.0, -9.0]])
    assert margins(logits, torch.tensor([0, 1, 0, 1])).tolist() == [2.0, -4.0, -2.0, 0.0]


def test_the_margin_of_probabilities_is_of_softmax():
    logits = torch.randn(5, 4)
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = [reference_hmn.margins(row.softmax(0), int(y)) for row, y in zip(logits, labels, strict=True)]
    torch.testing.assert_close(margins(logits, labels, "prob"), torch.tensor(expected))
    assert margins(logits, labels, "prob").abs().max() < 1
    assert not torch.allclose(margins(logits, labels), margins(logits, labels, "prob"))


@pytest.mark.parametrize("tenths", range(11))
@pytest.mark.parametrize("drop", [1, 3, 7, 10, 29])
def test_double_end_against_loops(tenths, drop):
    aum = torch.randn(4, 40)
    kept = double_end(aum, drop, tenths)
    assert kept.tolist() == [reference_hmn.kept(row, drop, tenths) for row in aum.tolist()]
    assert kept.shape == (4, 40 - drop), "class balance"


def test_the_ends():
    """beta 0 drops the easiest alone, beta 1 the hardest alone."""
    aum = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    assert double_end(aum, 2, 0).tolist() == [[1, 3, 4], [0, 1, 2]]
    assert double_end(aum, 2, 10).tolist() == [[0, 2, 4], [2, 3, 4]]
    assert double_end(aum, 2, 5).tolist() == [[2, 3, 4], [1, 2, 3]]


def test_counts_are_exact_where_binary_floats_are_not():
    """0.3 * 10 is below 3 in floats nowhere here: floor(b K / 10) for every b and K."""
    aum = torch.arange(2000.0)[None]
    for drop in range(1, 1300, 7):
        for tenths in range(11):
            assert double_end(aum, drop, tenths)[0, 0] == (tenths * drop) // 10


def test_equal_margins_go_by_position():
    assert double_end(torch.zeros(1, 6), 3, 5).tolist() == [[1, 2, 3]]


def test_random_positions(generator):
    kept = random_positions(50, 9, 4, generator)
    assert kept.shape == (50, 5)
    assert (kept.diff(dim=1) > 0).all()
    assert kept.unique().tolist() == list(range(9))
    assert len({tuple(row) for row in kept.tolist()}) > 10, "classes draw their own"


def test_logged_moments():
    assert sorted(logged_moments(100, 4)) == [25, 50, 75, 100]
    assert sorted(logged_moments(3, 50)) == [1, 2, 3]
    moments = logged_moments(20_000, 50)
    assert len(moments) == 50
    assert max(moments) == 20_000


def test_the_smaller_beta_wins_a_tie():
    assert best_beta({0: [0.1], 5: [0.6, 0.8], 7: [0.7, 0.7], 10: [0.9, 0.4]}) == 5
    assert best_beta({10: [0.5], 0: [0.5]}) == 0


def condensed(task, per_class: int = 6):
    return Pixels.of(torch.randn(task.classes, per_class, *task.spec.image_shape, generator=task.generator))


def test_measured_aum_is_the_mean_margin_over_moments_and_nets():
    """Against margins taken one image at a time, without augmentation, from the networks as they are trained."""
    task = toy_task()
    images = training_set(condensed(task), task.train)
    history = []

    class Watched(Run):
        def loop(self, phase, steps, **state):
            for step in super().loop(phase, steps, **state):
                yield step
                if step + 1 in (2, 4):
                    history.append([self._logits(state["training"].ensemble, e) for e in range(2)])

        def _logits(self, ensemble: Ensemble, index: int):
            everything = torch.arange(len(images))
            return ensemble.logits(ensemble.member(index), images.gather(everything)).detach()

    actual = measure_aum(images, task, Watched(), Recipe(steps=4, batch=5), 2, 2, "logits", "margins")
    expected = torch.zeros(len(images))
    for moment in history:
        for logits_NK in moment:
            for i, label in enumerate(images.labels.tolist()):
                expected[i] += reference_hmn.margins(logits_NK[i], label) / 4
    torch.testing.assert_close(actual, expected.unflatten(0, (task.classes, -1)))


def test_search_scores_every_beta_on_the_held_out_images_alone():
    """Labels of the held-out split decide; the same seeds for every beta, so what drops nothing scores equal."""
    task = toy_task(counts=(9, 8, 10))
    fit, held_out = task.train.stratified(0.3, 0)
    images = training_set(condensed(task), fit)
    aum = torch.randn(task.classes, 6)
    recipe = Recipe(steps=3, batch=4)
    scores = search_beta(images, aum, 0, (0, 5, 10), held_out, task, Run(), recipe, 2, "beta")
    assert list(scores) == [0, 5, 10]
    assert scores[0] == scores[5] == scores[10], "nothing is dropped: three times the same training"
    assert all(len(values) == 2 for values in scores.values())
    grain = {round(k / len(held_out), 5) for k in range(len(held_out) + 1)}
    assert {round(value, 5) for values in scores.values() for value in values} <= grain


def test_search_trains_on_what_double_end_leaves():
    """Class 0 has one image that is right and two that are noise of huge margin or none: see what each beta shows."""
    task, seen = toy_task(), []
    images = training_set(condensed(task, 4), task.train)
    aum = torch.arange(4.0).expand(task.classes, 4)

    class Watched(Run):
        def loop(self, phase, steps, **state):
            seen.append((phase, state["training"].data))
            return super().loop(phase, steps, **state)

    search_beta(images, aum, 2, (0, 10), task.train, task, Watched(), Recipe(steps=1), 1, "beta")
    whole = images.gather(torch.arange(12)).unflatten(0, (3, 4))
    for (phase, data), part in zip(seen, (slice(0, 2), slice(2, 4)), strict=True):
        assert torch.equal(data.gather(torch.arange(6)), whole[:, part].flatten(0, 1)), phase
        assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
