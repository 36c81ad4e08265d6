"""How a residual network is made of stages, a stage of blocks, and a block of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from torch import nn

from limbeck.apps.images.models.layers import convolution, relu

Convolutions = Sequence[nn.Conv2d]
Units = Callable[[int, int, int], Convolutions]
"""The convolutions of a block that has so many input channels, such a width and such a stride."""
Block = Callable[[Convolutions, bool], nn.Module]
"""A block of these convolutions; whether it is the first of its stage."""


def basic(inputs: int, width: int, stride: int, bias: bool = False) -> Convolutions:
    """Two 3x3 convolutions.

    >>> [tuple(conv.weight.shape) for conv in basic(16, 32, stride=2)]
    [(32, 16, 3, 3), (32, 32, 3, 3)]
    """
    return convolution(inputs, width, 3, stride, bias=bias), convolution(width, width, 3, bias=bias)


def bottleneck(inputs: int, width: int, stride: int) -> Convolutions:
    """1x1, 3x3, and 1x1 to four times the width; the stride is the 3x3's.

    >>> [tuple(conv.weight.shape) for conv in bottleneck(256, 64, stride=1)]
    [(64, 256, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)]
    """
    return convolution(inputs, width, 1), convolution(width, width, 3, stride), convolution(width, 4 * width, 1)


SIZES: dict[int, tuple[Units, tuple[int, ...], int]] = {
    18: (basic, (2, 2, 2, 2), 512),
    34: (basic, (3, 4, 6, 3), 512),
    50: (bottleneck, (3, 4, 6, 3), 2048),
    101: (bottleneck, (3, 4, 23, 3), 2048),
    152: (bottleneck, (3, 8, 36, 3), 2048),
}
"""The ImageNet networks by their number of layers (table 1 of He et al. 2015): units, blocks of each stage, channels of the last stage."""


def stages(units: Units, block: Block, depths: Sequence[int], inputs: int) -> list[nn.Sequential]:
    """As many stages as ``depths``, of so many blocks each, behind a stem that gives ``inputs`` channels.

    The first stage is as wide as the stem; from each stage to the next the width doubles and height and width halve.
    """
    found, width = [], inputs
    for stage, depth in enumerate(depths):
        blocks = []
        for place in range(depth):
            convolutions = units(inputs, width, 2 if stage and not place else 1)
            blocks.append(block(convolutions, not place))
            inputs = convolutions[-1].out_channels
        found.append(nn.Sequential(*blocks))
        width *= 2
    return found


def layers(units: Units, block: Block, depths: Sequence[int], inputs: int) -> dict[str, nn.Module]:
    """The stages under the names ``layer1``, ``layer2`` and on."""
    return {f"layer{number}": stage for number, stage in enumerate(stages(units, block, depths, inputs), 1)}


def numbered(convolutions: Convolutions, norm: bool = True) -> dict[str, nn.Module]:
    """The parts of a block in their order: each convolution with its batch norm and rectifier.

    >>> list(numbered(basic(4, 4, stride=1)))
    ['conv1', 'bn1', 'relu1', 'conv2', 'bn2', 'relu2']
    """
    parts: dict[str, nn.Module] = {}
    for number, conv in enumerate(convolutions, 1):
        parts[f"conv{number}"] = conv
        if norm:
            parts[f"bn{number}"] = nn.BatchNorm2d(conv.out_channels)
        parts[f"relu{number}"] = relu()
    return parts


def projection(convolutions: Convolutions) -> nn.Conv2d | None:
    """The 1x1 convolution that gives a block's shortcut its shape; None where it has that shape already."""
    inputs, outputs = convolutions[0].in_channels, convolutions[-1].out_channels
    stride = prod(conv.stride[0] for conv in convolutions)
    return None if (inputs, stride) == (outputs, 1) else convolution(inputs, outputs, 1, stride)
