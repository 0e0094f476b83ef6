"""Passes through a network, which are compiled as a whole where that pays off on a CPU.

There are three kinds: the loss with its gradient in the weights, forward passes without a graph, and functions that
hold a derivative of a derivative. Which way a run computes them depends only on the runtime, the network and the length
of the run, never on what the process did before or on how many networks are trained side by side. So a cell has the
same bits however it is run.

Measured on two cores with AVX512-bf16 (docs/lab/performance.md): a ConvNet's loss and gradient take 0.85-0.96 of their
eager time when compiled in float32, and 0.53-0.62 in bfloat16; compiling takes 10 to 15 s, or 4 s if the user's cache
has the result. A second derivative takes 0.67-0.9 of its eager time, and 30 to 60 s to compile. Eager bfloat16 is
slower there than eager float32.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from benchmark.networks import MATCHED_COST, TRAINED_COST, Network, detached, flops_per_image
from benchmark.system.runtime import Runtime
from benchmark.system.torch_private import allow_versions, mark_size_dynamic

WORTH_COMPILING = {"float32": 5e12, "bf16": 0.08e12}
"""A training is compiled from this many floating-point operations on, forward and backward, by precision. At some 60
GFLOP/s that is 80 seconds (float32) or 1.3 seconds (bf16) of eager computation, for each of usually three networks or
more. The second number is low so that trainings on ten images are compiled: a grid has many of them, and all share one
compilation."""

WORTH_COMPILING_FORWARD = 1e12
"""The same number for work without a graph: 16 seconds of eager computation, against 10 of compiling."""

WORTH_COMPILING_SECOND = 1e13
"""The same number for what is differentiated twice: about three minutes of eager computation, of which up to a third is
saved, against up to a minute of compiling."""

FIRST_BATCH = 64

SMALLEST_BATCH = {"float32": 32, "bf16": 2}
"""Smaller batches take the eager pass: they gain nothing, and torch would compile a version for each of their sizes."""

VERSIONS = 64
"""How many kinds of networks and images one process may compile; torch alone would compute the ninth kind eagerly."""

_looked_at: set[tuple] = set()
"""Kinds whose first result in this process was looked at: compiled bfloat16 has given NaN on some processors."""

_refused: set[tuple] = set()
"""What torch could not compile in this process."""

Forward = Callable[[Any, Tensor], Any]
"""(network, images [N, C, H, W]) -> tensors. The network is a `Network`, or of the type that the function needs."""

Pass = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(parameters by name, images [N, C, H, W], labels [N], CutMix partners' labels [N], share of the own label: 1 where
nothing is mixed) -> (loss, gradients by name)."""


def mixed_loss(
    network: Network,
    parameters: dict[str, Tensor],
    images_NCHW: Tensor,
    labels_N: Tensor,
    partners_N: Tensor,
    kept: Tensor,
    *,
    half: bool,
) -> Tensor:
    """Return the cross-entropy of a network with the given parameters on a batch.

    half: whether convolutions and products are in bfloat16; the loss has the type of the parameters.
    """
    precise = next(iter(parameters.values())).dtype
    with torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
        logits = functional_call(network, parameters, (images_NCHW,)).to(precise)
    return kept * F.cross_entropy(logits, labels_N) + (1 - kept) * F.cross_entropy(logits, partners_N)


