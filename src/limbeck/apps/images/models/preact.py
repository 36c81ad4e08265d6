"""Pre-activated residual networks, norm and rectifier before each convolution: He et al. 2016, arXiv 1603.05027.

The names follow the first residual networks, with ``pre_bn`` and ``pre_relu`` before a block's first convolution and ``final_bn`` and ``final_relu``
before the head.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from limbeck.apps.images.models.layers import Residual, chain, convolution, he_initialised, pooled, relu
from limbeck.apps.images.models.stages import SIZES, Convolutions, basic, layers, numbered, projection


def preactivated(convolutions: Convolutions, first: bool, projected: bool = True) -> nn.Module:
    """A block with nothing after its sum; the first of a stage shares its activation with the shortcut.

    Where shapes differ the shortcut is a 1x1 convolution, or, if not ``projected``, the mean of 2x2 places between channels of zeros.
    """
    inputs, outputs = convolutions[0].in_channels, convolutions[-1].out_channels
    path = numbered(convolutions)
    path.popitem()  # the rectifier and the norm behind the last convolution
    path.popitem()
    shortcut = projection(convolutions)
    downsample = None
    if shortcut and projected:
        downsample = nn.Sequential(shortcut)
    elif shortcut:
        margin = (outputs - inputs) // 2
        downsample = nn.Sequential(nn.AvgPool2d(2), nn.ConstantPad3d((0, 0, 0, 0, margin, margin), 0.0))
    return Residual(path, before={"pre_bn": nn.BatchNorm2d(inputs), "pre_relu": relu()}, downsample=downsample, shared=first)


def preact_resnet_cifar(blocks: int, projected: bool, num_classes: int = 10) -> nn.Sequential:
    """Three stages of so many basic blocks, 16, 32 and 64 wide; the shortcuts that are not ``projected`` have no parameters."""
    body = layers(basic, partial(preactivated, projected=projected), [blocks] * 3, 16)
    return he_initialised(chain({"conv1": convolution(3, 16, 3), **body, **_head(64, num_classes)}))


def preact_resnet(depth: int, num_classes: int = 1000) -> nn.Sequential:
    """The ImageNet network of so many layers, one of ``SIZES``; the stem's activation is the first block's."""
    units, depths, features = SIZES[depth]
    stem = {"conv1": convolution(3, 64, 7, 2), "maxpool": nn.MaxPool2d(3, 2, padding=1)}
    return he_initialised(chain({**stem, **layers(units, preactivated, depths, 64), **_head(features, num_classes)}))


def _head(features: int, num_classes: int) -> dict[str, nn.Module]:
    return {"final_bn": nn.BatchNorm2d(features), "final_relu": relu(), **pooled(features, num_classes)}
