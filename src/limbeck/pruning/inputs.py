"""A layer's inputs as the matrix that its weight multiplies, and the criterion that weighs weights by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import MaskError
from limbeck.pruning.criteria import Units
from limbeck.tile import Tile
from limbeck.watch import Activations

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers whose output is their weight times a matrix of inputs."""

KEY = "input_square"


def takes_matrix(module: nn.Module, attribute: str) -> bool:
    """Whether the parameter is a weight that multiplies a matrix of inputs: of a Linear layer or a convolution over one or two axes.

    >>> takes_matrix(nn.Linear(2, 3), "weight"), takes_matrix(nn.Linear(2, 3), "bias"), takes_matrix(nn.Embedding(2, 3), "weight")
    (True, False, False)
    """
    return isinstance(module, LAYERS) and attribute == "weight"


def input_matrix(module: nn.Module, x: Tensor) -> Tensor:
    """The inputs that multiply ``weight.flatten(1)``: ``[groups, samples, columns]``, in float32, or float64 where they are.

    A sample is a token of a Linear layer, and a place in the output of a convolution, which has a column for each input channel of its group
    and place in the kernel.

    >>> input_matrix(nn.Linear(3, 2), torch.zeros(5, 7, 3)).shape, input_matrix(nn.Conv2d(4, 6, 3, groups=2), torch.zeros(5, 4, 8, 8)).shape
    (torch.Size([1, 35, 3]), torch.Size([2, 180, 18]))
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, module.in_features)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    x = x if x.dim() == len(kernel) + 2 else x[None]
    widths = [width for before, after in reversed(_padding(module)) for width in (before, after)]
    if any(widths):
        x = F.pad(x, widths, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    if len(kernel) == 1:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), (1, *stride), (1, *dilation)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)
    batch, rows, places = patches.shape
    patches = patches.view(batch, module.groups, rows // module.groups, places)
    return patches.permute(1, 0, 3, 2).reshape(module.groups, batch * places, rows // module.groups)


def _padding(module: nn.Conv1d | nn.Conv2d) -> Sequence[tuple[int, int]]:
    """How far each axis is padded, before and after."""
    if not isinstance(module.padding, str):
        return [(width, width) for width in module.padding]
    missing = [d * (k - 1) if module.padding == "same" else 0 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return [(width // 2, width - width // 2) for width in missing]


def input_squares(module: nn.Module, weight: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """The sum of squares of each input over all samples, in a shape that broadcasts to the weight's, and how many samples there are."""
    squares = x.detach().to(torch.promote_types(x.dtype, torch.float32)).square()
    batch = 1
    if not isinstance(module, nn.Linear) and squares.dim() == weight.dim():
        batch, squares = len(squares), squares.sum(0, keepdim=True)  # places are told apart only after the batch has been added up
    matrix = input_matrix(module, squares)
    groups, samples, _ = matrix.shape
    rows = 1 if groups == 1 else len(weight) // groups
    sums = matrix.sum(1)[:, None].expand(-1, rows, -1)
    return sums.reshape(groups * rows, *weight.shape[1:]), batch * samples


def mean_input_square(module: nn.Module, attribute: str, x: Tensor) -> Tensor | None:
    """The mean square of each input over all samples, in a shape that broadcasts to the weight's; None for any other parameter.

    >>> mean_input_square(nn.Linear(2, 3), "weight", torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
    tensor([[5., 2.]])
    """
    if not takes_matrix(module, attribute):
        return None
    sums, samples = input_squares(module, getattr(module, attribute), x)
    return sums / samples


class Wanda:
    """``|weight| * norm of its input``: what the output would lose with a weight (Sun et al. 2023, arXiv 2306.11695, equation 1).

    Of a unit of several weights the sum. Inputs of a convolution are the places under its kernel, channel by channel.
    """

    needs = Activations(KEY, mean_input_square, side="input")

    def __call__(self, units: Units) -> Tensor:
        """The scores, ``[units]``; raises ``MaskError`` where no inputs were observed."""
        if KEY not in units.measured:
            raise MaskError("nothing has observed this layer's inputs; prune through a schedule, or with limbeck.pruning.calibrated.wanda")
        return units.total(_weighed, KEY)

    def misfit(self, name: str, shape: Sequence[int], unit: Tile) -> str | None:
        """Why a tensor of this shape is no weight of ``LAYERS``."""
        if 2 <= len(shape) <= 4:
            return None
        what = f"has a shape of {tuple(shape)}, and is weighed by the inputs of a layer"
        return f"{what}; give weights of Linear, Conv1d and Conv2d layers alone, which have 2 to 4 axes"


def _weighed(weight: Tensor, square: Tensor) -> Tensor:
    return weight.abs() * square.sqrt()


wanda_score = Wanda()
