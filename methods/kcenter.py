"""K-Center: a reference row. Images that cover their class: no image far from a chosen one.

Paper      Sener, Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018
Rule       per class, start with the image nearest to the class mean, then add the image farthest from its nearest
           chosen one (greedy 2-approximation)
Settings   embedding as for herding (our choice; none of the compared repositories contains greedy K-Center)
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.herding import Herding


def cover(features_ND: Tensor, count: int) -> Tensor:
    """Return positions [count] of the greedy k-center order within one class."""
    order = [(features_ND - features_ND.mean(0)).norm(dim=1).argmin()]
    nearest = (features_ND - features_ND[order[0]]).norm(dim=1)
    for _ in range(count - 1):
        nearest[order[-1]] = -1.0  # never again, even among duplicates
        order.append(nearest.argmax())
        nearest = torch.minimum(nearest, (features_ND - features_ND[order[-1]]).norm(dim=1))
    return torch.stack(order)


class KCenter(Herding):
    """Real images that cover their class in embedding space."""

    name, title, paper, category = "kcenter", "K-Center", "Sener & Savarese, ICLR 2018", "reference"
    select = staticmethod(cover)
