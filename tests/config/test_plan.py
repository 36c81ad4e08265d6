"""The plan against numbers worked out elsewhere, and against what the scheduler then does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.apps.lm.model import RNNModel
from limbeck.config.build import load_schedule
from limbeck.config.components import SECTIONS
from limbeck.config.plan import plan
from limbeck.config.rows import Plan, Row
from limbeck.errors import ScheduleError
from limbeck.pruning import Pruner
from limbeck.tile import Tile

SCHEDULES = Path(__file__).parents[2] / "schedules"
LARGE = 85_917_000


def large_model() -> nn.Module:
    with torch.device("meta"):
        return RNNModel("LSTM", vocabulary=33278, emsize=1500, nhid=1500, nlayers=2, dropout=0.0, tied=True)


def agp(initial: float, final: float, window: str) -> str:
    return f"""
pruners: {{p: {{class: AutomatedGradualPruner, initial_sparsity: {initial}, final_sparsity: {final}, weights: weight}}}}
policies: [{{pruner: {{instance_name: p}}, {window}}}]
"""


def row(made: Plan, name: str) -> Row:
    return next(row for row in made.rows if row.name == name)


# The ancestor's levels, recomputed from its source (Distiller, distiller/pruning/automated_gradual_pruner.py).
LEVELS: Mapping[tuple[float, float, tuple[int, int, int]], tuple[float, ...]] = {
    (0.05, 0.7, (2, 20, 1)): (
        0.05, 0.158091, 0.253481, 0.336963, 0.409332, 0.471382, 0.523906, 0.567698, 0.603552,
        0.632261, 0.65462, 0.671423, 0.683462, 0.691533, 0.696428, 0.698942, 0.699868, 0.7,
    ),
    (0.05, 0.5, (1, 25, 3)): (0.05, 0.216618, 0.336006, 0.416035, 0.464577, 0.489504, 0.498688, 0.5),
    (0.05, 0.85, (3, 26, 3)): (0.05, 0.34621, 0.558455, 0.700729, 0.787026, 0.831341, 0.847668, 0.85),
    (0.03, 0.62, (1, 11, 2)): (0.03, 0.371094, 0.54625, 0.610781, 0.62),
    (0.05, 0.91, (0, 18, 2)): (0.05, 0.333867, 0.547188, 0.700039, 0.8025, 0.864648, 0.896563, 0.90832, 0.91),
}  # fmt: skip


@pytest.mark.parametrize(("ramp", "levels"), LEVELS.items())
def test_agp_levels_are_the_ancestors(ramp: tuple[float, float, tuple[int, int, int]], levels: tuple[float, ...]) -> None:
    initial, final, (begin, end, every) = ramp
    with torch.device("meta"):
        layer = nn.Linear(10_000, 10_000)
    timeline = row(plan(agp(initial, final, f"starting_epoch: {begin}, ending_epoch: {end}, frequency: {every}"), layer), "weight").timeline
    assert [firing.time for firing in timeline] == list(range(begin, end, every))
    assert [firing.sparsity for firing in timeline] == pytest.approx(levels, abs=6e-7)


# Non-zeros that seed 000, Table 1, prints for its pruned Large models (70B: the row it prints as 70 %), and 002's sizes.
@pytest.mark.parametrize(
    ("file", "nonzeros"),
    [("large_70b", 25_487_550), ("large_80", 16_847_550), ("large_90", 8_591_700), ("large_95", 4_295_850)],
)
def test_the_tutorials_schedules_end_where_it_says(file: str, nonzeros: int) -> None:
    made = plan(SCHEDULES / "lm" / f"{file}.yaml", large_model())
    assert (made.weights, made.nonzeros) == (LARGE, nonzeros)
    assert made.sparsity == pytest.approx(1 - nonzeros / LARGE)
    assert made.warnings == ()


def test_what_depends_on_data_is_not_guessed() -> None:
    made = plan(SCHEDULES / "lm" / "large_baidu.yaml", large_model())
    pruned = [row for row in made.rows if row.timeline]
    assert pruned
    assert all(row.data_dependent and row.nonzeros is None for row in pruned)
    assert made.nonzeros is made.sparsity is None


def test_the_scheduler_does_what_the_plan_says() -> None:
    torch.manual_seed(0)
    model = nn.Linear(37, 11)
    text = agp(0.1, 0.83, "starting_epoch: 1, ending_epoch: 9, frequency: 2")
    scheduler, planned = load_schedule(text, model), row(plan(text, model), "weight")
    for firing in planned.timeline:
        scheduler.on_epoch_begin(firing.time)
        assert int(model.weight.count_nonzero()) == firing.nonzeros
    assert firing.nonzeros == planned.nonzeros == 407 - int(0.83 * 407)


def test_the_json_is_as_documented() -> None:
    encoder, decoder = nn.Embedding(10, 4), nn.Linear(4, 10)
    decoder.weight = encoder.weight
    text = agp(0.5, 0.5, "epochs: [2]").replace("weights: weight", "weights: decoder.weight")
    assert plan(text, nn.ModuleDict({"encoder": encoder, "decoder": decoder})).to_json() == {
        "parameters": {
            "encoder.weight": {
                "shape": [10, 4],
                "numel": 40,
                "aliases": ["decoder.weight"],
                "timeline": [{"epoch": 2, "sparsity": 0.5, "nonzeros": 20}],
                "nonzeros": 20,
                "data_dependent": False,
            },
            "decoder.bias": {"shape": [10], "numel": 10, "aliases": [], "timeline": [], "nonzeros": 10, "data_dependent": False},
        },
        "pools": [],
        "total": {"weights": 40, "nonzeros": 20, "sparsity": 0.5},
        "warnings": [],
        "afterwards": [],
    }


def test_later_policies_of_one_parameter_go_on_where_earlier_ones_end() -> None:
    text = """
