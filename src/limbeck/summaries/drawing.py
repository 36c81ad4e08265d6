"""A model's graph as boxes and arrows: one box a layer, with the norms and activations that follow it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from limbeck.graph import Graph, Inputs, Node, capture
from limbeck.names import Named, named_parameters
from limbeck.summaries.attributes import attributes
from limbeck.summaries.layers import CONTAINERS, Layers, references
from limbeck.summaries.macs import Shape

HIDDEN = ("getitem", "dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias", "detach", "to", "lift_fresh_copy")
"""Operations that change no number in evaluation: no box stands for them."""
FOLLOWING = (
    *(
        "batch_norm",
        "instance_norm",
        "group_norm",
        "layer_norm",
        "rms_norm",
        "softmax",
        "log_softmax",
        "relu",
        "relu6",
        "hardtanh",
        "leaky_relu",
    ),
    *("prelu", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus", "hardsigmoid", "hardswish"),
)
"""Norms and activations: written into the box of the layer before them, where nothing else reads that layer."""


@dataclass(frozen=True)
class Box:
    """A layer with what follows it alone, or an input or output of the model."""

    kind: str
    """``input``, ``output`` or ``layer``."""
    module: str
    """The module that it is, or that runs it."""
    lines: tuple[str, ...]
    shape: Shape | None
    parameters: tuple[Named, ...] = ()
    macs: int | None = 0


@dataclass(frozen=True)
class Drawing:
    """Boxes, and arrows between them by number."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]


def drawing(model: nn.Module, example_inputs: Inputs) -> Drawing:
    """The boxes and arrows of one forward pass.

    >>> import torch
    >>> found = drawing(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()), (torch.zeros(1, 1, 4, 4),))
    >>> [box.lines for box in found.boxes]
    [('input',), ('0', 'Conv2d k=3x3', '1 BatchNorm2d', '2 ReLU'), ('3', 'Flatten'), ('output',)]
    >>> found.boxes[1].shape, found.arrows
    ((1, 2, 2, 2), ((0, 1), (1, 2), (2, 3)))

    Raises ``CaptureError`` for a model whose graph cannot be captured.
    """
    return drawn(capture(model, example_inputs), named_parameters(model))


def drawn(graph: Graph, parameters: Mapping[str, Named]) -> Drawing:
    """The same of a graph that was captured before."""
    pen = Pen(graph, parameters)
    for node in graph.nodes:
        pen.draw(node)
    return Drawing(tuple(map(pen.box, pen.drafts)), tuple(pen.arrows))


@dataclass
class Draft:
    """A box before all that it holds is known."""

    module: str
    nodes: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)
    """Norms and activations that follow."""
    hidden: list[Node] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of all nodes for which it stands."""
        return [node.name for node in (*self.nodes, *self.after, *self.hidden)]


class Pen:
    """What is drawn so far, and in which box each node stands."""

    def __init__(self, graph: Graph, parameters: Mapping[str, Named]) -> None:
        self.graph = graph
        self.parameters = parameters
        self.layers = Layers(graph, parameters)
        self.nodes = {node.name: node for node in graph.nodes}
        self.drafts: list[Draft] = []
        self.arrows: dict[tuple[int, int], None] = {}
        self.places: dict[str, int] = {}

    def draw(self, node: Node) -> None:
        """Put a node into a box; what depends on no input has none, nor has what gives no tensor."""
        sources = list(dict.fromkeys(self.places[name] for name in references(node) if name in self.places))
        if node.kind == "tensor" or (node.kind == "call" and not sources) or (node.kind != "output" and not _tensors(node)):
            return
        place = self._place(node, sources)
        self.places[node.name] = place
        self.arrows.update(dict.fromkeys((source, place) for source in sources if source != place))

    def _place(self, node: Node, sources: Sequence[int]) -> int:
        if node.kind == "call":
            last = len(self.drafts) - 1
            if node.operation.removesuffix("_") in HIDDEN:
                self.drafts[sources[0]].hidden.append(node)
                return sources[0]
            if self._goes_on(node, self.drafts[last]):
                self.drafts[last].nodes.append(node)
                return last
            if len(sources) == 1 and self._follows(node, self.drafts[sources[0]]):
                self.drafts[sources[0]].after.append(node)
                return sources[0]
        self.drafts.append(Draft(node.module, [node]))
        return len(self.drafts) - 1

    def _goes_on(self, node: Node, draft: Draft) -> bool:
        """Whether the same call of a module has one more operation, as an attention's has; the same weights in the same way are another call."""
        own = self._own(node) and self._own(draft.nodes[0]) and draft.nodes[0].kind == "call"
        if not own or node.module != draft.module or draft.after:
            return False
        held = self._held(node)
        return not held or all(other.operation != node.operation or self._held(other) != held for other in draft.nodes)

    def _follows(self, node: Node, draft: Draft) -> bool:
        """Whether a norm or an activation alone reads what a layer gives."""
        if node.operation.removesuffix("_") not in FOLLOWING or draft.nodes[0].kind != "call":
            return False
        users = {user for name in draft.names for user in self.layers.users.get(name, ())} - set(draft.names)
        return {user for user in users if self.nodes[user].kind == "output" or _tensors(self.nodes[user])} == {node.name}

    def _own(self, node: Node) -> bool:
        """Whether a module of ``torch.nn`` runs it, as opposed to the model's own code."""
        module = self.graph.modules.get(node.module)
        return module is not None and module.type not in CONTAINERS

    def _held(self, node: Node) -> list[str]:
        return [name for name in references(node) if name in self.layers.constant]

    def box(self, draft: Draft) -> Box:
        """A draft in words."""
        head = draft.nodes[0]
        if head.kind != "call":
            return Box(head.kind, "", (head.kind if head.name in ("input", "output") else f"{head.kind} {head.name}",), head.shapes[0])
        nodes = [*draft.nodes, *draft.after]
        held = dict.fromkeys(parameter for node in nodes for name in self._held(node) for parameter in self.layers.constant[name])
        counts = [self.layers.macs(node) for node in nodes]
        return Box(
            kind="layer",
            module=draft.module,
            lines=(*self._title(draft, [node for node, count in zip(nodes, counts, strict=True) if count]), *map(self._word, draft.after)),
            shape=nodes[-1].shapes[0],
            parameters=tuple(self.parameters[name] for name in held),
            macs=None if None in counts else sum(count or 0 for count in counts),
        )

    def _title(self, draft: Draft, counted: Sequence[Node]) -> list[str]:
        head = draft.nodes[0]
        if not self._own(head):
            return [head.operation.removesuffix("_")]
        words = attributes(self.graph, draft.module, draft.nodes, counted)
        return [draft.module or "(model)", f"{self.graph.modules[draft.module].type} {words}".strip()]

    def _word(self, node: Node) -> str:
        """``bn1 BatchNorm2d``, or the operation of a model's own code."""
        last = node.module.rpartition(".")[2]
        return f"{last} {self.graph.modules[node.module].type}" if self._own(node) else node.operation.removesuffix("_")


def _tensors(node: Node) -> bool:
    return any(shape is not None for shape in node.shapes)
