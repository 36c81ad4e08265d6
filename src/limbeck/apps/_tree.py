"""A nested state as JSON plus named tensors, and back, exactly: what ``state.json`` and ``state.safetensors`` hold.

JSON says by itself what None, bool, small int, finite float, str, list and a dict with string keys are. All else is an object with
one key that begins with ``$``: ``{"$tuple": [...]}``, ``{"$tensor": "state/optimizer/0"}``, ``{"$float": "7ff0000000000000"}``.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from limbeck.errors import CheckpointError

Tree: TypeAlias = Any
"""None, bool, int, float, str, tensors, and lists, tuples, dicts, OrderedDicts and Counters of them; keys are str or int."""

EXACT = 2**53  # beyond it many readers of JSON round an integer


def encode(tree: Tree, root: str = "state") -> tuple[Tree, dict[str, Tensor]]:
    """The JSON of a tree, and its tensors by the names under which the JSON refers to them; a tensor that is met twice is held once.

    >>> import torch
    >>> encode({"masks": {"fc": torch.ones(2)}, "window": (0, float("inf"))})
    ({'masks': {'fc': {'$tensor': 'state/masks/fc'}}, 'window': {'$tuple': [0, {'$float': '7ff0000000000000'}]}},
     {'state/masks/fc': tensor([1., 1.])})

    Raises ``CheckpointError``, naming the place and the type, for a value that no checkpoint can hold.
    """
    encoder = _Encoder()
    try:
        return encoder.encode(tree, root), encoder.tensors
    except RecursionError as error:
        raise CheckpointError(f"{root} is nested too deeply for a checkpoint, or holds itself") from error


def decode(node: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """The inverse of ``encode``; raises ``KeyError``, ``TypeError`` or ``ValueError`` for JSON that ``encode`` did not write.

    >>> decode({"window": {"$tuple": [0, {"$float": "7ff0000000000000"}]}}, {})
    {'window': (0, inf)}
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1 and (tag := next(iter(node))).startswith("$"):
        return tensors[node[tag]] if tag == "$tensor" else _DECODERS[tag](node[tag], tensors)
    return {key: decode(value, tensors) for key, value in node.items()}


class _Encoder:
    """Walks a tree once; collects the tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}

    def encode(self, value: Tree, path: str) -> Tree:
        kind = type(value)
        if kind in _SCALARS:
            return _SCALARS[kind](value)
        if kind is Tensor or kind is nn.Parameter:
            return {"$tensor": self._name(value, path)}
        if kind is list or kind is tuple:
            items = [self.encode(item, f"{path}/{index}") for index, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind in _DICTS:
            return self._dict(value, path)
        raise CheckpointError(
            f"{path} is of type {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold; "
            "give it None, bool, int, float, str, tensors, or lists, tuples, dicts and Counters of them"
        )

    def _dict(self, value: Mapping[str | int, Tree], path: str) -> Tree:
        for key in value:
            if type(key) not in (str, int):
                raise CheckpointError(
                    f"{path} has the key {key!r} of type {type(key).__qualname__}; the keys of a checkpoint are str or int"
                )
        pairs = [(_SCALARS[type(key)](key), self.encode(item, f"{path}/{key}")) for key, item in value.items()]
        if type(value) is dict and all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {_DICTS[type(value)]: [[key, item] for key, item in pairs]}

    def _name(self, tensor: Tensor, path: str) -> str:
        """The name of a tensor that was met before, or a new one that no other tensor has."""
        if id(tensor) not in self.names:
            name = wanted = path.encode("utf-8", "replace").decode()
            while name in self.tensors:
                name = f"{wanted}~{len(self.tensors)}"
            self.names[id(tensor)], self.tensors[name] = name, tensor
        return self.names[id(tensor)]


def _int(value: int) -> Tree:
    return value if abs(value) < EXACT else {"$int": hex(value)}


def _float(value: float) -> Tree:
    return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}


def _str(value: str) -> Tree:
    """JSON joins two surrogates that Python keeps apart: such a string (a file name that is not UTF-8) goes in as bytes."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return {"$str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _same(value: bool | None) -> Tree:
    return value


def _pairs(pairs: Tree, tensors: Mapping[str, Tensor]) -> dict[str | int, Tree]:
    return {decode(key, tensors): decode(value, tensors) for key, value in pairs}


_SCALARS: dict[type, Callable[[Any], Tree]] = {type(None): _same, bool: _same, int: _int, float: _float, str: _str}
_DICTS: dict[type, str] = {dict: "$dict", OrderedDict: "$OrderedDict", Counter: "$Counter"}
_DECODERS: dict[str, Callable[[Tree, Mapping[str, Tensor]], Tree]] = {
    "$tuple": lambda items, tensors: tuple(decode(item, tensors) for item in items),
    "$dict": _pairs,
    "$OrderedDict": lambda pairs, tensors: OrderedDict(_pairs(pairs, tensors)),
    "$Counter": lambda pairs, tensors: Counter(_pairs(pairs, tensors)),
    "$int": lambda digits, _: int(digits, 16),
    "$float": lambda bits, _: struct.unpack(">d", bytes.fromhex(bits))[0],
    "$str": lambda code, _: bytes.fromhex(code).decode("utf-8", "surrogatepass"),
}
