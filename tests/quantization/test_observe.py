"""What is collected is what a tensor with all values at once would tell."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization import modular, observe
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.observe import Tally, collect_stats
from limbeck.quantization.stats import TensorStats


def expected(batches: list[Tensor]) -> TensorStats:
    """The same by plain functions of all values, and of all samples."""
    values = torch.cat([batch.reshape(-1) for batch in batches]).double()
    samples = [row for batch in batches for row in (batch.flatten(1) if batch.dim() > 1 and batch[0].numel() > 1 else batch.reshape(1, -1))]
    low, high = (torch.stack([extreme(sample).double() for sample in samples]).mean().item() for extreme in (torch.min, torch.max))
    return TensorStats(
        values.min().item(),
        values.max().item(),
        low,
        high,
        values.mean().item(),
        values.std().item() if len(values) > 1 else 0.0,
        (values - values.mean()).abs().mean().item(),
        tuple(batches[-1].shape),
        Histogram.of(values),
    )


def assert_close(found: TensorStats, wanted: TensorStats) -> None:
    for name in ("min", "max", "shape", "histogram"):
        assert getattr(found, name) == getattr(wanted, name)
    size = max(abs(wanted.min), abs(wanted.max), 1e-30)
    for name in ("avg_min", "avg_max", "mean", "std"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9, abs=1e-9 * size)
    assert found.histogram is not None
    assert wanted.b is not None
    assert wanted.b - found.histogram.width / 2 - 1e-9 * size <= found.b <= wanted.b + 1e-9 * size


@st.composite
def batches(draw: st.DrawFn) -> list[Tensor]:
    shapes = draw(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scale, shift = draw(st.sampled_from([1e-6, 1.0, 1e4])), draw(st.sampled_from([0.0, 3.0, -100.0]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return [(torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift).to(dtype) for shape in shapes]


@given(batches=batches(), held=st.sampled_from([1, 7, 1 << 16]))
@settings(max_examples=40)
def test_a_tally_is_what_all_values_at_once_tell(batches: list[Tensor], held: int) -> None:
    wanted, tally = expected(batches), Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "_HELD", held)
        for batch in batches:
            tally.add(batch)
            batch.zero_()  # what the model does with it afterwards is no matter
        assert_close(tally.stats(), wanted)


def test_statistics_by_hand() -> None:
    """Two batches of two samples: values -2 0 4 -1 1 10, and 0 0 0 4 4 4."""
    tally = Tally()
    tally.add(torch.tensor([[-2.0, 0.0, 4.0], [-1.0, 1.0, 10.0]]))
    tally.add(torch.tensor([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]))
    found = tally.stats()
    assert (found.min, found.max, found.avg_min, found.avg_max, found.mean) == (-2.0, 10.0, 1 / 4, 18 / 4, 2.0)
    assert found.std == pytest.approx(math.sqrt((98 + 24) / 11))
    assert found.b == pytest.approx((20 + 12) / 12)
    assert found.shape == (2, 3)


class Tied(nn.Module):
    """A layer that runs twice, one that works in place, several arguments, a result of several tensors, indices, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(6, 4)
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.unused = nn.Linear(4, 4)
        self.mix = nn.Bilinear(4, 4, 3)
        self.rnn = nn.LSTM(3, 2)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.encoder(words)
        for _ in range(2):
            hidden = self.act(self.fc(hidden))
        mixed = self.mix(hidden, input2=hidden + 1)
        result: Tensor = self.rnn(mixed, (torch.full((1, 3, 2), 9.0), torch.full((1, 3, 2), -9.0)))[0]
        return result


def test_every_layer_that_runs_is_seen() -> None:
    model, words = Tied().eval(), torch.randint(6, (5, 3))
    with collect_stats(model) as collected, torch.no_grad():
        out = model(words)
    stats = collected.stats
    with torch.no_grad():
        embedded = model.encoder(words)
        first = model.fc(embedded)
        second = model.fc(first.relu())
        final = second.relu()
    assert list(stats.layers) == ["encoder", "fc", "act", "mix", "rnn"]
    assert stats["encoder"].inputs == {}
    for found, wanted in (
        (stats["encoder"].output, [embedded]),
        (stats["fc"].inputs[0], [embedded, first.relu()]),
        (stats["fc"].output, [first, second]),  # before the ReLU wrote into them
        (stats["act"].inputs[0], [first, second]),
        (stats["act"].output, [first.relu(), final]),
        (stats["mix"].inputs[0], [final]),
        (stats["mix"].inputs[1], [final + 1]),
        (stats["rnn"].output, [out]),
        (stats["rnn"].inputs[1], [torch.full((1, 3, 2), 9.0), torch.full((1, 3, 2), -9.0)]),
    ):
        assert found is not None
        assert_close(found, expected(wanted))


