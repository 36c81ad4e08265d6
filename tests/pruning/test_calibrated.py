"""Wanda and SparseGPT on whole models: exact counts, small reconstruction errors, and nothing else touched."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import MaskError, TargetError
from limbeck.names import named_parameters
from limbeck.pruning.calibrated import Sparsity, sparsegpt, wanda, wanda_pruner
from limbeck.pruning.inputs import KEY, input_matrix, input_squares, mean_input_square
from limbeck.pruning.pruner import Site
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment

Method = Callable[..., dict[str, Tensor]]
both = pytest.mark.parametrize("method", [wanda, sparsegpt])
LAYERS = {
    "linear": (lambda: nn.Linear(24, 10), (40, 24)),
    "linear over tokens": (lambda: nn.Linear(24, 10, bias=False), (6, 7, 24)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1), (4, 6, 7, 5)),
    "conv, strided and dilated": (lambda: nn.Conv2d(6, 8, (3, 2), stride=2, dilation=(2, 1), padding=(2, 1)), (6, 6, 11, 12)),
    "conv, grouped": (lambda: nn.Conv2d(8, 6, 3, groups=2, padding="same"), (4, 8, 6, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (5, 6, 8, 9)),
    "conv, circular": (lambda: nn.Conv2d(6, 4, (3, 4), padding="same", padding_mode="circular"), (4, 6, 6, 7)),
    "conv, unbatched": (lambda: nn.Conv2d(6, 4, 3, padding="valid"), (6, 16, 15)),
    "conv over time": (lambda: nn.Conv1d(6, 8, 5, stride=2, padding=2, padding_mode="reflect"), (5, 6, 30)),
    "conv over time, unbatched": (lambda: nn.Conv1d(6, 8, 5, padding="same", groups=2), (6, 60)),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS.keys())


WIDE = {
    "linear": (lambda: nn.Linear(96, 48), (300, 96)),
    "conv": (lambda: nn.Conv2d(16, 24, 3, padding=1), (8, 16, 9, 8)),
    "conv, grouped": (lambda: nn.Conv2d(32, 24, 3, groups=2), (8, 32, 9, 8)),
    "conv over time": (lambda: nn.Conv1d(16, 24, 5, padding=2), (8, 16, 60)),
}


def correlated(shape: tuple[int, ...], channel: int) -> Tensor:
    """Inputs whose channels share some factors and have scales of their own."""
    channels = shape[channel]
    own = torch.randn(shape).movedim(channel, -1)
    shared = own @ torch.randn(channels, channels // 4 + 1) @ torch.randn(channels // 4 + 1, channels) / channels**0.5
    scales = torch.linspace(-1, 1, channels).exp()[torch.randperm(channels)]
    return ((own + shared) * scales).movedim(-1, channel)


def calibration(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return correlated(shape, -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1)  # type: ignore[arg-type]  # of a convolution


def kept_of_four(keep: Tensor) -> list[Tensor]:
    """How many of every four weights along the input axis are kept; the last group may be smaller."""
    return [group.sum(1) for group in keep.split(4, dim=1)]


@every_layer
def test_a_layer_s_output_is_its_weight_times_the_matrix(make: Callable[[], nn.Conv2d], shape: tuple[int, ...]) -> None:
    layer = make().double()
    layer.bias = None
    x = calibration(layer, shape).double()
    matrix, weight = input_matrix(layer, x), layer.weight.flatten(1)
    products = matrix @ weight.view(len(matrix), -1, matrix.shape[2]).transpose(1, 2)
    output = layer(x).detach()
    expected = output if isinstance(layer, nn.Linear) else (output if x.dim() == layer.weight.dim() else output[None]).movedim(1, -1)
    assert torch.allclose(products.transpose(0, 1).reshape(expected.shape).detach(), expected)


@every_layer
def test_squares_of_inputs_are_those_of_the_matrix(make: Callable[[], nn.Conv2d], shape: tuple[int, ...]) -> None:
    layer = make()
    x = calibration(layer, shape)
    matrix = input_matrix(layer, x)
    rows = len(layer.weight) // len(matrix)
    expected = matrix.square().sum(1).repeat_interleave(rows, 0).view(layer.weight.shape)
    sums, samples = input_squares(layer, layer.weight, x)
    assert samples == matrix.shape[1]
    assert torch.allclose(sums.expand(layer.weight.shape), expected, rtol=1e-5)
    mean = mean_input_square(layer, "weight", x)
    assert mean is not None
    assert torch.allclose(mean, sums / samples)
    assert mean_input_square(layer, "bias", x) is None


def test_wanda_as_in_figure_1_of_the_paper() -> None:
    """Sun et al. 2023, figure 1: the weights, the norms of the inputs, and what is left."""
    layer = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]]))
    norms = torch.diag(torch.tensor([1.0, 2, 8, 3]))  # four samples, each with one input
    masks = wanda(layer, {"weight": 0.5}, iter([norms[:1], norms[1:]]))
    assert layer.weight.tolist() == [[4, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]]
    assert torch.equal(masks["weight"].sum(1), torch.tensor([2, 2, 2]))


@pytest.mark.parametrize(("make", "shape"), WIDE.values(), ids=WIDE.keys())
@pytest.mark.parametrize("sparsity", [0.5, "2:4", "1:4"])
def test_outputs_change_less_than_with_wanda_and_with_wanda_less_than_with_magnitudes(
    make: Callable[[], nn.Conv2d], shape: tuple[int, ...], sparsity: Sparsity
) -> None:
    layer = make()
    x = calibration(layer, shape)
    output, errors, counts = layer(x).detach(), [], []
    for method in (sparsegpt, wanda, magnitude):
        twin = copy.deepcopy(layer)
        masks = method(twin, {"weight": sparsity}, [x])
        assert not twin.weight.detach()[~masks["weight"]].any()
        errors.append(float((twin(x).detach() - output).square().sum()))
        counts.append(int(masks["weight"].sum()))
    assert len(set(counts)) == 1
    assert errors[0] < errors[1] < errors[2]


def magnitude(model: nn.Module, targets: dict[str, Sparsity], batches: list[Tensor]) -> dict[str, Tensor]:
    """As wanda, with all inputs alike."""
    ones = {"weight": Site(model.weight.detach(), stats={KEY: torch.ones(())})}  # type: ignore[union-attr,operator]  # a parameter
    sparsity = targets["weight"]
    pruner = wanda_pruner(["weight"], n_of_m=sparsity) if isinstance(sparsity, str) else wanda_pruner(["weight"], sparsity)
    masks = pruner.masks(ones, Moment())
    with torch.no_grad():
        model.weight.mul_(masks["weight"])  # type: ignore[union-attr,operator]  # a parameter
    return masks


@settings(max_examples=60)
@given(rows=st.integers(1, 6), columns=st.integers(1, 150), sparsity=st.floats(0, 1), samples=st.integers(1, 5), zeros=st.booleans())
def test_exactly_the_sparsity_asked_for(rows: int, columns: int, sparsity: float, samples: int, zeros: bool) -> None:
    layer = nn.Linear(columns, rows)
    x = torch.randn(samples, columns)
    if zeros:
        x[:, ::2] = 0.0
        x[0, -1] = 1.0
        with torch.no_grad():
            layer.weight[0] = 0.0
    twin = copy.deepcopy(layer)
    assert int((~sparsegpt(layer, {"weight": sparsity}, [x])["weight"]).sum()) == math.floor(sparsity * rows * columns)
    assert (~wanda(twin, {"weight": sparsity}, [x])["weight"]).sum(1).tolist() == [math.floor(sparsity * columns)] * rows


@both
@pytest.mark.parametrize("name", ["linear", "conv", "conv, grouped", "depthwise", "conv over time"])
def test_two_of_four_along_the_input_axis(method: Method, name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    groups = kept_of_four(method(layer, {"weight": "2:4"}, [calibration(layer, shape)])["weight"])
    sizes = [len(part) for part in torch.arange(layer.weight.shape[1]).split(4)]
    for counted, size in zip(groups, sizes, strict=True):
        assert torch.equal(counted, torch.full_like(counted, min(2, size)))


class Pair(nn.Module):
    """Two layers and what must not move: dropout, running statistics, a frozen part in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(12, 6)  # registered before the layer that runs before it
        self.first = nn.Linear(16, 12)
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.5)
        self.norm.eval()

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.dropout(self.norm(torch.relu(self.first(x))))
        return self.second(x if scale is None else x * scale)


