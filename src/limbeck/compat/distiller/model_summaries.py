"""The ancestor's summaries: Limbeck's, under its call shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.summaries import NAMES, PICTURE, PICTURES, SUMMARIES, summarise
from limbeck.summaries.render import show, to_text
from limbeck.summaries.sparsity import sparsity_rows, sparsity_table, total

FIRST_SHAPE = ("optimizer", "what", "dataset")
LAST_SHAPE = ("what", "dataset", "logdir")
IMAGES = {"cifar10": (1, 3, 32, 32), "mnist": (1, 1, 28, 28), "imagenet": (1, 3, 224, 224)}
"""The inputs that the ancestor knows by a data set's name."""
GONE = ("onnx",)
"""Summaries of the ancestor's that are not here."""


def model_summary(model: nn.Module, *arguments: Any, **named: Any) -> None:
    """Print a summary of a model, in either call shape of the ancestor's.

    ``model_summary(model, optimizer, what, dataset)`` was its first, ``model_summary(model, what, dataset=None, logdir='')`` its last.
    ``what`` is a name of ``limbeck.summaries.NAMES``. Those of a forward pass, ``compute``, ``png`` and ``png_w_params``, need a ``dataset`` of ``IMAGES``;
    the two drawings go to ``model.png`` in ``logdir`` or the current folder. Otherwise the other arguments are not needed.

    >>> model_summary(nn.Linear(2, 1), None, "modules", "wikitext2")
    Modules
    <BLANKLINE>
    Name     Type    Parameters
    -------  ------  ----------
    (model)  Linear           3
    -------  ------  ----------
    Total                     3

    Raises ``LimbeckError`` for a summary that there is not, and ``TypeError`` for other arguments.
    """
    first = "optimizer" in named or (bool(arguments) and not isinstance(arguments[0], str))
    shape = FIRST_SHAPE if first else LAST_SHAPE
    given = {**dict(zip(shape, arguments, strict=False)), **named}
    strangers = sorted(given.keys() - set(shape))
    if "what" not in given or strangers or len(arguments) > len(shape):
        raise TypeError(f"model_summary takes a model and {', '.join(shape)}, not {', '.join(strangers) or f'{len(arguments)} more'}")
    what, dataset = str(given["what"]), given.get("dataset")
    if what in GONE:
        raise LimbeckError(f"there is no summary '{what}': Limbeck exports no models; choose one of {', '.join(NAMES)}")
    if what not in SUMMARIES and what in NAMES and dataset not in IMAGES:
        raise LimbeckError(
            f"the summary '{what}' needs a data set for the shape of the inputs, one of {', '.join(IMAGES)}, not {dataset!r}"
        )
    inputs = (torch.zeros(IMAGES[dataset], device=next(model.parameters()).device),) if dataset in IMAGES else None
    out = Path(given.get("logdir") or ".") / PICTURE if what in PICTURES else None
    show(summarise(what, model, inputs, out))


@overload
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: Literal[False] = False) -> str: ...
@overload
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: Literal[True]) -> tuple[str, float]: ...
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: bool = False) -> str | tuple[str, float]:
    """The sparsity table as text, and the sparsity of all weights in percent if it is asked for; tied weights count once."""
    table = to_text(sparsity_table(model))
    return (table, 100 * total(sparsity_rows(model)).sparsity) if return_total_sparsity else table
