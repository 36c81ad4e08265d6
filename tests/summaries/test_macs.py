"""Multiply-accumulate operations: by hand, and against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from limbeck.summaries import compute, macs


class Called(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


LAYERS = {
    # 6 filters of 4/2 x 5 weights at 2 * 8 places.
    "grouped convolution of one axis": (nn.Conv1d(4, 6, 5, groups=2, padding=2), (2, 4, 8), 2 * 8 * 6 * 2 * 5),
    # 8 channels of 3x3 weights at 4x4 places: (9 - 3) / 2 + 1 = 4.
    "depthwise convolution": (nn.Conv2d(8, 8, 3, stride=2, groups=8), (1, 8, 9, 9), 4 * 4 * 8 * 9),
    # 5 filters of 2 x 2x3x1 weights at 3x2x4 places.
    "convolution of three axes": (nn.Conv3d(2, 5, (2, 3, 1)), (1, 2, 4, 4, 4), 3 * 2 * 4 * 5 * 12),
    "dilated convolution": (nn.Conv2d(1, 1, 3, dilation=2), (1, 1, 7, 7), 3 * 3 * 9),
    "convolution with the same padding": (nn.Conv2d(1, 2, 3, padding="same"), (1, 1, 5, 5), 25 * 2 * 9),
    "convolution with circular padding": (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 1, 5, 5), 25 * 2 * 9),
    # Each of 3 * 7 inputs meets 4 outputs x 5 weights.
    "transposed convolution": (nn.ConvTranspose1d(3, 4, 5, stride=2), (1, 3, 7), 3 * 7 * 4 * 5),
    # Each of 4 * 5 * 5 inputs meets the 6/2 outputs of its group x 3x3 weights.
    "grouped transposed convolution": (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5), 4 * 25 * 3 * 9),
    "linear layer": (nn.Linear(5, 3), (2, 7, 5), 2 * 7 * 5 * 3),
    "embedding and what is no product of sums": (nn.Sequential(nn.LayerNorm(5), nn.GELU(), nn.Softmax(-1)), (2, 5), 0),
    # Steps 7 * 2; four gates of 5 units read 3 inputs and 5 states; the second layer reads 5.
    "LSTM of two layers": (nn.LSTM(3, 5, 2), (7, 2, 3), 7 * 2 * 4 * 5 * ((3 + 5) + (5 + 5))),
    # Both directions; the second layer reads 2 * 5.
    "GRU of two layers and directions": (nn.GRU(3, 5, 2, bidirectional=True), (7, 2, 3), 7 * 2 * 2 * 3 * 5 * ((3 + 5) + (10 + 5))),
    # States are of 2 numbers: gates read 3 inputs and 2 states, and 2 x 5 weights project.
    "LSTM with projection": (nn.LSTM(3, 5, proj_size=2), (7, 2, 3), 7 * 2 * (4 * 5 * (3 + 2) + 2 * 5)),
    "recurrent net without bias, batch first": (nn.RNN(3, 5, bias=False, batch_first=True), (2, 7, 3), 7 * 2 * 5 * (3 + 5)),
    "recurrent net of one sequence": (nn.RNN(3, 5, nonlinearity="relu"), (7, 3), 7 * 5 * (3 + 5)),
    "LSTM cell": (nn.LSTMCell(3, 5), (2, 3), 2 * 4 * 5 * (3 + 5)),
    "GRU cell": (nn.GRUCell(3, 5), (2, 3), 2 * 3 * 5 * (3 + 5)),
    "recurrent cell": (nn.RNNCell(3, 5), (2, 3), 2 * 5 * (3 + 5)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_by_hand(case: str) -> None:
    layer, shape, expected = LAYERS[case]
    assert macs(layer, (torch.zeros(*shape),)) == expected


FUNCTIONS: dict[str, tuple[Callable[..., object], tuple[tuple[int, ...], ...], int]] = {
    "matmul": (lambda x, y: x @ y, ((2, 3, 4), (4, 5)), 2 * 3 * 4 * 5),
    "matrix and vector": (torch.mv, ((3, 4), (4,)), 3 * 4),
    "dot": (torch.dot, ((4,), (4,)), 4),
    "bmm": (torch.bmm, ((2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
    "baddbmm": (torch.baddbmm, ((2, 3, 5), (2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
    "addbmm": (torch.addbmm, ((3, 5), (2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
    "tensordot": (lambda x, y: torch.tensordot(x, y, dims=([1, 2], [0, 1])), ((2, 3, 4), (3, 4, 5)), 2 * 3 * 4 * 5),
    # Each of 2 * 6 results: 3 numbers of x, each with 4 of y summed first.
    "bilinear": (F.bilinear, ((2, 3), (2, 4), (6, 3, 4)), 2 * 6 * (3 * 4 + 3)),
    "einsum of two": (lambda x, y: torch.einsum("bij, bkj -> bik", x, y), ((2, 3, 4), (2, 5, 4)), 2 * 3 * 4 * 5),
    "einsum without an arrow": (lambda x, y: torch.einsum("ij,jk", x, y), ((3, 4), (4, 5)), 3 * 4 * 5),
    "einsum with an ellipsis": (lambda x, y: torch.einsum("...ij,...jk->...ik", x, y), ((2, 1, 3, 4), (6, 4, 5)), 2 * 6 * 3 * 4 * 5),
    "einsum that sums nothing": (lambda x, y: torch.einsum("i,j->ij", x, y), ((3,), (4,)), 0),
    # k is of y alone: summed before it meets x; then j is summed over.
    "einsum with a sum beforehand": (lambda x, y: torch.einsum("ij,jk->i", x, y), ((3, 4), (4, 5)), 3 * 4),
    "einsum of one": (lambda x: torch.einsum("ij->j", x), ((3, 4),), 0),
    # 2 batches * 3 heads: 4 queries x 5 keys of 6 features, then 4 queries x 5 values of 7 features.
    "attention": (F.scaled_dot_product_attention, ((2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 7)), 2 * 3 * 4 * 5 * (6 + 7)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_by_hand(case: str) -> None:
    function, shapes, expected = FUNCTIONS[case]
    assert macs(Called(function), tuple(torch.zeros(*shape) for shape in shapes)) == expected


def test_three_operands_of_einsum_go_two_by_two() -> None:
    """ij,jk first: 2 * 3 * 4; then ik,kl: 2 * 4 * 5. With opt_einsum installed torch may choose jk,kl first: 3 * 4 * 5 + 2 * 3 * 5."""
    chain = Called(lambda x, y, z: torch.einsum("ij,jk,kl->il", x, y, z))
    assert macs(chain, (torch.zeros(2, 3), torch.zeros(3, 4), torch.zeros(4, 5))) == 2 * 3 * 4 + 2 * 4 * 5


@pytest.mark.parametrize("weighed", [True, False])
def test_multihead_attention_by_hand(weighed: bool) -> None:
    """Four projections of 8x8 for 2 * 5 positions; in each of 2 * 2 heads 5x5 scores of 4 features, and as much for the values."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    model = Called(lambda x: attention(x, x, x, need_weights=weighed)[0])
    model.attention = attention
    assert macs(model, (torch.zeros(2, 5, 8),)) == 4 * 2 * 5 * 8 * 8 + 2 * (2 * 2 * 5 * 5 * 4)


