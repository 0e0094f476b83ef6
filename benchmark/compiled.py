"""First-order passes compiled whole, where that pays: the loss of a network on a batch and the gradient of its weights.

Which path a training takes depends on the runtime, the network and the training's length alone, never on what the
process did before or on how many networks are trained side by side: a cell has the same bits however it is run.

Measured on two cores with AVX512-bf16 (docs/performance.md): compiled float32 takes 0.7-0.8 of the eager time of a
ConvNet step, bfloat16 0.35-0.5, and a compilation 10 s, or 4 s where the user's cache has it. Eager bfloat16 is slower
than eager float32 there.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value

from benchmark.networks import Network, flops_per_image
from benchmark.runtime import Runtime

WORTH_COMPILING = {"float32": 1e12, "bf16": 0.08e12}
"""Floating-point operations of a training, forward and backward, from which on it is compiled. At some 60 GFLOP/s they
are 16 and 1.3 seconds of eager computation for each of usually three networks or more; the trainings of ten images are
to be among the latter, since a grid has many and all of them share what is compiled once."""

FIRST_BATCH = 64

SMALLEST_BATCH = {"float32": 32, "bf16": 2}
"""Smaller batches take the eager pass: they gain nothing, and torch would compile a version for each of their sizes."""

VERSIONS = 64
"""Kinds of networks and images that one process may compile; torch would compute the ninth eagerly."""

_refused: set[tuple] = set()
"""Kinds of networks that torch could not compile in this process."""

Pass = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(parameters by name, images [N, C, H, W], labels [N], CutMix partners' labels [N], share of the own label: 1 where
nothing is mixed) -> (loss, gradients by name)."""


def loss_and_gradients(
    network: Network,
    parameters: dict[str, Tensor],
    images_NCHW: Tensor,
    labels_N: Tensor,
    partners_N: Tensor,
    kept: Tensor,
    half: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of a network with the given parameters, and its gradient.

    half: convolutions and products in bfloat16; the loss and the gradients have the type of the parameters.
    """

    precise = next(iter(parameters.values())).dtype

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        with torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
            logits = functional_call(network, parameters, (images_NCHW,)).to(precise)
        return kept * F.cross_entropy(logits, labels_N) + (1 - kept) * F.cross_entropy(logits, partners_N)

    gradients, value = grad_and_value(loss)(parameters)
    return value, gradients


def is_compiled(network: Network, image_shape: tuple[int, int, int], images: int, runtime: Runtime) -> bool:
    """Whether a training that shows `images` images in all has its pass compiled on this runtime."""
    flops = 3 * images * flops_per_image(network, image_shape)
    pays = runtime.device.type == "cpu" and flops >= WORTH_COMPILING.get(runtime.precision, math.inf)
    return pays and has_compiler()


def first_order_pass(network: Network, image_shape: tuple[int, int, int], images: int, runtime: Runtime) -> Pass:
    """`loss_and_gradients` as a training that shows `images` images in all should call it on this runtime."""
    half = runtime.precision == "bf16"
    eager = partial(loss_and_gradients, network, half=half and runtime.device.type == "cuda")
    kind = (type(network), image_shape, half)
    if kind in _refused or not is_compiled(network, image_shape, images, runtime):
        return eager
    fast = partial(_compiled(), network, half=half)
    try:
        _compile(fast, network, image_shape)
    except Exception as error:  # the compiler has bugs of its own
        _refused.add(kind)
        notice = f"torch cannot compile {kind[0].__name__} ({type(error).__name__}); its trainings run uncompiled"
        warnings.warn(notice, stacklevel=2)
        return eager
    return partial(_by_size, fast, eager, SMALLEST_BATCH[runtime.precision])


def _by_size(
    fast: Pass, eager: Pass, smallest: int, parameters: dict[str, Tensor], images_NCHW: Tensor, *batch: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    return (fast if len(images_NCHW) >= smallest else eager)(parameters, images_NCHW, *batch)


def _compile(fast: Pass, network: Network, image_shape: tuple[int, int, int]) -> None:
    """Compile for batches of any size by a call with one of a fixed size: what is generated may depend on the first
    batch that is seen, which after a resume is another one."""
    images_NCHW, labels_N = torch.zeros(FIRST_BATCH, *image_shape), torch.zeros(FIRST_BATCH, dtype=torch.int64)
    partners_N = labels_N.clone()  # one tensor twice is another version
    for batch in (images_NCHW, labels_N, partners_N):
        torch._dynamo.maybe_mark_dynamic(batch, 0)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    fast(parameters, images_NCHW, labels_N, partners_N, torch.ones(()))


@cache
def _compiled() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """One function: torch keeps a version for each kind of network and size of image, valid for all batch sizes.

    Only the batch size is left open (`first_order_pass` marks it). Open sizes of maps made the norm and the pooling
    1.3 times slower and the compilation three times longer.
    """
    torch._dynamo.config.recompile_limit = VERSIONS
    return torch.compile(loss_and_gradients, dynamic=False)


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
