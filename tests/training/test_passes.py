"""The compiled pass against the eager one, and which trainings take it."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch.func import vmap

from benchmark import networks
from benchmark.objectives.distribution_matching import mean_embedding
from benchmark.system.runtime import Runtime
from benchmark.training import passes
from benchmark.training.passes import (
    by_autograd,
    first_order_pass,
    forward_pass,
    has_compiler,
    loss_and_gradients,
    second_order_pass,
    side_by_side,
)
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet
from benchmark.training.unroll import adjoint_of_gradient
from methods.cafe import guesses

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
HEADERS = "precompiled_headers"
SHAPE, CLASSES = (3, 16, 16), 3
EAGER = Runtime(CPU)


def network():
    return networks.build("convnet", SHAPE, CLASSES, width=8)


def batch(generator, size):
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return torch.randn(size, *SHAPE, generator=generator), labels, labels.flip(0), torch.rand((), generator=generator)


@pytest.fixture
def forgotten():
    """What was found out about compilers is forgotten, before and after."""
    has_compiler.cache_clear()
    yield
    has_compiler.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What was compiled serves the whole file."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(passes, "_refused", set())
    monkeypatch.setattr(passes, "_looked_at", set())


@pytest.fixture
def compiler(forgotten, monkeypatch, folder):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    monkeypatch.setattr(passes, "WORTH_COMPILING", {"float32": 0.0, "bf16": 0.0})
    if not has_compiler():
        pytest.skip("torch finds no compiler here")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bf16", 0.2)])
def test_agrees_with_the_eager_pass_for_any_batch(precision, tolerance, compiler, generator):
    net = network()
    parameters = networks.detached(net)
    fast = first_order_pass(net, SHAPE, 1, Runtime(CPU, precision))
    assert fast.func is not by_autograd
    versions = counters["stats"]["unique_graphs"]
    for size in (48, 33, 5):
        images = batch(generator, size)
        loss, gradients = fast(parameters, *images)
        true_loss, true_gradients = loss_and_gradients(net, parameters, *images, half=False)
        assert loss.item() == pytest.approx(true_loss.item(), rel=tolerance)
        for name, gradient in gradients.items():
            if not name.endswith("conv.bias"):  # exactly zero before an instance norm, so all rounding
                assert gradient.dtype == torch.float32
                assert (gradient - true_gradients[name]).norm() <= tolerance * true_gradients[name].norm(), name
    assert counters["stats"]["unique_graphs"] == versions, "compiled anew for another batch size"


def stacked(generator, dtype=torch.float32):
    """(a network, parameters of three such, a batch of each)."""
    net, parts = network().to(dtype), []
    for _ in range(3):
        networks.initialise_(net, generator)
        parts.append({name: p.detach().clone() for name, p in net.named_parameters()})
    images = [torch.stack(part) for part in zip(*(batch(generator, 5) for _ in range(3)), strict=True)]
    images = [part.to(dtype) if part.is_floating_point() else part for part in images]
    return net, {name: torch.stack([part[name] for part in parts]) for name in parts[0]}, images


def test_networks_side_by_side_have_the_gradients_of_each(generator):
    net, parameters, batches = stacked(generator, torch.float64)
    losses, gradients = side_by_side(net, parameters, *batches, half=False)
    mapped = vmap(partial(loss_and_gradients, net, half=False))(parameters, *batches)
    torch.testing.assert_close((losses, gradients), mapped, rtol=1e-12, atol=1e-12)
    for index in range(3):
        own = {name: parameter[index] for name, parameter in parameters.items()}
        loss, expected = by_autograd(net, own, *(part[index] for part in batches), half=False)
        found = losses[index], {name: gradient[index] for name, gradient in gradients.items()}
        torch.testing.assert_close(found, (loss, expected), rtol=1e-12, atol=1e-12)
    again = side_by_side(net, parameters, *batches, half=False)
    torch.testing.assert_close(again, (losses, gradients), rtol=0, atol=0)
    assert not any(p.requires_grad for p in (losses, *gradients.values(), *parameters.values()))


def test_networks_side_by_side_in_bfloat16(generator, norm_in_float32, operations):
    net, parameters, batches = stacked(generator)
    losses, gradients = side_by_side(net, parameters, *batches, half=True)
    mapped = vmap(partial(loss_and_gradients, net, half=True))(parameters, *batches)
    assert torch.equal(losses, mapped[0]), "autocast sees the same operations"
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        if not name.endswith("conv.bias"):  # exactly zero before an instance norm, so all rounding
            assert (gradient - mapped[1][name]).norm() <= 1e-2 * gradient.norm(), name
    with operations:
        side_by_side(net, parameters, *batches, half=True)
    assert operations.calls["native_group_norm_backward"] == len(net.blocks)


def test_networks_side_by_side_take_the_norms_own_backward_pass(generator, operations):
    """A graph of the backward pass would take it apart and keep the pieces."""
    net, parameters, batches = stacked(generator)
    with operations:
        side_by_side(net, parameters, *batches, half=False)
    assert operations.calls["native_group_norm_backward"] == len(net.blocks)


def test_a_training_of_ten_steps_stays_with_the_eager_one(compiler, generator):
    data = TrainingSet.of(torch.randn(40, *SHAPE, generator=generator), torch.arange(40) % CLASSES)
    recipe = Recipe(steps=10, batch=32, cutmix=0.5)
    ends = []
    for worth in (0.0, float("inf")):
        passes.WORTH_COMPILING["float32"] = worth
        training = Training(Ensemble(network(), [1, 2], EAGER), data, recipe, "color_crop")
        assert not training.batched
        losses = torch.stack([training.step(step) for step in range(10)])
        ends.append(losses)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_only_long_trainings_are_compiled_whatever_stands_beside_them(monkeypatch):
    monkeypatch.setattr(passes, "has_compiler", lambda: True)
    monkeypatch.setattr(passes, "_compile", lambda function: lambda *_, **__: None)
    flops = 3 * networks.flops_per_image(network(), SHAPE)
    enough = round(passes.WORTH_COMPILING["float32"] / flops) + 1
    assert first_order_pass(network(), SHAPE, enough, EAGER).func is not by_autograd
    assert first_order_pass(network(), SHAPE, enough - 2, EAGER).func is by_autograd
    assert first_order_pass(network(), SHAPE, enough, Runtime(CPU, "reference")).func is by_autograd
    half = first_order_pass(network(), SHAPE, 10, Runtime(CPU, "bf16"))
    assert half.func is by_autograd
    assert not half.keywords["half"], "uncompiled bfloat16 is slower than float32 on a CPU"
    data = TrainingSet.of(torch.zeros(40, *SHAPE), torch.arange(40) % CLASSES)
    steps = Recipe(steps=enough // 40 + 1, batch=40, augment="none")
    for seeds, recipe in (([1], steps), ([1, 2, 3], steps)):
        chosen = Training(Ensemble(network(), seeds, EAGER), data, recipe, "none")._pass
        assert chosen.func is not by_autograd
    short = dataclasses.replace(steps, steps=1)
    assert Training(Ensemble(network(), [1, 2, 3], EAGER), data, short, "none")._pass.func is by_autograd


def test_what_is_compiled_goes_to_the_users_cache(tmp_path):
    temporary, cache = tmp_path / "tmp", tmp_path / "cache"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")}
    environment |= {"TMPDIR": str(temporary), "CONDENSE_CACHE": str(cache)}
    plan = ["--plan", "--methods", "dm", "--results-dir", str(tmp_path)]
    code = (
        f"from benchmark import cli; cli.main({plan})\n"
        "from benchmark.training import passes; assert passes.has_compiler()"
    )
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    if "cannot compile" in run.stderr:
        pytest.skip("torch finds no compiler here")
    assert run.returncode == 0, run.stderr
    assert list((cache / "compiled").iterdir())
    left = [path for path in temporary.rglob("*") if path.is_file() and HEADERS not in path.parts]
    assert left == [], "torch puts its headers there whatever it is told, but nothing else"


def test_a_machine_without_a_compiler_is_told_once_and_goes_on(forgotten, monkeypatch, generator):
    def no_compiler(*_, **__):
        raise RuntimeError("no g++\nin many lines")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(passes, "WORTH_COMPILING", {"float32": 0.0, "bf16": 0.0})
    with pytest.warns(UserWarning, match=r"cannot compile here \(RuntimeError: no g\+\+\)"):
        found = first_order_pass(network(), SHAPE, 1, Runtime(CPU, "bf16"))
    again = first_order_pass(network(), SHAPE, 1, Runtime(CPU, "bf16"))  # a second warning would be an error here
    assert found.func is again.func is by_autograd
    assert not found.keywords["half"]


def test_a_network_that_the_compiler_stumbles_over_is_trained_uncompiled(monkeypatch):
    calls = []

    def stumble(*_, **__):
        calls.append(1)
        raise RuntimeError("conflicting declaration")

    monkeypatch.setattr(passes, "has_compiler", lambda: True)
    monkeypatch.setattr(passes, "_compile", lambda function: stumble)
    monkeypatch.setattr(passes, "WORTH_COMPILING", {"float32": 0.0, "bf16": 0.0})
    with pytest.warns(UserWarning, match="cannot compile ConvNet"):
        found = first_order_pass(network(), SHAPE, 1, EAGER)
    again = first_order_pass(network(), SHAPE, 1, EAGER)
    assert found.func is again.func is by_autograd
    assert len(calls) == 1


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bf16", 0.03)])
def test_features_without_a_graph_agree_with_eager_ones(precision, tolerance, compiler, monkeypatch, generator):
    monkeypatch.setattr(passes, "WORTH_COMPILING_FORWARD", 0.0)
    net, images = network(), torch.randn(2, 9, *SHAPE, generator=generator)
    fast = forward_pass(mean_embedding, net, SHAPE, 1, Runtime(CPU, precision))
    for _ in range(2):  # other weights, the same version
        found, versions = fast(images), counters["stats"]["unique_graphs"]
        assert found.dtype == torch.float32 and not found.requires_grad
        expected = mean_embedding(net, images).detach()
        assert 0 < (found - expected).norm() <= tolerance * expected.norm()
        networks.initialise_(net, generator)
    assert counters["stats"]["unique_graphs"] == versions
    long = forward_pass(guesses, net, SHAPE, 1, Runtime(CPU, precision))(images[0])
    assert long.dtype == torch.int64 and long.shape == (9,)


def test_a_cell_too_short_for_compiling_gets_no_second_order_pass(monkeypatch):
    monkeypatch.setattr(passes, "has_compiler", lambda: True)
    flops = networks.MATCHED_COST * networks.flops_per_image(network(), SHAPE)
    enough = round(passes.WORTH_COMPILING_SECOND / flops) + 1
    arguments = adjoint_of_gradient, network(), SHAPE
    assert second_order_pass(*arguments, enough, EAGER) is not None
    assert second_order_pass(*arguments, enough - 2, EAGER) is None
    assert second_order_pass(*arguments, enough, Runtime(CPU, "reference")) is None
    assert second_order_pass(*arguments, enough, Runtime(torch.device("meta"))) is None


def test_an_error_of_the_computation_is_not_blamed_on_the_compiler(monkeypatch):
    """What one cell asks too much of is compiled for the next one all the same."""

    def too_much(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(passes, "has_compiler", lambda: True)
    monkeypatch.setattr(passes, "_compile", lambda function: too_much)
    monkeypatch.setattr(passes, "WORTH_COMPILING_SECOND", 0.0)
    found = second_order_pass(too_much, network(), SHAPE, 1, EAGER)
    with pytest.raises(MemoryError):
        found(torch.zeros(1, *SHAPE))
    assert not passes._refused


def test_what_is_compiled_to_nonsense_is_refused_and_said_once(compiler, monkeypatch, generator):
    def broken(function):
        def call(*args, **kwargs):
            loss, gradients = function(*args, **kwargs)
            return loss, {name: gradient * torch.nan for name, gradient in gradients.items()}

        return call

    monkeypatch.setattr(passes, "_compile", broken)
    net = network()
    with pytest.warns(UserWarning, match="ConvNet as torch compiles it gives numbers that are not finite") as told:
        ways = [first_order_pass(net, SHAPE, 1, EAGER) for _ in range(2)]
    assert len(told) == 1
    inputs = networks.detached(net), *batch(generator, 64)
    for way in ways:
        _, gradients = way(*inputs)
        assert all(gradient.isfinite().all() for gradient in gradients.values())
