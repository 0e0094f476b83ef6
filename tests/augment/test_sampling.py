"""What is drawn: ranges, frequencies and composition of DSA and IDC's DiffAug."""

from math import pi

import pytest
import torch

from benchmark.augment import Params, apply, diffaug, dsa

ROWS = 20_000
FULL = dsa.strategy_for(flip=True)


def active(params):
    """Which operations change something, per row, read from the parameters alone."""
    affine = params.affine
    off_diagonal = affine[:, 0, 1] != 0
    return {
        "color": (params.colour != torch.tensor([0.0, 1.0, 1.0])).any(1),
        "crop": (affine[:, :, 2] != 0).any(1),
        "cutout": params.box[:, 0] < params.box[:, 1],
        "flip": torch.det(affine[:, :, :2]) < 0,
        "scale": ~off_diagonal & ((affine[:, 0, 0].abs() != 1) | (affine[:, 1, 1] != 1)),
        "rotate": off_diagonal,
    }


def uniform(values, low, high):
    """Within [low, high], reaching both ends, with the mean and the spread of a uniform distribution."""
    width = high - low
    assert low <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.02 * width
    assert abs(values.std() - width / 12**0.5) < 0.02 * width


def uniform_integers(values, low, high):
    counts = torch.bincount(values.long() - low, minlength=high - low + 1)
    assert values.min() >= low and len(counts) == high - low + 1
    expected = len(values) / len(counts)
    assert (counts - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("sampler", ["dsa", "diffaug"])
class TestRanges:
    """Each operation alone: the ranges of docs/methods.md 1.3, the same in both semantics."""

    @staticmethod
    def draw(sampler, strategy, size, generator):
        if sampler == "dsa":
            return dsa.sample(strategy, 1, ROWS, size, generator)
        return diffaug.sample(strategy, ROWS, size, generator)

    def test_color(self, sampler, generator):
        params = self.draw(sampler, "color", (32, 32), generator)
        for column, (low, high) in enumerate([(-0.5, 0.5), (0, 2), (0.5, 1.5)]):
            uniform(params.colour[:, column], low, high)
        assert torch.corrcoef(params.colour.T).fill_diagonal_(0).abs().max() < 0.03
        assert not params.warped.any() and not params.box.any()

    @pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (64, 64), (12, 64)], ids=str)
    def test_crop(self, sampler, size, generator):
        params = self.draw(sampler, "crop", size, generator)
        for row, side in [(1, size[0]), (0, size[1])]:
            reach = {8: 1, 12: 2, 28: 4, 32: 4, 64: 8}[side]
            uniform_integers(params.affine[:, row, 2], -reach, reach)
        assert torch.equal(params.affine[:, :, :2], torch.eye(2).expand(ROWS, 2, 2))

    @pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (10, 32), (9, 9)], ids=str)
    def test_cutout(self, sampler, size, generator):
        params = self.draw(sampler, "cutout", size, generator)
        for start, side in [(0, size[0]), (2, size[1])]:
            length = {8: 4, 9: 5, 10: 5, 28: 14, 32: 16}[side]
            low, high = params.box[:, start], params.box[:, start + 1]
            assert (high - low == length).all()
            uniform_integers(low + length // 2, 0, side if length % 2 == 0 else side - 1)

    def test_flip(self, sampler, generator):
        params = self.draw(sampler, "flip", (8, 8), generator)
        flipped = active(params)["flip"]
        assert abs(flipped.float().mean() - 0.5) < 0.02
        assert torch.equal(flipped, params.warped)
        images = torch.randn(ROWS, 1, 2, 3, generator=generator)
        expected = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
        torch.testing.assert_close(apply(images, params), expected, rtol=0, atol=1e-5)

    def test_scale(self, sampler, generator):
        affine = self.draw(sampler, "scale", (8, 8), generator).affine
        for axis in (0, 1):
            uniform(affine[:, axis, axis], 1 / 1.2, 1.2)
        assert abs(torch.corrcoef(torch.stack([affine[:, 0, 0], affine[:, 1, 1]]))[0, 1]) < 0.03

    def test_rotate(self, sampler, generator):
        affine = self.draw(sampler, "rotate", (8, 8), generator).affine
        angle = torch.atan2(affine[:, 1, 0], affine[:, 0, 0])
        uniform(angle, -15 * pi / 180, 15 * pi / 180)
        expected = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
        torch.testing.assert_close(affine[:, :, :2], expected)


def test_dsa_draws_exactly_one_group_per_call(generator):
    calls, rows = 3_000, 8
    params = dsa.sample(FULL, calls, rows, (32, 32), generator)
    assert len(params) == calls * rows
    # A crop by nothing and an unflipped image change nothing, hence "any row of the call".
    groups = torch.stack([mask.view(calls, rows).any(1) for mask in active(params).values()], 1)
    assert (groups.sum(1) <= 1).all()
    shares = groups.float().mean(0)
    assert (shares - 1 / 6).abs().max() < 0.03
    inert = ~groups.any(1)
    assert inert.float().mean() < 0.01


def test_dsa_rows_of_a_call_differ_and_calls_differ(generator):
    params = dsa.sample("color", 4, 5, (8, 8), generator)
    assert len(params.colour.unique(dim=0)) == 20


def test_siamese_draw_is_one_row_per_class(generator):
    class_of_image = torch.tensor([2, 0, 0, 1, 2, 2])
    params = dsa.sample("color_cutout_rotate", 3, 1, (8, 8), generator)
    images = torch.randn(1, 3, 8, 8, generator=generator).expand(6, -1, -1, -1)
    output = apply(images, params.take(class_of_image))
    for image, klass in zip(output, class_of_image):
        assert torch.equal(image, output[class_of_image == klass][0])
    assert not torch.equal(output[0], output[1])


def test_digits_strategy_has_no_flip(generator):
    assert dsa.strategy_for(flip=False) == "color_crop_cutout_scale_rotate"
    assert not active(dsa.sample(dsa.strategy_for(flip=False), 5_000, 1, (8, 8), generator))["flip"].any()
    assert active(dsa.sample(FULL, 5_000, 1, (8, 8), generator))["flip"].any()


def test_diffaug_always_does_flip_color_cutout_and_draws_one_of_the_rest(generator):
    calls, rows = 2_000, 6
    params = diffaug.sample(FULL, rows, (32, 32), generator, calls=calls)
    masks = {name: mask.view(calls, rows) for name, mask in active(params).items()}
    assert masks["color"].all() and masks["cutout"].all()
    assert abs(masks["flip"].float().mean() - 0.5) < 0.02
    drawn = torch.stack([masks[name].any(1) for name in ("crop", "scale", "rotate")], 1)
    assert (drawn.sum(1) == 1).all()
    assert (drawn.float().mean(0) - 1 / 3).abs().max() < 0.04


def test_diffaug_shared_is_one_row(generator):
    assert len(diffaug.sample(FULL, 64, (8, 8), generator, shared=True)) == 1
    assert len(diffaug.sample(FULL, 64, (8, 8), generator)) == 64
    assert len(diffaug.sample(FULL, 64, (8, 8), generator, shared=True, calls=10)) == 10


@pytest.mark.parametrize("operation", ["crop", "scale", "rotate"])
def test_diffaug_flips_before_the_drawn_operation(operation, generator):
    images = torch.randn(200, 2, 16, 16, generator=generator, dtype=torch.float64)
    alone = diffaug.sample(operation, 200, (16, 16), generator.manual_seed(1))
    both = diffaug.sample(f"flip_{operation}", 200, (16, 16), generator.manual_seed(1))
    flipped = active(both)["flip"]
    assert 50 < flipped.sum() < 150
    mirrored = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    torch.testing.assert_close(apply(images, both), apply(mirrored, alone))


def test_diffaug_without_drawn_operations(generator):
    params = diffaug.sample("color_cutout", 50, (8, 8), generator)
    assert not params.warped.any() and active(params)["color"].all()


@pytest.mark.parametrize("strategy", ["", "none"])
def test_empty_strategies_are_the_identity(strategy, generator):
    images = torch.randn(6, 3, 8, 8)
    for params in (
        dsa.sample(strategy, 2, 3, (8, 8), generator),
        diffaug.sample(strategy, 6, (8, 8), generator),
    ):
        assert len(params) == 6
        assert torch.equal(apply(images, params), images)


def test_bad_strategies_are_refused(generator):
    for sample in (
        lambda s: dsa.sample(s, 1, 1, (8, 8), generator),
        lambda s: diffaug.sample(s, 1, (8, 8), generator),
    ):
        with pytest.raises(ValueError, match="unknown augmentation 'colour'.*did you mean color"):
            sample("crop_colour")
        with pytest.raises(ValueError, match="twice"):
            sample("crop_color_crop")


def test_only_the_generator_decides(generator):
    first, state = dsa.sample(FULL, 20, 3, (8, 8), generator), torch.get_rng_state()
    second = dsa.sample(FULL, 20, 3, (8, 8), generator)
    again = dsa.sample(FULL, 20, 3, (8, 8), generator.manual_seed(0))
    diffaug.sample(FULL, 20, (8, 8), generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.colour, again.colour) and torch.equal(first.affine, again.affine)
    assert not torch.equal(first.affine, second.affine)


def test_params_move_and_report_their_length():
    params = Params.identity(4).to("meta")
    assert len(params) == 4
    assert {params.colour.device.type, params.affine.device.type, params.box.device.type} == {"meta"}
