"""SparseGPT on a matrix against optimal brain surgery written out: one explicit inverse for every column."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._sparsegpt import Blocks, Part, inverse_factor, n_of_m, prune_matrix, shares

DAMPING = 0.01


def drawn(rows: int, columns: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that hang together, ``[samples, columns]``."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), inputs


def surgery(weight: Tensor, hessian: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Column by column: zero what falls, and change all later columns by the inverse of what is left of the Hessian.

    Hassibi et al. 1993: removing weight q costs ``w_q ** 2 / inverse[q, q]`` and changes the others by ``-w_q / inverse[q, q] * inverse[:, q]``.
    """
    weight, keep = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    rows, columns = weight.shape
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    inverses = [torch.linalg.inv(damped[column:, column:]) for column in range(columns)]
    for part in [part for block in blocks for part in block]:
        if not part.each_row:
            assert [part] in blocks  # as a whole block: nothing of it has been updated by its own columns
        cost = {
            (row, column): float(weight[row, column] ** 2 / inverses[column][0, 0])
            for row in range(rows)
            for column in range(part.begin, part.end)
        }
        pools = [[place for place in cost if place[0] == row] for row in range(rows)] if part.each_row else [list(cost)]
        for pool in pools:
            for row, column in sorted(pool, key=lambda place: cost[place])[: part.dropped]:
                keep[row, column] = False
        for column in range(part.begin, part.end):
            inverse = inverses[column]
            for row in range(rows):
                if not keep[row, column]:
                    weight[row, column:] -= weight[row, column] / inverse[0, 0] * inverse[:, 0]
                    weight[row, column] = 0.0
    return weight, keep


@pytest.mark.parametrize(
    "blocks",
    [
        shares(24, 60, block=128),
        shares(24, 61, block=7),
        shares(24, 143, block=5),
        n_of_m(24, 24, 2, 4, block=8),
        n_of_m(24, 24, 1, 3, block=128),
        n_of_m(24, 8, 2, 5, block=6),
    ],
    ids=["one block", "blocks", "nearly all", "2:4", "1:3", "2:5 with partial groups"],
)
@pytest.mark.parametrize("samples", [200, 10], ids=["well determined", "fewer samples than columns"])
def test_equal_to_surgery_with_an_inverse_for_every_column(blocks: Blocks, samples: int) -> None:
    weight, inputs = drawn(6, 24, samples)
    hessian = inputs.t() @ inputs
    expected, expected_keep = surgery(weight, hessian, blocks)
    keep = prune_matrix(weight, hessian, blocks, DAMPING)
    assert torch.equal(keep, expected_keep)
    assert torch.allclose(weight, expected, rtol=1e-8, atol=1e-10)
    assert not weight[~keep].any()


def test_the_factor_is_that_of_the_inverse() -> None:
    _, inputs = drawn(1, 30, 100)
    hessian = inputs.t() @ inputs
    inverse = torch.linalg.inv(hessian + DAMPING * hessian.diagonal().mean() * torch.eye(30, dtype=torch.float64))
    assert torch.allclose(inverse_factor(hessian, DAMPING), torch.linalg.cholesky(inverse, upper=True), rtol=1e-8, atol=1e-12)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 9), dropped=st.integers(0, 60))
def test_inputs_that_are_independent_are_pruned_by_magnitude(scale: float, seed: int, dropped: int) -> None:
    weight, _ = drawn(5, 12, 1, seed)
    dense = weight.clone()
    keep = prune_matrix(weight, scale * torch.eye(12, dtype=torch.float64), shares(12, dropped), DAMPING)
    order = dense.abs().flatten().argsort()
    expected = torch.ones(60, dtype=torch.bool)
    expected[order[:dropped]] = False
    assert torch.equal(keep, expected.view(5, 12))
    assert torch.equal(weight, dense * keep)


@settings(max_examples=50)
@given(rows=st.integers(1, 5), columns=st.integers(1, 40), block=st.integers(1, 50), data=st.data())
def test_shares_add_up(rows: int, columns: int, block: int, data: st.DataObject) -> None:
    dropped = data.draw(st.integers(0, rows * columns))
    parts = [part for [part] in shares(columns, dropped, block)]
    assert sum(part.dropped for part in parts) == dropped
    assert all(0 <= part.dropped <= rows * (part.end - part.begin) for part in parts)
    assert [part.begin for part in parts] == [0, *[part.end for part in parts[:-1]]]
    assert parts[-1].end == columns


@settings(max_examples=50)
@given(runs=st.integers(1, 4), run=st.integers(1, 20), kept=st.integers(1, 5), more=st.integers(1, 5), block=st.integers(1, 30))
def test_groups_lie_within_a_run_and_keep_what_they_may(runs: int, run: int, kept: int, more: int, block: int) -> None:
    size = kept + more
    parts = [part for blocks in n_of_m(runs * run, run, kept, size, block) for part in blocks]
    assert [part.begin for part in parts] == [0, *[part.end for part in parts[:-1]]]
    assert all(part.begin // run == (part.end - 1) // run for part in parts)
    assert all(part.end - part.begin - part.dropped == min(kept, part.end - part.begin) for part in parts)
    assert all(part.end - part.begin == size or part.end % run == 0 for part in parts)


def test_what_cannot_be_solved_is_refused() -> None:
    whole = [[Part(0, 3, 1)]]
    with pytest.raises(MaskError, match="the inputs are all zero"):
        prune_matrix(torch.ones(2, 3), torch.zeros(3, 3), whole, DAMPING)
    with pytest.raises(MaskError, match=r"determine too little at a damping of 0\.0"):
        prune_matrix(torch.ones(2, 3), torch.ones(3, 3), whole, 0.0)
    with pytest.raises(MaskError, match="the inputs are not finite"):
        prune_matrix(torch.ones(2, 3), torch.full((3, 3), torch.nan), whole, DAMPING)
    with pytest.raises(MaskError, match="NaN"):
        prune_matrix(torch.full((2, 3), torch.nan), torch.eye(3), whole, DAMPING)
