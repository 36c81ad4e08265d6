"""ResNeXt: Xie et al. 2017, arXiv 1611.05431, under the names of the PyTorch weights that Remi Cadene converted from Lua Torch."""

from __future__ import annotations

from torch import nn

from limbeck.apps.images.models.layers import Branches, chain, convolution, he_initialised, normalized, relu
from limbeck.apps.images.models.stages import SIZES, Convolutions, projection, stages


def grouped(inputs: int, width: int, stride: int) -> Convolutions:
    """The bottleneck of 32x4d: twice as wide inside as ResNet's, in 32 groups.

    >>> [tuple(conv.weight.shape) for conv in grouped(256, 64, stride=1)]
    [(128, 256, 1, 1), (128, 4, 3, 3), (256, 128, 1, 1)]
    """
    inner = 2 * width
    return convolution(inputs, inner, 1), convolution(inner, inner, 3, stride, groups=32), convolution(inner, 4 * width, 1)


def aggregated(convolutions: Convolutions, first: bool) -> nn.Module:
    """A residual block by numbers: ``0.0`` the path, of which ``0.0.0`` holds all but the last convolution, ``0.1`` the shortcut.

    >>> [name for name, weight in aggregated(grouped(64, 64, 1), True).named_parameters() if weight.dim() == 4]
    ['0.0.0.0.weight', '0.0.0.3.weight', '0.0.1.weight', '0.1.0.weight']
    """
    *inner, last = convolutions
    path = nn.Sequential(nn.Sequential(*(part for conv in inner for part in normalized(conv))), *normalized(last, activated=False))
    shortcut = projection(convolutions)
    other = nn.Sequential(*normalized(shortcut, activated=False)) if shortcut else nn.Identity()
    return nn.Sequential(Branches([path, other]), relu())


def resnext_32x4d(depth: int, num_classes: int = 1000) -> nn.Sequential:
    """The network with ResNet's stages for that depth, one of ``SIZES`` from 50 on, for images ``[batch, 3, 224, 224]``.

    ``features.4.0.0.0.0.0.weight`` is the first weight of the first block, ``features.0.weight`` the stem's, ``last_linear.weight`` the head's.
    """
    _, depths, features = SIZES[depth]
    stem = [*normalized(convolution(3, 64, 7, 2)), nn.MaxPool2d(3, 2, padding=1)]
    body = nn.Sequential(*stem, *stages(grouped, aggregated, depths, 64))
    head = {"avg_pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "last_linear": nn.Linear(features, num_classes)}
    return he_initialised(chain({"features": body, **head}))
