"""FYI: every loss sees the condensed images and their mirror images. Here on DM, DSA and IDC.

Paper      Son, Oh, Baek, Ham, "FYI: Flip Your Images for Dataset Distillation", ECCV 2024, arXiv 2407.08113
Code       cvlab-yonsei/FYI (GPL-3.0: written from the paper's formula, nothing of it is used)
Loss       the host's, on A = S u flip(S): the chosen images of a class and their mirror images, under one transform
Settings   the host's
Storage    the host's: a mirror image stores nothing. Networks are evaluated on S alone, as the authors do
Deviations none known; their MTT variant is not here. Refused where mirroring changes what an image shows (digits)
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from benchmark.condensation.cost import LoopCost
from benchmark.condensation.loop import Loop
from benchmark.condensation.run import Run
from benchmark.condensation.task import SYNTHETIC_AT_MOST, Task
from benchmark.containers import Container
from benchmark.data import DatasetSpec
from benchmark.system.errors import CellError
from methods.dm import DM, DMLoop
from methods.dsa import DSA, DSALoop
from methods.idc import IDC, IDCLoop


class NotMirrored(CellError):
    """A data set whose images show something else in the mirror."""

    reason = "no mirror images"


class MirroredTask(Task):
    """A task in which every synthetic image comes with its mirror image."""

    @classmethod
    def of(cls, task: Task) -> MirroredTask:
        return cls(**{field.name: getattr(task, field.name) for field in fields(Task)})

    def synthetic(
        self, container: Container, at_most: int = SYNTHETIC_AT_MOST, classes_K: Tensor | None = None
    ) -> Tensor:
        """Return images [K, 2 M, C, H, W]: those that the host takes, then the same ones mirrored."""
        images = super().synthetic(container, at_most, classes_K)
        return torch.cat([images, images.flip(-1)], dim=1)

    def synthetic_set(self, container: Container) -> tuple[Tensor, Tensor]:
        images, labels = super().synthetic_set(container)
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])


class _Mirrored(Loop):
    """Mirrors the synthetic images of a host's loop. It stands before the host's loop among the base classes."""

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        if not spec.flip:
            raise NotMirrored(f"{spec.title}: a mirrored image shows something else; run the method without FYI")
        return super().cost(spec, 2 * per_class, variants)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        super().move(container, optimiser, MirroredTask.of(task), run)


class FYIDMLoop(_Mirrored, DMLoop):
    """DM's loop, with mirror images."""


class FYIDSALoop(_Mirrored, DSALoop):
    """DSA's loop, with mirror images."""


class FYIIDCLoop(_Mirrored, IDCLoop):
    """IDC's loop, with mirror images."""


class FYIDM(DM):
    """DM with mirror images in the loss."""

    name, title, paper, category = "fyi-dm", "DM+FYI", "Son et al., ECCV 2024", "variant"
    Loop = FYIDMLoop


class FYIDSA(DSA):
    """DSA with mirror images in the loss and in network training."""

    name, title, paper, category = "fyi-dsa", "DSA+FYI", "Son et al., ECCV 2024", "variant"
    Loop = FYIDSALoop


class FYIIDC(IDC):
    """IDC with mirror images in the loss."""

    name, title, paper, category, container_row = "fyi-idc", "IDC+FYI", "Son et al., ECCV 2024", "variant", ""
    Loop = FYIIDCLoop