def test_the_parts_of_a_recurrent_layer_add_up_over_its_steps() -> None:
    model = modular(nn.Sequential(nn.LSTM(3, 4))).eval()
    with collect_stats(model) as collected, torch.no_grad():
        model(torch.randn(7, 2, 3))
    stats = collected.stats
    parts = (
        "fc_gate_x",
        "fc_gate_h",
        "eltwiseadd_gate",
        "act_f",
        "act_i",
        "act_g",
        "act_o",
        "eltwisemult_cell_forget",
        "eltwiseadd_cell",
        "act_h",
    )
    for part, width in zip(parts, (16, 16, 16, *[4] * 7), strict=True):
        output = stats[f"0.cells.0.{part}"].output
        assert output is not None
        assert output.histogram is not None
        assert sum(output.histogram.counts) == 7 * 2 * width
    gate = stats["0.cells.0.act_f"].output
    assert gate is not None
    assert 0 < gate.min < gate.max < 1


def test_the_model_is_left_as_it_was() -> None:
    model = Tied().eval()
    words = torch.randint(6, (5, 3))
    with torch.no_grad():
        before = model(words)
    with collect_stats(model) as collected, torch.no_grad():
        copied = copy.deepcopy(model)
        assert torch.equal(copied(words), before)
        with pytest.raises(QuantizationError, match="no layer of the model ran, so there are no statistics"):
            _ = collected.stats  # a copy is not what is watched
        assert torch.equal(model(words), before)
    seen = collected.stats
    with torch.no_grad():
        assert torch.equal(model(words), before)
    assert collected.stats == seen
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_batches_add_up_and_a_packed_sequence_is_its_data() -> None:
    model = nn.Sequential(nn.GRU(3, 2)).eval()
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    with collect_stats(model) as collected, torch.no_grad():
        model(packed)
        model(packed)
    found = collected.stats["0"].inputs[0]
    assert_close(found, expected([packed.data, packed.data]))


def test_a_layer_that_saw_nothing_is_left_out_of_the_statistics() -> None:
    """As an expert that is given no token."""
    model = nn.ModuleDict({"busy": nn.Linear(2, 3), "idle": nn.Linear(2, 3)}).eval()
    with collect_stats(model) as collected, torch.no_grad():
        model["busy"](torch.ones(4, 2))
        model["idle"](torch.ones(0, 2))
    assert collected.stats["busy"].inputs[0].max == 1
    assert collected.stats["idle"].inputs == {}
    assert collected.stats["idle"].output is None


def test_a_model_that_is_one_layer_has_the_empty_name() -> None:
    layer = nn.Linear(2, 2).eval()
    with collect_stats(layer) as collected:
        layer(torch.ones(1, 2))
    assert list(collected.stats.layers) == [""]


def test_training_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with collect_stats(model), pytest.raises(QuantizationError, match=r"'0' is in training mode.*call model.eval\(\)"):
        model(torch.ones(1, 2))


def test_copies_that_run_at_once_are_refused() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Linear(2, 2))).eval()
    with pytest.raises(QuantizationError, match=r"'0' is DataParallel.*: model.0 = model.0.module"), collect_stats(model):
        pass
    with (
        pytest.raises(QuantizationError, match=r"the model is DataParallel.*: collect_stats\(model.module\)"),
        collect_stats(nn.DataParallel(model)),
    ):
        pass


@pytest.mark.parametrize("held", [1, 1 << 16])
def test_what_is_no_number_is_named(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_HELD", held)
    model = nn.Sequential(nn.ReLU(), nn.Softmax(1)).eval()

    def collect() -> None:
        with collect_stats(model) as collected:
            model(torch.tensor([[math.inf, 1.0]]))
        assert collected.stats

    with pytest.raises(QuantizationError, match="input 0 of '0' holds NaN or infinity"):
        collect()


@pytest.mark.long
def test_wrapped_names_are_the_models_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    compiled = torch.compile(model, backend="eager")
    with collect_stats(compiled) as collected:
        compiled(torch.ones(1, 2))
    assert list(collected.stats.layers) == ["0"]
