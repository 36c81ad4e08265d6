"""Laws of a training run: resumed, copied, compiled, wrapped, driven by the optimizer; and of what a component leaves alone."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from laws.arguments import every_combination, with_options
from laws.rows import (
    ALIAS,
    EXTENSION_ROWS,
    MATRIX,
    TIED,
    Row,
    every_component,
    every_component_and_extension,
    every_pruner,
    every_rate,
    every_target,
)
from laws.runs import BATCHES, EPOCHS, FRESH, SAVES, STEPS, Net, Run, equal, objective, same
from limbeck import attach
from limbeck.errors import TargetError
from limbeck.pruning import Prune, level_pruner
from limbeck.schedules import Window
from limbeck.training.learning_rate import BY_EPOCH

AHEAD = 3


@cache
def plain() -> Run:
    return Run().train()


def renamed(row: Row, old: str, new: str) -> Row:
    """The row with another spelling of a target; what is no text stays."""
    arguments = json.loads(json.dumps(row.arguments, default=lambda rounding: rounding.__name__).replace(old, new))
    return replace(row, arguments={**arguments, **{key: value for key, value in row.arguments.items() if callable(value)}})


# --- bit for bit -----------------------------------------------------------------------------------------------------------------------


def resumes(row: Row) -> None:
    """What is loaded is what was saved, and the three places after it are those of the run that went on; from the first one to the end."""
    whole = Run(row).train(saves=SAVES)
    for place, saved in enumerate(whole.taken):
        part = Run(row).load(saved)
        assert same(part.state(), saved), place
        expected = whole.taken[place + 1 :][: SAVES if place == 0 else AHEAD]
        if expected:
            part.train(saves=len(expected))
            assert all(same(one, other) for one, other in zip(part.taken, expected, strict=True)), place


@every_component_and_extension
def test_law_a_run_resumed_at_any_step_is_equal_bit_for_bit(row: Row) -> None:
    resumes(row)


@every_combination
def test_law_a_run_resumes_under_every_argument_of_a_policy(row: Row) -> None:
    resumes(row)


@every_component_and_extension
def test_law_a_run_repeats_itself_and_instances_share_nothing(row: Row) -> None:
    first, second = Run(row).train(), Run(row).train()
    assert same(first.state(), second.state())
    assert first.rates == second.rates


@every_component_and_extension
def test_law_a_copied_model_goes_on_as_the_one_that_was_copied(row: Row) -> None:
    """Copies are taken within a step too, as averages of weights are; the scheduler of a copy is rebuilt from its state."""
    run, steps = Run(row), iter(range(EPOCHS * STEPS))
    copies: list[Run] = []
    for _ in run.scheduler.epochs(EPOCHS):
        for words in run.scheduler.steps(BATCHES):
            loss = run.scheduler.loss(objective(run.model, words))
            within = copy.deepcopy(run.model)
            assert equal(within.state_dict(), run.model.state_dict())
            assert within.head.weight is within.table.weight
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            step = next(steps)
        run.scheduler.metrics(loss=float(step // STEPS % 2))
        copies.append(Run(row, model=copy.deepcopy(run.model)).load(run.state(), ("scheduler", "optimizer")))
    assert equal(run.model.state_dict(), Run(row).train().model.state_dict())
    twin = copies[1]
    assert twin.scheduler.clock.epoch == 1
    rest = twin.train()
    assert equal(rest.model.state_dict(), run.model.state_dict())


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[Net, nn.Module]]:
    """One model that is compiled once for all components: each starts it from fresh weights."""
    model = copy.deepcopy(FRESH)
    yield model, torch.compile(model, backend="eager")  # type: ignore[misc]  # torch gives compile no types
    torch.compiler.reset()


@every_component
def test_law_a_compiled_model_is_the_same_model(row: Row, compiled: tuple[Net, nn.Module]) -> None:
    model, faster = compiled
    model.load_state_dict(FRESH.state_dict())
    run = Run(row, model=model, wrap=lambda _: faster).train()
    assert equal(run.model.state_dict(), Run(row).train().model.state_dict())


@every_component_and_extension
def test_law_a_wrapped_model_is_the_same_model(row: Row) -> None:
    assert equal(Run(row, wrap=nn.DataParallel).train().model.state_dict(), Run(row).train().model.state_dict())


# --- the two routes --------------------------------------------------------------------------------------------------------------------


def drives(row: Row) -> None:
    by_hooks, model = Run(row).train(), copy.deepcopy(FRESH)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    scheduler = attach(optimizer, model, row.action(), row.window)
    for _ in range(EPOCHS):
        for words in BATCHES:
            optimizer.zero_grad()
            objective(model, words).backward()
            optimizer.step()
            assert all(not scheduler.state.parameters[name].parameter[~keep].any() for name, keep in scheduler.masks.items())
    if row.section == "regularizers" and TIED in row.targets:  # three gradients are added, in another order
        torch.testing.assert_close(model.state_dict(), by_hooks.model.state_dict())
    else:
        assert equal(model.state_dict(), by_hooks.model.state_dict())
    assert equal(dict(scheduler.masks.items()), dict(by_hooks.scheduler.masks.items()))
    assert optimizer.param_groups[0]["lr"] == by_hooks.optimizer.param_groups[0]["lr"]


@every_component
def test_law_the_optimizer_s_route_is_that_of_the_hooks(row: Row) -> None:
    if row.name in BY_EPOCH:
        return
    options = {name: value for name, value in row.options.items() if name != "mini_batch_pruning_frequency"}
    drives(with_options(row, "step", options))


@every_combination
def test_law_the_optimizer_s_route_knows_every_argument_of_a_policy(row: Row) -> None:
    if row.window.unit == "step":
        drives(row)


# --- what is left alone ----------------------------------------------------------------------------------------------------------------


@every_component
def test_law_nothing_happens_before_the_window_opens_and_something_within(row: Row) -> None:
    run = Run(row).train()
    opens = row.window.begin * (1 if row.window.unit == "step" else STEPS) - bool(row.options.get("after_step"))
    unchanged = [equal(one, other) for one, other in zip(plain().history, run.history, strict=True)]
    assert all(unchanged[:opens])
    assert not unchanged[-1]


@every_component_and_extension
def test_law_the_model_keeps_its_names_and_its_parameters(row: Row) -> None:
    run = Run(row)
    keys, parameters = list(run.model.state_dict()), [id(weight) for weight in run.model.parameters()]
    run.train()
    assert list(run.model.state_dict()) == keys
    assert [id(weight) for weight in run.model.parameters()] == parameters
    assert all(weight.is_leaf and not weight._backward_hooks for weight in run.model.parameters())
    assert run.model.head.weight is run.model.table.weight
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in run.model.modules())


def touches_its_own(row: Row) -> None:
    """With a learning rate of 0 nothing moves but by the component: its own tensors, and these only to zero."""
    other = (Window(0, 4), Prune(level_pruner({"next.bias": 0.5, "norm.bias": 0.25})))
    alone, run = Run(lr=0, others=[other]).train(), Run(row, lr=0, others=[other]).train()
    for name, weight in alone.model.named_parameters():
        after = dict(run.model.named_parameters())[name]
        assert torch.equal(after, weight) if name not in row.targets else zeroed(row, run, name, weight), name
    for one, two in zip(alone.masks, run.masks, strict=True):
        assert all(torch.equal(two[name], mask) for name, mask in one.items())
        assert set(two) <= {*one, *row.targets}


def zeroed(row: Row, run: Run, name: str, before: Tensor) -> bool:
    """Whether a target is what it was, but for zeros: those of its masks, and with a dense copy those of the last one."""
    after, masks = run.scheduler.state.parameters[name].parameter, run.scheduler.masks
    if row.section != "pruners":
        return torch.equal(after, torch.where(after == 0, 0.0, before))
    keeps = [seen[name] for seen in run.masks if name in seen]
    last = keeps[-1] if name in masks else torch.ones_like(before, dtype=torch.bool)
    ever = torch.stack([last, *keeps]).all(0)
    if row.options.get("use_double_copies"):
        scale = last.numel() / int(last.count_nonzero()) if row.pruner().rescale and name in masks else 1.0
        dense = torch.equal(masks.dense(name), before) or row.options.get("keep_mask", False)
        return dense and torch.equal(after, before * last * scale)
    return torch.equal(after[ever], before[ever]) and torch.equal(after, torch.where(after == 0, 0.0, before))


@every_target
def test_law_a_policy_touches_its_own_tensors_only(row: Row) -> None:
    touches_its_own(row)


@every_combination
def test_law_no_argument_of_a_policy_reaches_further(row: Row) -> None:
    touches_its_own(row)


@every_combination
def test_law_no_argument_shows_a_masked_weight_that_is_not_zero(row: Row) -> None:
    run = Run(row).train(saves=SAVES + 1)  # which looks at every place from which a weight is seen
    discards = row.options.get("discard_masks_at_minibatch_end")
    assert all(sorted(masks) == ([] if discards else sorted(row.targets)) for masks in run.masks[-STEPS:]) or discards


# --- names -----------------------------------------------------------------------------------------------------------------------------


@every_target
def test_law_a_target_that_matches_nothing_shows_before_training(row: Row) -> None:
    name = row.targets[0]
    module, attribute = name.split(".")
    with pytest.raises(TargetError, match=rf"did you mean .*'{name}'"):
        Run(renamed(row, name, f"{module[:-1]}.{attribute}"))


@every_target
def test_law_a_wrapper_s_spelling_names_the_same_tensor(row: Row) -> None:
    name = row.targets[0]
    assert equal(Run(renamed(row, name, f"module.{name}")).train().model.state_dict(), Run(row).train().model.state_dict())


@every_target
def test_law_tied_weights_stay_tied_and_are_pruned_once(row: Row) -> None:
    """By either name, or by both."""
    if MATRIX not in row.targets or TIED in row.targets:
        return
    first, second = Run(renamed(row, MATRIX, TIED)).train(), Run(renamed(row, MATRIX, ALIAS)).train()
    assert equal(first.model.state_dict(), second.model.state_dict())
    assert first.model.head.weight is first.model.table.weight
    assert ALIAS not in first.scheduler.masks
    assert row.section != "pruners" or TIED in first.scheduler.masks


# --- what comes of it ------------------------------------------------------------------------------------------------------------------


@every_pruner
def test_law_only_the_targets_are_masked_and_something_is_dropped_and_something_kept(row: Row) -> None:
    run = Run(row).train()
    assert set(run.scheduler.masks) == set(row.targets)
    for name, keep in run.scheduler.masks.items():
        weight = run.scheduler.state.parameters[name].parameter
        assert int(weight.count_nonzero()) == int(keep.count_nonzero()) > 0
    assert not all(keep.all() for _, keep in run.scheduler.masks.items())


@every_rate
def test_law_a_learning_rate_is_finite_and_not_negative_and_stays_after_its_window(row: Row) -> None:
    rates = Run(row).train(9).rates
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    assert len(set(rates[8:])) == 1


@pytest.mark.filterwarnings("ignore:thinning left in the model:limbeck.errors.ScheduleWarning")
@pytest.mark.parametrize("row", EXTENSION_ROWS, ids=str)
def test_law_an_extension_takes_out_what_its_pruner_has_zeroed_and_no_more(row: Row) -> None:
    """With a learning rate of 0 the thinned model computes what the masked one does."""
    assert row.beside is not None
    run, masked = Run(row, lr=0).train(), Run(row.beside, lr=0, inputs=(BATCHES[0],)).train()
    assert run.scheduler.recipes
    with torch.no_grad():
        assert torch.allclose(objective(run.model.eval(), BATCHES[1]), objective(masked.model.eval(), BATCHES[1]), atol=1e-6)
    assert len(run.model.conv.weight) == int(masked.scheduler.masks["conv.weight"].flatten(1).any(1).sum()) + len(fallen_since(run))


def fallen_since(run: Run) -> list[int]:
    """The filters that have fallen since the last thinning."""
    keep = run.scheduler.masks["conv.weight"].flatten(1).any(1)
    return (~keep).nonzero().reshape(-1).tolist()
