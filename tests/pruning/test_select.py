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
from limbeck.pruning import _bracket, _select
from limbeck.pruning._select import lowest, lowest_by_sort, lowest_magnitude, lowest_together

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAN = float("nan")
fixture_once = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=[None, (3, 1), (7, 4), (64, 1)], ids=["as shipped", "chunk 3", "chunk 7", "chunk 64"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and the size of a large pool turned down, so that a handful of scores spans several chunks and is bracketed."""
    if request.param is None:
        return
    chunk, large = request.param
    for module in (_select, _bracket):
        monkeypatch.setattr(module, "CHUNK", chunk)
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


@st.composite
def narrow_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    """More pools than units in each, and few units: what N:M asks for."""
    scores, kept, _ = draw(cases())
    units = draw(st.integers(2, 9))
    pools = draw(st.integers(units, 3 * units))
    places = torch.arange(pools * units) * draw(st.sampled_from([1, 3, 7]))
    tiled = None if kept is None else kept.reshape(-1)[places % kept.numel()].view(pools, units)
    return scores.reshape(-1)[places % scores.numel()].view(pools, units), tiled, draw(st.integers(1, units - 1))


@pytest.mark.usefixtures("sizes")
@fixture_once
@given(narrow_cases())
def test_small_pools_too(case: tuple[Tensor, Tensor | None, int]) -> None:
    scores, kept, dropped = case
    wanted = by_stable_argsort(scores, kept, dropped)
    assert torch.equal(lowest(scores, kept, dropped), wanted)
    assert torch.equal(lowest(scores.t().contiguous().t(), None if kept is None else kept.t().contiguous().t(), dropped), wanted)
    assert torch.equal(lowest(scores, kept, dropped, magnitude=True), by_stable_argsort(scores.abs(), kept, dropped))


@pytest.mark.parametrize("units", [2, 4, 8, 9, 16, 32])
@pytest.mark.parametrize("nans", [1, 5])
@pytest.mark.parametrize("others", [torch.zeros, torch.randn])
def test_nan_in_small_pools_is_refused(units: int, nans: int, others: Callable[[int], Tensor]) -> None:
    for dropped in range(1, units):
        scores = others(100 * units)
        scores[torch.randperm(100 * units)[:nans]] = NAN
        with pytest.raises(MaskError, match=f"{nans} of {100 * units} scores are NaN"):
            lowest(scores.view(100, units), None, dropped)


def test_comparing_and_partitioning_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for units in range(2, 33):
        scores, kept = torch.randint(-3, 4, (2000, units)).float(), torch.rand(2000, units) > 0.4
        scores[::3] = torch.randn(667, units)
        for dropped in {1, units // 2, units - 1}:
            monkeypatch.setattr(_select, "NARROW", 32)
            by_comparison = [lowest(scores, mask, dropped) for mask in (None, kept)]
            monkeypatch.setattr(_select, "NARROW", 0)
            assert all(torch.equal(lowest(scores, mask, dropped), keep) for mask, keep in zip((None, kept), by_comparison, strict=True))


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor | None], int, bool]:
    """Some tensors of different sizes and types, each with a mask or none, and how many of all their elements are to fall."""
    drawn = draw(st.lists(cases(), min_size=1, max_size=4))
    masks = [kept if draw(st.booleans()) else None for _, kept, _ in drawn]
    return (
        [scores for scores, _, _ in drawn],
        masks,
        draw(st.integers(0, sum(scores.numel() for scores, _, _ in drawn))),
        draw(st.booleans()),
    )


@pytest.mark.usefixtures("sizes")
@fixture_once
@given(parts())
def test_tensors_that_are_one_pool_are_ranked_as_their_concatenation(case: tuple[list[Tensor], list[Tensor | None], int, bool]) -> None:
    tensors, kept, dropped, magnitude = case
    scores = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    masks = torch.cat(
        [
            torch.ones(tensor.numel(), dtype=torch.bool) if mask is None else mask.reshape(-1)
            for tensor, mask in zip(tensors, kept, strict=True)
        ]
    )
    wanted = by_stable_argsort((scores.abs() if magnitude else scores)[None], masks[None], dropped)[0]
    found = lowest_together(tensors, kept, dropped, magnitude)
    assert [mask.shape for mask in found] == [tensor.shape for tensor in tensors]
    assert torch.equal(torch.cat([mask.reshape(-1) for mask in found]), wanted)


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.7, 1 - 1e-6])
@pytest.mark.parametrize("masked", [False, True])
def test_many_tensors_large_enough_to_be_bracketed(share: float, masked: bool) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(size) * scale for size, scale in ((1, 1.0), (90_000, 0.1), (300_000, 0.05), (7, 0.0), (0, 1.0), (70_000, 2.0))]
    kept = [torch.rand(len(tensor)) > 0.5 if masked and len(tensor) != 90_000 else None for tensor in tensors]
    dropped = max(1, int(share * sum(map(len, tensors))))
    before = torch.cat(
        [torch.ones(len(tensor), dtype=torch.bool) if mask is None else mask for tensor, mask in zip(tensors, kept, strict=True)]
    )
    wanted = by_stable_argsort(torch.cat(tensors).abs()[None], before[None], dropped)[0]
    assert torch.equal(torch.cat(lowest_together(tensors, kept, dropped, magnitude=True)), wanted)
    tensors[3][2] = NAN
    with pytest.raises(MaskError, match="1 of 460008 scores are NaN"):
        lowest_together(tensors, kept, dropped, magnitude=True)


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
        monkeypatch.setattr(_bracket, "bracket", lambda *_, bracket=bracket: bracket)
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
