"""Gradient matching and distribution matching: golden vectors on every path, each distance by hand."""

import pytest
import torch
from torch.nn import functional as F

from benchmark.objectives import value_and_grad
from benchmark.objectives.distribution_matching import distribution_matching
from benchmark.objectives.feature_alignment import FeatureAlignment
from benchmark.objectives.gradient_matching import (
    DISTANCES,
    GradientMatching,
    cosine_distance,
    row_cosine_distance,
    squared_distance,
)
from benchmark.training.passes import EAGER, Passes

BATCHED = Passes(batched=True)

PATHS = pytest.mark.parametrize("batched", [False, True], ids=["loop", "vmap"])


def close(actual, expected, relative=1e-4):
    """Relative to the largest entry: a gradient's small entries carry the rounding of its large ones."""
    torch.testing.assert_close(actual, expected, rtol=relative, atol=relative * expected.abs().max().item())


@PATHS
@pytest.mark.parametrize("chunk", [1, 2, 3, None], ids=["1", "2", "3", "all"])
def test_golden_gradient_matching(golden, golden_convnet, batched, chunk):
    vectors = golden("gradient_matching_dc")
    real, synthetic = vectors["real"], vectors["syn"]
    network, passes = golden_convnet(vectors), Passes(batched=batched)
    loss, gradient = value_and_grad(GradientMatching("dc"), network, real, synthetic, chunk or len(real), passes=passes)
    close(loss, vectors["loss"].reshape(()))
    close(gradient, vectors["grad_syn"].reshape(gradient.shape))


@PATHS
def test_golden_gradient_matching_of_each_class(golden, golden_convnet, batched):
    vectors = golden("gradient_matching_dc")
    network, objective, passes = golden_convnet(vectors), GradientMatching("dc"), Passes(batched=batched)
    for c, expected in enumerate(vectors["loss_per_class"]):
        one = slice(c, c + 1)
        loss = objective(network, vectors["real"][one], vectors["syn"][one], torch.tensor([c]), passes)
        close(loss.detach(), expected)


@pytest.mark.parametrize("chunk", [1, None], ids=["1", "all"])
def test_golden_distribution_matching(golden, golden_convnet, chunk):
    vectors = golden("distribution_matching_dm")
    real, synthetic = vectors["real"], vectors["syn"]
    loss, gradient = value_and_grad(distribution_matching, golden_convnet(vectors), real, synthetic, chunk or len(real))
    close(loss, vectors["loss"].reshape(()))
    close(gradient, vectors["grad_syn"].reshape(gradient.shape))


@pytest.mark.parametrize("distance", list(DISTANCES))
def test_the_paths_agree_in_float64(golden, golden_convnet, distance):
    vectors = golden("gradient_matching_dc")
    network = golden_convnet(vectors).double()
    real, synthetic = vectors["real"].double(), vectors["syn"].double()
    results = [
        value_and_grad(GradientMatching(distance), network, real, synthetic, chunk, passes=Passes(batched=batched))[1]
        for batched in (False, True)
        for chunk in (1, len(real))
    ]
    for other in results[1:]:
        close(other, results[0], 1e-9)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("objective", "batched"),
    [
        (GradientMatching(), False),
        (GradientMatching("mse"), True),
        (GradientMatching("l1", matched="conv"), False),
        (FeatureAlignment(0.01), False),
        (FeatureAlignment(0.01), True),
        (distribution_matching, False),
    ],
    ids=["dc", "batched", "l1", "cafe", "cafe-batched", "dm"],
)
def test_a_microbatch_splits_real_batches_exactly(golden, golden_convnet, objective, batched, size):
    vectors = golden("gradient_matching_dc")
    network = golden_convnet(vectors).double()
    real, synthetic, seen = vectors["real"].double(), vectors["syn"].double(), []
    network.blocks[0].conv.register_forward_hook(lambda *_: seen.append(1))  # DM and CAFE never call the network
    whole = value_and_grad(objective, network, real, synthetic, 2, passes=Passes(batched=batched))
    calls = len(seen)
    parts = value_and_grad(objective, network, real, synthetic, 2, passes=Passes(microbatch=size, batched=batched))
    for part, all_at_once in zip(parts, whole, strict=True):
        close(part, all_at_once, 1e-9)
    assert calls
    if size < real.shape[1]:
        assert len(seen) - calls > calls, "the real images went through in one piece"


def test_objectives_leave_the_network_and_the_batches_alone(golden, golden_convnet):
    vectors = golden("gradient_matching_dc")
    network = golden_convnet(vectors)
    before = [p.detach().clone() for p in network.parameters()]
    synthetic = vectors["syn"].clone()
    for objective, passes in (
        (GradientMatching("dc"), EAGER),
        (GradientMatching("dc"), BATCHED),
        (distribution_matching, EAGER),
    ):
        value_and_grad(objective, network, vectors["real"], synthetic, 2, passes=passes)
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
    assert torch.equal(synthetic, vectors["syn"])
    assert synthetic.grad is None


