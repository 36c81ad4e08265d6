"""The image classifiers have the sizes that papers print and the names that schedules use, and they train."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from limbeck.apps.images.models import CIFAR, IMAGENET, MNIST, MODELS, input_shape
from limbeck.apps.images.models.layers import Residual
from limbeck.names import named_parameters, resolve

PARAMETERS = {
    # the reference numbers of torchvision's documentation of its weights
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext101_32x4d": 44_177_704,  # as timm counts Cadene's
    "alexnet_bn": 61_100_840 + 2 * (64 + 192 + 384 + 256 + 256),
    # Howard et al. 2017, tables 6 and 8, print 4.2, 2.6, 1.3 and 0.5 million
    "mobilenet": 4_231_976,
    "mobilenet_075": 2_585_560,
    "mobilenet_050": 1_331_592,
    "mobilenet_025": 470_072,
    # two branches on 12 maps of 7x7: convolutions with biases, linear layers
    "resnet50_earlyexit": 25_557_032 + (256 * 50 * 49 + 50 + 50 * 12 * 49 + 12) + (512 * 12 * 49 + 12) + 2 * (12 * 49 * 1000 + 1000),
    # without convolutions in shortcuts: Idelbayev's "Proper ResNet implementation for CIFAR10", which counts what He et al. 2015 print in table 6;
    # pre-activation moves batch norms to other places of the same widths
    "plain20_cifar": 269_722,
    "preact_resnet20_cifar": 269_722,
    "preact_resnet32_cifar": 464_154,
    "preact_resnet44_cifar": 658_586,
    "preact_resnet56_cifar": 853_018,
    "preact_resnet110_cifar": 1_727_962,
    # batch norms (1,376 parameters: 688 channels) make room for a bias a channel
    "plain20_cifar_nobn": 269_722 - 1_376 + 688,
    # Keras' VGG without its top, and one linear layer
    "vgg16_cifar": 14_714_688 + 5_130,
    "vgg19_cifar": 20_024_384 + 5_130,
    # torchvision's without its three linear layers
    "vgg11_cifar": 132_863_336 - 123_642_856 + 5_130,
    "vgg13_cifar": 133_047_848 - 123_642_856 + 5_130,
    "vgg11_bn_cifar": 132_868_840 - 123_642_856 + 5_130,
    "vgg13_bn_cifar": 133_053_736 - 123_642_856 + 5_130,
    "vgg16_bn_cifar": 138_365_992 - 123_642_856 + 5_130,
    "vgg19_bn_cifar": 143_678_248 - 123_642_856 + 5_130,
    "simplenet_cifar": 456 + 2_416 + 48_120 + 10_164 + 850,
    "simplenet_mnist": 431_080,  # Han et al. 2015, table 1, LeNet-5: 431K
    "simplenet_v2_mnist": 520 + 25_050 + 510,
}
SHORTCUTS = 16 * 32 + 32 * 64  # the weights of two 1x1 convolutions, which have batch norms in the networks of 2015
for layers in (20, 32, 44, 56, 110):
    without = PARAMETERS[f"preact_resnet{layers}_cifar"]
    PARAMETERS[f"preact_resnet{layers}_cifar_conv_ds"] = without + SHORTCUTS
    if layers < 110:
        PARAMETERS[f"resnet{layers}_cifar"] = without + SHORTCUTS + 2 * (32 + 64)
        PARAMETERS[f"resnet{layers}_cifar_earlyexit"] = PARAMETERS[f"resnet{layers}_cifar"] + 1_600 * 10 + 10
GLUON = {18: 11_695_796, 34: 21_811_380, 50: 25_595_060, 101: 44_639_412, 152: 60_329_140}
"""Parameters of the pre-activated networks in GluonCV's model zoo, which counts running means and variances, has a batch norm on the image and another
behind the first convolution."""
GIGA_MACS = {  # torchvision's documentation: "GFLOPS"
    "alexnet": 0.71,
    "vgg11": 7.61,
    "vgg13": 11.31,
    "vgg16": 15.47,
    "vgg19": 19.63,
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "resnet101": 7.80,
    "resnet152": 11.51,
}
MEGA_MACS = {"mobilenet": 569, "mobilenet_075": 325, "mobilenet_050": 149, "mobilenet_025": 41}  # Howard et al. 2017, table 6
SCHEDULED = {
    "alexnet": [
        *("features.module.0.weight", "features.module.3.weight", "features.module.6.weight", "features.module.8.weight"),
        *("features.module.10.weight", "classifier.1.weight", "classifier.4.weight", "classifier.6.weight"),
    ],
    "vgg19": ["features.module.34.weight", "classifier.0.weight", "classifier.3.weight", "classifier.6.weight"],
    "resnet20_cifar": ["module.conv1.weight", "module.layer1.0.conv1.weight", "module.layer2.0.downsample.0.weight", "module.fc.weight"],
    "resnet20_cifar_earlyexit": ["module.layer3.2.conv2.weight", "module.fc.weight"],
    "plain20_cifar": ["module.layer1.0.conv1.weight", "module.layer3.2.conv2.weight"],
    "plain20_cifar_nobn": ["module.layer1.0.conv1.weight", "module.layer3.2.conv2.weight"],
    "preact_resnet20_cifar_conv_ds": ["module.conv1.weight", "module.layer2.0.downsample.0.weight", "module.fc.weight"],
    "resnet18": ["module.layer4.1.conv2.weight", "module.layer2.0.downsample.0.weight"],
    "resnet50": ["module.layer3.1.conv1.weight", "module.layer3.1.conv3.weight", "module.layer1.0.downsample.0.weight", "module.fc.weight"],
    "mobilenet": [
        "module.model.0.0.weight",
        "module.model.1.0.weight",
        "module.model.13.3.weight",
        "module.model.13.4.weight",
        "module.fc.weight",
    ],
    "resnext101_32x4d": [
        *("module.features.0.weight", "module.features.4.0.0.0.0.0.weight", "module.features.4.0.0.0.0.3.weight"),
        *("module.features.4.0.0.0.1.weight", "module.features.4.0.0.1.0.weight", "module.features.6.22.0.0.0.0.weight"),
        "module.last_linear.weight",
    ],
    "vgg16_bn_cifar": ["features.module.40.weight", "classifier.weight"],
    "simplenet_cifar": ["module.conv1.weight", "module.conv2.weight", "module.fc1.weight", "module.fc2.weight", "module.fc3.weight"],
    "simplenet_mnist": ["module.conv1.weight", "module.conv2.weight", "module.fc1.weight", "module.fc2.weight"],
}
"""Names as the ancestor's schedules spell them."""
KINDS = (
    *(name for name in MODELS if "20" in name or "18" in name or "11_" in name or "simplenet" in name or "alexnet" in name),
    *("resnet50_earlyexit", "preact_resnet50", "resnext101_32x4d", "mobilenet_025"),
)
"""One model of each kind: the others are deeper or wider."""
SMALL = {
    "resnet20_cifar": 16,
    "resnet20_cifar_earlyexit": 32,
    "plain20_cifar": 16,
    "plain20_cifar_nobn": 16,
    "preact_resnet20_cifar": 16,
    "preact_resnet20_cifar_conv_ds": 16,
    "simplenet_cifar": 32,
    "simplenet_mnist": 28,
    "simplenet_v2_mnist": 28,
    "mobilenet_025": 64,
}
"""Models that a test can run, with the height of images that they take."""


