"""What a cell is predicted to need of a GPU, or of a CPU's memory."""

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

from benchmark import data, networks
from benchmark.cli.listing import print_plan
from benchmark.cli.options import Options, grid_of
from benchmark.evaluation import footprint
from benchmark.grid import memory, registry
from benchmark.grid.hours import Speed
from benchmark.grid.memory import predicted_bytes, predicted_bytes_on_cpu, share
from benchmark.grid.plan import make_plan
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.system.runtime import MIB
from benchmark.testing import short_job
from benchmark.training.passes import side_by_side
from methods.dc import DC
from methods.dm import DM
from methods.random import Random

CIFAR = data.spec("cifar10", Path())


def cost_of(job, spec):
    return registry.build(job.cell).cost(spec, job.cell.budget_on(spec))


def on_gpu(job, spec):
    return predicted_bytes(job, spec, cost_of(job, spec))


def on_cpu(job, spec, process=None):
    return predicted_bytes_on_cpu(job, spec, cost_of(job, spec), process)


@pytest.fixture
def like_cifar(digits):
    """CIFAR-10, without its images."""
    return dataclasses.replace(digits, spec=CIFAR)


def test_kept_activations_are_what_autograd_keeps():
    # A ConvNet of width 128 keeps of every block the convolution's input, the normalisation's input and output, and
    # the rectified output; a larger or deeper network keeps more.
    side = 128 * 4
    blocks = (3 * 4 * 1024 + 3 * side * 1024) + (side * 256 + 3 * side * 256) + (side * 64 + 3 * side * 64)
    kept = footprint.kept_bytes("convnet", CIFAR)
    assert 0.5 * blocks < kept < 1.5 * blocks
    assert all(footprint.kept_bytes(name, CIFAR) > 0.9 * kept for name in networks.NAMES)


