"""Quantized layers against a second implementation in whole numbers, and by hand; over shapes, modes and bits that hypothesis draws."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import Mode, fake_quantize, qparams
from limbeck.quantization.eltwise import BatchMatmul, Concat, EltwiseAdd, EltwiseMult, EltwiseSub, Matmul, Stack
from limbeck.quantization.floats import FakeQuantized, FloatingPoint
from limbeck.quantization.integers import COUNTS, Measured
from limbeck.quantization.joins import QuantizedProduct
from limbeck.quantization.observe import collect_stats
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.weighted import QuantizedWeighted
from quantization.reference import MODES, Scale, assert_counts, requantized, stats_tree

bits = st.sampled_from((2, 3, 4, 6, 8))
modes = st.sampled_from(MODES)
seeds = st.integers(0, 2**16)


class One(nn.Module):
    """A model of one layer, that is called with all there is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Any:
        return self.layer(*inputs)


def quantized(layer: nn.Module, stats: dict[str, Any] | None, **options: Any) -> tuple[nn.Module, PostTrainLinearQuantizer]:
    model = One(layer).eval()
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats, **options)
    quantizer.prepare_model()
    return model, quantizer


def given_by(seed: int, *shape: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3 * spread


LAYERS: dict[str, Any] = {
    "linear": (lambda bias: nn.Linear(7, 5, bias=bias), (3, 7)),
    "linear of sequences": (lambda bias: nn.Linear(4, 3, bias=bias), (2, 3, 4)),
    "conv1d": (lambda bias: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias), (2, 4, 7)),
    "conv2d": (lambda bias: nn.Conv2d(3, 4, 3, padding=1, dilation=2, bias=bias), (2, 3, 6, 5)),
    "circular": (lambda bias: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=bias), (1, 3, 4, 4)),
    "conv3d": (lambda bias: nn.Conv3d(2, 3, 2, bias=bias), (1, 2, 3, 4, 3)),
    "transposed": (lambda bias: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1, bias=bias), (1, 3, 3, 3)),
}


