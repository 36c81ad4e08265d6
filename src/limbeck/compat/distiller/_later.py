"""What a module of the ancestor that is not here says to those who ask for one of its names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

QUANTIZERS = "quantizers for training; PostTrainLinearQuantizer quantizes a trained model"


def not_here(module: str, names: Sequence[str], what: str) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``: an ``ImportError`` for the ``names`` that it held, an ``AttributeError`` for others.

    >>> not_here("quantization", ["Quantizer"], QUANTIZERS)("Quantizer")
    Traceback (most recent call last):
    ImportError: there is no 'Quantizer': this version of Limbeck has no quantizers for training; PostTrainLinearQuantizer quantizes a trained model
    """

    def ask(name: str) -> NoReturn:
        if name in names:
            raise ImportError(f"there is no '{name}': this version of Limbeck has no {what}")
        raise AttributeError(f"{module} has no '{name}': this version of Limbeck has no {what}")

    return ask
