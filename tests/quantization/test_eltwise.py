"""Arithmetic as modules: against torch's own functions, by hand, and in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.quantization.eltwise import (
    BatchMatmul,
    Chunk,
    Concat,
    EltwiseAdd,
    EltwiseDiv,
    EltwiseMult,
    EltwiseSub,
    Matmul,
    Mean,
    Norm,
    Split,
    Stack,
)

A, B, C = torch.tensor([[6.0, 8.0]]), torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(EltwiseAdd, [9.0, 14.0]), (EltwiseSub, [3.0, 2.0]), (EltwiseMult, [12.0, 64.0]), (EltwiseDiv, [3.0, 1.0])],
)
def test_elementwise_arithmetic_by_hand_in_place_and_not(kind: type[nn.Module], expected: list[float]) -> None:
    first = A.clone()
    result = kind()(first, B, C)
    assert result.tolist() == [expected]
    assert torch.equal(first, A)
    inplace = kind(True)
    assert inplace(first, B, C) is first
    assert first.tolist() == [expected]
    assert torch.equal(kind()(A), A)


@pytest.mark.parametrize("kind", [EltwiseAdd, EltwiseSub, EltwiseMult, EltwiseDiv])
def test_gradients_flow_to_every_argument(kind: type[nn.Module]) -> None:
    inputs = [torch.rand(2, 3, dtype=torch.float64).add(1).requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(kind(), tuple(inputs))


def test_matrix_products_by_hand() -> None:
    assert Matmul()(A, B.mT).tolist() == [[44.0]]
    assert BatchMatmul()(A[None], B.mT[None]).tolist() == [[[44.0]]]
    with pytest.raises(RuntimeError, match="3D"):
        BatchMatmul()(A, B.mT)


def test_what_puts_together_and_what_takes_apart_are_inverse() -> None:
    assert Concat()(A, B).tolist() == [[6.0, 8.0, 2.0, 4.0]]
    assert Concat(0)(A, B).tolist() == [[6.0, 8.0], [2.0, 4.0]]
    assert Stack(1)(A, B).tolist() == [[[6.0, 8.0], [2.0, 4.0]]]
    for apart in (Chunk(2, -1), Split(2, -1), Split([2, 2], -1)):
        parts: tuple[Tensor, ...] = apart(Concat(-1)(A, B))
        assert [part.tolist() for part in parts] == [A.tolist(), B.tolist()]


def test_means_and_norms_by_hand() -> None:
    assert Mean()(A).item() == 7.0
    assert Mean(1, keepdim=True)(A).tolist() == [[7.0]]
    assert Norm()(A).item() == 10.0
    assert Norm(1, 1)(A).tolist() == [14.0]


def test_what_a_module_is_set_to_is_shown() -> None:
    assert [repr(module) for module in (Concat(1), Chunk(4, -1), Split([1, 2]), Stack(), Mean(1), Norm())] == [
        "Concat(dim=1)",
        "Chunk(chunks=4, dim=-1)",
        "Split(size=[1, 2], dim=0)",
        "Stack(dim=0)",
        "Mean(dim=1, keepdim=False)",
        "Norm(order=2, dim=None, keepdim=False)",
    ]
