"""Quantized modules in the place of a model's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.quantization.demands import has_integers, has_weight
from limbeck.quantization.eltwise import Matmul
from limbeck.quantization.floats import FakeQuantized, FloatingPoint, with_tensors
from limbeck.quantization.joins import QuantizedConcat, QuantizedProduct, QuantizedSum
from limbeck.quantization.kinds import Kind, Leaf
from limbeck.quantization.settings import Setting
from limbeck.quantization.weighted import QuantizedEmbedding, QuantizedWeighted

Quantized = QuantizedWeighted | QuantizedEmbedding | QuantizedSum | QuantizedConcat | QuantizedProduct | FakeQuantized
"""What computes by numbers that it is given."""


class Tensors(NamedTuple):
    """A layer's weight and bias, as they are quantized: with a batch norm folded in, where one was."""

    weight: Tensor | None
    bias: Tensor | None

    def into(self, module: nn.Module) -> nn.Module:
        """A module like this one that holds them."""
        named = (("weight", self.weight), ("bias", self.bias))
        return with_tensors(module, {key: tensor.detach() for key, tensor in named if tensor is not None})


def quantized(leaf: Leaf, setting: Setting, tensors: Tensors) -> Quantized:
    """A layer's quantized twin, with these tensors in place of its own; it is yet to be told by which numbers to compute."""
    (weight, bias), name, module, kind = tensors, leaf.name, leaf.module, leaf.kind
    if kind is Kind.EMBEDDING and weight is not None:
        assert isinstance(module, nn.Embedding)
        return QuantizedEmbedding(name, module, setting, weight)
    if has_integers(leaf, setting):
        if kind is Kind.WEIGHTED:
            assert weight is not None
            return QuantizedWeighted(name, module, setting, weight, bias)
        return _join(name, module, kind, setting)
    layer = tensors.into(module) if kind is Kind.WEIGHTED else module
    return FakeQuantized(name, module, layer, setting, weight if has_weight(leaf, setting) else None)


def _join(name: str, module: nn.Module, kind: Kind, setting: Setting) -> Quantized:
    if kind is Kind.ADD:
        return QuantizedSum(name, module, setting)
    if kind is Kind.CONCAT:
        return QuantizedConcat(name, module, setting)
    operation = torch.mul if kind is Kind.MULT else torch.matmul if isinstance(module, Matmul) else torch.bmm
    return QuantizedProduct(name, operation, module, setting)


def floating(leaf: Leaf, setting: Setting, tensors: Tensors, dtype: torch.dtype) -> FloatingPoint:
    """A layer in floats of other sizes; the model's own are ``dtype``."""
    layer = tensors.into(leaf.module) if leaf.kind is Kind.WEIGHTED else leaf.module
    return FloatingPoint(leaf.name, layer, setting, dtype)


def put(model: nn.Module, leaf: Leaf, module: nn.Module) -> None:
    """Let ``module`` stand in every place of a layer."""
    for place in leaf.places:
        parent, _, name = place.rpartition(".")
        setattr(model.get_submodule(parent), name, module)


def keep_apart(model: nn.Module, changed: Collection[int]) -> None:
    """Let torch's transformer encoders call their parts where some are ``changed``, by ``id``; else one function reads the weights of all in an evaluation."""
    for module in model.modules():
        if not any(id(part) in changed for part in module.modules()):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # it is no function that torch's one call of everything knows
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
