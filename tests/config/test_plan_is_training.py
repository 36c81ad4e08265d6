"""The plan says what training then does: every class of pruner, along epochs and steps, with the arguments of a policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from limbeck.config.build import load_schedule
from limbeck.config.plan import plan
from limbeck.config.rows import Plan
from limbeck.pruning.composed import CRITERIA
from limbeck.pruning.methods import PRUNERS
from limbeck.scheduler import Scheduler

EPOCHS, STEPS = 5, 2
CONVOLUTIONS, ALL = ["0.weight", "3.weight"], ["0.weight", "3.weight", "6.weight"]
LEVEL = st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.77, 0.999, 1.0])
BELOW_ONE = st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.77, 0.999])


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*layers)


def train(network: nn.Module, scheduler: Scheduler) -> Iterator[tuple[int, int, dict[str, int]]]:
    """The epoch, the step and the kept elements of every mask, after each step."""
    torch.manual_seed(1)
    optimizer = scheduler.state.optimizer
    assert optimizer is not None
    step = 0
    for epoch in scheduler.epochs(EPOCHS):
        for x, y in scheduler.steps([(torch.randn(4, 3, 5, 5), torch.randint(5, (4,))) for _ in range(STEPS)]):
            loss = scheduler.loss(F.cross_entropy(network(x), y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield epoch, step, {name: int(mask.sum()) for name, mask in scheduler.masks.items()}
            step += 1


def agree(tree: dict[str, Any], after_step: bool = False) -> Plan:
    """Train, and hold every number of the plan to what happens."""
    network = model()
    made = plan(tree, network, steps_per_epoch=STEPS, epochs=EPOCHS)
    scheduler = load_schedule(tree, network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
    rows = {row.name: {(firing.unit, firing.time): firing.nonzeros for firing in row.timeline} for row in made.rows}
    pools = [(pool.names, {(firing.unit, firing.time): firing.nonzeros for firing in pool.timeline}) for pool in made.pools]
    counted = 0
    for epoch, step, kept in train(network, scheduler):
        now = [("epoch", epoch)] if (step + 1) % STEPS == 0 else []
        for time in [*now, ("step", step + after_step)]:
            for name, timeline in rows.items():
                if timeline.get(time) is not None:
                    assert kept[name] == timeline[time], (name, time)
                    counted += 1
            for names, together in pools:
                if together.get(time) is not None:
                    assert sum(kept[name] for name in names) == together[time], time
                    counted += 1
    expected = sum(number is not None for timeline in rows.values() for number in timeline.values())
    assert counted == expected + sum(number is not None for _, timeline in pools for number in timeline.values())
    for row in made.rows:
        if row.nonzeros is not None:
            mask = scheduler.masks.get(row.name)
            assert row.nonzeros == (row.numel if mask is None else int(mask.sum()))
    return made


@st.composite
def ramps(draw: st.DrawFn, level: st.SearchStrategy[float] = LEVEL) -> Any:
    kind = draw(st.sampled_from(["number", "polynomial", "linear", "cosine", "exponential", "piecewise", "one_shot"]))
    start, stop = draw(level), draw(level)
    if kind == "number":
        return stop
    if kind == "piecewise":
        return {"ramp": kind, "points": [[0, start], [2, stop], [5, start]], "jump": draw(st.booleans())}
    if kind == "one_shot":
        return {"ramp": kind, "start": start, "stop": stop, "after": draw(st.integers(0, 4))}
    if kind == "exponential":
        start, stop = min(start, 0.999), min(stop, 0.999)
    return {"ramp": kind, "start": start, "stop": stop}


# What each class may be given; a class without a row fails. The values of a list are drawn.
FILTERS = {"group_type": ["3D", "Filters"], "weights": [CONVOLUTIONS, ["6.weight", "3.weight"]]}
STRUCTURES = {"group_type": ["Filters", "Channels", "4D", "Rows"], "weights": [ALL]}
LEADER = {"group_type": ["Filters"], "weights": [["3.weight"]], "group_dependency": ["Leader"]}
COUNT = {"sparsity": [0.3, {"ramp": "cosine", "start": 0.1, "stop": 0.6}]}
GRADUAL = {"initial_sparsity": [0.0, 0.2], "final_sparsity": [0.5, 0.83]}
DESIRED = {"desired_sparsity": [0.0, 0.34, 0.5, 1.0]}
GROUPED = {"noise": [0.0, 0.5], "group_size": [1, 2, 4], "rounding_fn": ["floor", "ceil", "round"]}
PLAIN = {"weights": [ALL, ["matrices:*"]]}
BELOW = {"thresholds": [{"matrices:*": 0.05}]}
ROWS: dict[str, dict[str, list[Any]]] = {
    "AutomatedGradualPruner": {**PLAIN, **GRADUAL},
    "BaiduRNNPruner": {**PLAIN, "q": [0.1], "ramp_epoch_offset": [0], "ramp_slope_mult": [2]},
    "MagnitudeParameterPruner": BELOW,
    "SensitivityPruner": {"sensitivities": [{"matrices:*": 0.5}]},
    "SparsityLevelParameterPruner": {"levels": [{"0.weight": 0.3, "matrices:*": 0.71}]},
    "SplicingPruner": {"sensitivities": [{"matrices:*": 0.5}], "low_thresh_mult": [0.5], "hi_thresh_mult": [0.9]},
    "BernoulliFilterPruner": {**FILTERS, **DESIRED},
    "BernoulliFilterPruner_AGP": {**FILTERS, **GRADUAL},
    "GeometricMedianPruner": {**STRUCTURES, **DESIRED, **GROUPED},
    "GeometricMedianPruner_AGP": {**STRUCTURES, **GRADUAL},
    "L1RankedStructureParameterPruner": {**STRUCTURES, **DESIRED, **GROUPED},
    "L1RankedStructureParameterPruner_AGP": {**LEADER, **GRADUAL},
    "L2RankedStructureParameterPruner": {**STRUCTURES, **DESIRED, **GROUPED},
    "L2RankedStructureParameterPruner_AGP": {**STRUCTURES, **GRADUAL},
    "RandomLevelStructureParameterPruner": {**STRUCTURES, "sparsity_range": [[0.1, 0.7]], **GROUPED},
    "RandomRankedFilterPruner": {**FILTERS, **DESIRED, "redraw": [False, True]},
    "RandomRankedFilterPruner_AGP": {**FILTERS, **GRADUAL},
    "ActivationAPoZRankedFilterPruner": {**FILTERS, **DESIRED},
    "ActivationAPoZRankedFilterPruner_AGP": {**FILTERS, **GRADUAL},
    "ActivationMeanRankedFilterPruner": {**FILTERS, **DESIRED},
    "ActivationMeanRankedFilterPruner_AGP": {**FILTERS, **GRADUAL},
    "FollowingPruner": {"weights": [["0.bias", "6.bias"]]},
    "GradientRankedFilterPruner": {**FILTERS, **DESIRED, "signed": [False, True]},
    "GradientRankedFilterPruner_AGP": {**FILTERS, **GRADUAL},
    "MovementPruner": {**PLAIN, **COUNT, "scope": ["tensor", "global"]},
    "NetworkSlimmingPruner": {"weights": [["1.weight"]], **COUNT},
    "RigLPruner": {**PLAIN, **COUNT, "start": ["random", "magnitude"], "densities": ["uniform", "erdos_renyi_kernel"]},
    "SNIPPruner": {**PLAIN, **COUNT},
    "TaylorPruner": {**PLAIN, **COUNT, "granularity": ["filters", "element"], "scope": ["tensor", "global"]},
    "ConstantSparsityPruner": {"weights": [["6.weight"]], "target_sparsity": [0.0, 0.5], "block_size": [[1, 1], [5, 2], [2, 3]]},
    "KeepZerosPruner": PLAIN,
    "PolynomialDecayPruner": {**PLAIN, "target_sparsity": [0.5, 0.999], "power": [1, 3]},
    "WandaPruner": {**PLAIN, "n_of_m": ["2:4", "1:3"]},
    "StructureParameterPruner": {"reg_regims": [{"0.weight": [0.1, "2D"], "matrices:*": [0.1, "Filters"]}]},
}


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    unit, last = draw(st.sampled_from([("epoch", EPOCHS), ("step", EPOCHS * STEPS)]))
    begin = draw(st.integers(1, last - 1))  # pruners that observe have then seen something
    end = draw(st.integers(begin + 1, last))
    if draw(st.integers(0, 4)) == 0:
        return {f"{unit}s": sorted({begin, end - 1})}
    return {f"starting_{unit}": begin, f"ending_{unit}": end, "frequency": draw(st.integers(1, 4))}


def tree(pruner: dict[str, Any], window: dict[str, Any], **arguments: object) -> dict[str, Any]:
    return {"pruners": {"p": pruner}, "policies": [{"pruner": {"instance_name": "p", "args": arguments}, **window}]}


@pytest.mark.parametrize("name", ROWS)
@given(windows(), st.data())
@settings(max_examples=3)
def test_every_class(name: str, window: dict[str, Any], data: st.DataObject) -> None:
    arguments = {key: data.draw(st.sampled_from(values), label=key) for key, values in ROWS[name].items()}
    options = data.draw(st.sampled_from([{}, {"use_double_copies": True}, {"mask_on_forward_only": True}, {"mask_gradients": True}]))
    agree(tree({"class": name, **arguments}, window, **options))


@st.composite
def composed(draw: st.DrawFn) -> dict[str, Any]:
    weights = draw(st.sampled_from([ALL, CONVOLUTIONS, ["6.weight"], ["matrices:*"]]))
    pruner: dict[str, Any] = {"class": "Pruner", "weights": weights, "criterion": draw(st.sampled_from(sorted(CRITERIA)))}
    filters_alone = pruner["criterion"] in ("apoz", "mean_activation")
    if not filters_alone and draw(st.booleans()):
        size = draw(st.integers(2, 9))
        return {**pruner, "n_of_m": f"{draw(st.integers(1, size - 1))}:{size}"}
    pruner["scope"] = draw(st.sampled_from(["tensor", "global"] + ["row"] * (not filters_alone)))
    finer = ["element", "channels", "cols"] * (not filters_alone)
    pruner["granularity"] = draw(st.sampled_from(finer + ["filters", "rows"] * (pruner["scope"] != "row")))
    return {**pruner, "sparsity": draw(ramps())}


@pytest.mark.filterwarnings("ignore::limbeck.errors.ScheduleWarning")  # ramps that arrive after their window are trained as planned, too
@given(composed(), windows())
@settings(max_examples=40)
def test_composed_pruners(pruner: dict[str, Any], window: dict[str, Any]) -> None:
    agree(tree(pruner, window))


def test_a_mask_that_is_discarded_leaves_the_tensor_dense() -> None:
    text = tree(
        {"class": "SparsityLevelParameterPruner", "levels": {"6.weight": 0.5}}, {"epochs": [0]}, discard_masks_at_minibatch_end=True
    )
    row = next(row for row in plan(text, model()).rows if row.name == "6.weight")
    assert [firing.nonzeros for firing in row.timeline] == [20]
    assert row.nonzeros == 40


@pytest.mark.parametrize("end", [5, 7])
def test_after_the_step_the_clock_counts_the_steps_that_are_done(end: int) -> None:
    window = {"starting_step": 0, "ending_step": end, "frequency": 2}
    pruner = {"class": "Pruner", "weights": "6.weight", "sparsity": {"ramp": "linear", "start": 0.0, "stop": 0.6}}
    made = agree(tree(pruner, window, after_step=True), after_step=True)
    assert [firing.time for firing in made.rows[-2].timeline] == list(range(2, end, 2))  # the step 0 never comes


def test_a_run_counts_its_last_step_after_it() -> None:
    window = {"starting_step": 0, "ending_step": EPOCHS * STEPS + 1, "frequency": EPOCHS * STEPS}
    pruner = {"class": "Pruner", "weights": "6.weight", "sparsity": 0.5}
    made = agree(tree(pruner, window, after_step=True), after_step=True)
    assert ([firing.time for firing in made.rows[-2].timeline], made.warnings) == ([EPOCHS * STEPS], ())


def test_levels_of_the_policy_take_the_place_of_the_pruners() -> None:
    pruner = {"class": "SparsityLevelParameterPruner", "levels": {"6.weight": 0.5}}
    made = agree(tree(pruner, {"epochs": [1]}, levels={"3.weight": 0.25}))
    assert [row.name for row in made.rows if row.timeline] == ["3.weight"]


def test_a_level_that_is_drawn_anew_within_the_epoch_is_not_guessed() -> None:
    pruner = {
        "class": "RandomLevelStructureParameterPruner",
        "group_type": "Filters",
        "sparsity_range": [0.1, 0.7],
        "weights": ["3.weight"],
    }
    known, drawn = (plan(tree(pruner, {"epochs": [1]}, mini_batch_pruning_frequency=every), model()) for every in (0, 2))
    assert known.nonzeros is not None
    assert drawn.nonzeros is None


@pytest.mark.parametrize("seed", range(8))
def test_a_level_that_is_drawn_anew_is_not_guessed_where_two_draws_drop_equally_many(seed: int) -> None:
    pruner = {
        "class": "RandomLevelStructureParameterPruner",
        "group_type": "Filters",
        "sparsity_range": [0.1, 0.4],
        "weights": ["3.weight"],
        "group_size": 4,
        "seed": seed,
    }
    assert plan(tree(pruner, {"epochs": [1]}, mini_batch_pruning_frequency=2), model()).nonzeros is None


GLOBAL = {"class": "Pruner", "weights": ALL, "sparsity": 0.5, "scope": "global"}


def test_of_a_global_pool_the_total_is_known() -> None:
    made = agree(tree(GLOBAL, {"epochs": [1, 3]}))
    [pool] = made.pools
    numel = 162 + 432 + 40
    assert (pool.names, pool.numel, pool.nonzeros, pool.lasting) == (tuple(ALL), numel, numel // 2, True)
    assert (made.nonzeros, made.sparsity) == (numel // 2, 0.5)
    assert all(row.data_dependent for row in made.rows if row.timeline)


def test_of_a_global_pool_that_another_policy_enters_the_total_is_not_known() -> None:
    two = tree(GLOBAL, {"epochs": [1]})
    two["pruners"]["q"] = {"class": "SparsityLevelParameterPruner", "levels": {"6.weight": 0.25}}
    two["policies"].append({"pruner": {"instance_name": "q"}, "epochs": [2]})
    made = agree(two)
    assert (made.nonzeros, made.pools[0].lasting) == (None, False)
    assert next(row.nonzeros for row in made.rows if row.name == "6.weight") == 30


def test_of_a_global_pool_of_filters_the_total_depends_on_data_too() -> None:
    made = agree(tree({**GLOBAL, "granularity": "filters"}, {"epochs": [1]}))
    assert made.nonzeros is made.pools[0].nonzeros is None


def test_policies_in_one_epoch_stand_in_the_order_of_the_file() -> None:
    two = tree({"class": "SparsityLevelParameterPruner", "levels": {"6.weight": 0.5}}, {"epochs": [1, 2]})
    two["pruners"]["q"] = {"class": "SparsityLevelParameterPruner", "levels": {"6.weight": 0.25}}
    two["policies"].append({"pruner": {"instance_name": "q"}, "epochs": [1]})
    with pytest.warns(UserWarning, match="the later one decides"):
        made = agree(two)
    assert [firing.nonzeros for firing in made.rows[-2].timeline] == [30, 20]


def test_every_class_has_a_row() -> None:
    assert set(ROWS) == set(PRUNERS) - {"Pruner"}
