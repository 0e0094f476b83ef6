"""First-order passes compiled whole, where that pays: the loss of a network on a batch and the gradient of its weights.

Which path a training takes depends on the runtime, the network and the training's length alone, never on what the
process did before or on how many networks are trained side by side: a cell has the same bits however it is run.

Measured on two cores with AVX512-bf16 (docs/performance.md): compiled float32 takes 0.80-0.87 of the eager time of a
ConvNet step, bfloat16 0.42-0.55, and a compilation 10 to 20 s. Eager bfloat16 is slower than eager float32 there.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value

from benchmark.folders import cache_folder
from benchmark.networks import Network, flops_per_image
from benchmark.runtime import Runtime

WORTH_COMPILING = {"float32": 4e12, "bf16": 0.8e12}
"""Floating-point operations of a training, forward and backward, from which on compiling it saves more than it costs:
at some 60 GFLOP/s, 65 and 13 seconds of eager computation for each of usually three networks or more."""

FIRST_BATCH = 64

Pass = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(parameters by name, images [N, C, H, W], labels [N], CutMix partners' labels [N], share of the own label) ->
(loss, gradients by name)."""


def loss_and_gradients(
    network: Network,
    parameters: dict[str, Tensor],
    images_NCHW: Tensor,
    labels_N: Tensor,
    partners_N: Tensor,
    kept: Tensor,
    mixed: bool,
    half: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of a network with the given parameters, and its gradient.

    mixed: the images were mixed by CutMix, and `kept` is the share of the own label in the loss. half: convolutions and
    products in bfloat16; parameters, gradients and the loss stay float32.
    """

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        with torch.autocast(images_NCHW.device.type, torch.bfloat16, enabled=half):
            logits = functional_call(network, parameters, (images_NCHW,)).float()
        own = F.cross_entropy(logits, labels_N)
        return kept * own + (1 - kept) * F.cross_entropy(logits, partners_N) if mixed else own

    gradients, value = grad_and_value(loss)(parameters)
    return value, gradients


def first_order_pass(
    network: Network, image_shape: tuple[int, int, int], images: int, runtime: Runtime, mixed: bool = False
) -> Pass:
    """`loss_and_gradients` as a training that shows `images` images in all should call it on this runtime."""
    flops = 3 * images * flops_per_image(network, image_shape)
    pays = runtime.device.type == "cpu" and flops >= WORTH_COMPILING.get(runtime.precision, math.inf)
    half = runtime.precision == "bf16"
    if not (pays and has_compiler()):
        return partial(loss_and_gradients, network, mixed=mixed, half=half and runtime.device.type == "cuda")
    found = partial(_compiled(), network, mixed=mixed, half=half)
    # Compiled here, at one size: what is generated may depend on the first batch that is seen, which after a resume is
    # another one.
    images_NCHW, labels_N = torch.zeros(FIRST_BATCH, *image_shape), torch.zeros(FIRST_BATCH, dtype=torch.int64)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    found(parameters, images_NCHW, labels_N, labels_N.clone(), torch.ones(()))  # one tensor twice is another version
    return found


@cache
def _compiled() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """One function for all networks and batch sizes: torch keeps a version for each kind of network."""
    return torch.compile(loss_and_gradients, dynamic=True)


@cache
def has_compiler() -> bool:
    """Whether torch can compile here; a machine that cannot is told once, and computes the same eagerly in float32."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no helpers that would outlive a killed process
    try:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
        torch.compile(torch.sin)(torch.zeros(64))
    except Exception as error:  # no compiler, no headers, a broken one: each has an exception of its own
        reason = (str(error).splitlines() or [""])[0]
        notice = f"torch cannot compile here ({type(error).__name__}: {reason}); trainings run uncompiled"
        warnings.warn(notice, stacklevel=2)
        return False
    return True