@settings(max_examples=40)
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    act=bits,
    wts=bits,
    mode=modes,
    wmode=modes,
    channels=st.booleans(),
    relu=st.booleans(),
    seed=seeds,
)
def test_weighted_layers(kind: str, act: int, wts: int, mode: str, wmode: str, channels: bool, relu: bool, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    layer = make(bool(seed % 3))
    x = given_by(seed, *shape)
    with torch.no_grad():
        y = layer(x) * 0.7  # so that something is cut
        stats = stats_tree(layer=(x * 0.8, y))
        model, quantizer = quantized(
            copy.deepcopy(layer), stats, bits_activations=act, bits_parameters=wts, mode={"activations": mode, "weights": wmode},
            per_channel_wts=channels, clip_half_range=relu,
        )  # fmt: skip
        found = model(x)
    axis = 1 if kind == "transposed" else 0
    weight = layer.weight.detach().numpy()
    rows = np.moveaxis(weight, axis, 0)
    around = tuple(range(1, weight.ndim)) if channels else None
    s_x, s_y = (Scale.of(seen["min"], seen["max"], act, mode) for seen in (stats["layer"]["inputs"][0], stats["layer"]["output"]))
    s_w = Scale.of(rows.min(axis=around), rows.max(axis=around), wts, wmode)
    twin = copy.deepcopy(layer).double()
    twin.weight.data = torch.from_numpy(np.moveaxis(s_w.counts(np.ascontiguousarray(rows)), 0, axis).astype(np.float64))
    step = s_x.step.astype(np.float64) * s_w.step.astype(np.float64)
    if layer.bias is not None:
        twin.bias.data = torch.from_numpy(np.rint(layer.bias.detach().numpy().astype(np.float64) / step))
    sums = twin(torch.from_numpy(s_x.counts(x)).double()).detach().numpy()
    along = (-1,) if kind.startswith("linear") else (-1, *[1] * (weight.ndim - 2))
    exact = requantized(np.rint(sums).astype(np.int64), step.reshape(along) if channels else step, s_y, relu)
    assert_counts(found, exact, s_y)
    assert list(quantizer.ranges) == ["layer.weight", "layer.output", "layer.inputs.0"]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(("add", "sub", "mult", "matmul", "bmm", "concat", "stack")),
    act=st.sampled_from((2, 4, 8, 12)),
    mode=modes, many=st.booleans(), relu=st.booleans(), seed=seeds,
)  # fmt: skip
def test_joins(kind: str, act: int, mode: str, many: bool, relu: bool, seed: int) -> None:
    layers: dict[str, nn.Module] = {
        "add": EltwiseAdd(bool(seed % 2)), "sub": EltwiseSub(), "mult": EltwiseMult(), "matmul": Matmul(), "bmm": BatchMatmul(),
        "concat": Concat(1), "stack": Stack(-1),
    }  # fmt: skip
    layer = layers[kind]
    shapes = ((2, 3, 4), (2, 4, 5)) if kind in ("matmul", "bmm") else ((2, 3, 4),) * (3 if many else 2)
    inputs = [given_by(seed + place, *shape, spread=1 + place) for place, shape in enumerate(shapes)]
    with torch.no_grad():
        y = layer(*[x.clone() for x in inputs]) * 0.9
        stats = stats_tree(layer=(*[x * 0.9 for x in inputs], y))
        model, _ = quantized(layer, stats, bits_activations=act, mode=mode, clip_half_range=relu)
        found = model(*inputs)
    scales = [Scale.of(seen["min"], seen["max"], act, mode) for seen in stats["layer"]["inputs"].values()]
    out = Scale.of(stats["layer"]["output"]["min"], stats["layer"]["output"]["max"], act, mode)
    counts = [scale.counts(x) for scale, x in zip(scales, inputs, strict=True)]
    if kind in ("mult", "matmul", "bmm"):
        sums = np.multiply.reduce(counts) if kind == "mult" else counts[0] @ counts[1]
        exact = requantized(sums, np.prod([scale.step.astype(np.float64) for scale in scales]), out, relu)
        assert_counts(found, exact, out)
        return
    moved = [n * (scale.step.astype(np.float64) / out.step.astype(np.float64)) for n, scale in zip(counts, scales, strict=True)]
    whole = [np.rint(each) for each in moved]
    joined = {
        "add": lambda: sum(whole), "sub": lambda: whole[0] - sum(whole[1:]),
        "concat": lambda: np.concatenate(whole, 1), "stack": lambda: np.stack(whole, -1),
    }[kind]()  # fmt: skip
    near = min(float(np.abs(np.abs(each - np.trunc(each)) - 0.5).min()) for each in moved)
    if near > 1e-5:  # else float32 may decide a near tie either way
        assert_counts(found, np.clip(joined, 0 if relu else out.below, out.above), out)


def test_a_linear_layer_by_hand() -> None:
    """Steps 1/127 for input and weight, 2/127 for the output.

    Counts 127 and 63.5 -> 64 (even) meet 64 (63.5) and 127: 127 * 64 + 64 * 127 = 16,256 of 1/16,129; the bias .25 is 4,032.25 -> 4,032 of them.
    One step of the sum is 1/254 of the output's: 20,288 / 254 = 79.87 -> 80, and 80 * 2/127 = 1.2598.
    """
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, 1.0]]))
        layer.bias.fill_(0.25)
    x = torch.tensor([[1.0, 0.5]])
    model, quantizer = quantized(
        layer, stats_tree(layer=(torch.tensor([-1.0, 1.0]), torch.tensor([-2.0, 2.0]))), mode="symmetric_restricted"
    )
    assert float(model(x)) == pytest.approx(160 / 127, rel=1e-6)
    held = model.get_submodule("layer")
    assert held.get_parameter("integers").tolist() == [[64.0, 127.0]]
    assert held.get_buffer("shift").tolist() == [4032.0]
    row = next(row for row in quantizer.rows() if row.tensor == "weight")
    assert (row.scale, row.zero_point, row.values) == (pytest.approx(1 / 127), 0, 2)


