"""Models of image classification by their short names, from the papers; parameter names are those of the usual schedules and weights.

>>> net = MODELS["resnet20_cifar"](num_classes=100)
>>> sum(weight.numel() for weight in net.parameters() if weight.dim() > 1), input_shape("resnet20_cifar")
(276656, (3, 32, 32))
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from limbeck.apps.images.models.chains import (
    VGG_DEPTHS,
    alexnet,
    mobilenet,
    simplenet_cifar,
    simplenet_mnist,
    simplenet_v2_mnist,
    vgg,
    vgg_cifar,
)
from limbeck.apps.images.models.preact import preact_resnet, preact_resnet_cifar
from limbeck.apps.images.models.resnet import plain_cifar, resnet, resnet_cifar, resnet_cifar_earlyexit, resnet_earlyexit
from limbeck.apps.images.models.resnext import resnext_32x4d
from limbeck.apps.images.models.stages import SIZES

__all__ = ["CIFAR", "IMAGENET", "MNIST", "MODELS", "input_shape"]

Builder = Callable[..., nn.Module]
"""Takes ``num_classes``."""

NORMS = (("", False), ("_bn", True))
BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9}
"""Blocks of each stage, by the number of layers of a CIFAR network."""

CIFAR: dict[str, Builder] = {
    **{f"resnet{depth}_cifar": partial(resnet_cifar, blocks) for depth, blocks in BLOCKS.items()},
    **{f"resnet{depth}_cifar_earlyexit": partial(resnet_cifar_earlyexit, blocks) for depth, blocks in BLOCKS.items()},
    "plain20_cifar": partial(plain_cifar, 3, True),
    "plain20_cifar_nobn": partial(plain_cifar, 3, False),
    **{
        f"preact_resnet{depth}_cifar{end}": partial(preact_resnet_cifar, blocks, projected)
        for end, projected in (("", False), ("_conv_ds", True))
        for depth, blocks in {**BLOCKS, 110: 18}.items()
    },
    **{f"vgg{depth}{end}_cifar": partial(vgg_cifar, depth, norm) for depth in VGG_DEPTHS for end, norm in NORMS},
    "simplenet_cifar": simplenet_cifar,
}
MNIST: dict[str, Builder] = {"simplenet_mnist": simplenet_mnist, "simplenet_v2_mnist": simplenet_v2_mnist}
IMAGENET: dict[str, Builder] = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in SIZES},
    "resnet50_earlyexit": partial(resnet_earlyexit, 50),
    **{f"preact_resnet{depth}": partial(preact_resnet, depth) for depth in SIZES},
    "resnext101_32x4d": partial(resnext_32x4d, 101),
    **{f"mobilenet{end}": partial(mobilenet, width) for end, width in (("", 1.0), ("_075", 0.75), ("_050", 0.5), ("_025", 0.25))},
    **{f"alexnet{end}": partial(alexnet, norm) for end, norm in NORMS},
    **{f"vgg{depth}{end}": partial(vgg, depth, norm) for depth in VGG_DEPTHS for end, norm in NORMS},
}
MODELS: dict[str, Builder] = {**CIFAR, **MNIST, **IMAGENET}


def input_shape(name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of ``MODELS`` is made for."""
    return (3, 32, 32) if name in CIFAR else (1, 28, 28) if name in MNIST else (3, 224, 224)
