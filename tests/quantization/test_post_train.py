"""Whole models: what is refused, what stays as it was, ranges that are set, files, and a language model from end to end."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from limbeck.apps.lm.model import RNNModel
from limbeck.errors import CaptureError, QuantizationError, ScheduleWarning
from limbeck.quantization.affine import fake_quantize, qparams
from limbeck.quantization.cells import ModularLSTMCell
from limbeck.quantization.eltwise import EltwiseAdd
from limbeck.quantization.models import modular
from limbeck.quantization.observe import collect_stats
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.stats import Stats

X = torch.linspace(-1, 1, 24).reshape(6, 4)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.add = nn.Linear(4, 3), nn.Linear(4, 3), EltwiseAdd()

    def forward(self, x: Tensor) -> Any:
        return self.add(self.one(x), self.other(x))


def statistics(model: nn.Module, *inputs: Any) -> Stats:
    with collect_stats(model.eval()) as collected, torch.no_grad():
        model(*inputs)
    return collected.stats


def words_and_model(scale: float = 3.0) -> tuple[Tensor, RNNModel]:
    model = RNNModel("LSTM", vocabulary=40, emsize=12, nhid=12, nlayers=2, dropout=0.2, tied=True).eval()
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return torch.randint(40, (9, 4)), modular(model)


def noise(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().sum() / expected.square().sum())


@torch.no_grad()
def test_a_language_model_from_end_to_end() -> None:
    """All arithmetic of a modular LSTM in integers: the tied weight once for each use, states on their own scale, and near the floats."""
    words, model = words_and_model()
    model.encoder.weight.data[7:30].zero_()
    expected, state = model(words, model.initial_hidden(4))
    stats = statistics(model, words, model.initial_hidden(4))
    small = words[:2, :1], model.initial_hidden(1)
    errors = {}
    for name, options in {
        "symmetric": {},
        "asymmetric": {"mode": "ASYMMETRIC_UNSIGNED", "per_channel_wts": True},
        "16 bits": {"bits_activations": 16, "bits_parameters": 16, "bits_accum": 48},
        "floats": {"fpq_module": 16},
        "mixed": {"overrides": {"encoder": {"fpq_module": 16}, "decoder": {"fpq_module": 16}, ".*eltwise.*": {"fpq_module": 16}}},
    }.items():
        twin = copy.deepcopy(model)
        quantizer = PostTrainLinearQuantizer(twin, model_activation_stats=stats, **options)  # type: ignore[arg-type]
        assert quantizer.prepare_model(small) is twin
        found, states = twin(words, twin.initial_hidden(4))
        errors[name] = noise(found, expected)
        assert states[0].shape == state[0].shape
        kept = {row.layer: (row.zeros_before, row.zeros_after) for row in quantizer.rows() if row.tensor == "weight"}
        assert all(before <= after for before, after in kept.values() if before is not None and after is not None)
        assert kept["encoder"][0] == kept["decoder"][0] == 23 * 12
    assert errors["16 bits"] < 1e-6 < errors["mixed"] < min(errors["asymmetric"], errors["symmetric"])
    assert errors["floats"] < 1e-5
    assert max(errors["asymmetric"], errors["symmetric"]) < 3e-3


@torch.no_grad()
def test_an_lstm_cell_step_by_step() -> None:
    """Every part against the arithmetic of its inputs' scales, written out in float64; two steps, the second from the first one's state."""
    torch.manual_seed(3)
    cell = ModularLSTMCell(5, 6)
    model = nn.ModuleDict({"cell": cell})
    model.forward = lambda x, h, c: cell(x, (h, c))  # type: ignore[method-assign]
    x, h, c = torch.randn(8, 5), torch.randn(8, 6).tanh(), torch.randn(8, 6)
    stats = statistics(model, x, h, c)
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats, mode="asymmetric_signed")
    quantizer.prepare_model()
    params = {name: found.params for name, found in quantizer._ranges.items()}

    def held(name: str, x: Tensor) -> Tensor:
        return fake_quantize(x.double(), params[f"cell.{name}"])

    def weighted(name: str, x: Tensor, module: Any) -> Tensor:
        step = params[f"cell.{name}.inputs.0"].scale.double() * params[f"cell.{name}.weight"].scale.double()
        bias = torch.round(module.bias.double() / step) * step
        return held(f"{name}.output", held(f"{name}.inputs.0", x) @ held(f"{name}.weight", module.weight).T + bias)

    def joined(name: str, combine: Any, *inputs: Tensor) -> Tensor:
        rounded = [held(f"{name}.inputs.{place}", each) for place, each in enumerate(inputs)]
        if combine is torch.add:
            step = params[f"cell.{name}.output"].scale.double()
            rounded = [torch.round(each / step) * step for each in rounded]
        return held(f"{name}.output", combine(*rounded))

    def by_hand(h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = joined("eltwiseadd_gate", torch.add, weighted("fc_gate_x", x, floats.fc_gate_x), weighted("fc_gate_h", h, floats.fc_gate_h))
        i, f, g, o = gates.chunk(4, -1)
        kept = joined("eltwisemult_cell_forget", torch.mul, held("act_f.output", f.sigmoid()), c)
        new = joined("eltwisemult_cell_input", torch.mul, held("act_i.output", i.sigmoid()), held("act_g.output", g.tanh()))
        c = joined("eltwiseadd_cell", torch.add, kept, new)
        return joined("eltwisemult_hidden", torch.mul, held("act_o.output", o.sigmoid()), held("act_h.output", c.tanh())), c

    floats = ModularLSTMCell(5, 6)
    torch.manual_seed(3)
    floats = ModularLSTMCell(5, 6)
    for _ in range(2):
        found, expected = cell(x, (h, c)), by_hand(h, c)
        for place, name in enumerate(("eltwisemult_hidden", "eltwiseadd_cell")):
            steps = ((found[place].double() - expected[place]) / params[f"cell.{name}.output"].scale.double()).abs()
            assert float(steps.max()) < 1.01
            assert float((steps > 0.01).double().mean()) <= 0.05  # a near tie that float32 decides otherwise
        h, c = found


def test_the_model_that_it_was_made_of_is_as_it_was() -> None:
    """Tied and shared parameters are not written to; what raises changes nothing."""
    words, model = words_and_model()
    before = copy.deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    stats = statistics(model, words, model.initial_hidden(4))
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=Stats({"encoder": stats["encoder"]}))
    with pytest.raises(QuantizationError):
        quantizer.prepare_model()
    assert dict(model.named_parameters()) == parameters
    PostTrainLinearQuantizer(model, model_activation_stats=stats).prepare_model()
    names = {"decoder.weight": "encoder.weight"}
    assert all(torch.equal(parameters[names.get(name, name)], value) for name, value in before.items())


def test_ranges_are_read_and_set() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    stats = statistics(model, X)
    weight = model[0].weight.detach().clone()
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats, save_fp_weights=True, mode="symmetric_restricted")
    quantizer.prepare_model([X])
    assert sorted(quantizer.ranges) == ["0.inputs.0", "0.output", "0.weight", "1.output", "2.output", "2.weight"]
    assert float(quantizer.ranges["0.weight"][1]) == float(weight.max())
    first = model(X)
    ranges = dict(quantizer.ranges)
    quantizer.set_range("0.weight", -0.1, 0.2)
    quantizer.set_range("1.output", 0.0, torch.tensor(0.4))
    changed = model(X)
    assert not torch.equal(changed, first)
    held = model[0].get_parameter("integers") * (0.2 / 127)
    torch.testing.assert_close(held, fake_quantize(weight, qparams(-0.1, 0.2, 8, "symmetric_restricted")))
    assert float(model[1](torch.full((1, 4), 9.0)).max()) == pytest.approx(0.4)
    row = next(row for row in quantizer.rows() if (row.layer, row.tensor) == ("0", "weight"))
    assert (row.clipping, row.high) == ("set", pytest.approx(0.2))
    assert row.snr_db is not None
    assert row.snr_db < 20
    for name, bounds in ranges.items():
        quantizer.set_range(name, *bounds)
    torch.testing.assert_close(model(X), first, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "bounds", "message"),
    [
        ("0.wieght", (0.0, 1.0), r"no range is named '0.wieght'; did you mean '0.weight'\?"),
        ("2.inputs.0", (0.0, 1.0), "no range is named '2.inputs.0': it is on the scale of '1.output'; set that one"),
        ("0.output", (1.0, -1.0), "'0.output': a range from 1.0 to -1.0 is empty"),
        ("0.output", (0.0, float("nan")), "'0.output': a range from 0.0 to nan is not finite"),
        ("0.output", (torch.zeros(2), torch.ones(2)), "'0.output': 2 bounds for 1 groups; give one number"),
        ("0.weight", (0.0, 1.0), "the floats of '0.weight' are gone; make the quantizer with save_fp_weights=True"),
    ],
)
def test_ranges_that_cannot_be_set(name: str, bounds: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=statistics(model, X))
    quantizer.prepare_model([X])
    before = dict(quantizer.ranges)
    with pytest.raises(QuantizationError, match=message):
        quantizer.set_range(name, *bounds)
    assert dict(quantizer.ranges) == before


def test_the_numbers_are_saved_in_plain_yaml(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    stats = statistics(model, X)
    stats.save(tmp_path / "stats.yaml")
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=tmp_path / "stats.yaml", per_channel_wts=True)
    quantizer.prepare_model([X])
    quantizer.save(tmp_path / "numbers.yaml")
    tree = yaml.safe_load((tmp_path / "numbers.yaml").read_text())
    assert list(tree) == ["0", "2"]
    assert tree["2"]["inputs.0"] == {"same_as": "0.output"}
    assert tree["0"]["clip_half_range"] is True
    assert (tree["0"]["weight"]["bits"], tree["0"]["weight"]["mode"], tree["0"]["weight"]["clipping"]) == (8, "symmetric", "none")
    assert tree["0"]["weight"]["zero_point"] == [0] * 4
    torch.testing.assert_close(torch.tensor(tree["0"]["weight"]["scale"]), quantizer._ranges["0.weight"].params.scale)


def test_rows_tell_what_was_done() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    stats = statistics(model, X)
    floats = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats, clip_acts="avg", overrides={"1": {"bits_activations": 4}})
    quantizer.prepare_model([X])
    rows = {(row.layer, row.tensor): row for row in quantizer.rows()}
    assert list(rows) == [
        ("0", "inputs.0"),
        ("0", "weight"),
        ("0", "output"),
        ("0", "bias"),
        ("1", "output"),
        ("2", "weight"),
        ("2", "output"),
        ("2", "bias"),
    ]
    output = rows["1", "output"]
    assert (output.kind, output.bits, output.mode, output.clipping, output.shared_by) == ("int4", 4, "symmetric", "avg", ("2.inputs.0",))
    assert output.snr_of == "histogram"
    exact = (X @ floats["0.weight"].T + floats["0.bias"]).sigmoid()
    lost = noise(fake_quantize(exact, quantizer._ranges["1.output"].params), exact)
    assert output.snr_db == pytest.approx(-10 * math.log10(lost), abs=0.5)
    weight = rows["0", "weight"]
    lost = noise(fake_quantize(floats["0.weight"], qparams(*floats["0.weight"].aminmax(), 8)), floats["0.weight"])
    assert (weight.snr_of, weight.snr_db) == ("weights", pytest.approx(-10 * math.log10(lost), abs=1e-3))


def broken(change: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    change(model)
    return model


def faulty_statistics() -> Stats:
    stats = statistics(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), X)
    return Stats({"0": stats["0"]})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: broken(lambda model: model.train()), {}, "the model is in training mode; post-training quantization is for a trained model"),
        (lambda: broken(lambda model: model[1].train()), {}, "'1' is in training mode"),
        (lambda: nn.Linear(4, 3).eval(), {}, r"the model is a single Linear, in whose place nothing can be put; wrap it: nn.Sequential\(model\)"),
        (lambda: nn.DataParallel(nn.Sequential(nn.Linear(4, 3))).eval(), {}, "the model holds DataParallel; take the module inside"),
        (lambda: broken(lambda model: model.half()), {}, r"'0.weight' is float16, .* call model.float\(\)"),
        (lambda: broken(lambda model: prune.l1_unstructured(model[0], "weight", 0.5)), {}, "'0' computes its weight from others; make it plain"),
        (lambda: broken(lambda model: parametrize.register_parametrization(model[0], "weight", nn.Tanh().eval()).eval()), {}, "'0' computes its weight"),
        (lambda: broken(lambda model: model[0].register_forward_hook(lambda *_: None)), {}, "'0' has hooks, which would be lost"),
        (lambda: nn.Sequential(nn.LSTM(4, 3)).eval(), {}, r"'0' is a LSTM, whose weights torch reads by itself; call limbeck.quantization.modular\(model\)"),
        (lambda: nn.ModuleDict({"at": nn.MultiheadAttention(4, 2)}).eval(), {}, r"it is: overrides \{at: \{bits_activations: null, bits_weights: null\}\}"),
        (lambda: nn.ModuleDict({"at": nn.MultiheadAttention(4, 2)}).eval(), {"fpq_module": 16}, r"bits_weights: null, fpq_module: null\}\}"),
        (lambda: Sum().eval(), {}, "'add' joins several inputs, and needs statistics .*bits_activations: null"),
        (lambda: broken(lambda _: None), {"model_activation_stats": faulty_statistics()}, "there are no statistics of '1'; collect them from this model"),
        (lambda: broken(lambda model: nn.init.constant_(model[0].weight, torch.nan)), {}, "'0.weight': a range from nan to nan is not finite"),
        (lambda: broken(lambda _: None), {"clip_acts": "laplace", "also_clip_weights": True, "bits_parameters": 10}, "'0.weight': ACIQ"),
        (lambda: nn.Sequential(nn.ConvTranspose1d(4, 4, 1, groups=2)).eval(), {"per_channel_wts": True}, "'0.weight': per_channel_wts has no meaning for"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    model = make()
    before = list(model.named_modules())
    with pytest.raises(QuantizationError, match=message):
        PostTrainLinearQuantizer(model, **options).prepare_model()
    assert list(model.named_modules()) == before


def test_all_faults_are_told_at_once() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 3), "sum": Sum()}).eval()
    with pytest.raises(QuantizationError) as caught:
        PostTrainLinearQuantizer(model).prepare_model()
    assert len(caught.value.faults) == 2
    assert str(caught.value).startswith("2 faults\n  'rnn' is a LSTM")


def test_statistics_that_lack_what_a_clipping_needs() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    tree = {"0": {"inputs": {0: {"min": -1.0, "max": 1.0}}, "output": {"min": -1.0, "max": 1.0}}}
    for clipping, missing in (("avg", "avg_min"), ("laplace", "b|mean"), ("mse", "histogram")):
        with pytest.raises(QuantizationError, match=f"'0.output'.*({missing})"):
            PostTrainLinearQuantizer(model.eval(), model_activation_stats=tree, clip_acts=clipping).prepare_model()


def test_inputs_without_a_quantized_source_may_be_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    stats = statistics(model, X)
    options: dict[str, Any] = {"model_activation_stats": stats, "inputs_quant_auto_fallback": False}
    with pytest.raises(QuantizationError, match="input 0 of '0' comes from no quantized layer") as caught:
        PostTrainLinearQuantizer(model, **options).prepare_model([X])
    assert len(caught.value.faults) == 1
    quantizer = PostTrainLinearQuantizer(model, **options, overrides={"0": {"input_overrides": {0: {"bits_activations": 6}}}})
    quantizer.prepare_model([X])
    assert quantizer._ranges["0.inputs.0"].bits == 6


def test_what_was_refused_leaves_no_trace() -> None:
    """A batch norm that was folded in a preparation that failed is still a layer in the next one, which has no graph."""
    x = torch.randn(4, 3, 5, 5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with torch.no_grad():
        model[1].running_var.fill_(0.1)
        expected = model(x)
    quantizer = PostTrainLinearQuantizer(
        model, per_channel_wts=True, model_activation_stats=statistics(model, x), inputs_quant_auto_fallback=False
    )
    with pytest.raises(QuantizationError, match="1 inputs have no scale"):
        quantizer.prepare_model([x])
    quantizer.inputs_quant_auto_fallback = True
    quantizer.prepare_model()
    assert noise(model(x).detach(), expected) < 0.05


class Masked(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.add = first, EltwiseAdd()

    def forward(self, mask: Tensor, x: Tensor) -> Tensor:
        result: Tensor = self.add(mask, x) if self.first else self.add(x, mask)
        return result


def test_a_sum_with_what_is_no_float_is_refused_with_the_remedy() -> None:
    mask, x = torch.ones(3, 2, dtype=torch.bool), torch.randn(3, 2)
    for first in (True, False):
        model = Masked(first).eval()
        quantizer = PostTrainLinearQuantizer(model, model_activation_stats=statistics(model, mask, x))
        ask = quantizer.prepare_model if first else partial(quantizer.prepare_model(), mask, x)
        with pytest.raises(QuantizationError, match=r"no tensor of floats.*add: \{bits_activations: null\}"):
            ask()


def test_an_input_override_for_no_input_is_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    quantizer = PostTrainLinearQuantizer(
        model,
        model_activation_stats=statistics(model, torch.ones(1, 2)),
        overrides={"0": {"input_overrides": {5: {"bits_activations": 4}}}},
    )
    with pytest.warns(ScheduleWarning, match="input_overrides of '0' for input 5 say nothing: its inputs are 0"):
        quantizer.prepare_model()


def test_an_input_may_be_on_the_scale_of_its_own_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    quantizer = PostTrainLinearQuantizer(
        model, model_activation_stats=statistics(model, X), overrides={"1": {"input_overrides": {0: {"from_output": True}}}}
    )
    quantizer.prepare_model([X])
    assert quantizer._held["1"].inputs == ("1.output",)


def test_layers_that_do_not_run_are_left_alone() -> None:
    model = Sum()
    model.spare = nn.Linear(3, 3)
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=statistics(model, X))
    quantizer.prepare_model([X])
    assert isinstance(model.spare, nn.Linear)
    with pytest.raises(QuantizationError, match="the model is quantized already; change ranges with set_range"):
        quantizer.prepare_model([X])


def test_a_module_in_several_places_is_replaced_in_all() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=statistics(model, X))
    quantizer.prepare_model([X])
    assert model[0] is model[2]
    assert model(X).shape == (6, 4)


class Undecided(nn.Module):
    """The forward pass depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.one(x) if x.sum() > 0 else self.other(x)
        return result