def test_the_real_side_carries_no_gradient(golden, golden_convnet):
    vectors = golden("gradient_matching_dc")
    network, classes = golden_convnet(vectors), torch.arange(len(vectors["real"]))
    for objective, passes in (
        (GradientMatching("dc"), EAGER),
        (GradientMatching("mse"), BATCHED),
        (distribution_matching, EAGER),
    ):
        real = vectors["real"].clone().requires_grad_()
        loss = objective(network, real, vectors["syn"].clone().requires_grad_(), classes, passes)
        assert torch.autograd.grad(loss, real, allow_unused=True)[0] is None


@pytest.mark.parametrize("microbatch", [None, 2])
def test_the_real_side_of_a_batch_keeps_no_second_graph(golden, golden_convnet, microbatch, operations):
    """The norm's own backward pass is taken, which has no derivative; the synthetic side's is taken apart."""
    vectors = golden("gradient_matching_dc")
    network, real = golden_convnet(vectors), vectors["real"]
    with operations:
        GradientMatching("dc")(
            network, real, vectors["syn"], torch.arange(len(real)), Passes(batched=True, microbatch=microbatch)
        )
    passes = -(-real.shape[1] // (microbatch or real.shape[1]))
    assert operations.calls["native_group_norm_backward"] == passes * len(network.blocks)


def test_distribution_matching_is_a_sum_and_not_a_mean():
    class Identity(torch.nn.Module):
        def features(self, images):
            return images.flatten(1)

    # Class means (1, 2) and (3, 0) against (0, 0) and (3, 4): 1 + 4 + 16.
    real = torch.tensor([[[0.0, 2.0], [2.0, 2.0]], [[3.0, 1.0], [3.0, -1.0]]])[:, :, None, None]
    synthetic = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])[:, :, None, None]
    assert distribution_matching(Identity(), real, synthetic, torch.arange(2)).item() == pytest.approx(21)


# One convolution (2 rows of 4), one linear weight (2 rows of 2), one bias.
REAL = [torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]]]), torch.eye(2), torch.tensor([5.0, 7.0])]
OTHER = [
    torch.tensor([[[[4.0, 3.0], [0.0, 0.0]]], [[[-2.0, 0.0], [0.0, 0.0]]]]),
    torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
    torch.tensor([6.0, 7.0]),
]


def test_row_cosine_distance_by_hand():
    # Rows: 1 - 24/25, 1 - (-1), 1 - 1, 1 - 1/sqrt 2; the bias does not count.
    expected = 0.04 + 2 + 0 + (1 - 2**-0.5)
    assert row_cosine_distance(REAL, OTHER).item() == pytest.approx(expected, abs=1e-5)
    without_bias = row_cosine_distance(REAL[:2], OTHER[:2])
    assert row_cosine_distance(REAL, OTHER).item() == without_bias.item()


def test_the_epsilon_stands_inside_the_denominator():
    # |a||b| = 1e-6, so the cosine of parallel rows is one half; outside, or per norm, it would be another number.
    a, b = [torch.full((1, 1), 1e-3)], [torch.full((1, 1), 1e-3)]
    assert row_cosine_distance(a, b).item() == pytest.approx(0.5, abs=1e-5)
    zero = [torch.zeros(3, 2)]
    assert row_cosine_distance(zero, zero).item() == 3.0


def test_row_cosine_distance_has_a_finite_gradient_at_zero():
    synthetic = torch.zeros(2, 3, requires_grad=True)
    loss = row_cosine_distance([torch.ones(2, 3)], [synthetic * 1.0])
    assert torch.isfinite(torch.autograd.grad(loss, synthetic)[0]).all()


def test_squared_distance_by_hand():
    # Convolution 1 + 1 + 9, linear 1, bias 1: everything counts, nothing is averaged.
    assert squared_distance(REAL, OTHER).item() == pytest.approx(13)


def test_cosine_distance_by_hand():
    r, s = (torch.cat([t.flatten() for t in side]) for side in (REAL, OTHER))
    assert cosine_distance(REAL, OTHER).item() == pytest.approx(1 - F.cosine_similarity(r, s, dim=0).item(), abs=1e-6)
    assert cosine_distance([torch.tensor([1e-3])], [torch.tensor([1e-3])]).item() == pytest.approx(0.5, abs=1e-5)


def test_an_unknown_distance_is_refused():
    with pytest.raises(KeyError):
        GradientMatching("euclid")
