"""What can go wrong, as a tree; every message names the thing, the value and the remedy.

::

    LimbeckError
      ScheduleError      a schedule file or a policy has faults (a ValueError); ``faults`` lists them all
      TargetError        a name or pattern matches no parameter (a LookupError)
      MaskError          scores or weights from which no mask can be made, NaN for one (a ValueError)
      CheckpointError    a checkpoint is damaged, foreign, or does not fit
      CaptureError       a model whose forward pass cannot be captured as a graph (a ValueError)
      RecipeError        a thinning recipe does not fit a model (a ValueError); ``faults`` lists where
      QuantizationError  a model, statistics or options from which nothing can be quantized (a ValueError); ``faults`` may list them
      DataError          a corpus or data set is missing or unusable
      MissingExtraError  an optional dependency is not installed (an ImportError)

``ScheduleWarning`` is a ``UserWarning``: what is worth a look in a schedule that can be run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class LimbeckError(Exception):
    """The root: ``except LimbeckError`` catches everything that the library raises on purpose."""


class ScheduleError(LimbeckError, ValueError):
    """A schedule has faults; ``faults`` holds one line for each."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class TargetError(LimbeckError, LookupError):
    """A name or pattern matches no parameter of the model."""


class MaskError(LimbeckError, ValueError):
    """No mask can be made of these scores or weights."""


class CheckpointError(LimbeckError):
    """A checkpoint is damaged, foreign, or does not fit the run."""


class CaptureError(LimbeckError, ValueError):
    """A model's forward pass cannot be captured as a graph."""


class RecipeError(LimbeckError, ValueError):
    """A thinning recipe does not fit a model; ``faults`` holds one line for each place."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class QuantizationError(LimbeckError, ValueError):
    """Nothing can be quantized of this model, with these statistics or options; ``faults`` holds one line for each where there are several."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class DataError(LimbeckError):
    """A corpus or a data set is missing or unusable."""


class MissingExtraError(LimbeckError, ImportError):
    """An optional dependency is not installed."""


class ScheduleWarning(UserWarning):
    """A schedule can be run, but something in it is probably not meant."""


def did_you_mean(name: str, choices: Iterable[str], most: int = 3) -> str:
    """A remedy in words: the closest of ``choices``, or an empty string when none is close.

    >>> did_you_mean("final_sparsty", ["initial_sparsity", "final_sparsity"])
    "; did you mean 'final_sparsity'?"

    A name in other letters, and the initials of one, are close too:

    >>> did_you_mean("AGP", ["AutomatedGradualPruner", "TaylorPruner"]), did_you_mean("L1", ["l1", "l2"])
    ("; did you mean 'AutomatedGradualPruner'?", "; did you mean 'l1'?")
    """
    choices = list(dict.fromkeys(choices))
    ranked = [choice for choice in choices if choice.lower() == name.lower() or _initials(choice) == name.upper()]
    ranked = ranked[:most] or difflib.get_close_matches(name, choices, n=most, cutoff=0.75)
    if not ranked:
        return ""
    best = [close for close in ranked if _likeness(name, close) >= _likeness(name, ranked[0]) - 0.02]
    return "; did you mean " + " or ".join(f"'{close}'" for close in best) + "?"


def _initials(name: str) -> str | None:
    """The capitals of a class's name; None where they are too few to mean it."""
    capitals = "".join(letter for letter in name if letter.isupper())
    return capitals if len(capitals) > 2 else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    >>> require("math", "all").floor(1.5)
    1

    Raises ``MissingExtraError`` when the module is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"this needs '{module}', which is not installed; pip install 'limbeck[{extra}]'") from error
