"""What a cell is predicted to need of a GPU."""

import contextlib
import dataclasses
import io
import weakref
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark import data, memory, networks
from benchmark.compiled import side_by_side
from benchmark.estimate import Speed
from benchmark.listing import print_plan
from benchmark.memory import predicted_bytes, share
from benchmark.options import Options, grid_of
from benchmark.plan import make_plan
from benchmark.store import Store
from benchmark.testing import short_job
from methods.dc import DC
from methods.dm import DM
from methods.random import Random

CIFAR = data.spec("cifar10", Path())


@pytest.fixture
def like_cifar(digits):
    """CIFAR-10, without its images."""
    return dataclasses.replace(digits, spec=CIFAR)


def test_kept_activations_are_what_autograd_keeps():
    # A ConvNet of width 128 keeps of every block the convolution's input, the normalisation's input and output, and
    # the rectified output; a larger or deeper network keeps more.
    side = 128 * 4
    blocks = (3 * 4 * 1024 + 3 * side * 1024) + (side * 256 + 3 * side * 256) + (side * 64 + 3 * side * 64)
    kept = memory.kept_bytes("convnet", CIFAR)
    assert 0.5 * blocks < kept < 1.5 * blocks
    assert all(memory.kept_bytes(name, CIFAR) > 0.9 * kept for name in networks.NAMES)


def test_second_order_takes_more_than_first_and_a_coreset_least(like_cifar):
    needed = [
        predicted_bytes(short_job(method, like_cifar, 10, **settings), CIFAR)
        for method, settings in ((Random, {}), (DM, {"iterations": 1000}), (DC, {"iterations": 1000}))
    ]
    assert needed == sorted(needed)
    assert needed[0] < 2 * 2**30
    assert needed[2] < 50 * 2**30, "a pass of PIXELS_AT_ONCE takes about 40 GB"


def test_it_grows_with_the_networks_trained_at_once(like_cifar):
    job = short_job(Random, like_cifar, 50)
    (evaluation,) = job.evaluations
    sizes = []
    for network, nets in (("convnet", 1), ("convnet", 10), ("resnet18", 10)):
        asked = dataclasses.replace(evaluation, network=network, nets=nets)
        sizes.append(predicted_bytes(dataclasses.replace(job, evaluations=(asked,)), CIFAR))
    assert sizes[0] < sizes[1] < sizes[2]


class Peak(TorchDispatchMode):
    """The most bytes that what was made inside took at one time."""

    def __init__(self):
        super().__init__()
        self.alive, self.bytes, self.most = set(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.bytes)
        return made

    def freed(self, address, size):
        self.alive.remove(address)
        self.bytes -= size


@pytest.mark.parametrize("name", ["convnet", "resnet18", "densenet121"])
def test_networks_side_by_side_take_no_more_than_predicted(like_cifar, monkeypatch, name):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it knows no meta device
    nets, images = 5, 8
    asked = dataclasses.replace(short_job(Random, like_cifar, 50).evaluations[0], network=name)
    network = networks.build(name, CIFAR.image_shape, CIFAR.classes).to("meta")
    parameters = {key: p.detach().expand(nets, *p.shape).clone() for key, p in network.named_parameters()}
    batches = torch.empty(nets, images, *CIFAR.image_shape, device="meta")
    labels = torch.empty(nets, images, dtype=torch.int64, device="meta")
    with Peak() as peak:
        side_by_side(network, parameters, batches, labels, labels, torch.empty(nets, device="meta"), half=False)
    momentum_and_themselves = 2 * nets * memory.parameter_bytes(name, CIFAR)
    predicted = nets * memory.network_bytes(asked, images, CIFAR)
    assert predicted / 2 < peak.most + momentum_and_themselves <= predicted


@pytest.mark.parametrize(("network", "gib"), [("densenet121", 24), ("densenet121", 80), ("convnet", 8), ("vgg16", 4)])
def test_as_many_networks_as_fit_are_trained_at_once(like_cifar, network, gib):
    job = short_job(Random, like_cifar, 50)
    asked = dataclasses.replace(job.evaluations[0], network=network, nets=1)
    together = memory.trained_at_once(asked, 500, CIFAR, gib * 2**30)

    def needed(nets):
        return memory.scoring_bytes(job, dataclasses.replace(asked, nets=nets), CIFAR)

    assert together == 1 or needed(together) <= 0.9 * gib * 2**30
    assert needed(together + 1) > 0.9 * gib * 2**30
    assert memory.trained_at_once(asked, 500, CIFAR, 2**20) == 1


def test_small_images_take_little(digits):
    assert predicted_bytes(short_job(DC, digits, 10), digits.spec) < 2 * 2**30


def test_the_share_of_a_gpu():
    gib = 2**30
    assert share(40 * gib, 80 * gib) == 0.5
    assert share(1, 80 * gib) == 0.01
    assert share(41 * gib, 80 * gib) == 0.52, "rounded up"
    assert share(100 * gib, 80 * gib) == 1.0
    assert share(gib, 0) == 1.0


def test_a_microbatch_takes_less_where_real_images_are_trained_on(like_cifar):
    job = short_job(DC, like_cifar, 1, iterations=1000)
    assert predicted_bytes(dataclasses.replace(job, microbatch=16), CIFAR) < predicted_bytes(job, CIFAR)


def test_specs_know_how_many_images_there_are(digits):
    assert (digits.spec.train_images, digits.spec.test_images) == (len(digits.train), len(digits.test))
    assert all(data.spec(name, Path()).train_images for name in data.names())


@pytest.mark.parametrize(("gpu", "shown"), [(True, True), (False, False)])
def test_the_plan_shows_it_for_gpus(gpu, shown, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    grid = grid_of(Options(methods=("dc",), datasets=("cifar10",), ipc=(1,)), tmp_path)
    print_plan(make_plan(grid, Store(tmp_path), Speed(lambda: None)), "here", 1, gpu, console)
    assert ("GiB" in console.file.getvalue()) == shown
