"""Thinning in the middle of a schedule: it goes on as the masked run would, and resumes bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from limbeck import attach, load_schedule
from limbeck.apps._tree import decode, encode
from limbeck.errors import CaptureError, CheckpointError, MaskError, RecipeError, ScheduleError, ScheduleWarning
from limbeck.events import Action
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.methods import PRUNERS
from limbeck.recipes import Recipe
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.thinning import Thin, replay, thin_now
from limbeck.tile import FILTERS
from limbeck.training import LearningRate

EPOCHS, STEPS = 6, 3
BATCHES = torch.randn(STEPS, 4, 6, generator=torch.Generator().manual_seed(1))
Optimizers = Callable[[list[nn.Parameter]], Optimizer]
Schedule = list[tuple[Window, Action]]
FILTERS_AGP = {"initial_sparsity": 0.0, "final_sparsity": 0.6, "group_type": "Filters", "weights": ["a.weight", "b.weight"]}


class Net(nn.Module):
    """Layers without a bias, so that a zero row is a zero unit; a residual sum, in which a unit goes when all of its rows are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12, bias=False), nn.Linear(12, 10, bias=False)
        self.c, self.d = nn.Linear(10, 10, bias=False), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.d(torch.relu(self.c(x)))


def fresh() -> Net:
    torch.manual_seed(2)
    return Net()


def agp() -> Prune:
    return Prune(PRUNERS["L1RankedStructureParameterPruner_AGP"](**FILTERS_AGP))


def filters(name: str, options: Mapping[str, Any] | None = None, **arguments: Any) -> Prune:
    return Prune(PRUNERS[name](**{"group_type": "Filters", "weights": ["a.weight"], **arguments}), **(options or {}))


class Enough(Exception):  # noqa: N818  # no error: as many states are saved as were asked for
    """Ends a run."""


class Run:
    """Trains, and saves after every step and every epoch."""

    def __init__(self, schedule: Schedule, optimizer: Optimizers, inputs: bool = True) -> None:
        self.model = fresh()
        self.optimizer = optimizer(list(self.model.parameters()))
        self.scheduler = Scheduler(self.model, schedule, self.optimizer, example_inputs=(BATCHES[0],) if inputs else None)
        self.most = 0
        self.taken: list[tuple[str, dict[str, Tensor]]] = []

    def train(self, epochs: int = EPOCHS, saves: int = 0) -> Run:
        """To the end, or until so many states have been saved."""
        self.most = saves
        with suppress(Enough):
            self._train(epochs)
        return self

    def _train(self, epochs: int) -> None:
        for _ in self.scheduler.epochs(epochs, self.save):
            for x in self.scheduler.steps(BATCHES, self.save):
                self.step(x)

    def step(self, x: Tensor) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.scheduler.loss(self.model(x).square().mean())
            loss.backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()

    def save(self) -> None:
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        tree, tensors = encode({name: dict(part) for name, part in parts.items()})
        self.taken.append((json.dumps(tree), copy.deepcopy(tensors)))
        if len(self.taken) == self.most:
            raise Enough

    def load(self, saved: tuple[str, dict[str, Tensor]]) -> Run:
        tree = decode(json.loads(saved[0]), copy.deepcopy(saved[1]))
        replay([Recipe.from_json(text) for text in tree["scheduler"]["recipes"]], self.model)
        self.model.load_state_dict(tree["model"])
        self.scheduler.load_state_dict(tree["scheduler"])
        self.optimizer.load_state_dict(tree["optimizer"])
        return self


def same(one: tuple[str, dict[str, Tensor]], other: tuple[str, dict[str, Tensor]]) -> bool:
    return one[0] == other[0] and one[1].keys() == other[1].keys() and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