@cache
def shapes(name: str) -> nn.Module:
    """The model without numbers."""
    with torch.device("meta"):
        return MODELS[name]()


def macs(name: str) -> int:
    """Multiplications by weights for one image."""
    model = copy.deepcopy(shapes(name)).eval()
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        layer.register_forward_hook(count)
    model(torch.zeros(1, *input_shape(name), device="meta"))
    return total


def every(logits: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return logits if isinstance(logits, tuple) else (logits,)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weights(name: str) -> int:
    return sum(parameter.numel() for parameter in shapes(name).parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_as_many_parameters_as_published(name: str) -> None:
    model = shapes(name)
    depth = name.removeprefix("preact_resnet")
    if name in IMAGENET and depth != name:
        running = sum(buffer.numel() for buffer in model.buffers() if buffer.dim())
        assert parameters(model) + running + 4 * (3 + 64) == GLUON[int(depth)]
    else:
        assert parameters(model) == PARAMETERS[name]


def test_weights_that_schedules_can_prune_are_counted_as_in_their_headers() -> None:
    assert weights("resnet50") == 25_502_912
    assert weights("resnet20_cifar") == 270_896  # 120,000 of them are the 44.3 % of its AGP schedule
    assert weights("plain20_cifar") == weights("plain20_cifar_nobn") == 268_336


@pytest.mark.parametrize("name", GIGA_MACS)
def test_compute_of_imagenet_models_is_torchvisions(name: str) -> None:
    assert round(macs(name) / 1e9, 2) == GIGA_MACS[name]


@pytest.mark.parametrize("name", MEGA_MACS)
def test_compute_of_mobilenet_is_the_papers(name: str) -> None:
    assert round(macs(name) / 1e6) == MEGA_MACS[name]


def test_compute_of_cifar_models_is_what_their_schedules_say() -> None:
    assert macs("resnet20_cifar") == macs("preact_resnet20_cifar_conv_ds") == 40_813_184
    assert macs("plain20_cifar") == macs("preact_resnet20_cifar") == 40_813_184 - 16 * 16 * 512 - 8 * 8 * 2048
    for depth in (11, 13, 16, 19):  # 32x32 is a 49th of 224x224; linear layers apart
        assert (macs(f"vgg{depth}_cifar") - 5_120) * 49 == macs(f"vgg{depth}") - 123_633_664


@pytest.mark.parametrize("name", KINDS)
def test_logits_of_every_exit_and_a_gradient_for_every_parameter(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name](num_classes=7)
    logits = every(model(torch.zeros(2, *input_shape(name), device="meta")))
    exits = 1 if "earlyexit" not in name else 3 if name in IMAGENET else 2
    assert [one.shape for one in logits] == [(2, 7)] * exits
    torch.stack(logits).sum().backward()  # raises where a rectifier wrote over what a gradient needs
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SCHEDULED)
def test_names_of_old_schedules_resolve(name: str) -> None:
    targets = SCHEDULED[name]
    found = resolve(dict.fromkeys(targets, 0.5), named_parameters(shapes(name)))
    assert found.keys() == {target.replace("module.", "") for target in targets}


def test_every_rectifier_and_every_sum_of_a_residual_block_is_a_module() -> None:
    names = {name for name, _ in shapes("resnet50").named_modules()}
    assert {f"layer1.0.{part}" for part in ("relu1", "relu2", "relu3", "add")} <= names
    assert {"layer1.0.pre_relu", "final_relu", "layer4.2.add"} <= {name for name, _ in shapes("preact_resnet50").named_modules()}


def test_a_model_with_early_exits_holds_the_model_without() -> None:
    for trunk in ("resnet20_cifar", "resnet56_cifar", "resnet50"):
        held = [name for name in shapes(f"{trunk}_earlyexit").state_dict() if not name.startswith("exits.")]
        assert held == list(shapes(trunk).state_dict())


def test_every_model_is_in_the_table_once() -> None:
    assert MODELS.keys() == PARAMETERS.keys() | {f"preact_resnet{depth}" for depth in GLUON}
    assert len(MODELS) == len(CIFAR) + len(MNIST) + len(IMAGENET)


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_of_training_lower_the_loss(name: str) -> None:
    model = MODELS[name](num_classes=10)
    channels, height, labels = input_shape(name)[0], SMALL[name], torch.arange(8)
    images = torch.randn(8, channels, 1, 1) + 0.1 * torch.randn(8, channels, height, height)  # a colour each
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    losses = []
    for _ in range(10):
        loss = torch.stack([F.cross_entropy(logits, labels) for logits in every(model(images))]).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact_resnet20_cifar", "resnet20_cifar_earlyexit", "mobilenet_025"])
def test_a_model_can_be_traced(name: str) -> None:
    model = MODELS[name]().eval()
    images = torch.randn(2, 3, SMALL[name], SMALL[name])
    for traced, given in zip(every(fx.symbolic_trace(model)(images)), every(model(images)), strict=True):
        assert torch.equal(traced, given)


def test_he_initialisation_keeps_the_size_of_activations_without_batch_norms() -> None:
    model = MODELS["plain20_cifar_nobn"]()
    images = torch.randn(4, 3, 32, 32)
    inside = nn.Sequential(*list(model.children())[:-3])(images)
    assert 0.1 < inside.square().mean().item() / images.square().mean().item() < 10
    assert all(not parameter.any() for parameter in model.parameters() if parameter.dim() == 1)


def test_he_initialisation_counts_the_inputs_of_a_group() -> None:
    model = MODELS["mobilenet"]()
    assert isinstance(model, nn.Sequential)
    depthwise = model.get_parameter("model.13.0.weight")
    pointwise = model.get_parameter("model.13.3.weight")
    assert depthwise.var().item() == pytest.approx(2 / 9, rel=0.1)
    assert pointwise.var().item() == pytest.approx(2 / 1024, rel=0.1)


def test_a_shared_activation_feeds_the_shortcut_too() -> None:
    x = torch.tensor([-1.0, 2.0])
    apart = Residual({"conv1": nn.Identity()}, before={"pre_relu": nn.ReLU()})
    shared = Residual({"conv1": nn.Identity()}, before={"pre_relu": nn.ReLU()}, shared=True)
    assert apart(x).tolist() == [-1.0, 4.0]
    assert shared(x).tolist() == [0.0, 4.0]


def test_the_shortcut_without_parameters_is_a_mean_between_zeros() -> None:
    downsample = MODELS["preact_resnet20_cifar"]().get_submodule("layer2.0.downsample")
    given = downsample(torch.arange(16.0).view(1, 1, 4, 4).expand(1, 16, 4, 4))
    assert given.shape == (1, 32, 2, 2)
    assert given[0, 8].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert not given[0, :8].any()
    assert not given[0, 24:].any()
