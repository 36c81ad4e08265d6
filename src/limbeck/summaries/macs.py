"""Multiply-accumulate operations (MACs) of a graph's operations, from their shapes.

A MAC is one product that goes into a sum. So convolutions, matrix products, recurrent layers and attention have them; a bias, a norm, an activation, pooling,
resampling and a softmax have none, nor has looking up an embedding. This is the count of the tables of "Deep Residual Learning" (He et al. 2016), where
ResNet-50 has 3.8 billion (4.1 with its stride in the 3x3 convolutions, as everyone has it today).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from limbeck.graph import Graph, Node, Ref

Shape = tuple[int, ...]
Shapes = Callable[[Any], Shape]
"""The shape of an argument that is a tensor."""
Rule = Callable[[Node, Shapes], int]


def linear(node: Node, shape: Shapes) -> int:
    """``x [.., inputs] @ weight [outputs, inputs].T``."""
    return _result(node) * shape(node.args[0])[-1]


def product(node: Node, shape: Shapes) -> int:
    """``left [.., n, k] @ right [.., k, m]``, or with vectors ``[k]``."""
    return _result(node) * shape(node.args[0])[-1]


def added_product(node: Node, shape: Shapes) -> int:
    """``bias + left @ right``."""
    return _result(node) * shape(node.args[1])[-1]


def summed_product(node: Node, shape: Shapes) -> int:
    """``bias + sum of left [b, n, k] @ right [b, k, m]`` over b."""
    left = shape(node.args[1])
    return _result(node) * left[0] * left[-1]


def convolution(node: Node, shape: Shapes) -> int:
    """Each element of the result sums over a filter ``[inputs / groups, *kernel]``."""
    return _result(node) * math.prod(shape(node.args[1])[1:])


def transposed_convolution(node: Node, shape: Shapes) -> int:
    """Each element of the input is multiplied with its weights ``[outputs / groups, *kernel]``; those that fall on the padding count too."""
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])


def bilinear(node: Node, shape: Shapes) -> int:
    """Each result is ``left [n] @ (weight [n, m] @ right [m])``."""
    _, left, right = shape(node.args[2])
    return _result(node) * left * (right + 1)


def recurrent(node: Node, shape: Shapes) -> int:
    """Every weight matrix of every layer and direction once for each step of each sequence; the products of gates and states are elementwise."""
    weights = [shape(weight) for weight in node.args[2]]
    return _steps(shape(node.args[0])) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def cell(node: Node, shape: Shapes) -> int:
    """Both weight matrices once for each sequence."""
    return _steps(shape(node.args[0])) * sum(math.prod(shape(weight)) for weight in node.args[2:4])


def attention(node: Node, shape: Shapes) -> int:
    """``query [.., l, e] @ key [.., s, e].T`` and the weights ``[.., l, s] @ value [.., s, v]``; a mask, causal or not, leaves out none."""
    *_, positions, features = shape(node.args[1])
    found = node.shapes[0] or ()
    return math.prod(found[:-1]) * positions * (features + found[-1])


def tensordot(node: Node, shape: Shapes) -> int:
    """Each element of the result sums over the axes that are contracted."""
    sizes = shape(node.args[0])
    axes: tuple[int, ...] = node.args[2]
    return _result(node) * math.prod(sizes[axis] for axis in axes)


def einsum(node: Node, shape: Shapes) -> int:
    """Two operands at a time, from the left or along ``path``: the product of all sizes that meet where a sum is taken; products without a sum are elementwise.

    A label of one operand alone that is not in the result is summed first.
    """
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])
    inputs, _, _ = equation.partition("->")
    sizes: dict[str, int] = {}
    terms = [_labelled(term, shape(operand), sizes) for term, operand in zip(inputs.split(","), operands, strict=True)]
    return sum(_pairs(terms, _kept(equation, terms, sizes), sizes, node.kwargs.get("path")))


def _labelled(term: str, shape: Shape, sizes: dict[str, int]) -> set[str]:
    """The labels of an operand; the axes of an ellipsis are numbered from the right. Notes their sizes."""
    before, dots, after = term.partition("...")
    spread = [f"{number}." for number in range(len(shape) - len(before) - len(after), 0, -1)] if dots else []
    labels = [*before, *spread, *after]
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    return set(labels)


def _kept(equation: str, terms: Sequence[set[str]], sizes: Mapping[str, int]) -> set[str]:
    """The labels of the result: those given, or those that occur once."""
    inputs, arrow, result = equation.partition("->")
    spread = {label for label in sizes if label.endswith(".")}
    if arrow:
        return set(result.replace("...", "")) | (spread if "..." in result else set())
    return {label for label in set().union(*terms) if inputs.count(label) == 1} | spread


def _pairs(terms: list[set[str]], result: set[str], sizes: Mapping[str, int], path: Sequence[int] | None) -> Iterator[int]:
    order = list(path) if path else [0, 1] * (len(terms) - 1)
    left = terms
    for one, other in zip(order[::2], order[1::2], strict=True):
        if len(left) < 2:
            return
        first, second = left[one], left[other]
        rest = [term for term in left if term is not first and term is not second]
        needed = result.union(*rest)
        first, second = first & (needed | second), second & (needed | first)
        joined = first | second
        if joined - needed:
            yield math.prod(sizes[label] for label in joined)
        left = [*rest, joined & needed] if path else [joined & needed, *rest]


def _steps(shape: Shape) -> int:
    return math.prod(shape[:-1])


def _result(node: Node) -> int:
    return math.prod(node.shapes[0] or ())


RULES: Mapping[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "linalg_vecdot"), product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), added_product),
    "addbmm": summed_product,
    **{f"conv{axes}d": convolution for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": transposed_convolution for axes in (1, 2, 3)},
    "bilinear": bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
    "scaled_dot_product_attention": attention,
    "tensordot": tensordot,
    "einsum": einsum,
}
MOVES = """
getitem item view reshape _unsafe_view unflatten flatten ravel expand expand_as broadcast_to repeat repeat_interleave tile permute transpose t numpy_T mT mH
T H adjoint movedim moveaxis swapaxes swapdims squeeze unsqueeze select slice narrow split split_with_sizes chunk tensor_split unsafe_split
unsafe_split_with_sizes unsafe_chunk hsplit vsplit dsplit unbind cat concat concatenate stack hstack vstack dstack column_stack block_diag meshgrid
index index_select gather take take_along_dim scatter index_put index_copy index_fill masked_select masked_fill masked_scatter select_scatter slice_scatter
flip fliplr flipud roll rot90 pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold im2col col2im diagonal diag diag_embed tril triu
contiguous clone alias detach lift_fresh lift_fresh_copy to _to_copy type_as view_as view_as_real view_as_complex real imag as_strided copy one_hot
embedding embedding_bag _pack_padded_sequence _pad_packed_sequence
"""
NEW = "zeros ones empty full arange linspace eye scalar_tensor rand randn randint fill zero normal uniform bernoulli tril_indices triu_indices"
ELEMENTWISE = """
dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout subtract multiply divide true_divide floor_divide float_power clip clamp square
relu relu6 hardtanh hardswish hardsigmoid hardshrink softshrink leaky_relu elu selu celu gelu silu mish glu prelu _prelu_kernel rrelu rrelu_with_noise
softplus log_sigmoid threshold where isfinite isinf isnan lerp outer ger kron
"""
REDUCTIONS = """
sum mean var std var_mean std_mean prod max min amax amin aminmax argmax argmin any all median mode kthvalue topk sort argsort count_nonzero nonzero
searchsorted bucketize cumsum cumprod logcumsumexp logsumexp softmax log_softmax _softmax _log_softmax scatter_add scatter_reduce index_add index_reduce
cosine_similarity pairwise_distance norm linalg_vector_norm linalg_norm
"""
FREE = frozenset(" ".join((MOVES, NEW, ELEMENTWISE, REDUCTIONS)).split())
FAMILIES = re.compile(
    r".*(batch|instance|group|layer|rms|response|weight)_norm.*|.*_pool\dd(_with_indices)?|max_unpool\dd|upsample_.*|grid_sampler.*"
    r"|(.*_)?pad(_nd|\dd)?|.*_like|new_.*|.*_loss(_nd|2d)?|kl_div|binary_cross_.*"
)
"""Norms, pooling, resampling, padding, tensors made of nothing, losses."""
TAGS = tuple(tag for name in ("pointwise", "reduction") if (tag := getattr(torch.Tag, name, None)) is not None)
"""Of what torch itself says that it is elementwise, or a reduction."""


def node_macs(node: Node, shape: Shapes) -> int | None:
    """The MACs of one operation; None where they are not known.

    >>> from torch import nn
    >>> from limbeck.graph import capture
    >>> graph = capture(nn.Conv2d(4, 6, 3, groups=2, padding=1), (torch.zeros(1, 4, 5, 5),))
    >>> [node_macs(node, shapes(graph)) for node in graph.nodes if node.kind == "call"]  # 6 * 5 * 5 results, each a sum of 2 * 3 * 3
    [2700]
    """
    name = node.operation if node.operation.endswith("__") else node.operation.removesuffix("_")
    if name in RULES:
        return RULES[name](node, shape)
    tags = getattr(node.target, "tags", ())
    free = name in FREE or FAMILIES.fullmatch(name) or any(tag in tags for tag in TAGS)
    return 0 if free or all(found is None for found in node.shapes) else None


def shapes(graph: Graph) -> Shapes:
    """The function that gives the shape of an argument of the graph's nodes."""
    found = {node.name: node.shapes[0] for node in graph.nodes if node.shapes}

    def shape(argument: Any) -> Shape:
        return (found.get(argument.name) or ()) if isinstance(argument, Ref) else ()

    return shape