OPTIMIZERS: dict[str, Optimizers] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, amsgrad=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=1e-2),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=1e-3),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3, history_size=4),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
TWICE = Window(only=(2, 4))
SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "before its pruner in the list": lambda: [(TWICE, Thin()), (Window(0, 5), agp())],
    "by step": lambda: [(Window(0, 15, 2, "step"), agp()), (Window(4, 15, 4, "step"), Thin())],
    "soft masks": lambda: [
        (Window(0, 5), filters("L1RankedStructureParameterPruner", {"use_double_copies": True}, desired_sparsity=0.4)),
        (TWICE, Thin()),
    ],
    "masks of the forward pass": lambda: [
        (Window(0, 5), filters("L1RankedStructureParameterPruner", {"mask_on_forward_only": True}, desired_sparsity=0.4)),
        (TWICE, Thin()),
    ],
    "gradients that add up": lambda: [
        (Window(1, 5), filters("GradientRankedFilterPruner_AGP", {"mini_batch_pruning_frequency": 2}, initial_sparsity=0.1, final_sparsity=0.6)),
        (TWICE, Thin()),
    ],
    "sums that last": lambda: [(Window(1, 5), agp()), (TWICE, Thin()), (Window(1, 6), Prune(PRUNERS["MovementPruner"](weights=["d.weight"], sparsity=0.3)))],
    "activations": lambda: [
        (Window(1, 5), filters("ActivationMeanRankedFilterPruner_AGP", initial_sparsity=0.1, final_sparsity=0.6)),
        (Window(1, 6, 2), Prune(PRUNERS["WandaPruner"](weights=["c.weight"], sparsity=0.3))),
        (TWICE, Thin()),
    ],
    "a number measured once": lambda: [
        (Window(0, 6), Prune(PRUNERS["SensitivityPruner"](sensitivities={"c.weight": 0.5}))),
        (Window(0, 5), agp()),
        (TWICE, Thin()),
    ],
    "put off by a minibatch": lambda: [
        (Window(2, 5), filters("L1RankedStructureParameterPruner", {"skip_first_minibatch": True}, desired_sparsity=0.4)),
        (Window(only=(2,)), Thin()),
    ],
    "learning rates by epoch": lambda: [(Window(0, 5), agp()), (TWICE, Thin()), (Window(1, 6), LearningRate("ExponentialLR", {"gamma": 0.7}))],
    "learning rates by step": lambda: [
        (Window(0, 5), agp()),
        (TWICE, Thin()),
        (Window(0, 18, 1, "step"), LearningRate("OneCycleLR", {"max_lr": 0.1, "total_steps": 18})),
    ],
}  # fmt: skip
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
quiet = pytest.mark.filterwarnings("ignore:thinning:limbeck.errors.ScheduleWarning")


def resumes(schedule: Callable[[], Schedule], optimizer: Optimizers, every: int = 5) -> None:
    whole = Run(schedule(), optimizer).train()
    assert whole.scheduler.recipes
    for place, saved in list(enumerate(whole.taken))[::every]:
        part = Run(schedule(), optimizer).load(saved)
        part.save()
        assert same(part.taken.pop(), saved), place
        if expected := whole.taken[place + 1 :][: every if place else None]:
            part.train(saves=len(expected))
            assert all(same(one, other) for one, other in zip(part.taken, expected, strict=True)), place


@quiet
@every_schedule
def test_a_run_that_is_resumed_at_any_step_ends_equal_bit_for_bit(schedule: Callable[[], Schedule]) -> None:
    resumes(schedule, OPTIMIZERS["sgd"])


@quiet
@every_optimizer
def test_it_does_under_every_optimizer(optimizer: Optimizers) -> None:
    resumes(SCHEDULES["before its pruner in the list"], optimizer)


@quiet
@every_optimizer
def test_a_thinned_run_goes_on_as_the_masked_one_would(optimizer: Optimizers) -> None:
    """All that the optimizer keeps of a unit goes with it, and no more."""
    thinned = Run([(Window(0, 3), agp()), (Window(only=(2,)), Thin())], optimizer)
    masked = Run([(Window(0, 3), agp())], optimizer)
    for run in (thinned, masked):
        for parameter in (run.model.a.weight, run.model.b.weight):
            parameter.data[::3] *= 1e-3  # which rows fall is not a matter of rounding
        run.train()
    assert thinned.model.a.weight.shape == (5, 6)
    assert thinned.model.b.weight.shape == (4, 5)
    with torch.no_grad():
        one, other = thinned.model(BATCHES[0]), masked.model(BATCHES[0])
    factored = isinstance(thinned.optimizer, torch.optim.Adafactor | torch.optim.LBFGS)  # whose steps depend on all entries at once
    assert torch.allclose(one, other, atol=0.1 if factored else 1e-5)