def loss_and_gradients(
    network: Network, parameters: dict[str, Tensor], *batch: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `mixed_loss` and its gradient by parameter. It is a pure function, to be compiled."""
    gradients, loss = grad_and_value(lambda own: mixed_loss(network, own, *batch, half=half))(parameters)
    return loss, gradients


def by_autograd(
    network: Network, parameters: dict[str, Tensor], *batch: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `loss_and_gradients` does. Uncompiled, this way is an eighth faster on a CPU."""
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        loss = mixed_loss(network, leaves, *batch, half=half)
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def value_and_gradient(loss: Callable[[Any], Tensor], parameters: Any) -> tuple[Tensor, Any]:
    """Return (loss, gradient) as `torch.func.grad_and_value` does, to be mapped over networks or classes.

    `grad_and_value` would keep a graph of the backward pass for a second derivative, and for that take the backward
    pass of the norm apart.
    """
    value, pull_back = vjp(loss, parameters)[:2]
    with torch.no_grad():
        (gradient,) = pull_back(torch.ones_like(value), retain_graph=False)
    return value, gradient


def side_by_side(
    network: Network, parameters: dict[str, Tensor], *batches: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (losses [E], gradients [E, ...] by name) of E networks at once: `by_autograd` with everything stacked."""

    def loss(own: dict[str, Tensor], *batch: Tensor) -> Tensor:
        return mixed_loss(network, own, *batch, half=half)

    if half:  # autocast knows no norm that `vmap` has taken apart; a derivative inside lets it come first
        return vmap(lambda own, *batch: value_and_gradient(lambda own: loss(own, *batch), own))(parameters, *batches)
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        losses_E = vmap(loss)(leaves, *batches)
    gradients = torch.autograd.grad(losses_E.sum(), tuple(leaves.values()))  # networks do not mix
    return losses_E.detach(), dict(zip(leaves, gradients, strict=True))


class Passes:
    """How a condensation computes what it asks of its network: compiled if that pays off for a run of its length, in
    half precision if the runtime has it, and plainly otherwise.

    An objective says what it needs (the gradient of real images, or a pure function that holds a derivative of a
    derivative). The algorithm box of a method never says how it is computed.
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        image_shape: tuple[int, int, int] = (0, 0, 0),
        forward: float = 0.0,
        trained: float = 0.0,
        matched: float = 0.0,
        training: float = 0.0,
        microbatch: int | None = None,
        batched: bool | None = None,
    ) -> None:
        """Without a runtime everything is eager and in float32: the oracle.

        forward, trained, matched: how many images the whole run shows a network, by what is done with them (see
        `Work`). training: how many of the trained ones are shown between the steps. microbatch: how many real images of
        a class go through a network at once; None means all. batched: whether classes are computed side by side; None
        leaves it to the runtime.
        """
        self.runtime, self.image_shape, self.microbatch = runtime, image_shape, microbatch
        self.shown = {"forward": forward, "trained": trained, "matched": matched, "training": training}
        self.batched = batched if batched is not None else bool(runtime and runtime.batched)
        self.half = runtime is not None and eagerly_half(runtime)
        """Whether gradients of all classes side by side, which nothing compiles, are in bfloat16."""
        self._made: dict[tuple, Callable | None] = {}

    def gradients(
        self,
        network: Network,
        parameters: dict[str, Tensor],
        images_NCHW: Tensor,
        labels_N: Tensor,
        exact: bool = False,
    ) -> dict[str, Tensor]:
        """Return the gradient of a batch's cross-entropy in the parameters, by name and without a graph.

        exact: compute in float32 whatever the precision of the runtime, because the result is differentiated again. The
        gradient of real images is not, and may have less precision.
        """
        kind = ("exact", "matched") if exact else ("real", "trained")
        first_order = self._once(kind[0], network, lambda: self._first_order(network, kind[1], exact))
        partners_N = labels_N.clone()  # one tensor twice would be compiled as another version
        _, gradients = first_order(parameters, images_NCHW, labels_N, partners_N, images_NCHW.new_ones(()))
        return {name: gradients[name] for name in parameters}

    def training(self, network: Network) -> Pass:
        """Return the pass by which the network is trained between the steps."""
        return self._once("training", network, lambda: self._first_order(network, "training", False))

    def forward(self, function: Forward, network: Network) -> Callable[[Tensor], Any]:
        """Return `function` of the network, as a function of images [N, C, H, W] that builds no graph."""
        if self.runtime is None:
            return partial(without_graph, function, network, half=False)
        shape, images, runtime = self.image_shape, self.shown["forward"], self.runtime
        return self._once(function, network, lambda: forward_pass(function, network, shape, images, runtime))

    def second_order(self, function: Callable, network: Network) -> Callable | None:
        """Return `function` of the network, compiled as a whole in float32; None if autograd does the same as fast.

        function: takes the network first, is pure, and holds a derivative of a derivative.
        """
        if self.runtime is None:
            return None
        shape, images, runtime = self.image_shape, self.shown["matched"], precise(self.runtime)
        return self._once(function, network, lambda: second_order_pass(function, network, shape, images, runtime))

    def _first_order(self, network: Network, shown: str, exact: bool) -> Pass:
        if self.runtime is None:
            return partial(by_autograd, network, half=False)
        runtime = precise(self.runtime) if exact else self.runtime
        return first_order_pass(network, self.image_shape, self.shown[shown], runtime)

    def _once(self, what: Any, network: Network, make: Callable[[], Any]) -> Any:
        if (what, network) not in self._made:
            self._made[what, network] = make()
        return self._made[what, network]


def precise(runtime: Runtime) -> Runtime:
    """Return the runtime with float32 in place of bfloat16."""
    return dataclasses.replace(runtime, precision="float32") if runtime.precision == "bf16" else runtime


EAGER = Passes()
"""The oracle: plain eager passes, one class after the other."""


def is_compiled(network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime) -> bool:
    """Return whether this runtime compiles the pass of a training that shows `images` images in all."""
    worth = WORTH_COMPILING.get(runtime.precision, math.inf)
    return _pays(TRAINED_COST * images * flops_per_image(network, image_shape), worth, runtime)


def first_order_pass(network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime) -> Pass:
    """Return `loss_and_gradients` in the form in which a training that shows `images` images in all should call it on
    this runtime."""
    half, eager = runtime.precision == "bf16", partial(by_autograd, network, half=eagerly_half(runtime))
    if not is_compiled(network, image_shape, images, runtime):
        return eager
    whole, kind = partial(_compile(loss_and_gradients), network, half=half), (type(network), image_shape, half)
    fast = _Compiled(whole, eager, kind)
    fast(*_any_batch(network, image_shape))
    return eager if kind in _refused else partial(_by_size, fast, eager, SMALLEST_BATCH[runtime.precision])


def forward_pass(
    function: Forward, network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime
) -> Callable[[Tensor], Any]:
    """Return `function` of one network without a graph, in the form in which a run that shows it `images` images should
    call it: compiled, and in half precision, if the runtime allows it and it pays off. Its results have the type of the
    images."""
    half, eager = runtime.precision == "bf16", partial(without_graph, function, network, half=eagerly_half(runtime))
    if not _pays(images * flops_per_image(network, image_shape), WORTH_COMPILING_FORWARD, runtime):
        return eager
    whole = partial(_compile(without_graph), function, network, half=half)
    return _Compiled(whole, eager, (type(network), image_shape, half, function))


def second_order_pass(
    function: Callable, network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime
) -> Callable | None:
    """Return `function` of one network, compiled as a whole in float32 for every shape it meets; None if nothing is
    compiled here, or a run that shows the network `images` images is too short for it.

    function: takes the network first, is pure, and holds a derivative of a derivative.
    """
    if not _pays(MATCHED_COST * images * flops_per_image(network, image_shape), WORTH_COMPILING_SECOND, runtime):
        return None
    eager, whole = partial(function, network), partial(_compile(function), network)
    return _Compiled(whole, eager, (type(network), image_shape, function))


def without_graph(function: Forward, network: Network, images_NCHW: Tensor, half: bool) -> Any:
    with torch.no_grad(), torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
        found = function(network, images_NCHW)
    return tree_map(lambda tensor: tensor.to(images_NCHW.dtype) if tensor.is_floating_point() else tensor, found)


def eagerly_half(runtime: Runtime) -> bool:
    """Return whether bfloat16 is used where nothing is compiled. It is not on a CPU, where it would be slower than
    float32."""
    return runtime.precision == "bf16" and runtime.device.type == "cuda"


def _pays(flops: float, worth: float, runtime: Runtime) -> bool:
    return runtime.device.type == "cpu" and runtime.precision != "reference" and flops >= worth and has_compiler()


def _by_size(
    fast: Pass, eager: Pass, smallest: int, parameters: dict[str, Tensor], images_NCHW: Tensor, *batch: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    return (fast if len(images_NCHW) >= smallest else eager)(parameters, images_NCHW, *batch)


@dataclass(frozen=True)
class _Compiled:
    """A pass that torch compiles at its first call (`whole`). If torch cannot, it says so once and `eager` is used
    instead."""

    whole: Callable
    eager: Callable
    kind: tuple
    """What is compiled; the kind of network comes first."""

    def __call__(self, *args: Any) -> Any:
        if self.kind in _refused:
            return self.eager(*args)
        try:
            found = self.whole(*args)
        except Exception as error:  # the compiler has bugs of its own
            plain = self.eager(*args)  # raises again what is no bug of the compiler
            return self._refuse(plain, f"torch cannot compile {self.kind[0].__name__} ({type(error).__name__})")
        if self.kind not in _looked_at:
            _looked_at.add(self.kind)
            if not _finite(found) and _finite(plain := self.eager(*args)):
                return self._refuse(
                    plain, f"{self.kind[0].__name__} as torch compiles it gives numbers that are not finite"
                )
        return found

    def _refuse(self, plain: Any, reason: str) -> Any:
        """Say once why the kind is computed uncompiled from now on; return its plain result."""
        _refused.add(self.kind)
        warnings.warn(f"{reason}; it runs uncompiled", stacklevel=3)
        return plain


def _finite(found: Any) -> bool:
    """Return whether all numbers of a result are finite."""
    return all(bool(leaf.isfinite().all()) for leaf in tree_leaves(found) if isinstance(leaf, Tensor))


def _any_batch(network: Network, image_shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Return arguments with which a training pass is compiled for batches of any size. They are always the same ones,
    because the generated code may depend on the first batch, and after a resume that is another one."""
    images_NCHW = torch.randn(FIRST_BATCH, *image_shape, generator=torch.Generator().manual_seed(0))
    labels_N = torch.zeros(FIRST_BATCH, dtype=torch.int64)
    partners_N = labels_N.clone()
    for batch in (images_NCHW, labels_N, partners_N):
        mark_size_dynamic(batch, 0)
    return detached(network), images_NCHW, labels_N, partners_N, torch.ones(())


@cache
def _compile(function: Callable) -> Callable:
    """Return the compiled function. Torch keeps a version for each kind of network and size of image, and for each
    batch size unless that is left open (`_any_batch`). Open sizes of maps made the norm and the pooling 1.3 times
    slower and the compilation three times longer."""
    allow_versions(VERSIONS)
    return torch.compile(function, dynamic=False)


@cache
def has_compiler() -> bool:
    """Return whether torch can compile here. On a machine that cannot, a warning says so once, and the same is computed
    eagerly in float32."""
    try:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
        torch.compile(torch.sin)(torch.zeros(64))
    except Exception as error:  # no compiler, no headers, a broken one: each has an exception of its own
        reason = (str(error).splitlines() or [""])[0]
        notice = f"torch cannot compile here ({type(error).__name__}: {reason}); trainings run uncompiled"
        warnings.warn(notice, stacklevel=2)
        return False
    return True