def test_second_order_takes_more_than_first_and_a_coreset_least(like_cifar):
    needed = [
        on_gpu(short_job(method, like_cifar, 10, **settings), CIFAR)
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
        sizes.append(on_gpu(dataclasses.replace(job, evaluations=(asked,)), CIFAR))
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
    momentum_and_themselves = 2 * nets * footprint.parameter_bytes(name, CIFAR)
    predicted = nets * footprint.network_bytes(asked, images, CIFAR)
    assert predicted / 2 < peak.most + momentum_and_themselves <= predicted


@pytest.mark.parametrize(("network", "gib"), [("densenet121", 24), ("densenet121", 80), ("convnet", 8), ("vgg16", 4)])
def test_as_many_networks_as_fit_are_trained_at_once(like_cifar, network, gib):
    job = short_job(Random, like_cifar, 50)
    asked = dataclasses.replace(job.evaluations[0], network=network, nets=1)
    together = footprint.trained_at_once(asked, 500, CIFAR, gib * 2**30)

    def needed(nets):
        return memory.scoring_bytes(dataclasses.replace(asked, nets=nets), CIFAR, 500)

    assert together == 1 or needed(together) <= 0.9 * gib * 2**30
    assert needed(together + 1) > 0.9 * gib * 2**30
    assert footprint.trained_at_once(asked, 500, CIFAR, 2**20) == 1


def test_small_images_take_little(digits):
    assert on_gpu(short_job(DC, digits, 10), digits.spec) < 2 * 2**30


def test_the_share_of_a_gpu():
    gib = 2**30
    assert share(40 * gib, 80 * gib) == 0.5
    assert share(1, 80 * gib) == 0.01
    assert share(41 * gib, 80 * gib) == 0.52, "rounded up"
    assert share(100 * gib, 80 * gib) == 1.0
    assert share(gib, 0) == 1.0


def test_a_microbatch_takes_less_where_real_images_are_trained_on(like_cifar):
    job = short_job(DC, like_cifar, 1, iterations=1000)
    assert on_gpu(dataclasses.replace(job, microbatch=16), CIFAR) < on_gpu(job, CIFAR)


def test_specs_know_how_many_images_there_are(digits):
    assert (digits.spec.train_images, digits.spec.test_images) == (len(digits.train), len(digits.test))
    assert all(data.spec(name, Path()).train_images for name in data.names())


MEASURED = {
    ("dc", 1): 933, ("dsa", 10): 1044, ("dm", 10): 483, ("cafe", 10): 661, ("idc", 10): 451, ("mtt", 10): 561,
    ("haba", 10): 631, ("linba", 1): 1963,
}  # fmt: skip
"""MiB that a step of a loop on CIFAR-10's shapes takes on a CPU above what was there before, by (method, IPC)."""

SHORT = {"syn_steps": 10, "inner_steps": 2, "experts": 1, "expert_epochs": 1, "max_start_epoch": 1, "zca": False}
"""Of what was unrolled there."""


@pytest.mark.parametrize(("name", "ipc"), MEASURED)
@pytest.mark.parametrize("schedule", ["paper", "0.01"])
def test_on_a_cpu_it_is_about_what_was_measured(name, ipc, schedule, tmp_path):
    options = Options(methods=(name,), datasets=("cifar10",), ipc=(ipc,), schedule=schedule)
    [job] = grid_of(options, tmp_path).jobs()[:1]
    short = {field: SHORT.get(field, value) for field, value in job.cell.hyper.items()}
    job = Job(dataclasses.replace(job.cell, hyper=short), ())
    before, loaded = 705, footprint.dataset_bytes(CIFAR) / MIB
    process = before * MIB - memory.LATER
    predicted = on_cpu(job, CIFAR, process) / MIB
    assert predicted == pytest.approx(before + loaded + MEASURED[name, ipc], rel=0.3)


def test_on_a_cpu_an_evaluation_counts_and_a_microbatch_takes_less(like_cifar):
    job = short_job(DC, like_cifar, 1, batch_real=256)
    whole = on_cpu(job, CIFAR)
    assert on_cpu(dataclasses.replace(job, microbatch=16), CIFAR) < whole
    standing = memory.PROCESS + memory.LATER + footprint.dataset_bytes(CIFAR)
    assert standing < on_cpu(short_job(Random, like_cifar), CIFAR) < whole


@pytest.mark.parametrize(("name", "ipc", "recorded"), [("random", 10, 873), ("dsa", 10, 880), ("mtt", 10, 898)])
def test_on_a_cpu_small_images_take_what_a_process_does(name, ipc, recorded, digits):
    """Recorded: MiB of whole cells on digits by a process that had 609 when it planned."""
    predicted = on_cpu(short_job(registry.get(name), digits, ipc), digits.spec, 609 * MIB) / MIB
    assert predicted == pytest.approx(recorded, rel=0.1)


@pytest.mark.parametrize("name", registry.all_methods())
def test_on_a_cpu_only_experts_add_to_it_with_a_run_s_length(name, tmp_path):
    found = []
    for schedule in ("0.1", "paper"):
        options = Options(methods=(name,), datasets=("cifar10",), ipc=(10,), schedule=schedule)
        job = grid_of(options, tmp_path).jobs()[0]
        found.append(memory.condensing_bytes_on_cpu(job, CIFAR, cost_of(job, CIFAR)))
    assert found[0] <= found[1] < 5 * 2**30
    assert found[0] == found[1] or "experts" in job.cell.hyper


@pytest.mark.parametrize("name", ["herding", "kcenter"])
def test_on_a_cpu_a_network_of_features_takes_its_whole_batch(name, like_cifar):
    """256 images of all classes together, of which each keeps 3.3 MB until its gradient is there: 843 MB."""
    job = short_job(registry.get(name), like_cifar, 10, feature_steps=100)
    needed = memory.condensing_bytes_on_cpu(job, CIFAR, cost_of(job, CIFAR))
    assert needed == footprint.TRAINED * 256 * footprint.kept_bytes("convnet", CIFAR)
    assert needed == pytest.approx(843e6, rel=0.01)


def test_on_a_cpu_a_whitening_counts(tmp_path):
    """It is fitted to all training images at once: 1.2 GB of CIFAR-10."""
    plain = grid_of(Options(methods=("mtt",), datasets=("tiny-imagenet",), ipc=(1,)), tmp_path).jobs()[0]
    tiny = data.spec("tiny-imagenet", Path())
    white = Job(dataclasses.replace(plain.cell, hyper=plain.cell.hyper | {"zca": True}), ())
    less, more = (memory.condensing_bytes_on_cpu(job, tiny, cost_of(job, tiny)) for job in (plain, white))
    assert more == 8 * tiny.train_images * tiny.pixels > less


@pytest.mark.parametrize("gpu", [True, False])
def test_the_plan_shows_it(gpu, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    grid = grid_of(Options(methods=("dc",), datasets=("cifar10",), ipc=(1,)), tmp_path)
    print_plan(make_plan(grid, Store(tmp_path), Speed(lambda: None), lambda *_: 3 * 2**30), "here", 1, gpu, console)
    assert "3.0 GiB" in console.file.getvalue()
    assert ("GPU memory" in console.file.getvalue()) == gpu