@quiet
def test_levels_are_fractions_of_what_there_was_at_first() -> None:
    """Thinning at every firing leaves as many units as thinning once does: 12 of which 7, and 10 of which 6 fall."""
    for thinnings in ([5], range(6)):
        run = Run([(Window(0, 5), agp()), (Window(only=tuple(thinnings)), Thin())], OPTIMIZERS["sgd"]).train()
        assert (run.model.a.out_features, run.model.b.out_features) == (5, 4)
        assert run.scheduler.state.removed["a.weight"] == {0: 7}
        assert run.scheduler.state.removed["c.weight"] == {1: 6}


@quiet
def test_a_leader_s_and_a_global_level_do_not_compound_either() -> None:
    led = {"weights": ["b.weight", "c.weight"], "group_dependency": "Leader"}
    run = Run(
        [(Window(0, 4), filters("L1RankedStructureParameterPruner", desired_sparsity=0.3, **led)), (Window(0, 4), Thin())],
        OPTIMIZERS["sgd"],
    )
    run.train()
    assert (run.model.b.out_features, run.model.c.out_features) == (7, 7)
    together = Pruner({"a.weight": 0.5, "b.weight": 0.5}, unit=FILTERS, pool=None)
    run = Run([(Window(0, 4), Prune(together)), (Window(0, 4), Thin())], OPTIMIZERS["sgd"]).train()
    assert run.model.a.out_features + run.model.b.out_features == 11


def test_each_firing_thins_once_and_after_the_pruners() -> None:
    seen: list[tuple[int, int, int]] = []

    class Look(Action):
        def thinned(self, state: Any, window: Window, recipe: Recipe) -> None:
            seen.append((state.clock.epoch, state.clock.minibatch, len(recipe.cuts)))

    Run([(Window(0, 2), Thin()), (Window(0, 2), agp()), (Window(), Look())], OPTIMIZERS["sgd"]).train()
    assert seen == [(1, 0, 4)]  # nothing falls in epoch 0


def test_a_pruner_that_is_put_off_is_waited_for() -> None:
    schedule = SCHEDULES["put off by a minibatch"]()
    run = Run(schedule, OPTIMIZERS["sgd"])
    widths = []
    for _ in run.scheduler.epochs(3):
        for x in run.scheduler.steps(BATCHES):
            widths.append(run.model.a.out_features)
            run.step(x)
    assert widths == [12] * 7 + [8, 8]


def test_an_optimizer_that_drives_thins_between_its_steps() -> None:
    model = fresh()
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    schedule: Schedule = [(Window(1, 6, 1, "step"), agp()), (Window(4, 5, 1, "step"), Thin((4, 6)))]
    scheduler = attach(optimizer, model, schedule)
    widths = []
    for step in range(7):
        optimizer.zero_grad()
        model(BATCHES[step % STEPS]).square().mean().backward()
        optimizer.step()
        widths.append(model.a.out_features)
    assert widths == [12, 12, 12, *[model.a.out_features] * 4]
    assert model.a.out_features < 12
    assert len(scheduler.recipes) == 1


def test_a_loop_may_thin_when_it_sees_fit() -> None:
    run = Run([(Window(0, 1), filters("L1RankedStructureParameterPruner", desired_sparsity=0.1))], OPTIMIZERS["sgd"]).train(1)
    recipe = thin_now(run.scheduler.state)
    assert [(cut.tensor, len(cut.kept)) for cut in recipe.cuts] == [("a.weight", 11), ("b.weight", 11)]
    assert run.scheduler.recipes == (recipe,)
    run.train(2)