@pytest.mark.parametrize(
    ("layer", "highest", "expected"), [(EltwiseAdd(), 3.0, [63 / 127, 3 / 127]), (EltwiseMult(), 2.0, [-64 / 127, -2.0])]
)
def test_joins_by_hand(layer: nn.Module, highest: float, expected: list[float]) -> None:
    """Inputs of steps 1/127 and 2/127: 1 and -1 are 127 and -127, -.5 and 1 are -31.75 -> -32 and 63.5 -> 64.

    Sum, output of step 3/127: 42.33 -> 42 and -21.33 -> -21 give 21; -42 and 42.67 -> 43 give 1.
    Product, output of step 2/127: 127 * -32 = -4,064 of 2/16,129 are -32; -127 * 64 are -64, whose step is that of 2/127 too, -128/127 each.
    """
    ends = torch.tensor([-1.0, 1.0])
    model, _ = quantized(layer, stats_tree(layer=(ends, 2 * ends, highest * ends)), mode="symmetric_restricted")
    expected = expected if highest == 3 else [-64 / 127, -128 / 127]
    assert model(torch.tensor([1.0, -1.0]), torch.tensor([-0.5, 1.0])).tolist() == pytest.approx(expected, rel=1e-6)


def ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def linear(outputs: int, weight: float, bias: float | None = None, inputs: int = 4) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias is not None)
    nn.init.constant_(layer.weight, weight)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


ENDS = torch.tensor([-1.0, 1.0])


def test_sums_are_cut_to_the_bits_of_the_accumulator() -> None:
    """4 * 127 * 127 = 64,516 is above 2 ** 15 - 1 = 32,767; in real numbers that is 32,767 / 16,129 = 2.03, and 2.03 * 127 / 4 = 64.5 steps of 4/127."""
    model, _ = quantized(linear(1, 1.0), stats_tree(layer=(ENDS, 4 * ENDS)), mode="symmetric_restricted", bits_accum=16)
    assert float(model(torch.ones(1, 4))) == pytest.approx(65 * 4 / 127)
    whole, _ = quantized(linear(1, 1.0), stats_tree(layer=(ENDS, 4 * ENDS)), mode="symmetric_restricted")
    assert float(whole(torch.ones(1, 4))) == pytest.approx(4.0)


def test_sums_that_float32_does_not_hold_are_exact() -> None:
    """600 products of 255 * 255 and one of 1: the 1 is lost in float32, whose whole numbers end at 2 ** 24; a fine output shows it."""
    layer = linear(1, 1.0, inputs=601)
    x = torch.ones(1, 601)
    x[0, -1] = 1 / 255
    tree = stats_tree(layer=(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1000.0])))
    model, _ = quantized(layer, tree, mode="asymmetric_unsigned", bits_activations=16, bits_accum=48)
    held = model.get_submodule("layer")
    assert held.get_parameter("integers").dtype == torch.float64
    counts = round(600 * 65535 + round(65535 / 255))
    assert float(model(x)) == pytest.approx(round(counts / 65535 / 1000 * 65535) * 1000 / 65535, abs=1e-4)


