"""What the graph says of ranges: rectifiers, saturation, concatenation, and where inputs come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.quantization.eltwise import Chunk, Concat, EltwiseAdd
from limbeck.quantization.fuse import clamped
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.models import modular
from limbeck.quantization.observe import collect_stats
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.stats import TensorStats


def prepared(model: nn.Module, *inputs: Any, **options: Any) -> PostTrainLinearQuantizer:
    model.eval()
    with collect_stats(model) as collected, torch.no_grad():
        model(*inputs)
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, **options)
    quantizer.prepare_model(inputs)
    return quantizer


def high(quantizer: PostTrainLinearQuantizer, name: str) -> float:
    return float(quantizer.ranges[name][1])


class Residual(nn.Module):
    """Two branches and their sum, each rectified, one by a function; a concatenation of both; and a pooled end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.add, self.relu2 = EltwiseAdd(), nn.ReLU()
        self.left, self.right, self.concat = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1), Concat(1)
        self.pool, self.drop, self.fc = nn.MaxPool2d(2), nn.Dropout(), nn.Linear(5 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.add(self.conv2(x), x))
        x = self.concat(F.relu(self.left(x)), 3 * self.right(x))
        result: Tensor = self.fc(self.drop(self.pool(x)).flatten(1))
        return result


def test_a_residual_network() -> None:
    model = Residual()
    x = torch.randn(2, 3, 4, 4)
    quantizer = prepared(model, x)
    rectified = {name for name, setting in quantizer.settings.items() if setting.clip_half_range}
    assert rectified == {"conv1", "add", "left"}
    assert {name for name, setting in quantizer.settings.items() if setting.make_identity} == {"bn1", "relu1", "relu2"}
    wires = {name: held.inputs for name, held in quantizer._held.items()}
    assert wires == {
        "conv1": ("conv1.inputs.0",),  # the image
        "conv2": ("conv1.output",),
        "add": ("conv2.output", "conv1.output"),
        "left": ("add.output",),
        "right": ("add.output",),
        "concat": (
            "concat.output",
            "concat.inputs.1",
        ),  # the left branch is on the scale of what it becomes; the right one is multiplied before
        "fc": ("concat.output",),
    }
    assert "left.output" not in quantizer.ranges
    assert quantizer.sources["left.output"] == quantizer.sources["fc.inputs.0"] == "concat.output"
    assert "conv3" not in quantizer._held  # it does not run
    with torch.no_grad():
        hidden = model.add(model.conv2(model.conv1(x)), model.conv1(x))
    assert float(hidden.min()) == 0


class Plain(nn.Module):
    """A layer of somebody's own: what it does is a function's."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


@pytest.mark.parametrize(
    ("function", "computes"),
    [(lambda x: x, False), (lambda x: x.reshape(len(x), -1).contiguous(), False), (torch.sin, True), (lambda x: x.flatten(1) * 2, True)],
)
def test_a_layer_that_computes_nothing_rounds_nothing(function: Any, computes: bool) -> None:
    quantizer = prepared(nn.Sequential(nn.Linear(3, 4), Plain(function), nn.Linear(4, 2)), torch.randn(5, 3))
    assert ("1.output" in quantizer.ranges) is computes
    assert quantizer._held["2"].inputs == (f"{int(computes)}.output",)


class Guarded(nn.Module):
    """Layers where the graph does not look, as in a model that keeps autocast out of a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.drop, self.last = nn.Linear(4, 4), nn.GELU(), Plain(lambda x: x), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        with torch.autocast("cpu", enabled=False):
            x = self.drop(self.act(x))
        result: Tensor = self.last(x)
        return result


def test_a_layer_that_the_graph_does_not_show_is_judged_by_its_statistics() -> None:
    quantizer = prepared(Guarded(), torch.randn(5, 4))
    assert "act.output" in quantizer.ranges
    assert "drop.output" not in quantizer.ranges


def test_a_whole_network_stays_near_what_it_was() -> None:
    model = Residual()
    x = torch.randn(4, 3, 4, 4)
    model.eval()
    expected = model(x).detach()
    prepared(model, x, mode="asymmetric_unsigned", per_channel_wts=True)
    with torch.no_grad():
        noise = (model(x) - expected).square().sum() / expected.square().sum()
    assert float(noise) < 1e-3


