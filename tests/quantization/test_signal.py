from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization.signal import signal_to_noise


def runs(*batches: Tensor) -> list[object]:
    return [lambda model, batch=batch: model(batch) for batch in batches]


def test_it_is_ten_log_ten_of_the_sums_over_all_batches() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[2].bias += 0.5
    one, other = torch.randn(4, 3), torch.randn(2, 3)
    found = signal_to_noise(net, twin, runs(one, other), {"0": "0", "2": "2"})
    expected = torch.cat([net(one), net(other)]).detach().double()
    assert found["0"] == math.inf
    assert found["2"] == pytest.approx(10 * math.log10(float(expected.square().sum()) / (expected.numel() * 0.25)), abs=1e-4)


def test_a_layer_that_runs_several_times_is_compared_call_by_call_and_none_is_left_watched() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))  # type: ignore[no-any-return]

    net = Twice().eval()
    assert signal_to_noise(net, copy.deepcopy(net), runs(torch.randn(3, 2)), {"layer": "layer", "idle": "idle"}) == {"layer": math.inf}
    assert not any(module._forward_hooks for module in net.modules())


def test_another_layer_of_the_reference_may_stand_for_one_and_what_makes_no_difference_is_cut() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    rectified = nn.Sequential(nn.Sequential(copy.deepcopy(net[0]), nn.ReLU()), nn.Identity()).eval()
    assert signal_to_noise(net, rectified, runs(torch.randn(5, 3)), {"0": "1"}) == {"0": math.inf}
    assert signal_to_noise(net, rectified, runs(torch.randn(5, 3)), {"0": "0"})["0"] < 20
    assert signal_to_noise(net, rectified, runs(torch.randn(5, 3)), {"0": "0"}, {"0": (0.0, math.inf)}) == {"0": math.inf}


def test_models_that_do_not_match_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    with pytest.raises(QuantizationError, match="no layer '7'"):
        signal_to_noise(net, net, [], {"7": "0"})
    with pytest.raises(QuantizationError, match=r"the output of '0' has the shape \(1, 4\), and its twin's \(1, 2\)"):
        signal_to_noise(net, nn.Sequential(nn.Linear(3, 4)).eval(), runs(torch.ones(1, 3)), {"0": "0"})
    with pytest.raises(QuantizationError, match="'1' ran 1 times more than '1' of the quantized model did"):
        signal_to_noise(
            net,
            nn.ModuleDict({"0": net[0], "1": nn.ReLU()}),
            [lambda model: model["0"](torch.ones(1, 3)) if isinstance(model, nn.ModuleDict) else model(torch.ones(1, 3))],
            {"1": "1"},
        )
