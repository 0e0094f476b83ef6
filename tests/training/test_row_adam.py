"""Row-wise Adam against an independent torch.optim.Adam for every row."""

import torch

from benchmark.system import checkpoint
from benchmark.training.row_adam import RowAdam


def literal(parameter: torch.Tensor, gradients: list[torch.Tensor], rows: int, lr: float) -> torch.Tensor:
    """Every row by an Adam of its own that steps only when the row has a gradient."""
    shape = parameter.shape[:rows]
    leaves = [row.clone().requires_grad_() for row in parameter.flatten(0, rows - 1)] if rows else [parameter.clone()]
    optimisers = [torch.optim.Adam([leaf.requires_grad_()], lr, (0.9, 0.99)) for leaf in leaves]
    for gradient in gradients:
        parts = gradient.flatten(0, rows - 1) if rows else [gradient]
        for leaf, part, adam in zip(leaves, parts, optimisers, strict=True):
            if part.abs().sum() > 0:
                leaf.grad = part.clone()
                adam.step()
    return torch.stack([leaf.detach() for leaf in leaves]).view(*shape, *parameter.shape[rows:])


def draw(shape: tuple[int, ...], rows: int, steps: int) -> list[torch.Tensor]:
    """Gradients of which about half the rows are zero, and in step 3 all."""
    gradients = []
    for step in range(steps):
        shown = (torch.rand(shape[:rows]) < 0.5) if rows else torch.rand(()) < 0.7
        shown = shown & torch.tensor(step != 3)
        inner = [1] * (len(shape) - rows)
        gradients.append(torch.randn(shape, dtype=torch.float64) * shown.view(*shape[:rows], *inner))
    return gradients


def test_agrees_with_an_adam_for_every_row():
    for shape, rows in (((5, 3, 2), 1), ((4, 6, 2, 3), 2), ((7,), 1), ((3, 4), 0), ((2, 3), 2)):
        start, gradients = torch.randn(shape, dtype=torch.float64), draw(shape, rows, 9)
        parameter = torch.nn.Parameter(start.clone())
        optimiser = RowAdam([{"params": [parameter], "rows": rows}], 0.05)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimiser.step()
        torch.testing.assert_close(parameter.detach(), literal(start, gradients, rows, 0.05), rtol=1e-13, atol=1e-13)


def test_rows_without_gradient_are_left_bit_identical():
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    optimiser = RowAdam([{"params": [parameter], "rows": 1}], 0.1)
    parameter.grad = torch.randn(4, 3)
    optimiser.step()
    before, state = parameter.detach().clone(), {k: v.clone() for k, v in optimiser.state[parameter].items()}
    parameter.grad = torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None] * torch.randn(4, 3)
    optimiser.step()
    for row in (0, 2, 3):
        assert torch.equal(parameter[row], before[row])
        assert all(torch.equal(optimiser.state[parameter][name][row], state[name][row]) for name in state)
    assert not torch.equal(parameter[1], before[1])
    assert optimiser.state[parameter]["steps"].flatten().tolist() == [1, 2, 1, 1]
    # The shared Adam that this is not: its momentum moves what has no gradient.
    other = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([other], 0.1)
    for gradient in ([1.0, 1.0], [1.0, 0.0]):
        other.grad = torch.tensor(gradient)
        adam.step()
    assert other[1] < 0.9 - 1e-3


def test_a_parameter_without_gradient_is_skipped_and_nan_is_not_hidden():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimiser = RowAdam([first, second], 0.1)
    first.grad = torch.tensor([torch.nan, 0.0])
    optimiser.step()
    assert first[0].isnan()
    assert torch.equal(second, torch.ones(2))


def test_a_checkpoint_restores_the_same_bits(tmp_path):
    def make():
        parameter = torch.nn.Parameter(torch.arange(12.0).view(2, 3, 2).clone())
        return parameter, RowAdam([{"params": [parameter], "rows": 2}], 0.1)

    gradients = [gradient.float() for gradient in draw((2, 3, 2), 2, 6)]
    parameter, optimiser = make()
    for step, gradient in enumerate(gradients):
        parameter.grad = gradient
        optimiser.step()
        if step == 2:
            state = {"parameter": parameter, "optimiser": optimiser}
            checkpoint.save_state(tmp_path / "state.safetensors", state, {})
    again, resumed = make()
    checkpoint.load_state(tmp_path / "state.safetensors", {"parameter": again, "optimiser": resumed})
    for gradient in gradients[3:]:
        again.grad = gradient
        resumed.step()
    assert torch.equal(again, parameter)