def test_attention_over_another_sequence_by_hand() -> None:
    """3 queries are projected in and out; 5 keys of 6 numbers and 5 values of 7 are projected to 8."""
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=7, batch_first=True)
    expected = 2 * 3 * 8 * 8 + 5 * 6 * 8 + 5 * 7 * 8 + 2 * (2 * 3 * 5 * 4)
    assert macs(attention, (torch.zeros(1, 3, 8), torch.zeros(1, 5, 6), torch.zeros(1, 5, 7))) == expected


NETS = {
    "residual": nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4, padding=1), nn.Flatten()
    ),
    "transposed": nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 5)),
    "perceptron": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_counter_of_torch(name: str) -> None:
    """Which runs the model and counts two operations a MAC."""
    net, images = NETS[name].eval(), torch.zeros(2, 3, 9, 9)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images)
    assert 2 * macs(net, (images,)) == counter.get_total_flops()


def test_what_is_not_known_is_listed_and_not_zero() -> None:
    """A matrix product of 2 * 3 * 3 * 4, and a distance and a Fourier transform, of which no count is known."""

    def run(x: Tensor) -> Tensor:
        return torch.cdist(x, x) + torch.fft.fft(x @ x.mT).real

    found = compute(Called(run), (torch.zeros(2, 3, 4),))
    assert found.macs == 2 * 3 * 3 * 4
    assert {row.type: row.macs for row in found.rows} == {"matmul": 72, "cdist": None, "fft_fft": None}
    assert sorted(where.split()[0] for where in found.unsupported) == ["cdist", "fft_fft"]
    assert all("test_macs.py:" in where for where in found.unsupported)
