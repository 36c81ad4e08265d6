"""What the section ``extensions`` of a schedule file may name: the ancestor's removers, each of which is a thinning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from limbeck.thinning.thin import Shifts

SHAPES: Mapping[str, tuple[int, ...]] = {"cifar10": (1, 3, 32, 32), "imagenet": (1, 3, 224, 224), "mnist": (1, 1, 28, 28)}
"""The shape of one input of each data set that the ancestor knew."""

Dataset = Literal["cifar10", "imagenet", "mnist"]
Function = Literal["remove_filters", "remove_channels", "contract_model"]
Shape = Annotated[
    list[Annotated[int, Field(ge=1)]], Field(min_length=1, description="of what the model takes, the batch first, as in [1, 3, 32, 32]")
]


@dataclass(frozen=True)
class Remover:
    """A thinning, as a file describes it."""

    input_shape: tuple[int, ...] | None = None
    """Of what the model takes, where the program does not give example inputs."""
    shifts: Shifts = "keep"


def remover(
    thinning_func_str: Function = "contract_model",
    arch: str | None = None,
    dataset: Dataset | None = None,
    input_shape: Shape | None = None,
    shifts: Shifts = "keep",
) -> Remover:
    """Take out of the model all units that are zero: its filters, channels and neurons, and what is coupled to them.

    The model is captured with example inputs: those that the program gives, or else some of ``input_shape``, or of the ``dataset``'s. Whatever
    ``thinning_func_str`` is called, a unit goes when nothing is computed by it, or nothing reads it. ``arch`` is not needed.

    A filter of zeros to which a bias or a norm adds something gives a constant, and stays; ``shifts: drop`` takes it out with its constant, as
    Distiller did. Pruners that follow the coupling leave none.

    >>> remover("remove_filters", "resnet20_cifar", "cifar10")
    Remover(input_shape=(1, 3, 32, 32), shifts='keep')
    """
    if input_shape is not None:
        return Remover(tuple(input_shape), shifts)
    return Remover(None if dataset is None else SHAPES[dataset], shifts)


EXTENSIONS: dict[str, Callable[..., Remover]] = dict.fromkeys(("ChannelRemover", "FilterRemover", "StructureRemover"), remover)
"""Class names of the section ``extensions``."""
