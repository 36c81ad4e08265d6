"""Which layer a number comes from and which it goes to, along the operations of a graph that only move numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from limbeck.graph import Graph, Node, Ref
from limbeck.names import canonical
from limbeck.quantization.kinds import Kind, Leaf
from limbeck.quantization.stats import Stats

MOVES = frozenset(
    """
    contiguous detach detach_ alias to _to_copy type_as clone dropout dropout_ feature_dropout feature_dropout_ alpha_dropout feature_alpha_dropout
    view reshape _unsafe_view view_as reshape_as flatten unflatten permute transpose t numpy_T mT movedim moveaxis swapaxes swapdims squeeze unsqueeze
    expand expand_as repeat repeat_interleave flip roll channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle select unbind slice narrow
    index_select chunk split split_with_sizes tensor_split getitem max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    """.split()  # noqa: SIM905  # one line of names is read more easily than forty of them
)
"""Operations whose result holds numbers of their first argument and no others."""
JOINED = frozenset({"cat", "concat", "concatenate", "stack"})
CHAINS = frozenset({Kind.ADD, Kind.MULT})
"""Kinds one call of which is a chain of operations."""
BLANK = frozenset({"zeros", "new_zeros", "zeros_like"})
GIVEN = "the model's inputs"
"""Where inputs, and stored tensors that no layer computes, come from."""
UNSEEN = "an operation"
"""Where everything else comes from that no layer computes."""


class Paths:
    """The layers of a model along its graph.

    ``passed`` names modules that are taken to be no layers, and ``idle`` nodes: their result is that of their first argument.
    """

    def __init__(
        self, graph: Graph, leaves: Mapping[str, Leaf], passed: frozenset[str] = frozenset(), idle: frozenset[str] = frozenset()
    ) -> None:
        self._leaves, self._idle = leaves, idle
        first = {canonical(place): leaf.name for leaf in leaves.values() for place in leaf.places}
        nodes = tuple(replace(node, module=first.get(node.module, node.module)) for node in graph.nodes)
        self.graph = replace(graph, nodes=nodes)  # in which a layer has one name, though it stand in several places
        self.passed = passed | {name for name, leaf in leaves.items() if leaf.kind is Kind.MOVED}
        self._nodes = {node.name: node for node in nodes}
        self._origins: dict[str, frozenset[str]] = {}

    def owner(self, node: Node) -> str:
        """The layer that computes a node; an empty string where it is none."""
        computes = node.kind == "call" and node.module in self._leaves and node.module not in self.passed and not self._pads(node)
        return node.module if computes else ""

    def _pads(self, node: Node) -> bool:
        """Whether a node is the padding of a convolution that pads with what its input holds: circular, reflecting."""
        leaf = self._leaves.get(node.module)
        return leaf is not None and leaf.kind is Kind.WEIGHTED and node.operation == "pad"

    @cached_property
    def nodes_of(self) -> dict[str, list[Node]]:
        """The nodes of each module that runs, in the order in which they do."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            if node.kind == "call":
                found.setdefault(node.module, []).append(node)
        return found

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """By the name of a node who reads it."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for ref in dict.fromkeys(refs((node.args, dict(node.kwargs)))):
                found.setdefault(ref.name, []).append(node)
        return found

    def moves(self, node: Node) -> bool:
        """Whether a node only moves numbers of its first argument."""
        return (
            node.kind == "call"
            and (node.operation in MOVES or node.module in self.passed or node.name in self._idle or self._pads(node))
            and not self.owner(node)
        )

    def ends(self, layer: str) -> list[Node]:
        """Who reads what a layer computes, beyond all moves; a concatenation of one layer's own outputs is a move as well."""
        found: dict[str, Node] = {}
        waiting, seen = [node for node in self.nodes_of.get(layer, []) if not self._pads(node)], set[str]()
        while waiting:
            node = waiting.pop()
            for reader in self.readers.get(node.name, []):
                if self.owner(reader) == layer == node.module and self._leaves[layer].kind in CHAINS:
                    continue  # the next step of a sum of several
                if self.moves(reader) or (self._is_join(reader) and self.origin(reader) == {layer}):
                    if reader.name not in seen:
                        seen.add(reader.name)
                        waiting.append(reader)
                else:
                    found[reader.name] = reader
        return list(found.values())

    def _is_join(self, node: Node) -> bool:
        return node.operation in JOINED and not self.owner(node)

    def origin(self, node: Node) -> frozenset[str]:
        """The layers whose numbers a node holds, with ``GIVEN`` and ``UNSEEN`` for others; empty for zeros, which every layer has."""
        found = self._origins.get(node.name)
        if found is None:
            found = self._origins[node.name] = self._origin(node)
        return found

    def _origin(self, node: Node) -> frozenset[str]:
        rules: tuple[tuple[bool, Callable[[], frozenset[str]]], ...] = (
            (node.kind != "call", lambda: frozenset({GIVEN})),
            (bool(self.owner(node)), lambda: frozenset({node.module})),
            (node.operation in BLANK, frozenset),
            (self.moves(node) or node.operation in ("relu", "relu_"), lambda: self.origin_of(node.args[0])),
            (self._is_join(node), lambda: frozenset().union(*[self.origin_of(member) for member in node.args[0]])),
        )
        return next((rule() for holds, rule in rules if holds), frozenset({UNSEEN}))

    def origin_of(self, argument: object) -> frozenset[str]:
        """As ``origin``, of an argument."""
        return self.origin(self._nodes[argument.name]) if isinstance(argument, Ref) else frozenset({UNSEEN})

    def calls(self, layer: str, inputs: int) -> list[list[object]]:
        """The arguments of each call of a layer, for those kinds whose calls are told apart by their operations."""
        nodes = self.nodes_of.get(layer, [])
        kind = self._leaves[layer].kind
        if kind is Kind.CONCAT:
            return [list(node.args[0]) for node in nodes if node.operation in JOINED]
        if kind is Kind.WEIGHTED:
            return [[node.args[0]] for node in nodes if node.operation.startswith(("linear", "conv"))]
        if kind in CHAINS:
            steps = max(1, inputs - 1)
            parts = [nodes[start : start + steps] for start in range(0, len(nodes), steps)]
            return [[part[0].args[0], *[node.args[1] for node in part]] for part in parts]
        return [list(node.args[:2]) for node in nodes] if kind is Kind.MATMUL else []


def with_movers(paths: Paths, leaves: Mapping[str, Leaf], stats: Stats | None) -> dict[str, Leaf]:
    """The layers, of which those of one's own that compute nothing in evaluation, such as a ``DropPath`` or a reshaping, are known for that.

    Under the model's own ``autocast`` or ``enable_grad`` layers run where the graph does not look: there, and without a node, it is statistics that tell.
    """
    open_to_see = not any(str(node.operation).startswith("wrap_with") for node in paths.graph.nodes)

    def moves(leaf: Leaf) -> bool:
        if leaf.kind is not Kind.OTHER or leaf.module._parameters or leaf.module._buffers:
            return False
        nodes = paths.nodes_of.get(leaf.name)
        if nodes and open_to_see:
            return all(node.operation in MOVES for node in nodes)
        return stats is not None and leaf.name in stats and [*stats[leaf.name].inputs.values()] == [stats[leaf.name].output]

    return {name: replace(leaf, kind=Kind.MOVED) if moves(leaf) else leaf for name, leaf in leaves.items()}


def refs(argument: object) -> Iterator[Ref]:
    """All nodes that an argument names."""
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, Mapping):
        for value in argument.values():
            yield from refs(value)
    elif isinstance(argument, tuple | list):
        for value in argument:
            yield from refs(value)
