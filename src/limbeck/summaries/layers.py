"""The operations of a graph by layer, and the parameters that each layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from limbeck.graph import Graph, Node, Ref
from limbeck.names import Named
from limbeck.summaries.macs import Shape, node_macs, shapes

CONTAINERS = (
    *("Module", "Sequential", "ModuleList", "ModuleDict", "DataParallel"),
    *("Transformer", "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoder", "TransformerDecoderLayer"),
)
"""Types of modules that run other modules or code of the model's own: their operations are listed one by one."""

Key = tuple[str, str]
"""A module, and the operation where the module runs the model's own code."""


class Layers:
    """The nodes of a graph by layer, and the parameters that each layer reads."""

    def __init__(self, graph: Graph, parameters: Mapping[str, Named]) -> None:
        self.graph = graph
        self.shape = shapes(graph)
        self.groups: dict[Key, list[Node]] = {}
        self.reads: dict[Key, list[str]] = {}
        self.constant: dict[str, tuple[str, ...]] = {}
        """Nodes that depend on no input: the parameters from which they are made."""
        for node in graph.nodes:
            if node.kind == "tensor":
                name = graph.stored[node.name]
                self.constant[node.name] = (name,) if name in parameters else ()
            elif node.kind == "call":
                self._add(node)

    def _add(self, node: Node) -> None:
        key = self.key(node)
        self.groups.setdefault(key, []).append(node)
        read = self.reads.setdefault(key, [])
        names = list(references(node))
        held = [parameter for name in names for parameter in self.constant.get(name, ())]
        if all(name in self.constant for name in names) and not self.macs(node):
            self.constant[node.name] = tuple(dict.fromkeys(held))
        else:
            read.extend(parameter for parameter in dict.fromkeys(held) if parameter not in read)

    def key(self, node: Node) -> Key:
        """The layer of a node."""
        module = self.graph.modules.get(node.module)
        return (node.module, "" if module and module.type not in CONTAINERS else node.operation.removesuffix("_"))

    def type(self, key: Key) -> str:
        """What to call the layer."""
        return key[1] or self.graph.modules[key[0]].type

    def macs(self, node: Node) -> int | None:
        """Of one operation."""
        return node_macs(node, self.shape) if node.kind == "call" else 0

    def entry(self, nodes: Sequence[Node]) -> Shape | None:
        """The shape of the first input that comes from outside the layer and is no constant."""
        own = {node.name for node in nodes}
        names = (name for node in nodes for name in references(node) if name not in own and name not in self.constant)
        return next((shape for name in names if (shape := self.shape(Ref(name)))), None)

    def exit(self, nodes: Sequence[Node]) -> Shape | None:
        """The shape of the first result that is read outside the layer."""
        own = {node.name for node in nodes}
        found = (self.shape(Ref(node.name)) for node in nodes if any(user not in own for user in self.users.get(node.name, ())))
        return next((shape for shape in found if shape), self.shape(Ref(nodes[-1].name)) or None)

    @cached_property
    def users(self) -> dict[str, list[str]]:
        """Who reads the result of a node."""
        found: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            for name in references(node):
                found.setdefault(name, []).append(node.name)
        return found


def references(node: Node) -> Iterator[str]:
    """The nodes whose results a node reads."""
    yield from _references([*node.args, *node.kwargs.values()])


def _references(arguments: Any) -> Iterator[str]:
    for argument in arguments:
        if isinstance(argument, Ref):
            yield argument.name
        elif isinstance(argument, (list, tuple)):
            yield from _references(argument)
