"""Augmentation: parameters are drawn from an explicit generator, then applied by a pure function."""

from benchmark.augment import cutmix, diffaug, dsa
from benchmark.augment.params import Params, apply

__all__ = ["Params", "apply", "cutmix", "diffaug", "dsa"]