@pytest.mark.parametrize("width", [8, 10, 12])
@pytest.mark.parametrize("many", [False, True])
def test_products_of_short_floats_change_nothing(width: int, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, or with ``set_float32_matmul_precision("medium")``: what float32 products multiply is rounded to bfloat16 before."""
    x = given_by(3, 4, 20)
    inputs = (x, given_by(4, 20, 6)) if many else (x,)
    layer = Matmul() if many else nn.Linear(20, 6)
    model, _ = quantized(
        layer,
        stats_tree(layer=(*inputs, (9 if many else 2) * ENDS)),
        mode="asymmetric_signed",
        bits_activations=width,
        bits_parameters=width,
    )
    expected = model(*inputs)
    whole = model.layer._operation

    def short(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        result: Tensor = whole(*(each.bfloat16().to(each.dtype) if each.dtype == torch.float32 else each for each in (x, weight)), *rest)
        return result

    monkeypatch.setattr(model.layer, "_operation", short)
    assert torch.equal(model(*inputs), expected)


def test_a_bias_has_the_accumulator_s_steps_or_a_range_of_its_own_or_stays_as_it_is() -> None:
    tree = stats_tree(layer=(ENDS, 2 * ENDS))
    layer = linear(2, 0.5)
    layer.bias = nn.Parameter(torch.tensor([1.0, 0.3]))
    found = {}
    for bias_bits in (32, 4, None):
        model, _ = quantized(copy.deepcopy(layer), tree, overrides={"layer": {"bits_bias": bias_bits}}, mode="symmetric_restricted")
        found[bias_bits] = model.get_submodule("layer").get_buffer("shift")
    steps = 127 * 127 / 0.5
    assert found[32].tolist() == [round(steps), round(0.3 * steps)]
    assert found[4].tolist() == [round(14 / 15 * steps), round(4 / 15 * steps)]  # symmetric, 4 bits: steps of 2/15, from -8 to 7; 2.25 -> 2
    torch.testing.assert_close(found[None], torch.tensor([steps, 0.3 * steps]))


@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tiny", [0.0, 1e-42, 1e-12])
def test_a_bias_of_a_channel_that_hardly_has_weights_is_not_cut(tiny: float, mode: str, channels: bool) -> None:
    """As of a filter that is pruned, or that batch norm has shut: its output is its bias, however coarse its input is and small its weights are."""
    layer = linear(2, tiny)
    if channels:
        layer.weight.data[1] = torch.tensor([0.5, -0.25, 0.125, 1.0])
    layer.bias = nn.Parameter(torch.tensor([0.3, -0.7]))
    x = 200 * ramp(6, 4)  # in steps of more than 1, on which no bias would lie
    with torch.no_grad():
        expected = layer(x)
        model, quantizer = quantized(
            copy.deepcopy(layer), stats_tree(layer=(x, expected)), bits_activations=16, bits_accum=40, mode=mode, per_channel_wts=channels,
            overrides={"layer": {"input_overrides": {0: {"bits_activations": 8}}}}, save_fp_weights=True,
        )  # fmt: skip
        steps = quantizer._params["layer.output"].scale
        off = (model(x) - expected).abs().amax(0)
        quantizer.set_range("layer.weight", *quantizer.clipped("layer.weight", "mse"))
        off_by_mse = (model(x) - expected).abs().amax(0)
    assert float(off[0]) <= 0.51 * steps
    assert float(off_by_mse[0]) <= 0.51 * steps
    assert channels or float(off[1]) <= 0.51 * steps


def test_a_factor_may_be_a_whole_number_and_a_shift() -> None:
    """1/254 is 129.01 / 2 ** 15, and so 129 / 2 ** 15 with 8 bits: what would be 64 counts is 16,256 * 129 / 32,768 = 63.996 -> 64, and 80 are 79.87."""
    tree = stats_tree(layer=(ENDS, 2 * ENDS))
    model, _ = quantized(linear(1, 1.0, inputs=2), tree, mode="symmetric_restricted", scale_approx_mult_bits=8)
    assert model.get_submodule("layer")._constants.factor == 129 / 2**15  # type: ignore[union-attr]
    assert float(model(torch.tensor([[1.0, 1.0]]))) == pytest.approx(2 * 127 * 127 * 129 / 2**15 // 1 * 2 / 127, abs=2 / 127)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv1d(4, 3, 1)])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("mode", ["symmetric", "asymmetric_unsigned"])
def test_without_statistics_ranges_are_taken_of_every_batch(layer: nn.Module, channels: bool, mode: str) -> None:
    """The same as with statistics of that very batch."""
    x = ramp(2, 4) if isinstance(layer, nn.Linear) else ramp(2, 4, 3)
    with torch.no_grad():
        dynamic, _ = quantized(copy.deepcopy(layer), None, mode=mode, per_channel_wts=channels)
        found = dynamic(x)
        s_x = qparams(x.min(), x.max(), 8, mode)
        layer.bias.zero_()  # type: ignore[union-attr,operator]
        plain, _ = quantized(copy.deepcopy(layer), None, mode=mode, per_channel_wts=channels)
        known, _ = quantized(layer, stats_tree(layer=(x, plain(x))), mode=mode, per_channel_wts=channels)
        torch.testing.assert_close(known(x), plain(x), rtol=0, atol=float(2 * s_x.scale))
    assert found.shape == known(x).shape
    assert Measured(8, Mode(mode)).of(x).scale == s_x.scale


@pytest.mark.parametrize("layer", [Matmul(), BatchMatmul()])
def test_matrix_products_can_do_without_statistics(layer: nn.Module) -> None:
    one, other = ramp(2, 3, 4), ramp(2, 4, 2)
    model, quantizer = quantized(layer, None)
    torch.testing.assert_close(model(one, other), layer(one, other), rtol=0, atol=0.03)
    assert [row.tensor for row in quantizer.rows()] == ["inputs.0", "inputs.1", "output"]


def test_counts_go_along_with_a_tensor_until_it_is_written_to() -> None:
    """The layer behind takes them as they are; both ways give the same, to the bit."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    x = ramp(3, 4)
    with torch.no_grad():
        y = model[0](x)
        quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats_tree(**{"0": (x, y), "1": (y, model[1](y))}))
        quantizer.prepare_model([x])
        assert "1.inputs.0" not in quantizer.ranges
        found = model[0](x)
        assert hasattr(found, COUNTS)
        expected = model[1](found)
        torch.testing.assert_close(model[1](found.clone()), expected, rtol=0, atol=0)
        found.mul_(0.5)
        torch.testing.assert_close(model[1](found), model[1](found.clone()), rtol=0, atol=0)
        assert not torch.equal(model[1](found), expected)
        assert not hasattr(model(x), COUNTS)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_a_large_output_is_gone_through_in_parts() -> None:
    layer = nn.Linear(2, 700)
    x = ramp(1000, 2)
    with torch.no_grad():
        tree = stats_tree(layer=(x, layer(x)))
        model, _ = quantized(layer, tree, per_channel_wts=True)
        torch.testing.assert_close(model(x), torch.cat([model(part) for part in x.split(100)]), rtol=0, atol=0)


