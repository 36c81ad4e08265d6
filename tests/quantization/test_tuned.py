from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import QuantizationError
from limbeck.quantization import Stats, collect_stats
from limbeck.quantization.affine import fake_quantize, qparams
from limbeck.quantization.post_train import PostTrainLinearQuantizer
from limbeck.quantization.trials import Trials
from limbeck.quantization.tuned import SEARCHES, Setting, Tuned, starts, uniform


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture
def inputs() -> torch.Tensor:
    drawn = torch.randn(64, 8)
    drawn[0, 0] = 30.0  # one outlier, for which clipping pays
    return drawn


def stats_of(net: nn.Module, inputs: torch.Tensor) -> Stats:
    with torch.no_grad(), collect_stats(net) as collected:
        net(inputs)
    return collected.stats


@pytest.fixture
def quantizer(net: nn.Module, inputs: torch.Tensor) -> PostTrainLinearQuantizer:
    found = PostTrainLinearQuantizer(net, 4, 4, model_activation_stats=stats_of(net, inputs), save_fp_weights=True)
    found.prepare_model((inputs[:2],))
    return found


@pytest.fixture
def error(net: nn.Module, quantizer: PostTrainLinearQuantizer, inputs: torch.Tensor) -> Callable[[Tuned], Callable[[Setting], float]]:
    torch.manual_seed(0)
    expected = Net().eval()(inputs[1:])

    def of(tuned: Tuned) -> Callable[[Setting], float]:
        def evaluate(setting: Setting) -> float:
            tuned.apply(setting)
            with torch.no_grad():
                return float((quantizer.model(inputs[1:]) - expected).square().mean())

        return evaluate

    return of


def test_a_setting_gives_the_ranges_that_a_quantizer_with_these_clippings_has(net: nn.Module, inputs: torch.Tensor) -> None:
    torch.manual_seed(0)
    stats, twin = stats_of(net, inputs), Net().eval()
    twin.load_state_dict(net.state_dict())
    given = PostTrainLinearQuantizer(twin, clip_acts="mse", model_activation_stats=stats)
    given.prepare_model((inputs[:2],))
    plain = PostTrainLinearQuantizer(net, model_activation_stats=stats, save_fp_weights=True)
    plain.prepare_model((inputs[:2],))
    tuned = Tuned(plain)
    tuned.apply(uniform(tuned, "mse"))
    for name, (low, high) in given.ranges.items():
        torch.testing.assert_close(plain.ranges[name], (low, high))
    tuned.apply(tuned.start)
    torch.testing.assert_close(twin(inputs), given.model(inputs))


def test_a_factor_on_a_weight_quantizes_its_floats_anew(quantizer: PostTrainLinearQuantizer) -> None:
    torch.manual_seed(0)
    weight = Net().fc1.weight.detach()
    tuned = Tuned(quantizer)
    tuned.apply({"fc1.weight": ("given", 0.25)})
    tuned.apply({"fc1.weight": ("given", 0.5)})
    low, high = quantizer.ranges["fc1.weight"]
    assert (float(low), float(high)) == pytest.approx((float(weight.min()) / 2, float(weight.max()) / 2), rel=1e-6)
    row = next(row for row in quantizer.rows() if (row.layer, row.tensor) == ("fc1", "weight"))
    off = fake_quantize(weight, qparams(low, high, 4)) - weight
    assert row.snr_db == pytest.approx(float(10 * torch.log10(weight.square().sum() / off.square().sum())), abs=1e-3)


@pytest.mark.parametrize("search", sorted(SEARCHES))
def test_each_search_beats_the_start_and_ends_at_what_it_says(
    search: str, quantizer: PostTrainLinearQuantizer, error: Callable[[Tuned], Callable[[Setting], float]], tmp_path: Path
) -> None:
    tuned = Tuned(quantizer)
    evaluate = error(tuned)
    trials = Trials(evaluate, log=tmp_path / "search.jsonl")
    found = trials.run(SEARCHES[search](tuned, trials))
    assert found.finished
    assert found.best.loss < 0.8 * evaluate(tuned.start)
    assert found.best.loss == pytest.approx(evaluate(found.best.setting), rel=1e-5)
    again = Trials(lambda setting: pytest.fail("asked again"), log=tmp_path / "search.jsonl")
    assert again.run(SEARCHES[search](tuned, again)) == found


def test_both_is_no_worse_than_greedy_alone(
    quantizer: PostTrainLinearQuantizer, error: Callable[[Tuned], Callable[[Setting], float]]
) -> None:
    tuned = Tuned(quantizer)
    evaluate = error(tuned)
    greedy, both = (Trials(evaluate).run(SEARCHES[name](tuned, Trials(evaluate))).best.loss for name in ("greedy", "both"))
    assert both <= greedy


def test_a_budget_ends_a_search_with_the_best_so_far(
    quantizer: PostTrainLinearQuantizer, error: Callable[[Tuned], Callable[[Setting], float]]
) -> None:
    tuned = Tuned(quantizer)
    trials = Trials(error(tuned), budget=4)
    found = trials.run(SEARCHES["both"](tuned, trials))
    assert (found.evaluations, found.finished) == (4, False)
    assert found.best.setting in starts(tuned)


def test_what_a_clipping_does_not_go_with_is_left_as_it_is(net: nn.Module, inputs: torch.Tensor) -> None:
    quantizer = PostTrainLinearQuantizer(net, 12, 12, model_activation_stats=stats_of(net, inputs), save_fp_weights=True)
    quantizer.prepare_model((inputs[:2],))
    tuned = Tuned(quantizer)
    assert uniform(tuned, "laplace") == tuned.start  # ACIQ's clippings are known for up to 8 bits
    assert not tuned.allows("nothing.output", "mse")


def test_a_model_of_floats_has_nothing_to_search(net: nn.Module, inputs: torch.Tensor) -> None:
    quantizer = PostTrainLinearQuantizer(net, fpq_module=16)
    quantizer.prepare_model((inputs[:2],))
    with pytest.raises(QuantizationError, match="has no ranges to search; give statistics"):
        Tuned(quantizer)


def test_a_layer_may_have_inputs_in_its_name(inputs: torch.Tensor) -> None:
    model = nn.ModuleDict({"net": nn.ModuleDict({"inputs": nn.Linear(inputs.shape[-1], 2)})}).eval()
    layer = model.get_submodule("net.inputs")
    with collect_stats(model) as collected, torch.no_grad():
        layer(inputs)
    quantizer = PostTrainLinearQuantizer(model, model_activation_stats=collected.stats, save_fp_weights=True)
    quantizer.prepare_model()
    tuned = Tuned(quantizer)
    assert set(tuned.start) == {"net.inputs.inputs.0", "net.inputs.weight", "net.inputs.output"}
    assert all(tuned.allows(name, "mse") for name in tuned.start)
