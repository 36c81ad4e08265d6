"""Residual networks for CIFAR and ImageNet, their plain twins and their early exits: He et al. 2015, arXiv 1512.03385.

Names are those of torchvision: ``layer2.0.conv1.weight``, ``layer2.0.downsample.0.weight``, ``fc.weight``; each rectifier and each sum is a module
of its own (``relu1``, ``add``).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from limbeck.apps.images.models.layers import EarlyExits, Residual, chain, convolution, he_initialised, normalized, pooled, relu
from limbeck.apps.images.models.stages import SIZES, Convolutions, basic, layers, numbered, projection


def residual(convolutions: Convolutions, first: bool) -> nn.Module:
    """A block that is rectified after the sum; the shortcut is a 1x1 convolution with a batch norm where shapes differ."""
    path = numbered(convolutions)
    name, rectifier = path.popitem()
    shortcut = projection(convolutions)
    downsample = nn.Sequential(*normalized(shortcut, activated=False)) if shortcut else None
    return Residual(path, after={name: rectifier}, downsample=downsample)


def plain(convolutions: Convolutions, first: bool, norm: bool = True) -> nn.Module:
    """The same convolutions without a shortcut."""
    return chain(numbered(convolutions, norm))


def resnet_cifar(blocks: int, num_classes: int = 10) -> nn.Sequential:
    """Three stages of so many basic blocks, 16, 32 and 64 wide: ``6 * blocks + 2`` layers for images ``[batch, 3, 32, 32]``."""
    stem = {"conv1": convolution(3, 16, 3), "bn1": nn.BatchNorm2d(16), "relu": relu()}
    return he_initialised(chain({**stem, **layers(basic, residual, [blocks] * 3, 16), **pooled(64, num_classes)}))


def plain_cifar(blocks: int, norm: bool, num_classes: int = 10) -> nn.Sequential:
    """The CIFAR network without shortcuts; its convolutions have biases where it has no batch norms."""
    stem: dict[str, nn.Module] = {"conv1": convolution(3, 16, 3, bias=not norm)}
    if norm:
        stem["bn1"] = nn.BatchNorm2d(16)
    body = layers(partial(basic, bias=not norm), partial(plain, norm=norm), [blocks] * 3, 16)
    return he_initialised(chain({**stem, "relu": relu(), **body, **pooled(64, num_classes)}))


def resnet_cifar_earlyexit(blocks: int, num_classes: int = 10) -> nn.Module:
    """The CIFAR network with an exit behind its first stage."""
    branch = nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(16 * 10 * 10, num_classes))
    return EarlyExits(resnet_cifar(blocks, num_classes), {"layer1": he_initialised(branch)})


def resnet(depth: int, num_classes: int = 1000) -> nn.Sequential:
    """The network of so many layers, one of ``SIZES``, for images ``[batch, 3, 224, 224]``; a bottleneck's stride is its 3x3 convolution's."""
    units, depths, features = SIZES[depth]
    stem = {"conv1": convolution(3, 64, 7, 2), "bn1": nn.BatchNorm2d(64), "relu": relu(), "maxpool": nn.MaxPool2d(3, 2, padding=1)}
    return he_initialised(chain({**stem, **layers(units, residual, depths, 64), **pooled(features, num_classes)}))


def resnet_earlyexit(depth: int, num_classes: int = 1000) -> nn.Module:
    """The network of 50 layers or more with exits behind its first two stages, where maps are 56 and 28 high; each brings them to 12 maps of 7."""
    narrow = [nn.Conv2d(256, 50, 7, 2, padding=3), relu(), nn.Conv2d(50, 12, 7, 2, padding=3), relu()]
    wide = [nn.Conv2d(512, 12, 7, 2, padding=3), relu()]
    exits = {
        name: nn.Sequential(nn.AvgPool2d(2), *parts, nn.Flatten(), nn.Linear(12 * 7 * 7, num_classes))
        for name, parts in (("layer1", narrow), ("layer2", wide))
    }
    return EarlyExits(resnet(depth, num_classes), {name: he_initialised(branch) for name, branch in exits.items()})
