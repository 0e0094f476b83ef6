"""K-Means: a reference row. The real images nearest to the centres of k-means in the embedding of their class.

Paper      start: Arthur, Vassilvitskii, "k-means++", SODA 2007; as a coreset of condensation: Cui, Wang, Si, Hsieh,
           "DC-BENCH", NeurIPS 2022, whose selection code is not public
Rule       per class, k-means with IPC clusters; for every centre the nearest image that is not taken yet, centres of
           large clusters first. At IPC 1 that is the image nearest to the class mean
Settings   embedding as for herding; one k-means++ start, at most 50 Lloyd steps (our choice)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmark.condensation.embeddings import trained_embedding
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels
from methods.herding import Herding, HerdingHyper


@dataclass(frozen=True)
class KMeansHyper(HerdingHyper):
    lloyd_steps: int = 50
    """The most steps that k-means takes."""


def nearest_to_centres(features_ND: Tensor, count: int, steps: int, seed: int) -> Tensor:
    """Return positions [count], within one class, of the images nearest to the centres of its clusters, large clusters
    first."""
    features = features_ND.double()  # so that sums in another order change no choice
    clusters = KMeans(count, n_init=1, max_iter=steps, random_state=seed).fit(features.cpu().numpy())
    sizes = torch.as_tensor(clusters.labels_).bincount(minlength=count)
    distances = torch.cdist(torch.as_tensor(clusters.cluster_centers_).to(features), features)
    order: list[Tensor] = []
    for cluster in sizes.argsort(descending=True, stable=True).tolist():
        order.append(distances[cluster].argmin())
        distances[:, order[-1]] = torch.inf  # taken
    return torch.stack(order)


class KMeansEmbedding(Herding):
    """Real images nearest to the centres of their class's clusters in embedding space."""

    name, title, paper, category = "kmeans-emb", "K-Means", "Cui et al., NeurIPS 2022", "reference"
    Hyper = KMeansHyper

    def condense(self, task: Task, run: Run) -> Container:
        task.require_class_size(task.ipc)
        features_ND = trained_embedding(task, run, self.hyper.feature_steps)
        picks = []
        for indices in task.train.class_indices:
            seed = int(torch.randint(2**31, (), generator=task.generator, device=task.device))
            picks.append(indices[nearest_to_centres(features_ND[indices], task.ipc, self.hyper.lloyd_steps, seed)])
        chosen = torch.stack(picks)
        run.note("indices", chosen.tolist())
        return Pixels.of(task.gather(chosen))