def test_without_inputs_a_thinning_is_refused_before_training() -> None:
    with pytest.raises(ScheduleError, match=r"give input_shape, as in .*, or a dataset to the extension, or example_inputs"):
        Run([(TWICE, Thin())], OPTIMIZERS["sgd"], inputs=False)
    with pytest.raises(ScheduleError, match="give the scheduler example_inputs"):
        thin_now(Scheduler(fresh()).state)
    with pytest.raises(ScheduleError, match="example_inputs is a tuple"):
        Scheduler(fresh(), example_inputs=BATCHES[0])  # type: ignore[arg-type]  # what it refuses


def test_a_model_that_cannot_be_captured_is_refused_before_training() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    with pytest.raises(CaptureError, match=r"test_schedule\.py"):
        Scheduler(Branching(), [(TWICE, Thin((1, 2)))])


def test_an_optimizer_s_state_that_cannot_be_cut_is_named_and_nothing_is_changed() -> None:
    run = Run([(Window(0, 1), filters("L1RankedStructureParameterPruner", desired_sparsity=0.5))], OPTIMIZERS["sgd"]).train(1)
    before = copy.deepcopy(run.model.state_dict())
    run.optimizer.state[run.model.a.weight]["preconditioner"] = torch.eye(7)
    with pytest.raises(
        RecipeError, match=r"the optimizer keeps 'preconditioner' of shape \(7, 7\) of 'a.weight', which thinning cannot cut; clear it"
    ):
        thin_now(run.scheduler.state)
    assert all(torch.equal(before[name], tensor) for name, tensor in run.model.state_dict().items())
    assert run.scheduler.recipes == ()
    run.train(2)


def test_units_that_the_new_size_does_not_divide_into_are_named() -> None:
    blocks = Prune(PRUNERS["L1RankedStructureParameterPruner"]("Blocks", 0.5, ["c.weight"], kwargs={"block_shape": [1, 5]}))
    run = Run([(Window(3, 5), blocks), (Window(0, 2), agp()), (Window(only=(1,)), Thin())], OPTIMIZERS["sgd"])
    with pytest.raises(
        MaskError, match=r"thinned, 'c.weight' cannot be cut into units: .* 5 does not divide 4; let the pruner's window end"
    ):
        run.train()


def test_the_state_of_a_thinned_run_is_refused_by_a_model_that_is_not() -> None:
    run = Run([(Window(0, 3), agp()), (Window(only=(2,)), Thin())], OPTIMIZERS["sgd"]).train(3)
    with pytest.raises(
        CheckpointError, match=r"the checkpoint's model was thinned and this one was not so: 'a.weight' has shape \(12, 6\), not 5"
    ):
        Run([(Window(0, 3), agp()), (Window(only=(2,)), Thin())], OPTIMIZERS["sgd"]).scheduler.load_state_dict(run.scheduler.state_dict())


def test_what_stays_though_it_is_zero_is_told_once() -> None:
    pruner = filters("L1RankedStructureParameterPruner", desired_sparsity=0.2, weights=["d.weight"])
    run = Run([(Window(0, 4), pruner), (Window(0, 4), Thin())], OPTIMIZERS["sgd"])
    message = "thinning took nothing out of the model, though it is zero:\n  d.weight: 1 of 5 along axis 0 .*it is the model's output"
    with pytest.warns(ScheduleWarning, match=message) as told:
        run.train()
    assert len(told) == 1


def test_a_compiled_model_is_thinned_and_compiled_anew() -> None:
    model = fresh()
    compiled = torch.compile(model, backend="eager")
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    scheduler = Scheduler(compiled, [(Window(0, 3), agp()), (Window(only=(2,)), Thin((4, 6)))], optimizer)  # type: ignore[arg-type]  # torch gives it no types
    for _ in scheduler.epochs(4):
        for x in scheduler.steps(BATCHES):
            optimizer.zero_grad()
            compiled(x).square().mean().backward()
            optimizer.step()
    twin = Run([(Window(0, 3), agp()), (Window(only=(2,)), Thin((4, 6)))], OPTIMIZERS["sgd"], inputs=False).train(4)
    assert model.a.out_features == 5
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.model.parameters(), strict=True))
    torch.compiler.reset()


