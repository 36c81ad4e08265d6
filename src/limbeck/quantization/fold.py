"""Batch norms made part of the layer before them: in evaluation they are a factor and a summand for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.graph import Node, Ref
from limbeck.quantization.kinds import Kind, Leaf
from limbeck.quantization.paths import Paths
from limbeck.quantization.weighted import TRANSPOSED


@dataclass(frozen=True)
class Folded:
    """A layer with the batch norm behind it: what its weight and bias become."""

    norm: str
    weight: Tensor
    bias: Tensor


def folded(weight: Tensor, bias: Tensor | None, norm: _BatchNorm, axis: int = 0) -> tuple[Tensor, Tensor]:
    r"""The weight and bias of a layer whose outputs a batch norm has scaled and shifted.

    ::

        factor = gamma / sqrt(running_var + eps)
        weight * factor,   (bias - running_mean) * factor + beta

    ``axis`` is the one of output channels in the weight. A zero stays a zero.

    >>> norm = nn.BatchNorm1d(1, eps=0.0).eval()
    >>> norm.running_mean.fill_(1.0), norm.running_var.fill_(4.0)
    (tensor([1.]), tensor([4.]))
    >>> folded(torch.tensor([[6.0, 0.0]]), None, norm)
    (tensor([[3., 0.]], grad_fn=...), tensor([-0.5000], grad_fn=...))
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight.double()
    shift = (0.0 if bias is None else bias.double()) - norm.running_mean.double()
    shift = shift * factor if norm.bias is None else shift * factor + norm.bias.double()
    along = [-1 if other == axis else 1 for other in range(weight.dim())]
    return (weight.double() * factor.reshape(along)).to(weight.dtype), shift.to(weight.dtype)


@torch.no_grad()
def foldings(paths: Paths, leaves: Mapping[str, Leaf]) -> dict[str, Folded]:
    """By layer, which batch norm can be folded into it, and with what result.

    It can where the norm runs once and reads only this layer, which also runs once and is read by nothing else; where it has statistics of its own; and
    where the weight is not another layer's too.
    """
    owners: dict[int, int] = {}
    for leaf in leaves.values():
        for parameter in leaf.module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = {}
    for name, leaf in leaves.items():
        norm = leaf.module
        layer = _before(paths, leaves, name) if isinstance(norm, _BatchNorm) and norm.running_mean is not None else None
        if layer is None or not isinstance(norm, _BatchNorm):
            continue
        weight, bias = layer.module._parameters["weight"], layer.module._parameters["bias"]
        if weight is None or owners[id(weight)] > 1 or _transposed_in_groups(layer.module):
            continue
        found[layer.name] = Folded(name, *folded(weight, bias, norm, int(isinstance(layer.module, TRANSPOSED))))
    return found


def _before(paths: Paths, leaves: Mapping[str, Leaf], norm: str) -> Leaf | None:
    """The layer that a batch norm can be folded into."""
    own = paths.nodes_of.get(norm, [])
    if len(own) != 1 or not own[0].args or not isinstance(own[0].args[0], Ref):
        return None
    read = own[0].args[0].name
    node = next(node for node in paths.graph.nodes if node.name == read)
    leaf = leaves.get(node.module)
    if leaf is None or leaf.kind is not Kind.WEIGHTED or "weight" not in leaf.module._parameters:
        return None
    runs_once = sum(map(_computes, paths.nodes_of[leaf.name])) == 1 and len(paths.readers[read]) == 1
    is_matrix = not isinstance(leaf.module, nn.Linear) or len(node.shapes[0] or ()) == 2
    return leaf if runs_once and is_matrix and _computes(node) else None


def _computes(node: Node) -> bool:
    return node.operation.startswith(("linear", "conv"))


def _transposed_in_groups(module: nn.Module) -> bool:
    return isinstance(module, TRANSPOSED) and module.groups > 1