pruners:
  a: {class: SparsityLevelParameterPruner, levels: {weight: 0.25}}
  b: {class: SparsityLevelParameterPruner, levels: {weight: 0.75}}
  c: {class: MagnitudeParameterPruner, thresholds: {weight: 0.1}}
policies:
  - {pruner: {instance_name: c}, epochs: [0]}
  - {pruner: {instance_name: b}, starting_step: 25, ending_step: 26}
  - {pruner: {instance_name: a}, epochs: [1, 2]}
"""
    made = plan(text, nn.Linear(10, 10), steps_per_epoch=10)
    timeline = row(made, "weight").timeline
    assert [(firing.unit, firing.time, firing.nonzeros) for firing in timeline] == [
        ("epoch", 0, None), ("epoch", 1, 75), ("epoch", 2, 75), ("step", 25, 25),
    ]  # fmt: skip
    assert row(made, "weight").data_dependent
    assert made.nonzeros == 25
    assert plan(text, nn.Linear(10, 10)).warnings == (
        "some policies count epochs and some steps: give the steps per epoch (--steps-per-epoch N), or the order of their firings is a guess",
    )


def test_learning_rates_by_step_and_by_epoch_meet_where_the_run_says_so() -> None:
    text = """
lr_schedulers:
  warm_up: {class: LinearLR}
  decay: {class: ExponentialLR, gamma: 0.9}
policies:
  - {lr_scheduler: {instance_name: warm_up}, starting_step: 0, ending_step: 20}
  - {lr_scheduler: {instance_name: decay}, starting_epoch: 2, ending_epoch: 9}
"""
    layer = nn.Linear(2, 2)
    assert plan(text, layer, steps_per_epoch=10).warnings == ()
    assert plan(text, layer, steps_per_epoch=9).warnings == (
        "line 7, policies[1]: 'decay' sets the learning rate in epochs 2 to 9, and policies[0] sets it in steps 0 to 20; "
        "let one end where the other begins (an epoch has 9 steps)",
    )
    assert plan(text, layer).warnings == (
        "some learning rates count epochs and some steps: give the steps per epoch (--steps-per-epoch N) to see whether their windows overlap",
    )


def test_a_policy_that_outlasts_the_run_is_a_warning() -> None:
    made = plan(agp(0.0, 0.9, "starting_epoch: 0, ending_epoch: 10, frequency: 3"), nn.Linear(10, 10), epochs=4)
    assert [firing.time for firing in row(made, "weight").timeline] == [0, 3]
    assert made.warnings == ("line 3, policies[0]: fires 2 times from epoch 6 on, which a run of 4 epochs never reaches",)
    by_step = plan(agp(0.0, 0.9, "starting_step: 0, ending_step: 41, frequency: 20"), nn.Linear(10, 10), epochs=4, steps_per_epoch=10)
    assert by_step.warnings == ("line 3, policies[0]: fires 1 time from step 40 on, which a run of 40 steps never reaches",)


@pytest.mark.parametrize(
    ("window", "late"),
    [
        ("starting_step: 0, ending_step: 100000000000", "fires 99999999960 times from step 40 on"),
        ("starting_step: 3, ending_step: 52, frequency: 8", "fires 2 times from step 43 on"),
        ("starting_step: 45, ending_step: 60, frequency: 5", "fires 3 times from step 45 on"),
        ("steps: [3, 39, 40, 99]", "fires 2 times from step 40 on"),
    ],
)
def test_firings_that_the_run_never_reaches_are_counted_without_being_walked(window: str, late: str) -> None:
    regularizer = "{class: L1Regularizer, reg_regims: {weight: 0.1}, threshold_criteria: Max}"
    text = f"regularizers: {{r: {regularizer}}}\npolicies: [{{regularizer: {{instance_name: r, args: {{keep_mask: true}}}}, {window}}}]\n"
    made = plan(text, nn.Linear(10, 10), epochs=4, steps_per_epoch=10)
    assert made.warnings == (f"line 2, policies[0]: {late}, which a run of 40 steps never reaches",)
    assert not row(made, "weight").timeline


def test_units_and_pools_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(pruner: Pruner, shape: tuple[int, ...]) -> int | None:
        section = replace(SECTIONS[0], classes={"Test": lambda: pruner})
        monkeypatch.setattr("limbeck.config.check.SECTIONS", (section,))
        model = nn.ParameterDict({"w": nn.Parameter(torch.randn(shape))})
        tree = {"pruners": {"p": {"class": "Test"}}, "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}
        made = plan(tree, model)
        scheduler = load_schedule(tree, model)
        scheduler.on_epoch_begin(0)
        assert int(scheduler.masks["w"].sum()) == made.rows[0].nonzeros
        return made.rows[0].nonzeros

    assert planned(Pruner({"w": 0.5}, unit=Tile((1,))), (5, 3)) == 9  # floor(2.5) filters of 3
    assert planned(Pruner({"w": 0.5}, pool=Tile((1, 4))), (6, 8)) == 24  # 2:4
    assert planned(Pruner({"w": 0.3}, pool=Tile((1,))), (6, 5)) == 24  # one of five in each row
    assert planned(Pruner({"w": 0.5}, unit=Tile((2, 2)), pool=Tile((1,))), (4, 8)) == 16  # two of four blocks in each of two rows


def test_a_faulty_schedule_has_no_plan() -> None:
    with pytest.raises(ScheduleError, match="1 fault"):
        plan(agp(0.0, 1.5, "epochs: [0]"), nn.Linear(2, 2))
