"""Herding: a reference row. It picks images whose mean embedding follows the class mean.

Paper      Welling, "Herding dynamical weights to learn", ICML 2009; as a coreset in Rebuffi et al., iCaRL, CVPR 2017
Rule       per class, for t = 1..IPC take the unused x minimising | t * mean(phi) - sum of chosen phi - phi(x) |
Settings   phi: pooled features of a ConvNet trained on the training set by the unified recipe (our choice: the IDC
           repository uses block-3 features of a net trained with its own augmentation)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from benchmark.condensation.cost import Cost, Work
from benchmark.condensation.embeddings import trained_embedding
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Setting
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec


@dataclass(frozen=True)
class HerdingHyper:
    feature_steps: Annotated[int, Setting(scaled=True, quick=100)] = 20_000
    """Optimiser steps of the embedding network, batch 256 (about 100 epochs of CIFAR-10)."""


def herd(features_ND: Tensor, count: int) -> Tensor:
    """Return positions [count] of the herding order within one class."""
    mean_D = features_ND.mean(0)
    chosen = torch.zeros(len(features_ND), dtype=torch.bool, device=features_ND.device)
    sum_D, order = torch.zeros_like(mean_D), []
    for t in range(1, count + 1):
        distance = (t * mean_D - sum_D - features_ND).norm(dim=1).masked_fill(chosen, torch.inf)
        best = distance.argmin()
        chosen[best] = True
        sum_D = sum_D + features_ND[best]
        order.append(best)
    return torch.stack(order)


class Herding(Method):
    """Real images whose mean embedding follows the class mean."""

    name, title, paper, category = "herding", "Herding", "Welling, ICML 2009", "reference"
    Hyper = HerdingHyper
    select = staticmethod(herd)

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        return Cost(budget.floats, budget.ipc * spec.classes, before=Work(trained=self.hyper.feature_steps * 256))

    def condense(self, task: Task, run: Run) -> Container:
        task.require_class_size(task.ipc)
        features_ND = trained_embedding(task, run, self.hyper.feature_steps)
        picks = [indices[self.select(features_ND[indices], task.ipc)] for indices in task.train.class_indices]
        indices = torch.stack(picks)
        run.note("indices", indices.tolist())
        return Pixels.of(task.gather(indices))
