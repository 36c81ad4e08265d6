"""The kernels against a stable sort of all scores, small (with the sizes turned down, so that every route runs) and large."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning import _select
from limbeck.pruning._select import lowest, lowest_by_sort, lowest_magnitude

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAN = float("nan")
fixture_once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=[(1 << 17, 1 << 17), (3, 1), (7, 4), (64, 1)], ids=["as shipped", "chunk 3", "chunk 7", "chunk 64"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and the size of a large pool turned down, so that a handful of scores spans several chunks and is bracketed."""
    chunk, large = request.param
    monkeypatch.setattr(_select, "CHUNK", chunk)
    monkeypatch.setattr(_select, "LARGE", large)


def by_stable_argsort(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """Two stable sorts, the minor key first: dropped before kept, then by score; the first ``dropped`` of each pool fall."""
    minor = torch.argsort((torch.zeros_like(scores) if kept is None else kept).to(torch.int8), dim=1, stable=True)
    order = minor.gather(1, torch.argsort(scores.gather(1, minor), dim=1, stable=True))
    return torch.ones(scores.shape, dtype=torch.bool).scatter_(1, order[:, :dropped], False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    """Scores of which many are equal, a mask so far or None, and how many are to fall: 0 and all of them too."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    count = math.prod(shape)
    few = draw(st.lists(st.floats(-4, 4, width=16) | st.sampled_from([0.0, -0.0, math.inf]), min_size=1, max_size=12))
    scores = torch.tensor(draw(st.lists(st.sampled_from(few), min_size=count, max_size=count)), dtype=draw(st.sampled_from(DTYPES)))
    kept = draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count))
    return scores.view(shape), None if kept is None else torch.tensor(kept).view(shape), draw(st.integers(0, shape[1]))


@pytest.mark.usefixtures("sizes")
@fixture_once
@given(cases())
def test_lowest_is_what_a_stable_sort_drops(case: tuple[Tensor, Tensor | None, int]) -> None:
    scores, kept, dropped = case
    assert torch.equal(lowest(scores, kept, dropped), by_stable_argsort(scores, kept, dropped))


@given(cases())
def test_the_route_of_other_devices_gives_the_same(case: tuple[Tensor, Tensor | None, int]) -> None:
    scores, kept, dropped = case
    if 0 < dropped < scores.shape[1]:
        assert torch.equal(lowest_by_sort(scores, kept, dropped), by_stable_argsort(scores, kept, dropped))


@pytest.mark.usefixtures("sizes")
@fixture_once
@given(cases())
def test_lowest_magnitude_is_lowest_of_the_absolute_values(case: tuple[Tensor, Tensor | None, int]) -> None:
    weight, kept, share = case
    dropped = share * weight.shape[0]
    wanted = by_stable_argsort(weight.abs().reshape(1, -1), None if kept is None else kept.reshape(1, -1), dropped).view(weight.shape)
    before, mask = weight.clone(), None if kept is None else kept.clone()
    assert torch.equal(lowest_magnitude(weight, kept, dropped), wanted)
    assert torch.equal(weight, before)
    assert kept is None or torch.equal(kept, mask)


@pytest.mark.parametrize("view", [lambda t: t.t(), lambda t: t[::2], lambda t: t[:, 1:]], ids=["transposed", "every second row", "a part"])
def test_index_order_of_a_weight_is_that_of_its_shape(view: Callable[[Tensor], Tensor]) -> None:
    weight = view(torch.randint(-2, 3, (12, 18)).float())
    kept = torch.rand(weight.shape[::-1]).t() > 0.5
    wanted = by_stable_argsort(weight.abs().reshape(1, -1), kept.reshape(1, -1), 50).view(weight.shape)
    assert torch.equal(lowest_magnitude(weight, kept, 50), wanted)


WEIGHTS: dict[str, Callable[[int], Tensor]] = {
    "normal": torch.randn,
    "mostly zero": lambda n: torch.randn(n) * (torch.rand(n) < 0.3),
    "constant": lambda n: torch.full((n,), 0.5),
    "few values": lambda n: torch.randint(-3, 4, (n,)).float(),
    "sorted": lambda n: torch.arange(n).float(),
    "periodic": lambda n: torch.arange(n).remainder(1500).float() + torch.rand(n),
    "one giant": lambda n: torch.cat([torch.zeros(n - 1), torch.tensor([1e30])]),
    "infinite": lambda n: torch.randn(n) / (torch.rand(n) < 0.9),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("share", [1e-6, 0.3, 0.7, 0.75, 1 - 1e-6])
@pytest.mark.parametrize("masked", [False, True])
def test_pools_large_enough_to_be_bracketed(weights: str, share: float, masked: bool) -> None:
    torch.manual_seed(0)
    units = 2 * _select.LARGE + 77
    weight = WEIGHTS[weights](units).masked_fill(torch.zeros(units, dtype=torch.bool), 0.0)
    kept = torch.rand(1, units) > 0.5 if masked else None
    dropped = max(1, int(share * units))
    wanted = by_stable_argsort(weight.abs()[None], kept, dropped)
    assert torch.equal(lowest_magnitude(weight, None if kept is None else kept[0], dropped), wanted[0])
    assert torch.equal(lowest(weight.abs()[None], kept, dropped), wanted)


def test_a_parameter_that_is_trained_needs_no_detaching() -> None:
    weight = torch.randn(_select.LARGE, requires_grad=True)
    keep = lowest_magnitude(weight, None, 999)
    assert torch.equal(keep, by_stable_argsort(weight.detach().abs()[None], None, 999)[0])
    assert torch.equal(lowest(weight[None], None, 999), by_stable_argsort(weight.detach()[None], None, 999))


def test_a_bracket_that_misses_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(_select.LARGE)
    for bracket in ((5.0, 6.0), (0.0, 1e-9), (0.5, 0.5)):
        monkeypatch.setattr(_select, "_bracket", lambda *_, bracket=bracket: bracket)
        assert torch.equal(lowest_magnitude(weight, None, 999), by_stable_argsort(weight.abs()[None], None, 999)[0])


@pytest.mark.parametrize("weights", ["normal", "mostly zero", "constant"])
@pytest.mark.parametrize("dropped", [1, 200_000, 262_143])
@pytest.mark.parametrize("nans", [1, 40_000, 262_144])
def test_nan_in_a_large_pool_is_refused(weights: str, dropped: int, nans: int) -> None:
    torch.manual_seed(0)
    weight = WEIGHTS[weights](262_144)
    weight[torch.randperm(262_144)[:nans]] = NAN
    with pytest.raises(MaskError, match=f"{nans} of 262144 scores are NaN"):
        lowest_magnitude(weight, torch.rand(262_144) > 0.5, dropped)
    with pytest.raises(MaskError, match=f"{nans} of 262144 scores are NaN"):
        lowest(weight[None].abs(), None, dropped)
    with pytest.raises(MaskError, match="are NaN"):
        lowest_by_sort(weight[None], None, dropped)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@given(cases())
def test_a_gpu_gives_the_same_masks(case: tuple[Tensor, Tensor | None, int]) -> None:
    scores, kept, dropped = case
    there = lowest(scores.cuda(), None if kept is None else kept.cuda(), dropped)
    assert there.is_cuda
    assert torch.equal(there.cpu(), by_stable_argsort(scores, kept, dropped))
