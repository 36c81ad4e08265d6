"""The scheduler: walks the list of (window, action), owns the masks, and leaves the training loop to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakSet

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.errors import CheckpointError, ScheduleError
from limbeck.events import Action, State, hook, saved_state
from limbeck.masks import Masks
from limbeck.names import named_parameters
from limbeck.schedules import Clock, Moment, Window

B = TypeVar("B")


class Scheduler:
    """Compression on a schedule, for any training loop.

    The short form::

        scheduler = limbeck.load_schedule("agp.yaml", model, optimizer)
        for epoch in scheduler.epochs(40):
            for x, y in scheduler.steps(loader):
                loss = scheduler.loss(criterion(model(x), y))
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            scheduler.metrics(loss=evaluate(model))

    The long form calls the six hooks by hand, in the order that ``limbeck.events`` draws. Either way all masks are applied again after every
    ``optimizer.step()``, in every epoch, whether or not a policy is active: momentum and weight decay cannot revive a weight.

    >>> import torch
    >>> from limbeck.pruning import Prune, level_pruner
    >>> layer = nn.Linear(4, 2)
    >>> scheduler = Scheduler(layer, [(Window(0, 1), Prune(level_pruner({"weight": 0.5})))])
    >>> scheduler.on_epoch_begin(0)
    >>> int(layer.weight.count_nonzero())
    4
    """

    def __init__(
        self, model: nn.Module, schedule: Sequence[tuple[Window, Action]] = (), optimizer: Optimizer | None = None, text: str | None = None
    ) -> None:
        parameters = named_parameters(model)
        self._state = State(model, parameters, Masks(parameters))
        self._schedule: list[tuple[Window, Action]] = []
        self._epoch_open = False
        self._masked = False  # since an optimizer step after which nothing else may move a masked parameter
        self._prepared = False  # before_parameter_optimization has run for this step
        self._begun = False  # the step that comes next has had its first minibatch
        self._stepped = False  # the optimizer has stepped since the last step that was counted
        self._components: dict[str, Tensor] = {}
        self._followed: WeakSet[Optimizer] = WeakSet()
        self.text = text
        if optimizer is not None:
            self.attach(optimizer)
        for window, action in schedule:
            self.add(window, action)

    @property
    def clock(self) -> Clock:
        """The epoch, the minibatch in it and the optimizer step that come next; without an optimizer every minibatch is a step."""
        return self._state.clock

    @property
    def masks(self) -> Masks:
        """The masks, by canonical parameter name."""
        return self._state.masks

    @property
    def state(self) -> State:
        """What actions see."""
        return self._state

    @property
    def schedule(self) -> tuple[tuple[Window, Action], ...]:
        """The (window, action) pairs in the order in which they run."""
        return tuple(self._schedule)

    @property
    def loss_components(self) -> Mapping[str, Tensor]:
        """The penalties that were added to the last loss, by name."""
        return self._components

    def add(self, window: Window, action: Action) -> None:
        """Append a policy; raises what the action finds wrong with the model, before any training."""
        bind = getattr(action, "bind", None)
        if bind is not None:
            bind(self._state)
        self._schedule.append((window, action))

    def attach(self, optimizer: Optimizer) -> None:
        """Let the masks follow every ``optimizer.step()``, also in loops that call no hook of ours (LBFGS, trainers)."""
        self._state.optimizer = optimizer
        if optimizer not in self._followed:
            self._followed.add(optimizer)
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    # --- the six hooks -----------------------------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, optimizer: Optimizer | None = None, **_: Any) -> None:
        """Renew and apply the masks of the policies that fire in this epoch."""
        self._use(optimizer)
        self._state.clock = replace(self.clock, epoch=epoch, minibatch=0)
        self._epoch_open = True
        self._run("on_epoch_begin")

    def on_minibatch_begin(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """Renew and apply the masks of the policies that fire in this step, in its first minibatch if gradients add up over several."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        self._count_left()
        self._masked = self._prepared = self._stepped = False
        first, self._begun = not self._begun, True
        self._run("on_minibatch_begin", by_step=first)

    def before_backward_pass(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int | None,
        loss: Tensor,
        optimizer: Optimizer | None = None,
    ) -> Tensor:
        """The loss with the penalties of this step's policies added; use what it RETURNS. ``loss_components`` names the penalties."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        return self.loss(loss)

    def before_parameter_optimization(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """Between the backward pass and ``optimizer.step()``."""
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        self._prepare()

    def on_minibatch_end(
        self, epoch: int, minibatch_id: int, minibatches_per_epoch: int | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """After ``optimizer.step()``: all masks again, then thresholds and learning rates by step; the clock moves on.

        A minibatch in which an attached optimizer made no step only adds to the gradient: the steps stand still.
        """
        stepped = self._stepped or self._state.optimizer is None
        self._enter(epoch, minibatch_id, minibatches_per_epoch, optimizer)
        if not self._masked:
            self.masks.apply()
        self._run("on_minibatch_end", by_step=stepped)
        if stepped:
            self._count_step()
        self._state.clock = replace(self.clock, minibatch=minibatch_id + 1)

    def on_epoch_end(self, epoch: int, optimizer: Optimizer | None = None, metrics: Mapping[str, float] | None = None, **_: Any) -> None:
        """After the evaluation, with its ``metrics``: learning rates by epoch; the clock moves to the next epoch."""
        self._use(optimizer)
        self._count_left()
        self.metrics(**(metrics or {}))
        self._state.clock = replace(self.clock, epoch=epoch)
        self._run("on_epoch_end")
        self._state.metrics = {}
        self._epoch_open = False
        self._state.clock = replace(self.clock, epoch=epoch + 1, minibatch=0)

    # --- the short form ----------------------------------------------------------------------------------------------------------

    def epochs(self, total: int, after: Callable[[], None] | None = None) -> Iterator[int]:
        """The epochs up to ``total``, from where the clock stands; a resumed epoch is entered where it was left.

        ``after`` runs when an epoch is complete and the clock stands at the next: the place to save a checkpoint.
        """
        while (epoch := self.clock.epoch) < total:
            if not self._epoch_open:
                self.on_epoch_begin(epoch)
            yield epoch
            self.on_epoch_end(epoch)
            if after is not None:
                after()

    def steps(self, batches: Iterable[B], after: Callable[[], None] | None = None) -> Iterator[B]:
        """The batches of this epoch, from where the clock stands; ``after`` runs when a step is complete: the place to save a checkpoint.

        A sequence that slices is entered at once; any other iterable is read up to that place.
        Raises ``ScheduleError`` outside of an epoch.
        """
        if not self._epoch_open:
            raise ScheduleError(
                "no epoch has begun: loop over scheduler.epochs(N), or call on_epoch_begin(epoch), around scheduler.steps(...)"
            )
        epoch, start = self.clock.epoch, self.clock.minibatch
        total = len(batches) if isinstance(batches, Sized) else None
        rest: Iterable[B] = batches[start:] if isinstance(batches, Sequence) and start else islice(batches, start, None)
        for minibatch, batch in enumerate(rest, start):
            self.on_minibatch_begin(epoch, minibatch, total)
            yield batch
            self.on_minibatch_end(epoch, minibatch, total)
            if after is not None:
                after()

    def loss(self, loss: Tensor) -> Tensor:
        """The loss with the penalties of this step's policies added."""
        self._components = {}
        for name, penalty in self._run("before_backward_pass"):
            self._components[name] = self._components[name] + penalty if name in self._components else penalty
            loss = loss + penalty
        return loss

    def metrics(self, **values: float) -> None:
        """What the evaluation of this epoch measured, for learning rates that watch it: ``metrics(loss=...)``."""
        self._state.metrics.update({name: float(value) for name, value in values.items()})

    # --- state -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, except the model and the optimizer: clock, masks, measured numbers, the actions' own state."""
        clock = self.clock
        return {
            "clock": {"epoch": clock.epoch, "minibatch": clock.minibatch, "step": clock.step, "epoch_open": self._epoch_open},
            "step": {"begun": self._begun, "stepped": self._stepped},
            "masks": self.masks.state_dict(),
            "memo": {name: dict(numbers) for name, numbers in self._state.memo.items()},
            "metrics": dict(self._state.metrics),
            "actions": [[type(action).__name__, saved_state(action)] for _, action in self._schedule],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` was taken; load the model first and the optimizer's own state after it.

        Raises ``CheckpointError`` when the state belongs to another schedule.
        """
        here, there = [type(action).__name__ for _, action in self._schedule], [kind for kind, _ in saved["actions"]]
        if here != there:
            raise CheckpointError(
                f"the checkpoint's schedule has the actions {there}, this one {here}; resume with the schedule that was saved"
            )
        clock = dict(saved["clock"])
        self._epoch_open = bool(clock.pop("epoch_open"))
        self._state.clock = Clock(**clock)
        within = saved.get("step", {})  # checkpoints of earlier versions were taken between two steps
        self._begun, self._stepped = within.get("begun", False), within.get("stepped", False)
        self.masks.load_state_dict(saved["masks"])
        self._state.memo = {name: dict(numbers) for name, numbers in saved["memo"].items()}
        self._state.metrics = dict(saved["metrics"])
        for (_, action), (_, own) in zip(self._schedule, saved["actions"], strict=True):
            load = getattr(action, "load_state_dict", None)
            if load is not None:
                load(self._state, own)

    # --- inside ------------------------------------------------------------------------------------------------------------------

    def _enter(self, epoch: int, minibatch: int, steps: int | None, optimizer: Optimizer | None) -> None:
        self._use(optimizer)
        if self.clock.epoch != epoch or self.clock.minibatch != minibatch:
            self._state.clock = replace(self.clock, epoch=epoch, minibatch=minibatch)
        if steps is not None:
            self._state.steps_per_epoch = steps

    def _use(self, optimizer: Optimizer | None) -> None:
        if optimizer is not None and optimizer is not self._state.optimizer:
            self.attach(optimizer)

    def _count_step(self) -> None:
        self._state.clock = replace(self.clock, step=self.clock.step + 1)
        self._begun = self._stepped = False

    def _count_left(self) -> None:
        """Count the step of a minibatch that the loop left by ``break`` after ``optimizer.step()``."""
        if self._begun and self._stepped:
            self._count_step()

    def _run(self, event: str, by_step: bool = True) -> list[tuple[str, Tensor]]:
        """Call the hook of every action whose window, by epoch or ``by_step``, fires now; gives the penalties that they return."""
        returned: list[tuple[str, Tensor]] = []
        for window, action in self._schedule:
            call = hook(action, event)
            moment: Moment | None = None if call is None or (window.unit == "step" and not by_step) else window.at(self.clock)
            if call is not None and moment is not None:
                returned.extend((call(self._state, moment) or {}).items())
        return returned

    def _prepare(self) -> None:
        if not self._prepared:
            self._prepared = True
            self._run("before_parameter_optimization")

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._prepare()

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.masks.apply()
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._masked = all(id(self._state.parameters[name].parameter) in stepped for name in self.masks)
        self._prepared, self._stepped = False, True