# --- the schedule file -----------------------------------------------------------------------------------------------------------------

FILE = """
version: 1
pruners:
  filters: {class: L1RankedStructureParameterPruner_AGP, initial_sparsity: 0.0, final_sparsity: 0.6, group_type: Filters, weights: [module.a.weight]}
extensions:
  net_thinner: {class: FilterRemover, thinning_func_str: remove_filters, input_shape: [1, 6]}
policies:
  - pruner: {instance_name: filters}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
  - extension: {instance_name: net_thinner}
    epochs: [3]
"""


@pytest.mark.parametrize("inputs", [None, (BATCHES[0],)])
def test_an_extension_of_a_file_thins(inputs: tuple[Tensor, ...] | None) -> None:
    model = fresh()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    scheduler = load_schedule(FILE, model, optimizer, example_inputs=inputs)
    widths = []
    for _ in scheduler.epochs(5):
        for x in scheduler.steps(BATCHES):
            optimizer.zero_grad()
            scheduler.loss(model(x).square().mean()).backward()
            optimizer.step()
        widths.append(model.a.out_features)
    assert widths == [12, 12, 12, 5, 5]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("remove_filters", "remove_everything", "line 6, extensions.net_thinner.thinning_func_str: .*'remove_filters'"),
        ("input_shape: [1, 6]", "dataset: cifar100", "line 6, extensions.net_thinner.dataset: .*'cifar10'"),
        ("input_shape: [1, 6]", "input_shape: [1, 0]", "line 6, extensions.net_thinner.input_shape"),
        ("FilterRemover", "FilterRemove", "no extension class is named 'FilterRemove'; did you mean 'FilterRemover'"),
        ("input_shape", "imput_shape", "FilterRemover has no 'imput_shape'; did you mean 'input_shape'"),
    ],
)
def test_faults_of_an_extension_are_named(old: str, new: str, fault: str) -> None:
    with pytest.raises(ScheduleError, match=fault):
        load_schedule(FILE.replace(old, new), fresh())


def test_an_extension_without_a_shape_asks_for_one() -> None:
    with pytest.raises(ScheduleError, match="give input_shape"):
        load_schedule(FILE.replace(", input_shape: [1, 6]", ""), fresh())


def test_the_state_holds_what_the_recipes_say() -> None:
    run = Run([(Window(0, 5), agp()), (TWICE, Thin())], OPTIMIZERS["sgd"]).train()
    kept = [{(cut.tensor, cut.axis): len(cut.kept) for cut in recipe.cuts}["a.weight", 0] for recipe in run.scheduler.recipes]
    assert all(later < earlier for earlier, later in pairwise(kept))
    assert kept[-1] == run.model.a.out_features


def test_levels_count_from_what_a_model_came_with() -> None:
    first = Run([(Window(0, 5), agp()), (Window(only=(5,)), Thin())], OPTIMIZERS["sgd"]).train()
    half = filters("L1RankedStructureParameterPruner", desired_sparsity=0.4)
    second = Run([(Window(0, 1), half), (Window(only=(0,)), Thin())], OPTIMIZERS["sgd"])
    replay(first.scheduler.recipes, second.model)
    second.scheduler.inherit(first.scheduler.recipes)
    second.train(1)
    assert second.model.a.out_features == 3  # of 5, of which 40 % fall
    assert len(second.scheduler.recipes) == 2
    third = Run([(Window(0, 1), half), (Window(only=(0,)), Thin())], OPTIMIZERS["sgd"])
    replay(second.scheduler.recipes, third.model)
    third.scheduler.load_state_dict(second.scheduler.state_dict())
    assert third.scheduler.state.removed == second.scheduler.state.removed


def test_gradients_in_buckets_are_refused(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(ScheduleError, match=r"DistributedDataParallel collects gradients in buckets .* thin it after training"):
            Scheduler(nn.parallel.DistributedDataParallel(fresh()), [(TWICE, Thin((4, 6)))])
    finally:
        distributed.destroy_process_group()
