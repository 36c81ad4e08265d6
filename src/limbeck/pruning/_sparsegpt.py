"""SparseGPT on one matrix: choose what falls, and let what stays make up for it (Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._select import lowest

BLOCK = 128
"""Columns whose errors reach all later columns at once, and among which an unstructured mask is chosen."""


@dataclass(frozen=True)
class Part:
    """Columns among which it is chosen what falls: ``dropped`` weights of all rows together, or of ``each_row``."""

    begin: int
    end: int
    dropped: int
    each_row: bool = False


Blocks = list[list[Part]]


def shares(columns: int, dropped: int, block: int = BLOCK) -> Blocks:
    """Blocks of one part each, of which equal shares fall, ``dropped`` weights in all.

    >>> [(part.begin, part.end, part.dropped) for [part] in shares(columns=5, dropped=7, block=2)]
    [(0, 2, 2), (2, 4, 3), (4, 5, 2)]
    """
    ends = [(begin, min(begin + block, columns)) for begin in range(0, columns, block)]
    return [[Part(begin, end, dropped * end // columns - dropped * begin // columns)] for begin, end in ends]


def n_of_m(columns: int, run: int, kept: int, size: int, block: int = BLOCK) -> Blocks:
    """Parts of ``size`` columns that keep ``kept`` in each row, as many to a block as it holds; they begin anew with every ``run`` of columns.

    >>> [[(part.begin, part.end, part.dropped) for part in parts] for parts in n_of_m(columns=10, run=5, kept=1, size=2, block=4)]
    [[(0, 2, 1), (2, 4, 1)], [(4, 5, 0), (5, 7, 1)], [(7, 9, 1), (9, 10, 0)]]
    """
    begins = [first + place for first in range(0, columns, run) for place in range(0, run, size)]
    blocks: Blocks = []
    for begin, end in zip(begins, [*begins[1:], columns], strict=True):
        if not blocks or end - blocks[-1][0].begin > block:
            blocks.append([])
        blocks[-1].append(Part(begin, end, max(0, end - begin - kept), each_row=True))
    return blocks


@torch.no_grad()
def prune_matrix(weight: Tensor, hessian: Tensor, blocks: Blocks, damping: float) -> Tensor:
    """Zero weights in place, change the others so that the outputs stay, and give the mask; ``weight`` and mask are ``[rows, columns]``.

    ``hessian``, ``[columns, columns]``, is the sum of the samples' outer products: the paper's without the factor 2, which cancels.
    Raises ``MaskError`` where it is not finite or not positive definite, or a weight is NaN.
    """
    factor = inverse_factor(hessian, damping)
    keep = torch.empty_like(weight, dtype=torch.bool)
    for parts in blocks:
        begin, end = parts[0].begin, parts[-1].end
        columns, kept = weight[:, begin:end].t().contiguous(), keep.new_empty(end - begin, len(weight))
        errors, inner = torch.empty_like(columns), factor[begin:end, begin:end]
        starts = {part.begin - begin: part for part in parts}
        for place in range(end - begin):
            if place in starts:
                last = starts[place].end - begin
                saliency = (columns[place:last] / inner.diagonal()[place:last, None]).square_()
                kept[place:last] = _choose(saliency, starts[place])
            errors[place] = (columns[place] / inner[place, place]).masked_fill_(kept[place], 0.0)
            columns[place + 1 :].addr_(inner[place, place + 1 :], errors[place], alpha=-1)
        keep[:, begin:end] = kept.t()
        weight[:, begin:end] = columns.masked_fill_(~kept, 0.0).t()
        weight[:, end:].addmm_(errors.t(), factor[begin:end, end:], alpha=-1)
    return keep


def _choose(saliency: Tensor, part: Part) -> Tensor:
    """What stays of a part's columns; both are ``[columns, rows]``."""
    if part.each_row:
        return lowest(saliency.t().contiguous(), None, part.dropped).t()
    return lowest(saliency.reshape(1, -1), None, part.dropped).view_as(saliency)


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper triangular ``U`` with ``U^T U`` the inverse of the damped matrix: its row ``j``, over its own diagonal, is what column ``j`` passes on.

    ``damping`` is in means of the diagonal. The factor is that of the matrix with its axes reversed, inverted: one factorization, and no
    inverse is formed that would have to be factored again.

    >>> inverse_factor(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), damping=0.0)
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    if not bool(hessian.isfinite().all()):
        raise MaskError("the inputs are not finite; find where the model's activations diverge")
    diagonal = hessian.diagonal().clone()
    damped = hessian.clone()
    damped.diagonal().copy_(diagonal + damping * diagonal.mean())
    lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(failed):
        known = "are all zero" if not bool(diagonal.any()) else f"determine too little at a damping of {damping}; give more data or damping"
        raise MaskError(f"the inputs {known}")
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False).flip(0, 1)
    return factor
