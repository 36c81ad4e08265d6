"""Laws of masks that go with all that is coupled to a unit: exact resume, what is left alone, and the thinned model as the masked one."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from laws.drawn import Maps, Step, Tokens, maps, tokens
from laws.rows import CONV, MATRIX, SCALE, TIED, Row
from laws.runs import BATCHES, FRESH, SAVES, Run, equal, objective, same
from laws.thinned import randomised
from limbeck.errors import ScheduleWarning
from limbeck.pruning import Prune
from limbeck.pruning.composed import composed_pruner
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.thinning import thin

SHIFT = "norm.bias"
RAMP = {"initial_sparsity": 0.2, "final_sparsity": 0.7, "group_type": "Filters"}
HALF = {"desired_sparsity": 0.5, "group_type": "Filters"}
BY_STEP = Window(1, 7, unit="step")

ROWS = [
    Row("L1RankedStructureParameterPruner_AGP", {**RAMP, "weights": [CONV, "next.weight"]}),
    Row("L1RankedStructureParameterPruner_AGP", {**RAMP, "weights": [CONV]}, note="soft", options={"use_double_copies": True}),
    Row(
        "L1RankedStructureParameterPruner_AGP",
        {**RAMP, "weights": [CONV]},
        note="kept",
        options={"use_double_copies": True, "keep_mask": True},
    ),
    Row("L1RankedStructureParameterPruner_AGP", {**RAMP, "weights": [CONV]}, note="forward", options={"mask_on_forward_only": True}),
    Row("L1RankedStructureParameterPruner", {**HALF, "weights": [CONV]}, note="gradients", options={"mask_gradients": True}),
    Row("L1RankedStructureParameterPruner", {**HALF, "weights": [CONV]}, note="discard", options={"discard_masks_at_minibatch_end": True}),
    Row("L1RankedStructureParameterPruner", {**HALF, "weights": [CONV]}, BY_STEP, note="after", options={"after_step": True}),
    Row("RandomRankedFilterPruner", {**HALF, "weights": [CONV], "redraw": True}, note="redraw"),
    Row(
        "BernoulliFilterPruner",
        {**HALF, "weights": [CONV]},
        note="dropout",
        options={"use_double_copies": True, "mini_batch_pruning_frequency": 1},
    ),
    Row("ActivationMeanRankedFilterPruner", {**HALF, "weights": [CONV]}, note="seen"),
    Row("L2RankedStructureParameterPruner", {**HALF, "weights": [MATRIX], "coupling": "joint"}, note="joint"),
    Row("L2RankedStructureParameterPruner", {**HALF, "weights": [CONV], "coupling": "none"}, note="none"),
    Row(
        "Pruner",
        {"weights": [CONV, MATRIX], "sparsity": 0.4, "granularity": "filters", "scope": "global", "coupling": "joint"},
        note="global",
    ),
]
each = pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}-{row.note}" for row in ROWS])


def run(row: Row) -> Run:
    torch.manual_seed(1)
    model = copy.deepcopy(FRESH)
    nn.init.uniform_(model.norm.bias, 0.5, 1.0)
    return Run(row, model=model, inputs=(BATCHES[0],))


@each
def test_law_a_coupled_run_resumed_at_any_step_is_equal_bit_for_bit(row: Row) -> None:
    whole = run(row).train(saves=SAVES)
    for place in range(0, len(whole.taken) - 1, 3):
        part = run(row).load(whole.taken[place])
        assert same(part.state(), whole.taken[place])
        expected = whole.taken[place + 1 : place + 4]
        part.train(saves=len(expected))
        assert all(same(one, other) for one, other in zip(part.taken, expected, strict=True)), place


@each
def test_law_only_coupled_vectors_get_masks_beside_the_targets(row: Row) -> None:
    masks = run(row).train().masks
    found = {name for renewed in masks for name in renewed}
    listed = set(row.arguments["weights"])
    group = {"joint": {TIED}, "global": {TIED, "hidden.bias", SCALE, SHIFT}, "none": set()}.get(row.note, {SCALE, SHIFT, "next.bias"})
    assert listed <= found <= listed | group | ({"hidden.bias"} if row.note == "joint" else set())


@each
def test_law_without_example_inputs_vectors_are_as_they_were(row: Row) -> None:
    if row.arguments.get("coupling") == "joint":
        pytest.skip("joint needs them")
    torch.manual_seed(1)
    alone = Run(row).train()
    assert all(set(masks) <= set(row.arguments["weights"]) for masks in alone.masks)


@each
def test_law_a_model_masked_with_all_that_is_coupled_computes_what_the_thinned_one_does(row: Row) -> None:
    trained = run(row).train(epochs=2)
    thinned = copy.deepcopy(trained.model)
    recipe = thin(thinned, (BATCHES[0],))
    with torch.no_grad():
        assert torch.allclose(trained.model.eval()(BATCHES[1]), thinned.eval()(BATCHES[1]), atol=1e-5)
    if row.note in {"", "kept", "gradients"}:
        assert recipe
        assert not [line for line in recipe.left if "gives it another value" in line]


def test_law_a_training_step_of_the_thinned_model_is_that_of_the_masked_one() -> None:
    trained = run(ROWS[4]).train(epochs=2)
    thinned = copy.deepcopy(trained.model)
    [cut] = [cut for cut in thin(thinned, (BATCHES[0],)).cuts if cut.tensor == CONV and cut.axis == 0]
    for model in (trained.model, thinned):
        model.train().zero_grad()
        objective(model, BATCHES[0]).backward()
    kept = torch.tensor(cut.kept)
    assert torch.allclose(trained.model.conv.weight.grad[kept], thinned.conv.weight.grad, atol=1e-6)
    assert torch.allclose(trained.model.norm.bias.grad[kept], thinned.norm.bias.grad, atol=1e-6)


def test_law_a_coupled_run_repeats_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScheduleWarning)
        first, second = run(ROWS[0]).train(), run(ROWS[0]).train()
    assert equal(first.history[-1], second.history[-1])


def removed(model: nn.Module, x: Tensor, way: str, scope: str) -> list[str]:
    """What stays, of a model of which a third of all filters and rows falls; it computes the same in the end.

    One pool of all may empty a layer, of which one unit then stays.
    """
    randomised(model)
    names = [name for name, weight in model.named_parameters() if weight.dim() > 1 and "head" not in name and "embedding" not in name]
    pruner = composed_pruner(names, 0.34, granularity="filters", coupling=way, scope=scope)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScheduleWarning)
        scheduler = Scheduler(model, [(Window(0, 1), Prune(pruner))], example_inputs=(x,))
        scheduler.on_epoch_begin(0)
    with torch.no_grad():
        before = model.eval()(x)
        left = thin(model, (x,), scheduler.masks).left
        assert (before - model(x)).abs().max() <= 1e-5 * max(1.0, float(before.abs().max()))
    return [line for line in left if "coupled with" in line or "gives it another value" in line]


ways = st.sampled_from((("follow", "tensor"), ("follow", "global"), ("joint", "tensor"), ("joint", "global")))


@settings(max_examples=8)
@given(maps(), st.integers(0, 1000), ways)
def test_law_masks_of_filters_are_thinned_to_the_same_function(
    drawn: tuple[int, list[Step], bool], seed: int, way: tuple[str, str]
) -> None:
    torch.manual_seed(seed)
    left = removed(Maps(*drawn), torch.randn(2, 3, *[2] * drawn[0]), *way)
    assert way != ("joint", "tensor") or not left


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@settings(max_examples=5)
@given(tokens(), st.integers(0, 1000), ways)
def test_law_masks_of_rows_are_thinned_to_the_same_function(
    drawn: tuple[list[tuple[str, int]], bool, bool], seed: int, way: tuple[str, str]
) -> None:
    torch.manual_seed(seed)
    left = removed(Tokens(*drawn), torch.randint(7, (2, 4)), *way)
    assert way != ("joint", "tensor") or not left
