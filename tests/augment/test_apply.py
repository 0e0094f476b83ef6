"""The fused pass: golden vectors, and thousands of random rows against one image, one operation at a time."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from benchmark.augment import Params, apply, diffaug, dsa, operations

FULL = dsa.strategy_for(flip=True)


# The plain reference, written from docs/methods.md 1.3 and 1.4 for one image (C, H, W) and the numbers of one row.


def plain_colour(image, add, saturation, contrast):
    image = image + add
    grey = image.mean(0)
    image = torch.stack([(channel - grey) * saturation + grey for channel in image])
    return (image - image.mean()) * contrast + image.mean()


def plain_crop(image, shift_x, shift_y):
    rows, columns = image.shape[1:]
    out = torch.zeros_like(image)
    for y in range(max(0, -shift_y), min(rows, rows - shift_y)):
        left, right = max(0, -shift_x), min(columns, columns - shift_x)
        out[:, y, left:right] = image[:, y + shift_y, left + shift_x : right + shift_x]
    return out


def plain_resample(image, linear, align_corners):
    matrix = torch.cat([linear, torch.zeros(2, 1)], 1).to(image.dtype)[None]
    grid = F.affine_grid(matrix, [1, *image.shape], align_corners=align_corners)
    return F.grid_sample(image[None], grid, padding_mode="zeros", align_corners=align_corners)[0]


def plain_cutout(image, box):
    rows, columns = image.shape[1:]
    top, bottom, left, right = box
    image = image.clone()
    image[:, max(top, 0) : min(bottom, rows), max(left, 0) : min(right, columns)] = 0
    return image


def plain(image, params, row, align_corners):
    """Flip, colour, one geometric operation, cut-out: IDC's order, of which DSA's is a special case."""
    affine = params.affine[row].clone()
    if torch.det(affine[:, :2]) < 0:
        image = image.flip(2)
        affine[0] = -affine[0]
    if params.colour[row].tolist() != [0, 1, 1]:
        image = plain_colour(image, *params.colour[row].tolist())
    if affine[:, 2].any():
        image = plain_crop(image, *affine[:, 2].int().tolist())
    elif not torch.equal(affine[:, :2], torch.eye(2)):
        image = plain_resample(image, affine[:, :2], align_corners)
    return plain_cutout(image, params.box[row].tolist())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (2, 9, 7), (3, 6, 12)], ids=str)
@pytest.mark.parametrize("semantics", ["dsa", "dsa one call", "diffaug"])
def test_fused_pass_equals_the_plain_sequence(semantics, shape, align_corners, generator):
    count, size = 300, shape[1:]
    params = {
        "dsa": lambda: dsa.sample(FULL, count, 1, size, generator),
        "dsa one call": lambda: dsa.sample(FULL, 6, count // 6, size, generator),
        "diffaug": lambda: diffaug.sample(FULL, 1, size, generator, calls=count),
    }[semantics]()
    images = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    expected = torch.stack([plain(image, params, row, align_corners) for row, image in enumerate(images)])
    torch.testing.assert_close(apply(images, params, align_corners), expected, rtol=1e-6, atol=1e-6)
    single = apply(images.float(), params, align_corners)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-4)


def _golden_params(operation, vectors, size):
    def value(name):
        return vectors[name].view(1)

    row = Params.identity(1)
    colour, affine = row.colour.clone(), operations.affine
    if operation in ("brightness", "saturation", "contrast"):
        column = ("brightness", "saturation", "contrast").index(operation)
        colour[0, column] = vectors["add" if operation == "brightness" else "factor"]
        return replace(row, colour=colour)
    if operation == "cutout":
        return replace(row, box=operations.box_around(value("centre_row"), value("centre_col"), size))
    matrix = {
        "crop": lambda: affine(shift_x=value("shift_cols").float(), shift_y=value("shift_rows").float()),
        "flip": lambda: affine(xx=1 - 2 * value("flipped").float()),
        "scale": lambda: affine(xx=value("sx"), yy=value("sy")),
        "rotate": lambda: operations.rotation(value("angle_rad")),
    }[operation]()
    return replace(row, affine=matrix)


@pytest.mark.parametrize(
    "operation", ["brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"]
)
def test_golden(operation, golden):
    vectors = golden(f"dsa_{operation}")
    images = vectors["images"]
    output = apply(images, _golden_params(operation, vectors, images.shape[2:]))
    assert (output - vectors["output"]).norm() / vectors["output"].norm() < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
def test_what_a_row_leaves_alone_is_bit_identical(align_corners, generator):
    images = torch.randn(600, 3, 8, 8, generator=generator) * 1e3
    params = dsa.sample(FULL, 600, 1, (8, 8), generator)
    output = apply(images, params, align_corners)
    boxed = params.box[:, 0] < params.box[:, 1]
    coloured = (params.colour != torch.tensor([0.0, 1.0, 1.0])).any(1)
    alone = ~(coloured | params.warped | boxed)
    assert 20 < alone.sum() < 80  # mirrored or not: half of one sixth
    assert torch.equal(output[alone], images[alone])
    cut = output[boxed]
    assert torch.equal(cut[cut != 0], images[boxed][cut != 0])
    assert torch.equal(apply(images, Params.identity(1), align_corners), images)


def test_one_row_serves_any_batch(generator):
    images = torch.randn(5, 3, 8, 8, generator=generator)
    for _ in range(20):
        params = dsa.sample(FULL, 1, 1, (8, 8), generator)
        together = apply(images, params)
        alone = torch.cat([apply(image[None], params) for image in images])
        spelled_out = apply(images, params.take(torch.zeros(5, dtype=torch.int64)))
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(together, spelled_out, rtol=0, atol=1e-6)


def test_rows_must_match_the_batch(generator):
    with pytest.raises(ValueError, match="2 rows .* 3 images"):
        apply(torch.zeros(3, 1, 8, 8), dsa.sample(FULL, 2, 1, (8, 8), generator))


def test_gradient_flows_and_is_the_right_one(generator):
    images = torch.randn(12, 2, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    params = diffaug.sample(FULL, 1, (6, 5), generator, calls=12)
    assert torch.autograd.gradcheck(lambda x: apply(x, params), images)
    (gradient,) = torch.autograd.grad(apply(images, params).sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_input_is_not_written_to(generator):
    images = torch.randn(30, 3, 8, 8, generator=generator)
    before = images.clone()
    apply(images, diffaug.sample(FULL, 1, (8, 8), generator, calls=30))
    assert torch.equal(images, before)


def test_half_precision_images_are_sampled_at_full_precision(generator):
    images = torch.randn(60, 3, 8, 8, generator=generator).bfloat16()
    params = dsa.sample(FULL, 60, 1, (8, 8), generator)
    output = apply(images, params)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), apply(images.float(), params), rtol=1e-2, atol=1e-6)


def test_compiles_as_one_graph(generator):
    images = torch.randn(6, 3, 8, 8, generator=generator)
    params = diffaug.sample(FULL, 6, (8, 8), generator)
    compiled = torch.compile(apply, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, params), apply(images, params))
