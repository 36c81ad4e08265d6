"""Magnitudes are ranked without being formed: what comes out is what any other criterion with the same scores gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning.criteria import Units, l1
from limbeck.pruning.pruner import Pruner, Selector, Site
from limbeck.pruning.selectors import Below, KeptRounded, Lowest
from limbeck.schedules import Moment
from limbeck.tile import FILTERS, TENSOR, Tile

POOLS = {"tensor": TENSOR, "row": FILTERS, "2:4": Tile((1, 4), rest=1, pad=True), "columns": Tile((-1, 1)), "model": None}


def same_scores(units: Units) -> Tensor:
    return l1(units)


@st.composite
def sites(draw: st.DrawFn) -> dict[str, Site]:
    """Weights with many ties and zeros, some with a mask."""
    found = {}
    for name in ("a", "b", "c"):
        shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 13)))
        weight = draw(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.0]), min_size=math.prod(shape), max_size=math.prod(shape)))
        keep = draw(st.none() | st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
        found[name] = Site(torch.tensor(weight).view(shape), None if keep is None else torch.tensor(keep).view(shape))
    return found


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("select", [Lowest(), Lowest(multiple=2), KeptRounded()])
@settings(max_examples=30)
@given(drawn=sites(), amount=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_magnitudes_need_no_copy(pool: str, select: Selector, drawn: dict[str, Site], amount: float) -> None:
    targets = dict.fromkeys(drawn, amount)
    plain = Pruner(targets, pool=POOLS[pool], select=select).masks(drawn, Moment())
    formed = Pruner(targets, score=same_scores, pool=POOLS[pool], select=select).masks(drawn, Moment())
    for name, site in drawn.items():
        assert plain[name].shape == site.weight.shape
        assert plain[name].is_contiguous()
        assert torch.equal(plain[name], formed[name])


@pytest.mark.parametrize("select", [Lowest(), Below()])
def test_a_ranking_of_all_tensors_names_the_one_with_nan(select: Selector) -> None:
    weights = {"fine": Site(torch.rand(4)), "diverged": Site(torch.tensor([1.0, float("nan")]))}
    for score in (l1, same_scores):
        with pytest.raises(MaskError, match="'diverged': 1 of 2 scores are NaN"):
            Pruner({"fine": 0.5, "diverged": 0.5}, score=score, pool=None, select=select).masks(weights, Moment())
