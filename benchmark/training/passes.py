"""What goes through a network, compiled whole where that pays on a CPU.

That is the loss with the gradient of the weights, forward passes without a graph, and functions that hold a derivative
of a derivative.

Which way a run takes depends on the runtime, the network and the run's length alone, never on what the process did
before or on how many networks are trained side by side: a cell has the same bits however it is run.

Measured on two cores with AVX512-bf16 (docs/lab/performance.md): of the eager time of a ConvNet's loss and gradient,
compiled float32 takes 0.85-0.96 and bfloat16 0.53-0.62; compiling takes 10 to 15 s, or 4 s where the user's cache has
it. A second derivative takes 0.67-0.9, and 30 to 60 s. Eager bfloat16 is slower than eager float32 there.
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
from torch.utils._pytree import tree_map

from benchmark.networks import MATCHED_COST, TRAINED_COST, Network, detached, flops_per_image
from benchmark.system.runtime import Runtime
from benchmark.system.torch_private import allow_versions, mark_size_dynamic

WORTH_COMPILING = {"float32": 5e12, "bf16": 0.08e12}
"""Floating-point operations of a training, forward and backward, from which on it is compiled. At some 60 GFLOP/s they
are 80 and 1.3 seconds of eager computation for each of usually three networks or more; the trainings of ten images are
to be among the latter, since a grid has many and all of them share what is compiled once."""

WORTH_COMPILING_FORWARD = 1e12
"""The same of what goes through a network without a graph: 16 seconds of eager computation, 10 of compiling."""

WORTH_COMPILING_SECOND = 1e13
"""The same of what is differentiated twice: some three minutes of eager computation, of which up to a third is saved,
and up to a minute of compiling."""

FIRST_BATCH = 64

SMALLEST_BATCH = {"float32": 32, "bf16": 2}
"""Smaller batches take the eager pass: they gain nothing, and torch would compile a version for each of their sizes."""

VERSIONS = 64
"""Kinds of networks and images that one process may compile; torch would compute the ninth eagerly."""

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
    """Cross-entropy of a network with the given parameters on a batch.

    half: convolutions and products in bfloat16; the loss has the type of the parameters.
    """
    precise = next(iter(parameters.values())).dtype
    with torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
        logits = functional_call(network, parameters, (images_NCHW,)).to(precise)
    return kept * F.cross_entropy(logits, labels_N) + (1 - kept) * F.cross_entropy(logits, partners_N)


def loss_and_gradients(
    network: Network, parameters: dict[str, Tensor], *batch: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """`mixed_loss` and its gradient by parameter as a pure function, to be compiled."""
    gradients, loss = grad_and_value(lambda own: mixed_loss(network, own, *batch, half=half))(parameters)
    return loss, gradients


def by_autograd(
    network: Network, parameters: dict[str, Tensor], *batch: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same: where nothing is compiled, an eighth faster on a CPU."""
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        loss = mixed_loss(network, leaves, *batch, half=half)
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def value_and_gradient(loss: Callable[[Any], Tensor], parameters: Any) -> tuple[Tensor, Any]:
    """What `torch.func.grad_and_value` gives, to be mapped over networks or classes.

    That would keep a graph of the backward pass for a second derivative, and take the norm's apart for it.
    """
    value, pull_back = vjp(loss, parameters)[:2]
    with torch.no_grad():
        (gradient,) = pull_back(torch.ones_like(value), retain_graph=False)
    return value, gradient


