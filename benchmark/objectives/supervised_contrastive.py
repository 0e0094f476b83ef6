"""Supervised contrastive loss: embeddings of one class together, of different classes apart (Khosla et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised_contrastive(embeddings_ND: Tensor, labels_N: Tensor, temperature: float) -> Tensor:
    """mean_i -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / tau) / sum_{a != i} exp(z_i z_a / tau) ).

    z are the embeddings scaled to length 1, P(i) the other samples of i's class; samples that are alone in their class
    are left out of the mean. Equation 2 of "Supervised Contrastive Learning", NeurIPS 2020.
    """
    z_ND = F.normalize(embeddings_ND, dim=1)
    itself = torch.eye(len(z_ND), dtype=torch.bool, device=z_ND.device)
    similarity_NN = (z_ND @ z_ND.T / temperature).masked_fill(itself, -torch.inf)
    log_share_NN = similarity_NN - similarity_NN.logsumexp(1, keepdim=True)
    positive_NN = (labels_N[:, None] == labels_N) & ~itself
    count_N = positive_NN.sum(1)
    per_sample_N = -log_share_NN.masked_fill(~positive_NN, 0).sum(1) / count_N.clamp(min=1)
    return per_sample_N.sum() / (count_N > 0).sum().clamp(min=1)
