"""What a criterion must have seen in training before it can score; ``limbeck.watch`` sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Gradients:
    """A number a unit that is added up over the optimizer steps.

    ``accumulate(total, weight, grad)`` changes ``total``, ``[units]`` in float32 and zero at first, in place; ``weight`` and ``grad`` are
    ``[units, members]``. ``lasting`` sums are not begun anew when a mask is renewed; a criterion can do without what is not ``required``.

    A ``gated`` sum takes for the members of a filter that a batch norm reads the one scale that the norm multiplies it by: weight times gradient
    is then how the loss changes with a factor on what the filter gives (the gates of Molchanov et al. 2019, arXiv 1906.10771, without the
    bias, which a mask leaves). Of the filter's own weights that sum is always zero, because the norm undoes any factor on them.
    """

    key: str
    accumulate: Callable[[Tensor, Tensor, Tensor], object]
    lasting: bool = False
    required: bool = True
    gated: bool = False


@dataclass(frozen=True)
class Activations:
    """The mean over the training batches of what ``measure(owner, attribute, activation)`` gives, each batch weighed by its elements.

    ``owner`` is the module that holds the parameter, under the name ``attribute``; the activation is its first ``input`` or its first
    ``output``, or the output of the batch norm that reads that output. The result broadcasts to the parameter's shape; None: not of this module.
    """

    key: str
    measure: Callable[[nn.Module, str, Tensor], Tensor | None]
    side: Literal["input", "output"] = "output"
    lasting: bool = False


@dataclass(frozen=True)
class FollowingNorm:
    """The scale that folding the batch norm behind a convolution would give its filters: ``gamma / sqrt(running variance + eps)``.

    ``[filters, 1, ...]``; 1 for all that is no convolution or that no batch norm reads. Which one does is seen in the first forward pass.
    """

    key: str = "fold_batchnorm"


@dataclass(frozen=True)
class Beside:
    """The largest magnitude in each entry, along the first axis, of what the parameter's module holds under ``attribute``: ``[entries]``.

    It is read as it stands, masks applied. A batch norm's bias has its scales beside it, and a convolution's its filters.
    """

    key: str = "beside"
    attribute: str = "weight"


Need = Gradients | Activations | FollowingNorm | Beside
