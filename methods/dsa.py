"""DSA: gradient matching under differentiable siamese augmentation.

Paper      Zhao, Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021
Code       VICO-UoE/DatasetCondensation (MIT)
Loss       as DC, on A_w(B_c) and A_w(S_c): one transform per class and step, the same for both batches
Settings   as DC, from random real images; network training and evaluation augmented, one group of operations a batch
Deviations as DC; one-image batches work (parameters are sampled once and shared)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods.dc import DC, DCHyper, DCLoop


@dataclass(frozen=True)
class DSAHyper(DCHyper):
    init: Literal["noise", "real"] = "real"


class DSALoop(DCLoop):
    """DC's loop under one random transform per class and step."""

    augments = True


class DSA(DC):
    """Gradient matching under one random transform per class, shared by real and synthetic images."""

    name, title, paper = "dsa", "DSA", "Zhao & Bilen, ICML 2021"
    Hyper, Loop = DSAHyper, DSALoop