def side_by_side(
    network: Network, parameters: dict[str, Tensor], *batches: Tensor, half: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """`by_autograd` of E networks at once, everything stacked: (losses [E], gradients [E, ...] by name)."""

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
    """How a condensation computes what it asks of its network: compiled where that pays for a run of its length, in
    half precision where the runtime has that, and plainly otherwise.

    An objective asks for what it needs by what it is (the gradient of real images, a pure function that holds a
    derivative of a derivative); the algorithm box of a method never says how.
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

        forward, trained, matched: images that the whole run shows a network, by what is done with them (see `Work`);
        training: of those trained on, the ones between its steps. microbatch: real images of a class that go through a
        network at once; None is all. batched: whether classes are taken side by side; None is as the runtime says.
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
        """Of the cross-entropy of a batch in the parameters, by name, without a graph.

        exact: in float32 whatever the precision of the runtime, for what is differentiated again. The gradient of real
        images is not, and may go without.
        """
        kind = ("exact", "matched") if exact else ("real", "trained")
        first_order = self._once(kind[0], network, lambda: self._first_order(network, kind[1], exact))
        partners_N = labels_N.clone()  # one tensor twice would be compiled as another version
        _, gradients = first_order(parameters, images_NCHW, labels_N, partners_N, images_NCHW.new_ones(()))
        return {name: gradients[name] for name in parameters}

    def training(self, network: Network) -> Pass:
        """The pass by which the network is trained between the steps."""
        return self._once("training", network, lambda: self._first_order(network, "training", False))

    def forward(self, function: Forward, network: Network) -> Callable[[Tensor], Any]:
        """`function` of the network without a graph."""
        if self.runtime is None:
            return partial(without_graph, function, network, half=False)
        shape, images, runtime = self.image_shape, self.shown["forward"], self.runtime
        return self._once(function, network, lambda: forward_pass(function, network, shape, images, runtime))

    def second_order(self, function: Callable, network: Network) -> Callable | None:
        """`function(network, ...)`, pure and with a derivative of a derivative inside, compiled whole in float32; None
        where autograd does the same as fast."""
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
    """The runtime, in float32 where it has bfloat16."""
    return dataclasses.replace(runtime, precision="float32") if runtime.precision == "bf16" else runtime


EAGER = Passes()
"""The oracle: everything plainly, one class after the other."""


def is_compiled(network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime) -> bool:
    """Whether a training that shows `images` images in all has its pass compiled on this runtime."""
    worth = WORTH_COMPILING.get(runtime.precision, math.inf)
    return _pays(TRAINED_COST * images * flops_per_image(network, image_shape), worth, runtime)


def first_order_pass(network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime) -> Pass:
    """`loss_and_gradients` as a training that shows `images` images in all should call it on this runtime."""
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
    """`function` of one network without a graph, as a run that shows it `images` images should call it: compiled, and
    in half precision where the runtime has that and it pays. Its results are of the images' type."""
    half, eager = runtime.precision == "bf16", partial(without_graph, function, network, half=eagerly_half(runtime))
    if not _pays(images * flops_per_image(network, image_shape), WORTH_COMPILING_FORWARD, runtime):
        return eager
    whole = partial(_compile(without_graph), function, network, half=half)
    return _Compiled(whole, eager, (type(network), image_shape, half, function))


def second_order_pass(
    function: Callable, network: Network, image_shape: tuple[int, int, int], images: float, runtime: Runtime
) -> Callable | None:
    """`function(network, ...)`, pure and with a derivative of a derivative inside, compiled whole in float32 for every
    shape it meets; None where a run that shows it `images` images is too short for that, or nothing is compiled."""
    if not _pays(MATCHED_COST * images * flops_per_image(network, image_shape), WORTH_COMPILING_SECOND, runtime):
        return None
    eager, whole = partial(function, network), partial(_compile(function), network)
    return _Compiled(whole, eager, (type(network), image_shape, function))


def without_graph(function: Forward, network: Network, images_NCHW: Tensor, half: bool) -> Any:
    with torch.no_grad(), torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
        found = function(network, images_NCHW)
    return tree_map(lambda tensor: tensor.to(images_NCHW.dtype) if tensor.is_floating_point() else tensor, found)


def eagerly_half(runtime: Runtime) -> bool:
    """Whether bfloat16 is used where nothing is compiled: on a CPU it would be slower than float32."""
    return runtime.precision == "bf16" and runtime.device.type == "cuda"


def _pays(flops: float, worth: float, runtime: Runtime) -> bool:
    return runtime.device.type == "cpu" and runtime.precision != "reference" and flops >= worth and has_compiler()


def _by_size(
    fast: Pass, eager: Pass, smallest: int, parameters: dict[str, Tensor], images_NCHW: Tensor, *batch: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    return (fast if len(images_NCHW) >= smallest else eager)(parameters, images_NCHW, *batch)


@dataclass(frozen=True)
class _Compiled:
    """`whole`, which torch compiles at its first call, or `eager` where it stumbles over that, which is said once."""

    whole: Callable
    eager: Callable
    kind: tuple
    """What is compiled: a kind of network first."""

    def __call__(self, *args: Any) -> Any:
        if self.kind in _refused:
            return self.eager(*args)
        try:
            return self.whole(*args)
        except Exception as error:  # the compiler has bugs of its own
            found = self.eager(*args)  # raises again what is no bug of the compiler
            _refused.add(self.kind)
            notice = f"torch cannot compile {self.kind[0].__name__} ({type(error).__name__}); it runs uncompiled"
            warnings.warn(notice, stacklevel=2)
            return found


def _any_batch(network: Network, image_shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Arguments of a training pass by which it is compiled for batches of any size, all of them alike: what is
    generated may depend on the first batch that is seen, which after a resume is another one."""
    images_NCHW, labels_N = torch.zeros(FIRST_BATCH, *image_shape), torch.zeros(FIRST_BATCH, dtype=torch.int64)
    partners_N = labels_N.clone()
    for batch in (images_NCHW, labels_N, partners_N):
        mark_size_dynamic(batch, 0)
    return detached(network), images_NCHW, labels_N, partners_N, torch.ones(())


@cache
def _compile(function: Callable) -> Callable:
    """Torch keeps a version for each kind of network and size of image, and for each batch size unless that is left
    open (`_any_batch`). Open sizes of maps made the norm and the pooling 1.3 times slower and the compilation three
    times longer.
    """
    allow_versions(VERSIONS)
    return torch.compile(function, dynamic=False)


@cache
def has_compiler() -> bool:
    """Whether torch can compile here; a machine that cannot is told once, and computes the same eagerly in float32."""
    try:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
        torch.compile(torch.sin)(torch.zeros(64))
    except Exception as error:  # no compiler, no headers, a broken one: each has an exception of its own
        reason = (str(error).splitlines() or [""])[0]
        notice = f"torch cannot compile here ({type(error).__name__}: {reason}); trainings run uncompiled"
        warnings.warn(notice, stacklevel=2)
        return False
    return True
