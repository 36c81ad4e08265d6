"""The pruner that a file composes: each word of it against the same thing said in tiles, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.pruning.composed import composed_pruner
from limbeck.pruning.criteria import Units, l2
from limbeck.pruning.pruner import Pruner, Site
from limbeck.ramps import Cosine
from limbeck.schedules import Moment


def mask(pruner: Pruner, *weights: Tensor) -> list[Tensor]:
    sites = {f"w{place}": Site(weight) for place, weight in enumerate(weights)}
    targets = dict.fromkeys(sites, next(iter(pruner.targets.values())))
    pruner = Pruner(targets, pruner.score, pruner.unit, pruner.pool, pruner.select)
    return list(pruner.masks(sites, Moment()).values())


def test_the_plain_form_is_the_magnitude_pruner() -> None:
    assert composed_pruner(["a", "b"], 0.5) == Pruner({"a": 0.5, "b": 0.5})
    assert composed_pruner(["a"], Cosine(0, 0.5)).targets == {"a": Cosine(0, 0.5)}


WEIGHT = torch.tensor([[8.0, 1.0, 7.0, 2.0], [3.0, 6.0, 4.0, 5.0], [0.1, 0.2, 0.3, 9.0]])


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ({"sparsity": 0.5}, ["x.x.", ".xxx", "...x"]),
        ({"sparsity": 0.5, "scope": "row"}, ["x.x.", ".x.x", "..xx"]),
        ({"n_of_m": "2:4"}, ["x.x.", ".x.x", "..xx"]),
        ({"n_of_m": "1:2"}, ["x.x.", ".x.x", ".x.x"]),
        ({"n_of_m": "1:3"}, ["x..x", ".x.x", "..xx"]),  # the fourth is alone in its group
        ({"sparsity": 0.5, "granularity": "filters"}, ["xxxx", "xxxx", "...."]),
        ({"sparsity": 0.5, "granularity": "rows"}, ["xxxx", "xxxx", "...."]),
        ({"sparsity": 0.5, "granularity": "channels"}, ["..xx", "..xx", "..xx"]),
        ({"sparsity": 0.5, "granularity": "cols", "criterion": l2}, ["x..x", "x..x", "x..x"]),
        ({"sparsity": 0.34, "granularity": "blocks", "block_shape": [1, 2]}, ["..xx", "xxxx", "..xx"]),  # of three blocks of 9 the first
        ({"sparsity": 0.34, "granularity": "blocks", "block_shape": [3, 1]}, ["x.xx", "x.xx", "x.xx"]),
    ],
)  # fmt: skip
def test_every_word_by_hand(arguments: dict[str, Any], rows: list[str]) -> None:
    [keep] = mask(composed_pruner(["w"], **arguments), WEIGHT)
    assert ["".join(".x"[kept] for kept in row) for row in keep.int().tolist()] == rows


def test_global_ranks_all_targets_together() -> None:
    small, large = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 0.5, 8.0])
    assert [keep.tolist() for keep in mask(composed_pruner(["*"], 0.5, scope="global"), small, large)] == [
        [False, False, False, True], [True, True, False, True],
    ]  # fmt: skip


def test_a_convolution_has_kernels_and_its_n_of_m_runs_along_the_input_channels() -> None:
    weight = torch.arange(1.0, 33.0).reshape(2, 4, 2, 2)
    [keep] = mask(composed_pruner(["w"], 0.5, granularity="kernels"), weight)
    assert keep.all(dim=3).all(dim=2).tolist() == [[False] * 4, [True] * 4]
    [keep] = mask(composed_pruner(["w"], n_of_m="2:4"), weight)
    assert torch.equal(keep, torch.tensor([False, False, True, True]).reshape(1, 4, 1, 1).expand_as(weight))


def test_a_criterion_of_ones_own() -> None:
    def signed(units: Units) -> Tensor:
        return units.weight.sum(1)

    [keep] = mask(composed_pruner(["w"], 0.5, criterion=signed), torch.tensor([[-9.0, 1.0]]))
    assert keep.tolist() == [[False, True]]


@given(st.integers(2, 100), st.data(), st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=100)
def test_n_of_m_keeps_n_of_every_m_whatever_they_are(size: int, data: st.DataObject, inputs: int, outputs: int) -> None:
    """Also for n and m whose quotient is no exact float (1:49), and a last group that is partial."""
    kept = data.draw(st.integers(1, size - 1))
    [keep] = mask(composed_pruner(["w"], n_of_m=f"{kept}:{size}"), torch.randn(outputs, inputs))
    for first in range(0, inputs, size):
        group = keep[:, first : first + size]
        assert group.sum(1).tolist() == [min(kept, group.shape[1])] * outputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: composed_pruner(["w"]), "needs 'sparsity', a fraction of zeros or a ramp of it, or 'n_of_m', as in 2:4"),
        (lambda: composed_pruner(["w"], 0.5, n_of_m="2:4"), "n_of_m: 2:4 says how much is kept already; take sparsity out, or n_of_m"),
        (lambda: composed_pruner(["w"], n_of_m="2:4", scope="row"), "n_of_m: 2:4 chooses among single weights of one tensor"),
        (lambda: composed_pruner(["w"], n_of_m="2:4", granularity="rows"), "take granularity, block_shape, scope and coupling out"),
        (lambda: composed_pruner(["w"], n_of_m="2/4"), "n_of_m '2/4' is not two numbers with a colon, as in 2:4, which keeps 2 of every 4"),
        (lambda: composed_pruner(["w"], n_of_m="4:4"), "n_of_m 4:4 would keep 4 of every 4; the first number must lie between 0 and the second"),
        (lambda: composed_pruner(["w"], n_of_m="0:4"), "n_of_m 0:4 would keep 0 of every 4"),
        (lambda: composed_pruner(["w"], 0.5, scope="row", granularity="filters"), "scope row leaves each of the filters alone in its row"),
        (lambda: composed_pruner(["w"], 0.5, granularity="blocks"), "granularity blocks needs block_shape"),
        (lambda: composed_pruner(["w"], 0.5, block_shape=[1, 8]), "block_shape goes with granularity blocks, not with element"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
