"""Networks: sizes, golden outputs, seeded initialisation, vmap, grad and double backward."""

from math import sqrt

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from benchmark import networks
from benchmark.networks.convnet import default_depth

DIGITS, MNIST, CIFAR, TINY = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)
TINY_WIDTH = {"convnet": 4, "alexnet": 4, "vgg11": 2, "vgg16": 2, "resnet18": 2, "densenet121": 2}


def relative_error(measured, expected):
    return ((measured - expected).norm() / expected.norm()).item()


def small(name, shape=DIGITS, classes=3):
    return networks.build(name, shape, classes, width=TINY_WIDTH[name])


@pytest.mark.parametrize(
    "shape, classes, depth, count",
    [
        (CIFAR, 10, 3, 320_010),
        (CIFAR, 100, 3, 504_420),
        (TINY, 200, 4, 857_160),
        (MNIST, 10, 3, 317_706),
        (DIGITS, 10, 3, 298_506),
    ],
)
def test_convnet_has_the_published_size(shape, classes, depth, count):
    network = networks.build("convnet", shape, classes)
    assert len(network.blocks) == depth
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name, count", [("vgg16", 14_728_266), ("resnet18", 11_173_962), ("densenet121", 6_956_298)])
def test_cifar_networks_have_their_usual_size(name, count):
    assert sum(parameter.numel() for parameter in networks.build(name, CIFAR, 10).parameters()) == count


@pytest.mark.parametrize("side, depth", [(4, 2), (6, 2), (8, 3), (28, 3), (32, 3), (48, 3), (64, 4), (96, 4), (128, 5)])
def test_default_depth(side, depth):
    assert default_depth((3, side, side)) == depth


@pytest.mark.parametrize(
    ("shape", "depth"), [(DIGITS, 2), ((3, 12, 12), 2), ((3, 16, 16), 3), (MNIST, 3), (CIFAR, 3), (TINY, 4)]
)
def test_condensing_networks_normalise_no_map_below_4x4(shape, depth):
    network = networks.build_matching(shape, 10)
    assert len(network.blocks) == depth
    assert min(network.stages(torch.randn(1, *shape))[-2].shape[-2:]) >= 4


def test_too_deep_a_convnet_is_refused():
    with pytest.raises(ValueError, match="depth of 1 to 3, not 4"):
        networks.build("convnet", DIGITS, 10, depth=4)


def test_convnet_parameter_order():
    names = [name for name, _ in networks.build("convnet", CIFAR, 10).named_parameters()]
    block = ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
    expected = [f"blocks.{index}.{name}" for index in range(3) for name in block]
    assert names == [*expected, "classifier.weight", "classifier.bias"]


def test_convnet_agrees_with_golden(golden, golden_convnet):
    vectors = golden("convnet_forward")
    network = golden_convnet(vectors)
    with torch.no_grad():
        assert relative_error(network(vectors["images"]), vectors["logits"]) < 1e-5
        assert relative_error(network.features(vectors["images"]), vectors["embedding"]) < 1e-5


def test_pixel_gradient_through_features_agrees_with_golden(golden, golden_convnet):
    vectors = golden("distribution_matching_dm")
    network = golden_convnet(vectors)
    synthetic = vectors["syn"].clone().requires_grad_()
    loss = sum(
        (network.features(real).mean(0) - network.features(syn).mean(0)).square().sum()
        for real, syn in zip(vectors["real"], synthetic)
    )
    (gradient,) = torch.autograd.grad(loss, synthetic)
    assert relative_error(loss, vectors["loss"]) < 1e-4
    assert relative_error(gradient, vectors["grad_syn"]) < 1e-4


def test_stages_are_the_maps_before_pooling_and_the_last_pooled_map():
    network, images = networks.build("convnet", CIFAR, 10, width=4), torch.randn(2, *CIFAR)
    maps = network.stages(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 32, 32), (4, 16, 16), (4, 8, 8), (4, 4, 4)]
    assert all((m >= 0).all() for m in maps)
    torch.testing.assert_close(F.avg_pool2d(maps[-2], 2), maps[-1])
    torch.testing.assert_close(maps[-1].flatten(1), network.features(images))


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, TINY, (3, 12, 20)], ids=str)
@pytest.mark.parametrize("name", networks.NAMES)
def test_every_network_takes_every_size(name, shape):
    network, images = small(name, shape, classes=7).double(), torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        embedding, logits = network.features(images), network(images)
        assert embedding.shape == (2, network.classifier.in_features)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all() and (logits[0] != logits[1]).all()
        torch.testing.assert_close(network.eval()(images), logits, rtol=0, atol=0)
        torch.testing.assert_close(network(images[:1]), logits[:1])


