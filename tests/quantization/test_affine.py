"""The arithmetic of quantization: by hand, against torch's own kernels, and as laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.quantization.affine import (
    Mode,
    QParams,
    as_multiplier_and_shift,
    dequantize,
    fake_quantize,
    integers,
    qparams,
    quantize,
    ranges,
)
from limbeck.tile import CHANNELS, FILTERS, TENSOR, Tile

FINITE = st.floats(-1e6, 1e6, width=32)
MODES = st.sampled_from(list(Mode))


@st.composite
def bounds(draw: st.DrawFn) -> tuple[float, float]:
    low, high = sorted((draw(FINITE), draw(FINITE)))
    return low, high


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Zeros of unlike signs are not the same."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def bits_of(mode: Mode) -> st.SearchStrategy[int]:
    return st.integers(2 if mode is Mode.SYMMETRIC_RESTRICTED else 1, 16)


@pytest.mark.parametrize(
    ("mode", "low", "high", "bits", "ancestor_scale", "zero_point", "first", "last"),
    [  # by hand, with the formulas of distiller/quantization/q_utils.py; its zero point is ours with the other sign
        ("symmetric", -4.0, 2.0, 8, 127.5 / 4, 0, -128, 127),
        ("symmetric", 1.0, 2.0, 4, 7.5 / 2, 0, -8, 7),
        ("symmetric_restricted", -4.0, 2.0, 8, 127 / 4, 0, -127, 127),
        ("asymmetric_unsigned", -1.0, 3.0, 8, 255 / 4, 64, 0, 255),  # 63.75 * -1 = -63.75
        ("asymmetric_signed", -1.0, 3.0, 8, 255 / 4, 64 - 128, -128, 127),
        ("asymmetric_unsigned", 2.0, 6.0, 8, 255 / 6, 0, 0, 255),  # extended to hold 0
        ("asymmetric_signed", -6.0, -2.0, 8, 255 / 6, 127, -128, 127),
        ("asymmetric_unsigned", -3.0, 5.0, 2, 3 / 8, 1, 0, 3),  # 1.125
        ("asymmetric_unsigned", -1.0, 1.0, 2, 3 / 2, 2, 0, 3),  # 1.5, a half, goes to the even number
        ("SYMMETRIC", 0.0, 0.0, 8, 1.0, 0, -128, 127),
        ("ASYMMETRIC_SIGNED", 0.0, 0.0, 8, 1.0, -128, -128, 127),
    ],
)
def test_scales_and_zero_points_by_hand(
    mode: str, low: float, high: float, bits: int, ancestor_scale: float, zero_point: int, first: int, last: int
) -> None:
    found = qparams(low, high, bits, mode)
    assert found.ancestor_scale.item() == pytest.approx(ancestor_scale, rel=1e-6)
    assert (found.zero_point.item(), found.ancestor_zero_point.item(), found.low, found.high) == (zero_point, -zero_point, first, last)
    assert (found.scale.dtype, found.zero_point.dtype) == (torch.float32, torch.int32)


@given(data=st.data(), mode=MODES, seed=st.integers(0, 99), width=st.floats(1e-6, 1e6), middle=st.floats(-2, 2))
@settings(max_examples=50)
def test_it_computes_what_the_ancestors_formulas_do(data: st.DataObject, mode: Mode, seed: int, width: float, middle: float) -> None:
    """``q = clamp(round(scale * x - zp))`` and ``(q + zp) / scale``, in float64, where no value lies on the edge between two integers."""
    bits = data.draw(bits_of(mode))
    x = (torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + middle) * width
    params = qparams(*(bound.reshape(()) for bound in ranges(x)), bits, mode)
    scale, zp = params.ancestor_scale, params.ancestor_zero_point
    exact = scale * x - zp
    clear = (exact - exact.floor() - 0.5).abs() > 1e-6
    q = exact.round().clamp(params.low, params.high)
    assert int(clear.sum()) > 40
    assert torch.equal(quantize(x, params)[clear], q[clear])
    assert torch.allclose(fake_quantize(x, params)[clear], ((q + zp) / scale)[clear], rtol=1e-12, atol=0)


@given(data=st.data(), mode=MODES, span=bounds(), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_no_error_within_the_limits_exceeds_half_a_step(data: st.DataObject, mode: Mode, span: tuple[float, float], seed: int) -> None:
    params = qparams(*span, data.draw(bits_of(mode)), mode)
    lowest, highest = (limit.item() for limit in params.limits)
    x = torch.rand(50, generator=torch.Generator().manual_seed(seed)) * (highest - lowest) + lowest
    error = (fake_quantize(x, params) - x).abs()
    assert bool((error <= params.scale * (0.5 + 2**-22 * (params.high - params.low))).all())
    if not mode.is_symmetric:
        assert lowest <= min(0.0, span[0]) + params.scale.item()
        assert highest >= max(0.0, span[1]) - params.scale.item()


@given(data=st.data(), mode=MODES, span=bounds())
@settings(max_examples=50)
def test_zero_stays_zero_and_integers_come_back(data: st.DataObject, mode: Mode, span: tuple[float, float]) -> None:
    params = qparams(*span, data.draw(bits_of(mode)), mode)
    assert fake_quantize(torch.tensor([0.0, -0.0]), params).tolist() == [0.0, 0.0]
    whole = torch.linspace(params.low, params.high, 40).round()
    assert torch.equal(quantize(dequantize(whole, params), params), whole)
    once = fake_quantize(torch.randn(30) * 10, params)
    assert torch.equal(fake_quantize(once, params), once)


@given(mode=MODES, bits=st.integers(2, 16), sparsity=st.floats(0, 1), tile=st.sampled_from([TENSOR, FILTERS, CHANNELS, Tile((1, 4))]))
@settings(max_examples=25)
def test_a_pruned_weight_stays_zero_and_keeps_its_type(mode: Mode, bits: int, sparsity: float, tile: Tile) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        weight = torch.randn(6, 8, dtype=dtype) * (torch.rand(6, 8) > sparsity)
        found = fake_quantize(weight, qparams(*ranges(weight, tile), bits, mode, tile))
        assert found.dtype == dtype
        assert not found[weight == 0].any()


def torch_observer(mode: Mode, per_channel: bool = False) -> torch.nn.Module:
    from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

    kind = PerChannelMinMaxObserver if per_channel else MinMaxObserver
    dtype = torch.quint8 if mode is Mode.ASYMMETRIC_UNSIGNED else torch.qint8
    scheme = f"per_{'channel' if per_channel else 'tensor'}_{'symmetric' if mode.is_symmetric else 'affine'}"
    first, last = integers(8, mode)
    return kind(dtype=dtype, qscheme=getattr(torch, scheme), quant_min=first, quant_max=last)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("per_channel", [False, True])
def test_scales_are_those_of_torchs_observers(mode: Mode, per_channel: bool) -> None:
    for seed in range(20):
        weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * 3 + seed / 10
        observer = torch_observer(mode, per_channel)
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
        tile = FILTERS if per_channel else TENSOR
        params = qparams(*ranges(weight, tile), 8, mode, tile)
        assert torch.equal(params.scale, scale.reshape(-1))
        assert torch.equal(params.zero_point, zero_point.reshape(-1).to(torch.int32))


def awkward(size: int) -> Tensor:
    """Numbers of many sizes, halves of steps among them."""
    steps = torch.arange(-size // 4, size // 4) * 0.5
    return torch.cat([steps * 0.0137, steps, torch.randn(size) * 3, torch.randn(size) * 1e-3, torch.tensor([0.0, -0.0, 1e30, -1e30])])


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("scale", [0.0137, 0.1, 0.5, 1 / 3, 7.0])
def test_equal_to_torchs_kernels_to_the_bit(mode: Mode, scale: float) -> None:
    x = awkward(400)
    first, last = integers(8, mode)
    offset = 0 if mode.is_symmetric else first + 77
    params = QParams(torch.tensor(scale), torch.tensor(offset, dtype=torch.int32), first, last)
    assert same_bits(fake_quantize(x, params), torch.fake_quantize_per_tensor_affine(x, scale, offset, first, last))
    if mode is not Mode.SYMMETRIC_RESTRICTED:  # torch's quantized types hold their whole range
        dtype = torch.quint8 if mode is Mode.ASYMMETRIC_UNSIGNED else torch.qint8
        clear = x[((x / scale) % 1 - 0.5).abs() > 1e-3].clamp(-1e6, 1e6)  # of halves see below
        theirs, ours = torch.quantize_per_tensor(clear, scale, offset, dtype), quantize(clear, params)
        assert same_bits(ours, theirs.int_repr().float())
        assert same_bits(dequantize(ours, params), theirs.dequantize())


@pytest.mark.parametrize("bits", [1, 2, 4, 11, 16])
@pytest.mark.parametrize("mode", [Mode.SYMMETRIC, Mode.ASYMMETRIC_SIGNED, Mode.ASYMMETRIC_UNSIGNED])
def test_equal_to_torchs_kernel_at_every_width(mode: Mode, bits: int) -> None:
    x = torch.randn(500)
    params = qparams(*(bound.reshape(()) for bound in ranges(x)), bits, mode)
    theirs = torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, params.low, params.high)
    assert same_bits(fake_quantize(x, params), theirs)


def test_halves_go_to_the_even_step_from_zero() -> None:
    """By hand: 2.5 steps become 2, and 3.5 become 4, wherever zero lies. ``torch.quantize_per_tensor`` asks the integer to be even instead."""
    x = torch.tensor([2.5, 3.5, -2.5, -3.5])
    for zero_point in (0, 1, 2):
        params = QParams(torch.tensor(1.0), torch.tensor(zero_point, dtype=torch.int32), -128, 127)
        assert fake_quantize(x, params).tolist() == [2.0, 4.0, -2.0, -4.0]
        assert same_bits(fake_quantize(x, params), torch.fake_quantize_per_tensor_affine(x, 1.0, zero_point, -128, 127))


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
def test_equal_to_torchs_kernels_for_each_channel(axis: int, shape: tuple[int, ...]) -> None:
    weight, tile = torch.randn(shape), (FILTERS, CHANNELS)[axis]
    for mode, dtype in ((Mode.SYMMETRIC, torch.qint8), (Mode.ASYMMETRIC_UNSIGNED, torch.quint8)):
        params = qparams(*ranges(weight, tile), 8, mode, tile)
        theirs = torch.quantize_per_channel(weight, params.scale, params.zero_point, axis, dtype)
        assert same_bits(quantize(weight, params), theirs.int_repr().float())
        faked = torch.fake_quantize_per_channel_affine(weight, params.scale, params.zero_point, axis, params.low, params.high)
        assert same_bits(fake_quantize(weight, params), faked)


def test_groups_have_their_own_scales() -> None:
    weight = torch.tensor([[1.0, -2.0, 8.0, 4.0], [0.5, 0.25, 0.0, 0.0]])
    tile = Tile((1, 2))
    params = qparams(*ranges(weight, tile), 3, "symmetric_restricted", tile)  # three steps on either side
    assert params.scale.tolist() == pytest.approx([2 / 3, 8 / 3, 0.5 / 3, 1.0])
    assert quantize(weight, params).tolist() == [[2.0, -3.0, 3.0, 2.0], [3.0, 2.0, 0.0, 0.0]]  # 1.5 goes to 2, and so does 4.5 / 3


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), group=st.integers(1, 4), bits=st.integers(2, 16), mode=MODES)
@settings(max_examples=25)
def test_a_group_is_quantized_as_if_it_were_alone(rows: int, columns: int, group: int, bits: int, mode: Mode) -> None:
    weight, tile = torch.randn(rows, columns), Tile((1, group), pad=True)
    together = fake_quantize(weight, qparams(*ranges(weight, tile), bits, mode, tile))
    alone = [torch.cat([fake_quantize(part, qparams(*ranges(part), bits, mode)) for part in row.split(group)]) for row in weight]
    assert torch.equal(together, torch.stack(alone))


def test_faults_are_named() -> None:
    weight = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="17 bits in mode 'symmetric'; give a whole number from 1 to 16"):
        integers(17, "symmetric")
    with pytest.raises(ValueError, match="1 bits in mode 'symmetric_restricted'; give a whole number from 2 to 16"):
        qparams(0.0, 1.0, 1, "symmetric_restricted")
    with pytest.raises(ValueError, match=r"from nan to 1\.0 is not finite"):
        qparams(math.nan, 1.0, 8)
    with pytest.raises(ValueError, match=r"from 2\.0 to 1\.0 is empty; give the lower bound first"):
        qparams(2.0, 1.0, 8)
    with pytest.raises(ValueError, match="too wide to be divided into steps; clip it"):
        qparams(-3e38, 3e38, 8, "asymmetric_signed")
    with pytest.raises(ValueError, match=r"shape \(\) beside upper ones of shape \(2,\)"):
        qparams(torch.tensor(0.0), torch.ones(2), 8)
    with pytest.raises(ValueError, match=r"has 4 groups of .*, and there are 3 scales; take the range of this tensor"):
        quantize(weight.T, qparams(*ranges(weight, FILTERS), 8, "symmetric", FILTERS))
    with pytest.raises(ValueError, match="no elements, and so no range"):
        ranges(weight[:0])
    with pytest.raises(ValueError, match="zero would not stay zero"):
        QParams(torch.tensor(1.0), torch.tensor(300), 0, 255)
    with pytest.raises(ValueError, match="0 to 0 are no range"):
        QParams(torch.tensor(1.0), torch.tensor(0), 0, 0)
    with pytest.raises(ValueError, match=r"scales of shape \(2,\) beside zero points of shape \(\)"):
        QParams(torch.ones(2), torch.tensor(0), 0, 1)


def test_what_is_no_number_is_not_hidden() -> None:
    params = qparams(-1.0, 1.0, 8)
    found = fake_quantize(torch.tensor([math.nan, math.inf, -math.inf]), params)
    assert math.isnan(found[0])
    assert found[1:].tolist() == [params.limits[1].item(), params.limits[0].item()]


def test_the_smallest_ranges_make_steps_that_can_be_divided_by() -> None:
    params = qparams(0.0, 1e-44, 8, "asymmetric_unsigned")
    assert math.isfinite(params.ancestor_scale.item())
    assert bool(torch.isfinite(fake_quantize(torch.tensor([0.0, 1e-44, 1.0]), params)).all())


@pytest.mark.parametrize(
    ("scale", "bits", "multiplier", "shift"),
    [(0.3, 8, 153, 9), (0.5, 8, 128, 8), (1.0, 8, 128, 7), (255.0, 8, 255, 0), (255.5, 8, 127, -1), (1000.0, 4, 7, -7), (0.7, 2, 2, 2)],
)
def test_multipliers_and_shifts_by_hand(scale: float, bits: int, multiplier: int, shift: int) -> None:
    """``n = floor(log2((2^m - 1) / Q))`` and ``A = floor(Q 2^n)``; the first row is the ancestor's example."""
    assert [part.item() for part in as_multiplier_and_shift(torch.tensor(scale), bits)] == [multiplier, shift]


@given(scale=st.floats(1e-38, 1e38), bits=st.integers(2, 31))
@settings(max_examples=50)
def test_a_multiplier_fills_its_bits(scale: float, bits: int) -> None:
    found = as_multiplier_and_shift(torch.tensor([scale], dtype=torch.float64), bits)
    multiplier, shift = (int(part) for part in found)
    exact = math.ldexp(scale, shift)
    assert multiplier <= exact < multiplier + 1
    assert exact <= 2**bits - 1 < 2 * exact
    with pytest.raises(ValueError, match="cannot be multiplied by"):
        as_multiplier_and_shift(torch.tensor([scale, 0.0]), bits)
    with pytest.raises(ValueError, match="a multiplier of 32 bits"):
        as_multiplier_and_shift(torch.tensor(scale), 32)