def test_a_model_without_a_graph_is_quantized_without_one() -> None:
    model = Undecided().eval()
    with pytest.raises(CaptureError, match=r"cannot be captured .*; prepare_model\(\) without inputs does without the graph"):
        PostTrainLinearQuantizer(model).prepare_model([X])
    PostTrainLinearQuantizer(model).prepare_model()
    assert model(X).shape == (6, 2)


def test_names_and_places_survive_a_copy_and_a_cast() -> None:
    words, model = words_and_model()
    quantizer = PostTrainLinearQuantizer(
        model, model_activation_stats=statistics(model, words, model.initial_hidden(4)), per_channel_wts=True
    )
    quantizer.prepare_model()
    hidden = model.initial_hidden(4)
    with torch.no_grad():
        expected = model(words, hidden)[0]
        torch.testing.assert_close(copy.deepcopy(model)(words, hidden)[0], expected, rtol=0, atol=0)
    assert "decoder.integers" in model.state_dict()


@pytest.mark.parametrize("statistics_first", [True, False])
@torch.no_grad()
def test_a_transformer_encoder_around_attention_that_stays_in_floats(statistics_first: bool) -> None:
    """Torch evaluates such an encoder by one function that reads the weights of all parts, and masked sequences as nested tensors; neither gets in the way."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, ends = torch.linspace(-1, 1, 96).sin().reshape(3, 4, 8), torch.tensor([[False] * 3 + [True]] * 3)
    expected = model(x)
    stats = None
    if statistics_first:
        with collect_stats(model) as collected:
            model(x, src_key_padding_mask=ends)
            model(x)
        stats = collected.stats
    left_alone: Any = {"layers.*.self_attn": {"bits_activations": None, "bits_weights": None}}
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=stats, overrides=left_alone)
    quantizer.prepare_model([x])
    assert {f"layers.{place}.{name}" for place in (0, 1) for name in ("linear1", "linear2", "norm1", "norm2")} <= quantizer._held.keys()
    assert 0 < noise(model(x), expected) < 1e-3
    assert model(x, src_key_padding_mask=ends).shape == x.shape
    assert torch.backends.mha.get_fastpath_enabled()


@torch.no_grad()
def test_layers_are_called_as_torch_calls_its_own() -> None:
    """By the name of the argument, and a transposed convolution with the size of what it gives."""

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc, self.up = nn.Embedding(4, 4), nn.Linear(4, 4), nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Any:
            return self.up(self.fc(input=self.words(input=x)), output_size=[8])

    words, floats = torch.arange(4).reshape(4, 1), Calls().eval()
    for stats in (statistics(floats, words), None):
        model = copy.deepcopy(floats)
        PostTrainLinearQuantizer(model, model_activation_stats=stats).prepare_model()
        assert model(words).shape == (4, 1, 8)
        assert noise(model(words), floats(words)) < 1e-3


def test_short_floats_around_integers_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    PostTrainLinearQuantizer(model).prepare_model()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(QuantizationError, match=r"'0' computes with integers.*outside of torch.autocast"),
    ):
        model(X)