@pytest.mark.parametrize("name", networks.NAMES)
def test_stacked_gradients_equal_a_loop(name):
    nets = [small(name).double() for _ in range(2)]
    stacked, _ = stack_module_state(nets)
    images, labels = torch.randn(3, *DIGITS, dtype=torch.float64), torch.tensor([0, 1, 2])

    def loss(parameters):
        return F.cross_entropy(functional_call(nets[0], parameters, (images,)), labels)

    gradients = vmap(grad(loss))(stacked)
    for index, net in enumerate(nets):
        expected = grad(loss)({key: value.detach() for key, value in net.named_parameters()})
        for key, value in expected.items():
            torch.testing.assert_close(gradients[key][index], value)


@pytest.mark.parametrize("name", networks.NAMES)
def test_double_backward(name):
    """The pixel gradient of a function of the parameter gradient, against a finite difference."""
    # float64 and smooth random inputs: a step of 1e-6 crosses no ReLU or max-pool kink here.
    network, labels = small(name).double(), torch.tensor([0, 1])
    parameters = {key: value.detach() for key, value in network.named_parameters()}
    target = {key: torch.randn_like(value) for key, value in parameters.items()}

    def matched(images):
        gradients = grad(lambda p: F.cross_entropy(functional_call(network, p, (images,)), labels))(parameters)
        return sum((gradients[key] * target[key]).sum() for key in gradients)

    images, direction = torch.randn(2, 2, *DIGITS, dtype=torch.float64).unbind()
    step = 1e-6 * direction
    slope = (matched(images + step) - matched(images - step)) / 2e-6
    torch.testing.assert_close((grad(matched)(images) * direction).sum(), slope, rtol=1e-3, atol=1e-5)


def test_vmap_of_a_convnet_equals_a_loop():
    nets = [networks.build("convnet", CIFAR, 10, width=8) for _ in range(3)]
    stacked, _ = stack_module_state(nets)
    images = torch.randn(3, 4, *CIFAR)
    with torch.no_grad():
        together = vmap(lambda p, x: functional_call(nets[0], p, (x,)))(stacked, images)
        alone = torch.stack([net(x) for net, x in zip(nets, images)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", networks.NAMES)
def test_initialise_draws_what_pytorch_would(name, generator):
    torch.manual_seed(5)
    default, network = small(name), small(name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    state = torch.get_rng_state()
    assert networks.initialise_(network, generator.manual_seed(5)) is network
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(network.parameters(), default.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_initialise_depends_on_the_generator_alone(generator):
    first = networks.initialise_(small("convnet"), generator)
    torch.manual_seed(99)
    second = networks.initialise_(small("convnet"), generator)
    again = networks.initialise_(small("convnet"), generator.manual_seed(0))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_initialise_reaches_its_bounds(generator):
    network = networks.initialise_(networks.build("convnet", CIFAR, 100), generator)
    for layer in (network.blocks[1].conv, network.classifier):
        bound = 1 / sqrt(layer.weight[0].numel())
        for parameter in layer.parameters():
            assert 0.9 * bound < parameter.abs().max() <= bound
        assert abs(layer.weight.std() / (bound / sqrt(3)) - 1) < 0.01


def test_initialise_refuses_what_it_does_not_know(generator):
    with pytest.raises(TypeError, match="BatchNorm2d"):
        networks.initialise_(torch.nn.BatchNorm2d(3), generator)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_initialise_on_cuda():
    network = small("convnet").cuda()
    networks.initialise_(network, torch.Generator("cuda").manual_seed(0))
    first = network.classifier.weight.detach().clone()
    networks.initialise_(network, torch.Generator("cuda").manual_seed(0))
    assert torch.equal(first, network.classifier.weight)


def test_flops_of_the_convnet():
    # By hand: the three convolutions at 32, 16 and 8 pixels and the linear layer, two operations per
    # multiply-add.
    expected = 2 * (128 * 27 * 32**2 + 128 * 1152 * 16**2 + 128 * 1152 * 8**2 + 2048 * 10)
    network = networks.build("convnet", CIFAR, 10)
    assert networks.flops_per_image(network, CIFAR) == expected
    assert network.classifier.weight.device.type == "cpu"


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown network 'resnet8'.*resnet18"):
        networks.build("resnet8", CIFAR, 10)
    with pytest.raises(ValueError, match="unknown network 'vgg'.*vgg11"):
        networks.describe("vgg")
    with pytest.raises(ValueError, match="fixed depth"):
        networks.build("vgg11", CIFAR, 10, depth=3)
    with pytest.raises(ValueError, match="2x8 are too small"):
        networks.build("convnet", (1, 2, 8), 10)


def test_descriptions_are_one_line():
    assert all(networks.describe(name) and "\n" not in networks.describe(name) for name in networks.NAMES)