@settings(max_examples=20)
@given(bits=bits, mode=modes, channels=st.booleans(), seed=seeds)
def test_a_zero_stays_a_zero(bits: int, mode: str, channels: bool, seed: int) -> None:
    """A pruned weight, and an input that is zero: whatever the mode, nothing comes of them."""
    torch.manual_seed(seed)
    layer = nn.Linear(6, 5, bias=False)
    kept = torch.rand(5, 6) > 0.6
    layer.weight.data.mul_(kept).add_(0.0)
    x = given_by(seed, 4, 6)
    with torch.no_grad():
        model, quantizer = quantized(
            layer, stats_tree(layer=(x, layer(x))), bits_activations=bits, bits_parameters=bits, mode=mode, per_channel_wts=channels
        )
        assert not model(torch.zeros(1, 6)).any()
    assert not model.get_submodule("layer").get_parameter("integers")[~kept].any()
    (row,) = [row for row in quantizer.rows() if row.tensor == "weight"]
    assert (row.zeros_before, row.values) == (int((~kept).sum()), 30)
    assert row.zeros_after is not None
    assert row.zeros_after >= int((~kept).sum())


def test_an_embedding_looks_up_what_integers_stand_for() -> None:
    embedding = nn.Embedding(6, 3, padding_idx=0)
    words = torch.tensor([[1, 5], [0, 2]])
    expected = fake_quantize(embedding.weight.detach(), qparams(*embedding.weight.detach().aminmax(), 4))
    model, quantizer = quantized(embedding, None, bits_parameters=4)
    torch.testing.assert_close(model(words), expected[words], rtol=0, atol=0)
    assert not model(words)[1, 0].any()
    assert list(quantizer.ranges) == ["layer.weight"]


def test_other_layers_have_their_output_rounded() -> None:
    x = ramp(2, 6)
    model, _ = quantized(nn.Sigmoid(), stats_tree(layer=(x, x.sigmoid())), mode="asymmetric_unsigned")
    torch.testing.assert_close(
        model(x), fake_quantize(x.sigmoid(), qparams(x.sigmoid().min(), x.sigmoid().max(), 8, "asymmetric_unsigned")), rtol=0, atol=0
    )
    free, _ = quantized(nn.Sigmoid(), None)
    torch.testing.assert_close(free(x), fake_quantize(x.sigmoid(), qparams(0.0, x.sigmoid().max(), 8)), rtol=0, atol=0)


