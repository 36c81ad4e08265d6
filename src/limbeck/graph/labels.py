"""Labels of units: what an axis' positions are called, which labels are one class, and which must stay.

A ``Value`` stands for a tensor of the forward pass. Each of its ``layers`` is an int64 tensor that broadcasts to its shape and says, for each
element, to which unit it belongs; ``FIXED`` where it cannot be removed. An operation that only moves elements is run on the labels themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

FIXED = -1
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: whose units its elements are, and which elements are constant for every input."""

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    known: Tensor = field(default_factory=lambda: torch.tensor(UNKNOWN, dtype=torch.float64))
    """float64, broadcasts to ``shape``; NaN = not constant."""
    floating: bool = True
    base: str = ""
    """The node whose memory it shares."""
    stored: str = ""
    """The parameter or buffer that it is."""
    made: str | None = None
    """The module that made it of nothing (``zeros``), so that its size follows that module."""

    @property
    def constants(self) -> Tensor:
        """``known`` with all axes, of size 1 where it does not vary."""
        return self.known.reshape((1,) * (len(self.shape) - self.known.dim()) + tuple(self.known.shape))

    def aligned(self, rank: int) -> Value:
        """With axes of size 1 put before it, as broadcasting does."""
        lead = (1,) * (rank - len(self.shape))
        layers = tuple(layer.reshape((*lead, *layer.shape)) for layer in self.layers)
        return replace(self, shape=(*lead, *self.shape), layers=layers, known=self.constants.reshape((*lead, *self.constants.shape)))

    def along(self, axis: int, rank: int) -> Value:
        """A vector as a tensor of ``rank`` that varies along ``axis`` alone."""
        shape = [1] * rank
        shape[axis] = self.shape[0]
        layers = tuple(layer.reshape(shape) for layer in self.layers)
        return replace(self, shape=tuple(shape), layers=layers, known=self.known.expand(self.shape).reshape(shape))


def varying(tensor: Tensor) -> set[int]:
    """The axes along which a layer says something."""
    return {axis for axis, size in enumerate(tensor.shape) if size > 1}


def squeezed(tensor: Tensor) -> Tensor:
    """The same values with size 1 on every axis along which they do not differ.

    >>> squeezed(torch.tensor([[1, 1], [2, 2]]))
    tensor([[1],
            [2]])
    """
    for axis in range(tensor.dim()):
        if tensor.shape[axis] > 1:
            head = tensor.narrow(axis, 0, 1)
            if tensor.stride(axis) == 0 or bool(((tensor == head) | (tensor.isnan() & head.isnan())).all()):
                tensor = head
    return tensor


def broadcast(*tensors: Tensor) -> list[Tensor]:
    """All, of one rank, at their common shape."""
    shape = [max(sizes) for sizes in zip(*[tensor.shape for tensor in tensors], strict=True)]
    return [tensor.expand(shape) for tensor in tensors]


class Classes:
    """A union-find over labels; a class can be frozen, with the reasons why. Where all is ``settled`` labels are their own classes."""

    def __init__(self, settled: bool = False) -> None:
        self.settled = settled
        self._parents: list[int] = []
        self._reasons: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def fresh(self, count: int) -> Tensor:
        """New labels, each a class of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def root(self, label: int) -> int:
        """The label that stands for the class."""
        root = label
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[label] != root:
            self._parents[label], label = root, self._parents[label]
        return root

    def roots(self) -> Tensor:
        """Of every label."""
        return torch.tensor([self.root(label) for label in range(len(self))], dtype=torch.int64)

    def rooted(self, labels: Tensor) -> Tensor:
        """Labels with each class' root in place of its members."""
        if self.settled:
            return labels
        found, places = torch.unique(labels, return_inverse=True)
        roots = [label if label == FIXED else self.root(label) for label in found.tolist()]
        return torch.tensor(roots, dtype=torch.int64)[places]

    def unite(self, one: Tensor, other: Tensor, why: str) -> None:
        """Labels that stand at the same place (both broadcast) become one class; one that meets ``FIXED`` is frozen."""
        if self.settled:
            return
        rank = max(one.dim(), other.dim())
        left, right = broadcast(*[labels.reshape([1] * (rank - labels.dim()) + list(labels.shape)) for labels in (one, other)])
        pairs = torch.stack((left.reshape(-1), right.reshape(-1)), 1)
        for a, b in torch.unique(pairs, dim=0).tolist():
            if FIXED in {a, b}:
                self._freeze(max(a, b), why)
                continue
            low, high = sorted((self.root(a), self.root(b)))
            if low != high:
                self._parents[high] = low
                for reason in self._reasons.pop(high, ()):
                    self._freeze(low, reason)

    def unite_along(self, layer: Tensor, axis: int, why: str) -> None:
        """All that lies in one line along ``axis`` becomes one class."""
        self.unite(layer, layer.narrow(axis, 0, 1), why)

    def freeze(self, labels: Tensor, why: str) -> None:
        """These labels' classes must stay."""
        if self.settled:
            return
        for label in torch.unique(labels).tolist():
            self._freeze(label, why)

    def _freeze(self, label: int, why: str) -> None:
        if label != FIXED:
            root = self.root(label)
            reasons = self._reasons.get(root, ())
            if why not in reasons and len(reasons) < 3:
                self._reasons[root] = (*reasons, why)

    def frozen(self) -> dict[int, tuple[str, ...]]:
        """Why, by class."""
        return dict(self._reasons)


def join(classes: Classes, values: Sequence[Value], shape: Sequence[int], why: str) -> tuple[Tensor, ...]:
    """The layers of an elementwise result: labels of the operands that meet become one class.

    An operand that has a full axis without labels where another has labels holds the axis at its length: those are frozen.
    """
    rank, why = len(shape), f"{why} joins it with what is not followed"
    operands = [value.aligned(rank) for value in values]
    groups: list[tuple[set[int], list[Tensor]]] = []
    for layer in (layer for operand in operands for layer in operand.layers):
        axes, members = varying(layer), [layer]
        meeting = [group for group in groups if group[0] & axes]
        groups = [group for group in groups if not group[0] & axes]
        for other, layers in meeting:
            axes, members = axes | other, layers + members
        groups.append((axes, members))
    for axes, members in groups:
        for layer in members[1:]:
            classes.unite(members[0], layer, why)
        for operand in operands:
            labelled = {axis for layer in operand.layers for axis in varying(layer)}
            if any(operand.shape[axis] > 1 and not labelled & axes for axis in axes):
                for layer in members:
                    classes.freeze(layer, why)
    return tuple(broadcast(*members)[0] for _, members in groups)


def uniform(values: Iterable[Value]) -> bool:
    """Whether nothing is known of any of them."""
    return all(bool(value.known.isnan().all()) for value in values)
