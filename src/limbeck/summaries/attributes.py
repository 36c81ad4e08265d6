"""What a table says of a layer besides its shapes: kernel, stride, groups, heads, number of calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from limbeck.graph import Graph, Node, Ref

PLACES = {False: {"s": 3, "p": 4, "d": 5, "groups": 6}, True: {"s": 3, "p": 4, "groups": 6, "d": 7}}
"""Where the arguments of a convolution, and of a transposed one, stand."""
PLAIN = {"s": 1, "p": 0, "d": 1, "groups": 1}
"""What is not worth a word."""


def attributes(graph: Graph, module: str, nodes: Sequence[Node], counted: Sequence[Node]) -> str:
    """In one line: ``k=3x3 s=2x2 p=1x1 groups=32``, ``heads=8``, ``2 calls``.

    >>> import torch
    >>> from limbeck.graph import capture
    >>> graph = capture(torch.nn.Conv2d(4, 8, 3, stride=2, groups=2), (torch.zeros(1, 4, 9, 9),))
    >>> node = [node for node in graph.nodes if node.kind == "call"]
    >>> attributes(graph, "", node, node)
    'k=3x3 s=2x2 groups=2'
    """
    return " ".join([*_words(graph, module, counted), *_calls(counted)])


def _words(graph: Graph, module: str, counted: Sequence[Node]) -> Iterator[str]:
    held = graph.modules.get(module)
    heads = held.sizes.get("num_heads") if held else None
    if heads:
        yield f"heads={heads}"
    for node in counted[:1]:
        name = node.operation
        if name.startswith("conv"):
            yield from _convolution(graph, node)
        elif name == "einsum":
            yield str(node.args[0]).replace(" ", "")
        elif name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            yield from _recurrent(node)


def _convolution(graph: Graph, node: Node) -> Iterator[str]:
    weight = node.args[1]
    shapes = {other.name: other.shapes[0] for other in graph.nodes if other.shapes}
    kernel = (shapes.get(weight.name) or ())[2:] if isinstance(weight, Ref) else ()
    yield f"k={_times(kernel)}"
    for word, place in PLACES["transpose" in node.operation].items():
        value = node.args[place] if place < len(node.args) else PLAIN[word]
        if any(part != PLAIN[word] for part in (value if isinstance(value, tuple) else (value,))):
            yield f"{word}={_times(value) if isinstance(value, tuple) else value}"


def _recurrent(node: Node) -> Iterator[str]:
    if node.args[4] > 1:
        yield f"layers={node.args[4]}"
    if node.args[7]:
        yield "bidirectional"


def _calls(counted: Sequence[Node]) -> Iterator[str]:
    """How often a layer runs, where it is one operation with the same weights."""
    operations = {(node.operation, _weights(node)) for node in counted}
    if len(counted) > 1 and len(operations) == 1:
        yield f"{len(counted)} calls"


def _weights(node: Node) -> Any:
    return node.args[1:3] if node.operation in ("lstm", "gru", "rnn_tanh", "rnn_relu") else node.args[1:2]


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
