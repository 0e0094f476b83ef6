"""MTT: trajectory matching.

Paper      Cazenavette, Wang, Torralba, Efros, Zhu, "Dataset Distillation by Matching Training Trajectories", CVPR 2022
Code       GeorgeCazenavette/mtt-distillation (MIT)
Loss       | theta_N - theta*_{t+M} |^2 / | theta*_t - theta*_{t+M} |^2,  theta_N after N steps on S from theta*_t
Settings   5000 iterations, 100 experts, N, M, latest t and ZCA by cell, learned step size alpha, momentum 0.5
Deviations the gradient is exact with the graph of one step alive; the last iterate counts, not the best on test; alpha
           stays above 1e-6; experts hold only the epochs that are needed; CIFAR-100 has its own mean and std; a set of
           more than 128 images per class is seen 128 per class at a time; the whitening matrix, like mean and std, is
           not counted as stored floats; SVHN, MNIST and Fashion-MNIST schedules are FreD's
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from benchmark import augment
from benchmark.condensation.cost import LoopCost, Work
from benchmark.condensation.experts import Experts, ExpertTrajectories, expert_recipe
from benchmark.condensation.loop import Loop
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Setting
from benchmark.condensation.task import SYNTHETIC_AT_MOST, Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.objectives.trajectory_matching import StepSize, StepSizeParameter, inner_batches, trajectory_distance
from benchmark.training.recipes import Recipe

Decode = Callable[[int, Tensor | None], tuple[Tensor, Tensor]]
"""(student step, indices or None for all) -> (images as the container stores them, labels)."""


@dataclass(frozen=True)
class MTTHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=30)] = 5000
    syn_steps: Annotated[int, Setting(quick=10, at_least=1)] = 50
    """Student steps per iteration (N)."""
    expert_epochs: int = 2
    """Epochs between start and target on an expert's path (M)."""
    max_start_epoch: int = 5
    """A student starts at an epoch below this one."""
    lr_img: float = 1000.0
    mom_img: float = 0.5
    lr_lr: float = 1e-5
    """Learning rate of the step size alpha."""
    mom_lr: float = 0.5
    alpha0: float = 0.01
    alpha_param: StepSizeParameter = "plain"
    alpha_floor: float = 1e-6
    batch_syn: int = 0
    """Synthetic images per student step; 0 for all."""
    zca: bool = False
    """Whether networks see ZCA-whitened images and the pixels are stored whitened. Under another method's loop, images
    are seen and stored as that loop has them."""
    experts: Annotated[int, Setting(scaled=True, quick=2, at_least=1)] = 100
    train_epochs: Annotated[int, Setting(quick=6)] = 50
    """The longest that an expert is trained; a shorter training limits where students start."""
    lr_net: float = 0.01
    batch_real: Annotated[int, Setting(quick=64, at_least=1)] = 256
    """Mini-batch size of the experts."""
    gradient: Literal["exact", "tesla"] = "exact"
    """`tesla` leaves out the influence of a step's images on later steps; it is an approximation."""
    init: Literal["noise", "real"] = "real"

    @property
    def starts(self) -> int:
        """How many epochs a student may start at, from 0 on."""
        return max(1, min(self.max_start_epoch, self.train_epochs - self.expert_epochs + 1))

    @property
    def expert_length(self) -> int:
        """How many epochs an expert is trained: to the target of the latest start."""
        return self.starts - 1 + self.expert_epochs


def row(
    syn_steps: int,
    expert_epochs: int,
    max_start_epoch: int,
    lr_img: float,
    lr_lr: float,
    alpha0: float,
    zca: bool = False,
    batch_syn: int = 0,
) -> dict[str, Any]:
    """Return one cell of the table of docs/methods.md 6, in its order."""
    return {
        "syn_steps": syn_steps,
        "expert_epochs": expert_epochs,
        "max_start_epoch": max_start_epoch,
        "lr_img": lr_img,
        "lr_lr": lr_lr,
        "alpha0": alpha0,
        "zca": zca,
        "batch_syn": batch_syn,
    }


def gradient_norm(container: Container) -> Tensor:
    """Return the norm of the gradient of all parameters together. It tells whether a step size destroys the images."""
    return torch.nn.utils.get_total_norm([p.grad for p in container.parameters() if p.grad is not None])


