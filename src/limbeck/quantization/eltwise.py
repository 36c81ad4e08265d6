"""Arithmetic as modules: an operation that is one has a name, so that statistics, a precision and a wrapper can be its own.

The names are those of the ancestor, whose overrides and files of statistics say ``.*eltwiseadd.*``.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn


class EltwiseAdd(nn.Module):
    """The sum of its arguments, element by element; with ``inplace`` it is written into the first.

    >>> EltwiseAdd()(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]), torch.tensor(100.0))
    tensor([111., 122.])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Shapes that broadcast to the first's."""
        return reduce(Tensor.add_ if self.inplace else torch.add, others, first)


class EltwiseSub(nn.Module):
    """The first argument less all others, element by element; with ``inplace`` it is written into the first.

    >>> EltwiseSub()(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    tensor([ -9., -18.])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Shapes that broadcast to the first's."""
        return reduce(Tensor.sub_ if self.inplace else torch.sub, others, first)


class EltwiseMult(nn.Module):
    """The product of its arguments, element by element; with ``inplace`` it is written into the first.

    >>> EltwiseMult()(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    tensor([10., 40.])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Shapes that broadcast to the first's."""
        return reduce(Tensor.mul_ if self.inplace else torch.mul, others, first)


class EltwiseDiv(nn.Module):
    """The first argument over all others, element by element; with ``inplace`` it is written into the first.

    >>> EltwiseDiv()(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    tensor([0.1000, 0.1000])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Shapes that broadcast to the first's."""
        return reduce(Tensor.div_ if self.inplace else torch.div, others, first)


class Matmul(nn.Module):
    """The matrix product ``[.., n, m] x [.., m, p] -> [.., n, p]``, as ``torch.matmul``.

    >>> Matmul()(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))
    tensor([[11.]])
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Raises torch's own error where the inner axes differ."""
        return torch.matmul(first, second)


class BatchMatmul(nn.Module):
    """The matrix product of two batches, ``[batch, n, m] x [batch, m, p] -> [batch, n, p]``, as ``torch.bmm``.

    >>> BatchMatmul()(torch.ones(2, 1, 3), torch.ones(2, 3, 1)).flatten()
    tensor([3., 3.])
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Raises torch's own error for other than three axes."""
        return torch.bmm(first, second)


class Concat(nn.Module):
    """Its arguments one after the other along ``dim``.

    >>> Concat(0)(torch.tensor([1.0]), torch.tensor([2.0, 3.0]))
    tensor([1., 2., 3.])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *tensors: Tensor) -> Tensor:
        """All axes but ``dim`` of one length."""
        return torch.cat(tensors, self.dim)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"dim={self.dim}"


class Stack(nn.Module):
    """Its arguments, all of one shape, along a new axis ``dim``.

    >>> Stack()(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).shape
    torch.Size([2, 2])
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *tensors: Tensor) -> Tensor:
        """One more axis than the arguments have."""
        return torch.stack(tensors, self.dim)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"dim={self.dim}"


class Chunk(nn.Module):
    """A tensor in at most ``chunks`` equal parts along ``dim``, the last of which may be smaller.

    >>> Chunk(2)(torch.arange(4))
    (tensor([0, 1]), tensor([2, 3]))
    """

    def __init__(self, chunks: int, dim: int = 0) -> None:
        super().__init__()
        self.chunks, self.dim = chunks, dim

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Views of the argument."""
        return tensor.chunk(self.chunks, self.dim)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"chunks={self.chunks}, dim={self.dim}"


class Split(nn.Module):
    """A tensor in parts of ``size`` along ``dim``, or of the sizes that a list gives.

    >>> Split([1, 3])(torch.arange(4))
    (tensor([0]), tensor([1, 2, 3]))
    """

    def __init__(self, size: int | list[int], dim: int = 0) -> None:
        super().__init__()
        self.size, self.dim = size, dim

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Views of the argument."""
        parts: tuple[Tensor, ...] = torch.split(tensor, self.size, self.dim)
        return parts

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"size={self.size}, dim={self.dim}"


class Norm(nn.Module):
    """The norm of order ``order`` along ``dim``, of the whole tensor where there is none.

    >>> Norm(dim=1)(torch.tensor([[3.0, 4.0]]))
    tensor([5.])
    """

    def __init__(self, order: float = 2, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.order, self.dim, self.keepdim = order, dim, keepdim

    def forward(self, tensor: Tensor) -> Tensor:
        """As ``torch.linalg.vector_norm``."""
        norm: Tensor = torch.linalg.vector_norm(tensor, self.order, self.dim, self.keepdim)
        return norm

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"order={self.order}, dim={self.dim}, keepdim={self.keepdim}"


class Mean(nn.Module):
    """The mean along ``dim``, of the whole tensor where there is none.

    >>> Mean((1, 2))(torch.ones(2, 3, 3))
    tensor([1., 1.])
    """

    def __init__(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, tensor: Tensor) -> Tensor:
        """As ``torch.mean``."""
        return torch.mean(tensor, self.dim, self.keepdim)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"dim={self.dim}, keepdim={self.keepdim}"
