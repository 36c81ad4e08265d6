"""What a model holds and what it costs, as tables and as a picture: one function a summary, one renderer for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from limbeck.errors import LimbeckError, did_you_mean
from limbeck.graph import Inputs
from limbeck.summaries.compute import Compute, ComputeRow, compute, compute_table, macs
from limbeck.summaries.modules import modules_table
from limbeck.summaries.percentile import percentile_table
from limbeck.summaries.picture import picture
from limbeck.summaries.render import Report, save
from limbeck.summaries.sparsity import sparsity_table

__all__ = [
    "NAMES",
    "PASSES",
    "PICTURE",
    "PICTURES",
    "SUMMARIES",
    "Compute",
    "ComputeRow",
    "Report",
    "compute",
    "macs",
    "picture",
    "summarise",
]

SUMMARIES: dict[str, Callable[[nn.Module], Report]] = {
    "sparsity": sparsity_table,
    "model": str,
    "modules": modules_table,
    "percentile": percentile_table,
}
"""Summaries of a model alone."""
PASSES: dict[str, Callable[[nn.Module, Inputs], Report]] = {"compute": compute_table}
"""Summaries of one forward pass: they take example inputs too."""
PICTURES = {"png": False, "png_w_params": True}
"""Drawings of one forward pass, and whether they show each parameter."""
NAMES = (*SUMMARIES, *PASSES, *PICTURES)
"""All names that ``summarise`` knows."""
PICTURE = Path("model.png")
"""Where a drawing goes by default."""


def summarise(name: str, model: nn.Module, example_inputs: Inputs | None = None, out: Path | None = None) -> Report:
    """A summary by its name, or, where it is written to the file ``out``, a line that says so.

    >>> summarise("model", nn.Linear(3, 2))
    'Linear(in_features=3, out_features=2, bias=True)'

    A table is written as ``.csv``, ``.json``, ``.md`` or as plain text, by the file's name; a drawing as ``picture`` says. Raises ``LimbeckError`` for a name
    that there is not, and for one that needs example inputs and gets none.
    """
    if name not in NAMES:
        raise LimbeckError(f"no summary is named '{name}'{did_you_mean(name, NAMES)}; choose one of {', '.join(NAMES)}")
    if name in SUMMARIES:
        report = SUMMARIES[name](model)
    elif example_inputs is None:
        raise LimbeckError(f"the summary '{name}' is of one forward pass: give example inputs, or their shape (--input-shape 1,3,224,224)")
    elif name in PICTURES:
        target = out or PICTURE
        picture(model, example_inputs, target, parameters=PICTURES[name])
        return f"wrote {target}"
    else:
        report = PASSES[name](model, example_inputs)
    if out is None:
        return report
    save(report, out)
    return f"wrote {out}"