class Companion:
    """What a variant of the loop moves beside the images; this one moves nothing. It is a state with state_dict."""

    def add_gradients(self) -> dict[str, Tensor]:
        """Add to the gradients of the container, before it is stepped; return what to log."""
        return {}

    def step(self) -> dict[str, Tensor]:
        """Move what is the companion's own, after the container was stepped; return what to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, "there is nothing to restore"


class MTTLoop(Loop):
    """Trajectory matching: a student is trained on the set, and its end is pulled to where an expert went."""

    def __init__(self, hyper: MTTHyper) -> None:
        super().__init__(hyper)
        self.experts = ExpertTrajectories(hyper.experts, self.expert_recipe(), hyper.zca)

    def expert_recipe(self) -> Recipe:
        return expert_recipe(self.hyper.expert_length, self.hyper.lr_net, self.hyper.batch_real)

    def prerequisites(self) -> tuple[ExpertTrajectories, ...]:
        return (self.experts,)

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        hyper, images = self.hyper, min(per_class, SYNTHETIC_AT_MOST) * spec.classes
        seen = hyper.syn_steps * min(hyper.batch_syn or images, images)
        before = Work(experts=self.experts.images(spec))
        return LoopCost(hyper.iterations, Work(trained=seen, matched=seen), before=before, unrolled=hyper.syn_steps)

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        hyper = self.hyper
        if hyper.zca:
            task = task.whitened()
        container.whitening = task.train.whitening
        experts = self.experts.get(task, run)
        network, companion = task.network(), self.companion(container, task)
        step_size = StepSize(hyper.alpha0, hyper.alpha_floor, hyper.alpha_param).to(task.device)
        step_size_optimiser = step_size.optimiser(hyper.lr_lr, hyper.mom_lr)
        order = torch.zeros(len(experts), dtype=torch.int64, device=task.device)
        state = {"container": container, "optimiser": optimiser, "order": order, "companion": companion}
        state |= {"step_size": step_size, "step_size_optimiser": step_size_optimiser}
        for step in run.loop("condense", hyper.iterations, **state):
            start, target = self.draw_segment(step, experts, order, task)
            alpha, batch = step_size().detach().requires_grad_(), self.draw_batches(container, task)
            student = task.unroll(network, batch, hyper.syn_steps, through_weights=hyper.gradient == "exact")
            loss, cotangent = trajectory_distance(student.forward(start, alpha), target, start)
            optimiser.zero_grad()
            step_size_optimiser.zero_grad()
            student.backward(cotangent)
            step_size().backward(alpha.grad)
            more = companion.add_gradients()
            more["gradient_norm"] = gradient_norm(container)
            optimiser.step()
            step_size_optimiser.step()
            step_size.project_()
            run.log(loss=loss, step_size=alpha, **more, **companion.step())
        container.learned_lr = step_size().item()

    def companion(self, container: Container, task: Task) -> Companion:
        return Companion()

    def draw_segment(self, step: int, experts: Experts, order: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Return weights [P] of the next expert of a shuffled list at a random epoch, and `expert_epochs` later."""
        turn = step % len(experts)
        if turn == 0:
            torch.randperm(len(experts), generator=task.generator, out=order)
        begin = torch.randint(self.hyper.starts, (), generator=task.generator, device=task.device)
        expert, epoch = torch.stack([order[turn], begin]).tolist()
        return experts.weights(expert, epoch), experts.weights(expert, epoch + self.hyper.expert_epochs)

    def decoder(self, container: Container, task: Task) -> tuple[int, Decode]:
        """Return (number of images to draw batches from, how those of one student step are decoded)."""
        return container.num_images, lambda step, indices: container.decode(indices)

    def draw_batches(self, container: Container, task: Task) -> Any:
        """Return what each student step sees, as a function of its number. Everything random is drawn here."""
        hyper, generator = self.hyper, task.generator
        count, decode = self.decoder(container, task)
        most = min(count, SYNTHETIC_AT_MOST * task.classes)
        size = min(hyper.batch_syn, most) if hyper.batch_syn else most
        indices = inner_batches(count, size, hyper.syn_steps, generator)
        params = augment.dsa.sample(task.strategy, hyper.syn_steps, size, task.spec.image_shape[1:], generator)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            images, labels = decode(step, indices[step])
            rows = torch.arange(step * size, step * size + len(images), device=task.device)
            seen = task.as_seen(container, images)
            return augment.apply(seen, params.take(rows), align_corners=True), labels

        return batch


class MTT(Method):
    """Trajectory matching: a student trained on the set ends where experts trained on real data went."""

    name, title, paper = "mtt", "MTT", "Cazenavette et al., CVPR 2022"
    Hyper, Loop = MTTHyper, MTTLoop
    cells = {
        ("CIFAR10", 1): row(50, 2, 2, 100.0, 1e-7, 1e-2, zca=True),
        ("CIFAR10", 10): row(30, 2, 20, 100.0, 1e-5, 1e-3, zca=True),
        ("CIFAR10", 50): row(30, 2, 40, 1000.0, 1e-5, 1e-3),
        ("CIFAR100", 1): row(20, 3, 20, 1000.0, 1e-5, 1e-2, zca=True),
        ("CIFAR100", 10): row(20, 2, 20, 1000.0, 1e-5, 1e-2),
        ("CIFAR100", 50): row(80, 2, 40, 1000.0, 1e-5, 1e-2, zca=True, batch_syn=125),
        ("TinyImageNet", 1): row(10, 2, 10, 10_000.0, 1e-4, 1e-2),
        ("TinyImageNet", 10): row(20, 2, 40, 10_000.0, 1e-4, 1e-2, batch_syn=200),
        ("TinyImageNet", 50): row(20, 2, 40, 10_000.0, 1e-4, 1e-2, batch_syn=300),
        ("SVHN", 1): row(50, 2, 5, 1000.0, 1e-7, 1e-2),
        ("SVHN", 10): row(30, 2, 15, 1000.0, 1e-5, 1e-2),
        ("SVHN", 50): row(40, 2, 40, 1000.0, 1e-5, 1e-3),
        ("MNIST", 1): row(50, 2, 5, 1000.0, 1e-7, 1e-2),
        ("MNIST", 10): row(30, 2, 15, 1000.0, 1e-5, 1e-2),
        ("FashionMNIST", 1): row(50, 2, 5, 1000.0, 1e-7, 1e-2),
        ("FashionMNIST", 10): row(60, 2, 15, 1000.0, 1e-5, 1e-2),
    }

    def start(self, task: Task, run: Run) -> Container:
        task = self.seen(task)
        images = task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc)
        container = Pixels.of(images, task.train.space)
        container.whitening, container.learned_lr = task.train.whitening, self.hyper.alpha0
        return container

    def seen(self, task: Task) -> Task:
        """Return the task in the space that images are stored in: whitened for the method's own loop, if its settings
        say so."""
        return task.whitened() if self.hyper.zca and self.owns_loop else task

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=1000, lr=None, decay="halfway", align_corners=True)
