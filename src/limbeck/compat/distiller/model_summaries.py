"""The ancestor's summaries: Limbeck's, under its call shapes."""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import nn

from limbeck.errors import LimbeckError, did_you_mean
from limbeck.summaries import SUMMARIES
from limbeck.summaries.render import show, to_text
from limbeck.summaries.sparsity import sparsity_rows, sparsity_table, total

FIRST_SHAPE = ("optimizer", "what", "dataset")
LAST_SHAPE = ("what", "dataset", "logdir")
GONE = ("compute", "onnx", "png", "png_w_params")
"""Summaries of the ancestor's that are not here."""


def model_summary(model: nn.Module, *arguments: Any, **named: Any) -> None:
    """Print a summary of a model, in either call shape of the ancestor's.

    ``model_summary(model, optimizer, what, dataset)`` was its first, ``model_summary(model, what, dataset=None, logdir='')`` its last.
    ``what`` is a name of ``limbeck.summaries.SUMMARIES``; the other arguments are not needed.

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
    what = str(given["what"])
    if what in GONE:
        choices = ", ".join(SUMMARIES)
        raise LimbeckError(f"there is no summary '{what}': Limbeck draws no graphs and counts no operations; choose one of {choices}")
    if what not in SUMMARIES:
        raise LimbeckError(f"there is no summary '{what}'{did_you_mean(what, SUMMARIES) or '; choose one of ' + ', '.join(SUMMARIES)}")
    show(SUMMARIES[what](model))


@overload
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: Literal[False] = False) -> str: ...
@overload
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: Literal[True]) -> tuple[str, float]: ...
def weights_sparsity_tbl_summary(model: nn.Module, return_total_sparsity: bool = False) -> str | tuple[str, float]:
    """The sparsity table as text, and the sparsity of all weights in percent if it is asked for; tied weights count once."""
    table = to_text(sparsity_table(model))
    return (table, 100 * total(sparsity_rows(model)).sparsity) if return_total_sparsity else table
