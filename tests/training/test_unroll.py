"""The unroll's adjoint: exact against back-propagation through time, with the memory of one step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from benchmark.objectives.trajectory_matching import trajectory_distance
from benchmark.training.unroll import Unroll, flatten, unflatten

STEPS, BATCH, IMAGES, CLASSES = 5, 6, 9, 3


class Problem:
    """A two-layer network trained on decoded images, in float64; batches drawn beforehand."""

    def __init__(self, generator: torch.Generator, steps: int = STEPS) -> None:
        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.network = nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()
        self.codes, self.decoder = draw(IMAGES, 5).requires_grad_(), draw(5, 16).requires_grad_()
        self.lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        self.indices = torch.randint(IMAGES, (steps, BATCH), generator=generator)
        self.labels = torch.arange(IMAGES) % CLASSES
        self.noise = draw(steps, BATCH, 1, 4, 4)
        self.start = flatten(self.network)
        self.target = self.start + 0.5 * draw(len(self.start))
        self.steps = steps

    def batch(self, step):
        images = torch.tanh(self.codes @ self.decoder).view(-1, 1, 4, 4)[self.indices[step]]
        return images + self.noise[step], self.labels[self.indices[step]]

    @property
    def leaves(self):
        return self.codes, self.decoder, self.lr

    def by_unroll(self, momentum, **options):
        unroll = Unroll(self.network, self.batch, self.steps, momentum, **options)
        last = unroll.forward(self.start, self.lr)
        loss, cotangent = trajectory_distance(last, self.target, self.start)
        unroll.backward(cotangent)
        gradients = [leaf.grad.clone() for leaf in self.leaves if leaf.grad is not None]
        for leaf in self.leaves:
            leaf.grad = None
        return loss, gradients

    def by_autograd(self, momentum):
        weights, velocity = self.start.clone().requires_grad_(), torch.zeros_like(self.start)
        for step in range(self.steps):
            images, labels = self.batch(step)
            parts = weights.split([p.numel() for p in self.network.parameters()])
            named = dict(self.network.named_parameters())
            own = {name: part.view_as(p) for (name, p), part in zip(named.items(), parts)}
            loss = F.cross_entropy(functional_call(self.network, own, (images,)), labels)
            velocity = momentum * velocity + torch.autograd.grad(loss, weights, create_graph=True)[0]
            weights = weights - self.lr * velocity
        loss = (weights - self.target).square().sum() / (self.start - self.target).square().sum()
        return loss, torch.autograd.grad(loss, self.leaves)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_agrees_with_back_propagation_through_time(momentum, generator):
    problem = Problem(generator)
    loss, gradients = problem.by_unroll(momentum)
    true_loss, true_gradients = problem.by_autograd(momentum)
    torch.testing.assert_close(loss, true_loss, rtol=1e-12, atol=0)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        assert true.abs().max() > 1e-4
        torch.testing.assert_close(gradient, true, rtol=1e-10, atol=1e-12)


def test_gradients_accumulate_and_a_fixed_step_size_gets_none(generator):
    problem = Problem(generator)
    _, (codes, decoder, lr) = problem.by_unroll(0.9)
    problem.lr.requires_grad_(False)
    problem.codes.grad = torch.ones_like(problem.codes)
    _, gradients = problem.by_unroll(0.9)
    assert len(gradients) == 2
    torch.testing.assert_close(gradients[0], codes + 1)
    torch.testing.assert_close(gradients[1], decoder)
    problem.lr.requires_grad_(True).grad = torch.ones_like(lr)
    torch.testing.assert_close(problem.by_unroll(0.9)[1][2], lr + 1)


def test_the_step_size_alone(generator):
    problem = Problem(generator)
    true = problem.by_unroll(0.5)[1][2]
    problem.codes.requires_grad_(False)
    problem.decoder.requires_grad_(False)
    (gradient,) = problem.by_unroll(0.5)[1]
    torch.testing.assert_close(gradient, true)


def test_backward_needs_a_forward(generator):
    problem = Problem(generator)
    unroll = Unroll(problem.network, problem.batch, STEPS)
    with pytest.raises(AssertionError):
        unroll.backward(problem.start)
    unroll.backward(unroll.forward(problem.start, problem.lr))
    with pytest.raises(AssertionError):
        unroll.backward(problem.start)


def test_tesla_drops_what_crosses_steps(generator):
    """On a scalar toy of two steps: another gradient for the first image, the exact one for the last; and it is the
    formula of TESLA's code, each step's own gradient against the whole displacement with the weights held."""
    images = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    network = nn.Sequential(nn.Linear(1, 2, bias=False)).double()
    start = torch.tensor([0.4, -0.2], dtype=torch.float64)
    target, lr, labels = torch.tensor([0.1, 0.9], dtype=torch.float64), torch.tensor(0.8).double(), torch.tensor([0, 1])

    def batch(step):
        return images[step].view(1, 1), labels[step : step + 1]

    def gradient_of(weights, image, label):
        loss = F.cross_entropy((weights * image).view(1, 2), label)
        return torch.autograd.grad(loss, weights, create_graph=True)[0]

    found = {}
    for exact in (True, False):
        unroll = Unroll(network, batch, 2, through_weights=exact)
        unroll.backward(2 * (unroll.forward(start, lr) - target))
        found[exact], images.grad = images.grad.clone(), None

    weights, held, gradients = start.clone().requires_grad_(), start.clone().requires_grad_(), []
    for step in range(2):
        image, label = batch(step)
        weights = weights - lr * gradient_of(weights, image, label)
        gradients.append(gradient_of(held, image, label))
        held = (held - lr * gradients[-1]).detach().requires_grad_()
    (exact,) = torch.autograd.grad((weights - target).square().sum(), images)
    displacement = (lr * (target - start) + lr**2 * sum(gradients)).detach()
    (tesla,) = torch.autograd.grad(2 * displacement @ sum(gradients), images)

    torch.testing.assert_close(found[True], exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[False], tesla, rtol=1e-12, atol=0)
    assert (found[True][0] - found[False][0]).abs() > 0.05 * found[True][0].abs()
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-12, atol=0)


def saved_elements(problem: Problem) -> int:
    """Most tensor elements that autograd graphs held at once."""
    alive = most = 0

    class Saved:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor = tensor
            alive += tensor.numel()
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= self.tensor.numel()

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        problem.by_unroll(0.9)
    assert alive == 0
    return most


def test_the_graph_does_not_grow_with_the_number_of_steps(generator):
    few, many = (saved_elements(Problem(generator, steps)) for steps in (2, 20))
    assert few == many > 0


def test_flat_weights(generator):
    problem = Problem(generator)
    flat, own = flatten(problem.network), unflatten(problem.start, problem.network)
    assert list(own) == [name for name, _ in problem.network.named_parameters()]
    for name, parameter in problem.network.named_parameters():
        assert torch.equal(own[name], parameter)
    torch.testing.assert_close(flatten(own), flat, rtol=0, atol=0)
    flat.zero_()
    assert problem.start.abs().max() > 0


def test_golden_mtt(golden, golden_convnet):
    vectors = golden("trajectory_matching_mtt")
    network, images = golden_convnet(vectors), vectors["syn"].clone().requires_grad_()
    lr, indices = vectors["step_size"].clone().requires_grad_(), vectors["batch_indices"]
    start = flatten(network)
    unroll = Unroll(network, lambda step: (images[indices[step]], vectors["labels"][indices[step]]), len(indices))
    student = unroll.forward(start, lr)
    loss, cotangent = trajectory_distance(student, vectors["target_flat"], start)
    unroll.backward(cotangent)
    close(student, vectors["student_flat"], 1e-4)
    close(loss, vectors["loss"], 1e-4)
    close(lr.grad, vectors["grad_step_size"], 1e-4)
    close(images.grad, vectors["grad_syn"], 1e-4)


def test_golden_linba(golden, golden_convnet):
    vectors = golden("bptt_linba")
    network = golden_convnet(vectors).double()
    basis, coefficients = (vectors[name].clone().requires_grad_() for name in ("basis", "coefficients"))
    indices, size = vectors["batch_indices"], vectors["decoded"].shape[-2:]

    def batch(step):
        small = (coefficients[indices[step]] @ basis.flatten(1)).unflatten(1, basis.shape[1:])
        return F.interpolate(small, size=size, mode="bilinear"), vectors["labels"][indices[step]]

    momentum, lr = vectors["momentum"].item(), vectors["lr"].double()
    unroll = Unroll(network, batch, len(indices), round(momentum, 6))
    last = unroll.forward(flatten(network), lr.new_tensor(round(lr.item(), 6))).requires_grad_()
    logits = functional_call(network, unflatten(last, network), (vectors["real"],))
    loss = F.cross_entropy(logits, vectors["real_labels"])
    unroll.backward(torch.autograd.grad(loss, last)[0])
    close(loss, vectors["loss"], 1e-8)
    close(basis.grad, vectors["grad_basis"], 1e-8)
    close(coefficients.grad, vectors["grad_coefficients"], 1e-8)


def close(found, true, relative):
    """Within `relative` of the true tensor's largest element."""
    assert (found - true).abs().max() <= relative * true.abs().max()
