"""Adam for parameters made of independent rows: a step does not move a row that has no gradient in it.

`torch.optim.Adam` moves a row of zero gradient by what is left of its momentum, and counts the step. So a matching step
that shows only some classes, or some of a class's images, would also move everything that it does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba, ICLR 2015) with its own moments and step count for every row.

    Parameter groups may set `rows`: the number of leading dimensions that count rows (0, the default, makes the whole
    tensor one row). A row is skipped in a step when its gradient is absent or exactly zero: it keeps its value, its
    moments and its step count. This equals an independent `torch.optim.Adam` for each row that steps only when the row
    has a gradient. Nothing is read back from the device.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: Sequence[float] = (0.9, 0.99),
        eps: float = 1e-8,
        rows: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "rows": rows})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        assert closure is None, "this optimiser takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, self.state[parameter], group)

    @staticmethod
    def _step(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        shape = parameter.shape[: group["rows"]] + (1,) * (parameter.ndim - group["rows"])
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["steps"] = parameter.new_zeros(shape)
        beta1, beta2 = group["betas"]
        inner = tuple(range(group["rows"], parameter.ndim))
        active = (gradient != 0).any(inner, keepdim=True) if inner else gradient != 0
        state["steps"] += active
        mean = torch.lerp(state["mean"], gradient, 1 - beta1)
        square = torch.lerp(state["square"], gradient.square(), 1 - beta2)
        steps = state["steps"].clamp(min=1)  # a row that has never stepped is not moved, whatever stands here
        size = group["lr"] / (1 - beta1**steps)
        move = size * mean / ((square / (1 - beta2**steps)).sqrt() + group["eps"])
        state["mean"].copy_(torch.where(active, mean, state["mean"]))
        state["square"].copy_(torch.where(active, square, state["square"]))
        parameter.sub_(torch.where(active, move, torch.zeros_like(move)))
