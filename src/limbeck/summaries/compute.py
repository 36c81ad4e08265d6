"""What one forward pass costs: multiply-accumulate operations (MACs) and parameters, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from limbeck.graph import Graph, Inputs, Node, capture
from limbeck.names import Named, named_parameters
from limbeck.stats import nonzero_groups
from limbeck.summaries.attributes import attributes
from limbeck.summaries.layers import Key, Layers
from limbeck.summaries.macs import Shape
from limbeck.summaries.render import Column, Table, thousands


@dataclass(frozen=True)
class ComputeRow:
    """One layer: a module, or a kind of operation that a module runs by itself; all that it runs in one forward pass is summed up."""

    name: str
    type: str
    attributes: str
    input: Shape | None
    output: Shape | None
    weights: int
    """Elements of parameters of two dimensions or more that it is the first to read."""
    nonzeros: int | None
    """Those of them that are not zero; None where a model holds no numbers (the meta device)."""
    parameters: int
    """All elements of parameters that it is the first to read, biases too."""
    macs: int | None
    """None where it runs an operation that is not known."""
    reads: tuple[str, ...] = ()
    """The names of all parameters that it reads, those too that an earlier layer has read."""


@dataclass(frozen=True)
class Compute:
    """The layers of a model in the order in which they run, for inputs of one size; the batch counts, so give a batch of one for the MACs of one input."""

    rows: tuple[ComputeRow, ...]
    parameters: int
    """Elements of all parameters; tied ones once."""
    weights: int
    """Elements of the parameters of two dimensions or more; tied ones once."""
    nonzeros: int | None
    """Of the weights."""
    unsupported: tuple[str, ...]
    """Operations of which no count is known, each with its module and line: none of them is in ``macs``."""
    unread: tuple[str, ...] = ()
    """Parameters of two dimensions or more that the forward pass does not read."""

    @property
    def macs(self) -> int:
        """The sum of all layers."""
        return sum(row.macs or 0 for row in self.rows)


COLUMNS = (
    Column("Name", "name"),
    Column("Type", "type"),
    Column("Attributes", "attributes", fold=True),
    Column("Input", "input", lambda shape: "x".join(map(str, shape))),
    Column("Output", "output", lambda shape: "x".join(map(str, shape))),
    Column("Weights", "weights", thousands),
    Column("Non-zero", "nonzeros", thousands),
    Column("Parameters", "parameters", thousands),
    Column("MACs", "macs", thousands),
)


def compute(model: nn.Module, example_inputs: Inputs) -> Compute:
    """Count one forward pass of a model on these inputs.

    >>> import torch
    >>> found = compute(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)), (torch.zeros(1, 3, 4, 4),))
    >>> [(row.name, row.type, row.output, row.weights, row.macs) for row in found.rows]
    [('0', 'Conv2d', (1, 8, 2, 2), 216, 864), ('3', 'Linear', (1, 2), 64, 64)]
    >>> found.macs, found.weights, found.parameters, found.unsupported
    (928, 280, 290, ())

    A module that runs twice counts its MACs twice and its weights once. Operations that are not known have no number, and are listed in
    ``unsupported``. Raises ``CaptureError`` for a model whose graph cannot be captured.
    """
    return counted(model, capture(model, example_inputs))


def macs(model: nn.Module, example_inputs: Inputs) -> int:
    """The MACs of one forward pass.

    >>> import torch
    >>> macs(nn.LSTM(3, 5), (torch.zeros(7, 2, 3),))  # 7 * 2 steps, each of 4 gates * 5 units * (3 inputs + 5 states)
    2240
    """
    return compute(model, example_inputs).macs


def counted(model: nn.Module, graph: Graph) -> Compute:
    """The same of a graph that was captured before."""
    parameters = named_parameters(model)
    layers = Layers(graph, parameters)
    fresh = set(parameters)
    rows = []
    for key, nodes in layers.groups.items():
        read = [parameters[name] for name in layers.reads[key]]
        first = [named for named in read if named.name in fresh]
        row = _row(layers, key, nodes, first, [named.name for named in read])
        if row.macs != 0 or row.weights or any(named.parameter.dim() > 1 for named in read):
            rows.append(row)
            fresh -= {named.name for named in first}
    weights = [named for named in parameters.values() if named.parameter.dim() > 1]
    return Compute(
        rows=tuple(rows),
        parameters=sum(named.parameter.numel() for named in parameters.values()),
        weights=sum(named.parameter.numel() for named in weights),
        nonzeros=_nonzeros(weights),
        unsupported=tuple(dict.fromkeys(node.where for node in graph.nodes if layers.macs(node) is None)),
        unread=tuple(named.name for named in weights if named.name in fresh),
    )


def compute_table(model: nn.Module, example_inputs: Inputs) -> Table:
    """The rows of ``compute`` with their sum, and what is not in it."""
    found = compute(model, example_inputs)
    total = ComputeRow("Total", "", "", None, None, found.weights, found.nonzeros, found.parameters, found.macs)
    columns = tuple(column for column in COLUMNS if column.field != "nonzeros" or found.nonzeros is not None)
    return Table("Compute", columns, found.rows, total=total, notes=tuple(_notes(found)))


def _notes(found: Compute) -> Iterator[str]:
    rest = found.parameters - sum(row.parameters for row in found.rows)
    yield f"Total MACs: {found.macs:,}"
    if rest:
        yield f"{rest:,} parameters are in the total alone: those of norms and scales, and what is not read"
    yield from (f"not counted, for no count is known of it: {where}" for where in found.unsupported)
    yield from (f"not read in this forward pass: {name}" for name in found.unread)


def _row(layers: Layers, key: Key, nodes: Sequence[Node], first: Sequence[Named], reads: Sequence[str]) -> ComputeRow:
    weights = [named for named in first if named.parameter.dim() > 1]
    counts = [layers.macs(node) for node in nodes]
    return ComputeRow(
        name=key[0] or "(model)",
        type=layers.type(key),
        attributes=attributes(layers.graph, key[0], nodes, [node for node, count in zip(nodes, counts, strict=True) if count]),
        input=layers.entry(nodes),
        output=layers.exit(nodes),
        weights=sum(named.parameter.numel() for named in weights),
        nonzeros=_nonzeros(weights),
        parameters=sum(named.parameter.numel() for named in first),
        macs=None if None in counts else sum(count or 0 for count in counts),
        reads=tuple(reads),
    )


def _nonzeros(weights: Sequence[Named]) -> int | None:
    """None where there are no numbers to count."""
    if any(named.parameter.is_meta for named in weights):
        return None
    return sum(nonzero_groups(named.parameter.detach()) for named in weights)