def test_sequential_prunes_each_layer_on_what_the_pruned_ones_before_it_give() -> None:
    model, x = Pair(), correlated((60, 16), -1)
    first, second = copy.deepcopy(model.first), copy.deepcopy(model.second)
    one_pass = copy.deepcopy(model)
    masks = sparsegpt(model, {"second.weight": 0.6, "first.weight": 0.5}, [x[:40], x[40:]])
    assert torch.allclose(sparsegpt(first, {"weight": 0.5}, [x])["weight"].float(), masks["first.weight"].float())
    hidden = model.norm(torch.relu(first(x))).detach()
    assert torch.equal(sparsegpt(second, {"weight": 0.6}, [hidden])["weight"], masks["second.weight"])
    assert torch.allclose(second.weight, model.second.weight, atol=1e-5)
    dense = torch.relu(one_pass.first(x)).detach()
    second.load_state_dict(one_pass.second.state_dict())
    sparsegpt(one_pass, {"*t.weight": 0.5, "second.weight": 0.6}, [x], sequential=False)
    sparsegpt(second, {"weight": 0.6}, [one_pass.norm(dense)])
    assert torch.allclose(one_pass.second.weight, second.weight, atol=1e-5)


@both
def test_nothing_else_is_touched(method: Method) -> None:
    model, x = Pair().train(), torch.randn(30, 16)
    model.norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    method(model, {"first.weight": 0.5}, [x])
    assert [module.training for module in model.modules()] == modes
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name != "first.weight")
    assert model.first.weight.grad is None
    assert model.first.weight.requires_grad