def test_a_fake_layer_computes_with_floats_that_integers_stand_for() -> None:
    layer = nn.Linear(4, 3)
    x = ramp(5, 4)
    with torch.no_grad():
        y = layer(x)
        tree = stats_tree(layer=(x, y))
        model, _ = quantized(copy.deepcopy(layer), tree, overrides={"layer": {"fake": True}})
        weight = fake_quantize(layer.weight, qparams(*layer.weight.aminmax(), 8))
        by_hand = nn.functional.linear(fake_quantize(x, qparams(x.min(), x.max(), 8)), weight, layer.bias)
        torch.testing.assert_close(model(x), fake_quantize(by_hand, qparams(y.min(), y.max(), 8)), rtol=0, atol=0)
        plain, _ = quantized(copy.deepcopy(layer), tree, overrides={"layer": {"quantize_inputs": False}})
        expected = fake_quantize(nn.functional.linear(x, weight, layer.bias), qparams(y.min(), y.max(), 8))
        torch.testing.assert_close(plain(x), expected, rtol=0, atol=0)
        weights, quantizer = quantized(copy.deepcopy(layer), None, bits_activations=None)
        torch.testing.assert_close(weights(x), nn.functional.linear(x, weight, layer.bias), rtol=0, atol=0)
        assert list(quantizer.ranges) == ["layer.weight"]
    assert not hasattr(layer, "layer")
    assert isinstance(model.get_submodule("layer"), FakeQuantized)


def test_inputs_of_any_layer_are_quantized_where_that_is_asked_for() -> None:
    x = ramp(2, 6)
    tree = stats_tree(layer=(x, x.tanh()))
    by_hand = fake_quantize(fake_quantize(x, qparams(-1.0, 1.0, 3)).tanh(), qparams(x.tanh().min(), x.tanh().max(), 8))
    model, quantizer = quantized(nn.Tanh(), tree, overrides={"layer": {"input_overrides": {0: {"bits_activations": 3}}}})
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=0)
    assert sorted(quantizer.ranges) == ["layer.inputs.0", "layer.output"]
    same, _ = quantized(nn.Tanh(), tree, overrides={"layer": {"quantize_inputs": True}})
    assert not torch.equal(same(x), model(x))