class Gates(nn.Module):
    """Layers behind which only what saturates follows, and one behind which something else does too."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.chunk, self.sigmoid, self.tanh = nn.Linear(4, 8), Chunk(2, -1), nn.Sigmoid(), nn.Tanh()
        self.only, self.free, self.six, self.relu6 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU6()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one, other = self.chunk(self.both(x))
        free = self.free(x)
        return self.sigmoid(one), self.tanh(other), self.tanh(self.only(x)), self.tanh(free), free, self.relu6(self.six(x))


def test_saturation() -> None:
    model = Gates()
    for layer in (model.both, model.only, model.free, model.six):
        layer.weight.data.mul_(60)
    quantizer = prepared(model, torch.randn(40, 4))
    assert high(quantizer, "both.output") == 6.0
    assert high(quantizer, "only.output") == 4.0
    assert high(quantizer, "free.output") > 10
    assert (float(quantizer.ranges["six.output"][0]), high(quantizer, "six.output")) == (0.0, 6.0)
    assert dict(quantizer.bounds)["only"] == (-4.0, 4.0)
    aciq = prepared(_scaled(Gates()), torch.randn(40, 4), clip_acts="laplace", bits_activations=8)
    assert high(aciq, "only.output") <= 4.0


def _scaled(model: Gates) -> Gates:
    model.only.weight.data.mul_(60)
    return model


def test_a_rectifier_with_a_precision_of_its_own_is_not_fused() -> None:
    quantizer = prepared(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 4), overrides={"1": {"bits_activations": 4}}
    )
    assert not quantizer.settings["0"].clip_half_range
    assert quantizer._held["2"].inputs == ("1.output",)


def test_a_rectifier_that_stands_elsewhere_too_stays() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Softmax(-1), relu, nn.Linear(4, 2))
    quantizer = prepared(model, torch.randn(8, 4), overrides={"2": {"bits_activations": None}})
    assert quantizer.settings["0"].clip_half_range
    assert not quantizer.settings["1"].make_identity
    assert quantizer._held["4"].inputs == ("1.output",)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_feeds_its_states_back_on_their_own_scale(kind: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.rnn, self.decoder = nn.Embedding(9, 4), kind(4, 5, num_layers=2, dropout=0.5), nn.Linear(5, 9)

        def forward(self, words: Tensor, state: Any) -> Any:
            output, state = self.rnn(self.encoder(words), state)
            return self.decoder(output), state

    model = modular(Model().eval())
    zeros = torch.zeros(2, 3, 5)
    quantizer = prepared(model, torch.randint(9, (4, 3)), (zeros, zeros) if kind is nn.LSTM else zeros)
    wires = {f"{name}.{place}": wire for name, held in quantizer._held.items() for place, wire in enumerate(held.inputs)}
    last = "eltwisemult_hidden" if kind is nn.LSTM else "eltwiseadd_hidden"
    expected = {
        "rnn.cells.0.fc_gate_x.0": "encoder.weight",
        "rnn.cells.0.fc_gate_h.0": f"rnn.cells.0.{last}.output",
        "rnn.cells.1.fc_gate_x.0": f"rnn.cells.0.{last}.output",
        "rnn.cells.1.fc_gate_h.0": f"rnn.cells.1.{last}.output",
        "rnn.cells.0.eltwiseadd_gate.0": "rnn.cells.0.fc_gate_x.output",
        "rnn.cells.0.eltwiseadd_gate.1": "rnn.cells.0.fc_gate_h.output",
        "decoder.0": f"rnn.cells.1.{last}.output",
    }
    if kind is nn.LSTM:
        expected |= {
            "rnn.cells.0.eltwisemult_cell_forget.0": "rnn.cells.0.act_f.output",
            "rnn.cells.0.eltwisemult_cell_forget.1": "rnn.cells.0.eltwiseadd_cell.output",
            "rnn.cells.0.eltwisemult_hidden.1": "rnn.cells.0.act_h.output",
        }
    assert {name: wires[name] for name in expected} == expected
    assert not [name for name in quantizer.ranges if ".inputs." in name]


class Fed(nn.Module):
    """The second call is given numbers outside of what the layer before it has given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.second(y)


def test_an_input_that_leaves_the_range_of_its_source_has_its_own() -> None:
    x = torch.randn(5, 4)
    assert "second.inputs.0" in prepared(Fed(), x, 100 * x).ranges
    assert "second.inputs.0" not in prepared(Fed(), x, 0.01 * x).ranges


def test_clamped_statistics_by_hand() -> None:
    """Bins of width 1 from -2: values about -1.5, .5, .5 and 3.5 become 0, .5, .5 and 2: the bin from -2 joins that from 0, the last that below 2."""
    stats = TensorStats(-1.8, 3.9, avg_min=-1.0, avg_max=3.0, histogram=Histogram(1.0, -2, (1, 0, 2, 0, 0, 1)))
    found = clamped(stats, 0.0, 2.0)
    assert (found.min, found.max, found.avg_min, found.avg_max) == (0.0, 2.0, 0.0, 2.0)
    assert found.histogram == Histogram(1.0, 0, (3, 1))
    assert (found.mean, found.b) == (0.75, 0.375)
    assert clamped(stats, -10.0, 10.0).histogram == stats.histogram


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_convolution_that_pads_with_what_its_input_holds(mode: Any) -> None:
    """The padding is neither a source nor a reader of the layer that it belongs to, and moves numbers of the layer before."""
    first, last = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), nn.Conv2d(3, 2, 3, padding=1, padding_mode=mode)
    model = nn.Sequential(first, nn.ReLU(), last).eval()
    first.weight.data.mul_(9)  # so that the image lies within the range of what is computed of it
    x = torch.linspace(-1, 1, 50).reshape(1, 2, 5, 5)
    with torch.no_grad():
        expected = model(x)
        quantizer = prepared(model, x, mode="asymmetric_unsigned")
        off = model(x) - expected
    assert {name: held.inputs for name, held in quantizer._held.items()} == {"0": ("0.inputs.0",), "2": ("0.output",)}
    assert quantizer.settings["0"].clip_half_range
    assert float(off.square().sum()) < 1e-3 * float(expected.square().sum())