@both
def test_batches_of_every_form(method: Method) -> None:
    x, scale = torch.randn(30, 16), torch.rand(12)
    forms: list[tuple[Any, dict[str, Any]]] = [
        ([(x, scale)], {}),
        ([[x, scale]], {}),
        (({"x": part, "scale": scale} for part in (x,)), {}),
        (iter([("label", x)]), {"forward": lambda model, batch: model(batch[1], scale=scale)}),
    ]
    found = []
    for batches, options in forms:
        torch.manual_seed(1)
        model = Pair()
        method(model, {"first.weight": 0.5, "second.weight": "1:2"}, batches, **options)
        found.append(model.state_dict())
    assert all(torch.equal(other[name], found[0][name]) for other in found[1:] for name in other)


@both
def test_a_layer_that_is_called_twice_and_a_tied_weight(method: Method) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Embedding(9, 8)
            self.decoder = nn.Linear(8, 9, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, tokens: Tensor) -> Tensor:
            hidden = self.encoder(tokens)
            return self.decoder(hidden) + self.decoder(input=hidden * torch.arange(8))

    model, tokens = Tied(), torch.randint(9, (40,))
    hidden = model.encoder(tokens).detach()
    alone = nn.Linear(8, 9, bias=False)
    alone.load_state_dict(model.decoder.state_dict())
    masks = method(model, {"decoder.weight": 0.5}, [tokens])
    assert list(masks) == ["encoder.weight"]
    assert model.decoder.weight is model.encoder.weight
    assert torch.equal(masks["encoder.weight"], method(alone, {"weight": 0.5}, [hidden, hidden * torch.arange(8)])["weight"])


