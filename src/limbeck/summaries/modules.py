"""The modules that do the work, with their types and parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from limbeck.names import canonical
from limbeck.summaries.render import Column, Table, thousands


@dataclass(frozen=True)
class ModuleRow:
    """A module and the number of parameters that it holds itself, without those that an earlier module holds already."""

    name: str
    type: str
    parameters: int


COLUMNS = (Column("Name", "name"), Column("Type", "type"), Column("Parameters", "parameters", thousands))


def module_rows(model: nn.Module) -> list[ModuleRow]:
    """The leaf modules, and the others that hold parameters of their own; the model itself is named by its type.

    >>> [(row.name, row.type, row.parameters) for row in module_rows(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))]
    [('0', 'Linear', 8), ('1', 'ReLU', 0)]
    """
    counted: set[int] = set()
    rows = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own or not any(True for _ in module.children()):
            fresh = {id(parameter): parameter.numel() for parameter in own if id(parameter) not in counted}
            counted.update(fresh)
            rows.append(ModuleRow(canonical(name) or "(model)", type(module).__name__, sum(fresh.values())))
    return rows


def modules_table(model: nn.Module) -> Table:
    """The rows of ``module_rows`` and the sum of all parameters, tied ones once."""
    rows = module_rows(model)
    total = ModuleRow("Total", "", sum(row.parameters for row in rows))
    return Table("Modules", COLUMNS, tuple(rows), total=total)
