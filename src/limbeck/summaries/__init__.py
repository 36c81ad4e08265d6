"""What a model holds, as tables: one function a summary, one renderer for all."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from limbeck.summaries.modules import modules_table
from limbeck.summaries.percentile import percentile_table
from limbeck.summaries.render import Report
from limbeck.summaries.sparsity import sparsity_table

SUMMARIES: dict[str, Callable[[nn.Module], Report]] = {
    "sparsity": sparsity_table,
    "model": str,
    "modules": modules_table,
    "percentile": percentile_table,
}