@both
def test_a_scheduler_adopts_the_masks(method: Method) -> None:
    model, x = Pair(), torch.randn(30, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = Scheduler(model, optimizer=optimizer)
    for name, keep in method(model, {"first.weight": "2:4"}, [x]).items():
        scheduler.masks.put(name, keep)
    for _ in scheduler.epochs(1):
        for part in scheduler.steps(list(x.split(10))):
            optimizer.zero_grad()
            scheduler.loss(model(part).square().mean()).backward()
            optimizer.step()
    assert int(model.first.weight.count_nonzero()) == 96


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@both
def test_any_precision(method: Method, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer, x = nn.Linear(32, 8).to(dtype), correlated((64, 32), -1).to(dtype)
    keep = method(layer, {"weight": 0.5}, [x])["weight"]
    assert layer.weight.dtype == dtype
    assert int(keep.sum()) == 128
    assert torch.equal(layer.weight != 0, keep)


@both
def test_a_wrapped_model_is_the_same_model(method: Method) -> None:
    model, x = Pair(), torch.randn(30, 16)
    wrapped = nn.DataParallel(copy.deepcopy(model))
    masks = method(model, {"first.weight": 0.5}, [x])
    assert torch.equal(method(wrapped, {"first.weight": 0.5}, [x])["first.weight"], masks["first.weight"])


def mixed() -> nn.ModuleDict:
    return nn.ModuleDict({"rnn": nn.LSTM(4, 4), "fc": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})


def run(model: nn.ModuleDict, x: Tensor) -> Tensor:
    return model["fc"](model["rnn"](x)[0])


@both
@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ({"fx.weight": 0.5}, TargetError, "did you mean 'fc.weight'"),
        ({"rnn.weight_ih_l0": 0.5}, MaskError, "'rnn.weight_ih_l0' is 'weight_ih_l0' of LSTM; calibration is for weights of Linear, Conv1d, Conv2d"),
        ({"fc.bias": 0.5}, MaskError, "'fc.bias' is 'bias' of Linear"),
        ({"fc.weight": 0.5, "unused.weight": 0.5}, MaskError, "'unused.weight': its Linear saw no data; give batches that reach it"),
        ({"fc.weight": 1.5}, MaskError, "'fc.weight': cannot drop a fraction of 1.5"),
        ({"fc.weight": None}, MaskError, "'fc.weight': the sparsity must be a fraction, as 0.5, or n:m, as '2:4', not None"),
        ({"fc.weight": "4:2"}, MaskError, "'fc.weight': n_of_m 4:2 would keep 4 of every 2"),
        ({"fc.weight": "half"}, MaskError, "'fc.weight': n_of_m 'half' is not two numbers with a colon"),
    ],
)  # fmt: skip  # a table
def test_what_cannot_be_is_refused_and_nothing_is_changed(
    method: Method, targets: dict[str, Sparsity], error: type[Exception], message: str
) -> None:
    model = mixed()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        method(model, targets, [torch.randn(3, 2, 4)], run)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_pre_hooks for module in model.modules())


@both
@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 2, 4)]], ids=["no batch", "an empty one"])
def test_no_data_is_refused(method: Method, batches: list[Tensor]) -> None:
    with pytest.raises(MaskError, match=r"'fc\.weight': its Linear saw no data"):
        method(mixed(), {"fc.weight": 0.5}, batches, lambda model, x: model["fc"](x))


@both
@pytest.mark.parametrize("batches", [torch.zeros(3, 4), {"x": torch.zeros(3, 4)}], ids=["Tensor", "dict"])
def test_a_single_batch_is_refused(method: Method, batches: object) -> None:
    with pytest.raises(MaskError, match=r"batches must be an iterable of batches, not a single (Tensor|dict); put it into a list"):
        method(mixed(), {"fc.weight": 0.5}, batches, lambda model, x: model["fc"](x))


@both
@pytest.mark.parametrize("what", ["input", "weight"])
def test_a_model_that_diverged_is_refused_and_left_as_it_was(method: Method, what: str) -> None:
    model, x = Pair(), torch.randn(20, 16)
    with torch.no_grad():
        (x if what == "input" else model.second.weight)[3, 3] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=r"'(first|second).weight': .*(NaN|not finite)"):
        method(model, {"first.weight": 0.5, "second.weight": 0.5}, [x])
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in model.state_dict().items())


def test_names_are_canonical_and_in_the_order_of_the_model() -> None:
    model, x = Pair(), torch.randn(20, 16)
    assert list(sparsegpt(model, {"first.weight": 0.5, "second.weight": 0.5}, [x])) == ["second.weight", "first.weight"]
    assert next(iter(named_parameters(model))) == "second.weight"
