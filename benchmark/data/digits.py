"""The 8x8 digits that scikit-learn carries: the embedded data set, which needs no download."""

import torch

from benchmark.data.dataset import (
    TEST_FRACTION,
    TEST_SEED,
    Dataset,
    DatasetSpec,
    assemble,
    stratified_indices,
)

SPEC = DatasetSpec(
    name="digits",
    title="Digits 8x8",
    channels=1,
    height=8,
    width=8,
    classes=10,
    flip=False,
    published="digits",
    default_ipc=(1, 10),
    train_images=1438,
    test_images=359,
)


def load() -> Dataset:
    """Return 1,797 images, grey levels 0..16 spread over 0..255, divided 1,438 / 359 by a fixed stratified draw."""
    # Here, not above: scikit-learn takes a second to import, and a spec does without it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = stratified_indices(labels, TEST_FRACTION, TEST_SEED)
    return assemble(
        SPEC,
        (images[train], labels[train]),
        (images[test], labels[test]),
        class_names=tuple(str(name) for name in bunch.target_names),
        where="scikit-learn",
    )