class Pair(nn.Module):
    """A leaf that gives two tensors, one of them of whole numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.tanh(), x.argmax(-1)


def test_all_floats_of_a_tuple_are_rounded() -> None:
    x = ramp(2, 5)
    model, _ = quantized(Pair(), stats_tree(layer=(x, x.tanh())))
    values, places = model(x)
    torch.testing.assert_close(values, fake_quantize(x.tanh(), qparams(x.tanh().min(), x.tanh().max(), 8)), rtol=0, atol=0)
    assert places.tolist() == [4, 4]


def test_short_floats() -> None:
    layer = nn.Linear(4, 3)
    x = ramp(5, 4) / 3
    with torch.no_grad():
        model, quantizer = quantized(copy.deepcopy(layer), None, fpq_module=16)
        halves = [tensor.half().float() for tensor in (x, layer.weight, layer.bias)]
        torch.testing.assert_close(model(x), nn.functional.linear(*halves).half().float(), rtol=0, atol=0)
        long, _ = quantized(copy.deepcopy(layer), None, fpq_module=64)
        expected = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double()).float()
        torch.testing.assert_close(long(x), expected, rtol=0, atol=0)
        same, _ = quantized(copy.deepcopy(layer), None, fpq_module=32)
    assert isinstance(model.get_submodule("layer"), FloatingPoint)
    assert isinstance(same.get_submodule("layer"), nn.Linear)
    assert layer.weight.dtype == torch.float32
    assert [(row.tensor, row.kind) for row in quantizer.rows()] == [("weight", "fp16"), ("output", "fp16")]
    (row, _), weight = quantizer.rows(), layer.weight.detach()
    assert row.snr_db == pytest.approx(10 * float(torch.log10(weight.square().sum() / (weight - halves[1]).square().sum())), rel=1e-4)


def test_a_large_output_of_short_floats_is_rounded_as_a_small_one() -> None:
    layer = nn.Linear(2, 700)
    x = ramp(1000, 2)
    with torch.no_grad():
        model, _ = quantized(copy.deepcopy(layer), None, fpq_module=16)
        torch.testing.assert_close(model(x), torch.cat([model(part) for part in x.split(100)]), rtol=0, atol=0)


def test_what_a_model_asks_of_its_layers_is_still_there() -> None:
    model, _ = quantized(nn.Conv2d(3, 4, 3, stride=2), None)
    layer: Any = model.get_submodule("layer")
    assert (layer.in_channels, layer.out_channels, layer.stride, layer.kernel_size) == (3, 4, (2, 2), (3, 3))
    assert not hasattr(layer, "weight")


class Encoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.ones(1, 4))

    def forward(self, x: Tensor) -> Any:
        return x + self.places


@pytest.mark.parametrize("options", [{}, {"fpq_module": 16}])
def test_what_a_model_reads_of_a_layer_that_computes_with_floats_is_that_layer_s(options: dict[str, Any]) -> None:
    for layer, name in ((Encoding(), "places"), (nn.LayerNorm(4), "weight")):
        model, _ = quantized(layer, None, **options)
        for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(getattr(each.get_submodule("layer"), name), torch.ones_like(getattr(layer, name)))
    assert not hasattr(model.get_submodule("layer"), "wheight")


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Sigmoid(), nn.Embedding(3, 2), Matmul()])
def test_quantized_layers_are_not_for_training(layer: nn.Module) -> None:
    model, _ = quantized(layer, None)
    model.train()
    with pytest.raises(QuantizationError, match=r"'layer' is quantized and can only be evaluated; call model.eval\(\)"):
        model(torch.zeros(1, 4), *([torch.zeros(4, 1)] if isinstance(layer, Matmul) else []))


def test_a_join_with_other_inputs_than_were_seen_is_refused() -> None:
    x = ramp(2, 3)
    model, _ = quantized(EltwiseAdd(), stats_tree(layer=(x, x, 2 * x)))
    with pytest.raises(
        QuantizationError, match="'layer' was calibrated with 2 inputs and is called with 3; collect statistics of this model"
    ):
        model(x, x, x)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Sigmoid(), Matmul()])
def test_without_statistics_an_empty_batch_has_an_empty_result(layer: nn.Module) -> None:
    inputs = (torch.ones(0, 4), torch.ones(4, 3)) if isinstance(layer, Matmul) else (torch.ones(0, 4),)
    model, _ = quantized(copy.deepcopy(layer), None)
    assert model(*inputs).shape == layer(*inputs).shape


class Named(nn.Module):
    """A model that calls its layer with names."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(input=x)


@pytest.mark.parametrize(
    "override", [{"fpq_module": 16}, {"fpq_module": 64}, {"fake": True, "quantize_inputs": True, "bits_activations": 4}]
)
def test_inputs_that_are_given_by_name_are_treated_alike(override: dict[str, Any]) -> None:
    x, layer = given_by(3, 5, 4), nn.Linear(4, 3)
    found = []
    for kind in (One, Named):
        model = kind(copy.deepcopy(layer)).eval()
        with collect_stats(model) as collected, torch.no_grad():
            model(x)
        PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, overrides={"layer": override}).prepare_model()
        found.append(model(x))
    assert torch.equal(*found)
    assert not torch.equal(found[0], layer(x)) or override == {"fpq_module": 64}


def test_nan_is_not_hidden() -> None:
    x = ramp(2, 4)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        model, _ = quantized(layer, stats_tree(layer=(x, layer(x))))
    assert model(torch.full((1, 4), torch.nan)).isnan().all()


def test_quantized_layers_show_what_they_are() -> None:
    x = ramp(2, 4)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        model, _ = quantized(layer, stats_tree(layer=(x, layer(x))), bits_parameters=4)
        join, _ = quantized(EltwiseMult(), stats_tree(layer=(x, x, x * x)))
    assert str(model.get_submodule("layer")) == "QuantizedWeighted(layer, 8 bits, weights of 4)"
    assert str(join.get_submodule("layer")) == "QuantizedProduct(layer, 8 bits)"
    assert isinstance(model.get_submodule("layer"), QuantizedWeighted)
    assert isinstance(join.get_submodule("layer"), QuantizedProduct)
