"""What one forward pass costs, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from limbeck.apps.images.models import MODELS, input_shape
from limbeck.apps.lm.model import RNNModel
from limbeck.errors import CaptureError
from limbeck.summaries import compute
from limbeck.summaries.compute import compute_table
from limbeck.summaries.render import to_text


# Document 003's "Parameters" of the dense ResNet-50; MACs of both at the sizes that they are made for, in the ancestor's summaries.
@pytest.mark.parametrize(("name", "macs", "weights"), [("resnet50", 4_089_184_256, 25_502_912), ("resnet20_cifar", 40_813_184, 270_896)])
def test_the_known_sizes_of_known_models(name: str, macs: int, weights: int) -> None:
    with torch.device("meta"):
        found = compute(MODELS[name](), (torch.zeros(1, *input_shape(name)),))
    assert (found.macs, found.weights, found.nonzeros, found.unsupported, found.unread) == (macs, weights, None, (), ())
    assert sum(row.weights for row in found.rows) == weights


# In millions: Table 6 of "MobileNets" (Howard et al. 2017), section 3.3 of "Deep Residual Learning" (He et al. 2016) for VGG-19.
@pytest.mark.parametrize(("name", "millions"), [("mobilenet", 569), ("mobilenet_025", 41), ("vgg19", 19_600)])
def test_the_sizes_that_papers_tell(name: str, millions: int) -> None:
    with torch.device("meta"):
        found = compute(MODELS[name](), (torch.zeros(1, *input_shape(name)),))
    assert found.macs / 1e6 == pytest.approx(millions, abs=0.5 if millions < 1000 else 50)


def test_a_batch_of_three_costs_three_times_as_much() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    one, three = (compute(net, (torch.zeros(batch, 1, 4, 4),)).macs for batch in (1, 3))
    assert three == 3 * one


def test_a_tied_language_model_counts_its_embedding_once() -> None:
    """One word: no MACs for looking it up, 2 layers of 4 gates * 6 units * (6 + 6), 10 words * 6 numbers; the decoder has its bias left."""
    model = RNNModel("LSTM", vocabulary=10, emsize=6, nhid=6, nlayers=2, dropout=0.5, tied=True)
    found = compute(model, (torch.zeros(1, 1, dtype=torch.long), model.initial_hidden(1)))
    assert [(row.name, row.type, row.weights, row.parameters, row.macs) for row in found.rows] == [
        ("encoder", "Embedding", 60, 60, 0),
        ("rnn", "LSTM", 576, 672, 576),
        ("decoder", "Linear", 0, 10, 60),
    ]
    assert (found.weights, found.parameters, found.macs) == (636, 742, 636)
    assert found.rows[2].reads == ("encoder.weight", "decoder.bias")


def test_a_module_that_runs_twice_costs_twice_and_is_held_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    (row,) = compute(Twice(), (torch.zeros(3, 4),)).rows
    assert (row.name, row.attributes, row.weights, row.macs) == ("layer", "2 calls", 16, 2 * 3 * 4 * 4)


def test_masked_weights_stand_beside_the_dense_ones() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net[0].weight.data.fill_(1.0)[:, :3] = 0
    net[1].weight.data.fill_(1.0)
    found = compute(net, (torch.zeros(1, 4),))
    assert [(row.weights, row.nonzeros) for row in found.rows] == [(12, 3), (6, 6)]
    assert (found.weights, found.nonzeros, found.macs) == (18, 9, 18)  # zeros are multiplied as any number


def test_the_attributes_say_what_shapes_do_not() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ConvTranspose2d(8, 4, 2, dilation=2), nn.Conv2d(4, 2, (1, 3)))
    found = compute(net, (torch.zeros(1, 4, 8, 8),))
    assert [row.attributes for row in found.rows] == ["k=3x3 s=2x2 p=1x1 groups=2", "k=2x2 d=2x2", "k=1x3"]
    assert [(row.input, row.output) for row in found.rows] == [
        ((1, 4, 8, 8), (1, 8, 4, 4)),
        ((1, 8, 4, 4), (1, 4, 6, 6)),
        ((1, 4, 6, 6), (1, 2, 6, 4)),
    ]


class Handmade(nn.Module):
    """Attention of the model's own code, with a learned position and a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(5, 8))
        self.query = weight_norm(nn.Linear(8, 8, bias=False))
        self.mix = nn.Parameter(torch.zeros(8, 3))
        self.spare = nn.Parameter(torch.zeros(2, 2))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.position)
        query = self.query(x)
        return torch.softmax(query @ x.mT, -1) @ x @ self.mix


def test_what_a_model_does_by_itself_is_listed_by_operation() -> None:
    """5 positions of 8 numbers: 5*5 scores of 8, as much for the sum, and 5*3 of 8."""
    found = compute(Handmade(), (torch.zeros(1, 5, 8),))
    assert [(row.name, row.type, row.weights, row.macs) for row in found.rows] == [
        ("(model)", "add", 40, 0),
        ("query", "Linear", 72, 320),  # weight norm holds 8x8 directions and 8x1 lengths
        ("(model)", "matmul", 24, 200 + 200 + 120),
    ]
    assert found.unread == ("spare",)
    assert sum(row.weights for row in found.rows) + 4 == found.weights


def test_the_table_adds_up_and_says_what_it_leaves_out() -> None:
    table = compute_table(Handmade(), (torch.zeros(1, 5, 8),))
    assert (table.total.macs, table.total.weights, table.total.parameters) == (840, 140, 156)
    assert table.notes == (
        "Total MACs: 840",
        "20 parameters are in the total alone: those of norms and scales, and what is not read",
        "not read in this forward pass: spare",
    )
    assert "1x5x8" in to_text(table)


def test_a_model_without_numbers_has_no_column_of_non_zeros() -> None:
    with torch.device("meta"):
        table = compute_table(nn.Linear(3, 2), (torch.zeros(1, 3),))
    assert "Non-zero" not in to_text(table)
    assert "Non-zero" in to_text(compute_table(nn.Linear(3, 2), (torch.zeros(1, 3),)))


def test_an_attention_is_one_row() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = compute(layer, (torch.zeros(1, 5, 8),)).rows
    assert [(row.name, row.type, row.attributes, row.input, row.output) for row in rows] == [
        ("self_attn", "MultiheadAttention", "heads=2", (1, 5, 8), (1, 5, 8)),
        ("linear1", "Linear", "", (1, 5, 8), (1, 5, 16)),
        ("linear2", "Linear", "", (1, 5, 16), (1, 5, 8)),
    ]


def test_a_model_that_cannot_be_captured_is_an_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match=r"test_compute\.py"):
        compute(Branching(), (torch.zeros(2),))
