"""One optimizer step: where a run stands in it, and what happens around ``optimizer.step()``, whoever calls that."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from limbeck.errors import ScheduleError, ScheduleWarning
from limbeck.events import AFTER_STEP, Policies, State
from limbeck.schedules import Clock

PENALTIES = "before_backward_pass"


class Steps:
    """The steps of one run: begun by a minibatch or by the step before, prepared, made by an optimizer, counted."""

    def __init__(self, state: State, policies: Policies) -> None:
        self._state, self._policies = state, policies
        self.begun = False  # the step that comes next has had its first minibatch
        self.stepped = False  # the optimizer has stepped since the last step that was counted
        self.components: dict[str, Tensor] = {}
        self._penalties_due = self._penalties_asked = False  # in this epoch
        self._warned = False  # that penalties were not asked for
        self._masked = False  # since an optimizer step after which nothing else may move a masked parameter
        self._prepared = False  # before_parameter_optimization has run for this step
        self._skipped = False  # a gradient scaler lets the optimizer step without an update
        self._driver: Optimizer | None = None
        self._followed: WeakKeyDictionary[Optimizer, tuple[int, frozenset[int]]] = WeakKeyDictionary()

    @property
    def driven(self) -> bool:
        """Whether ``optimizer.step()`` is all that is called."""
        return self._driver is not None

    def follow(self, optimizer: Optimizer) -> None:
        """See every ``optimizer.step()``; raises ``ScheduleError`` for an optimizer of another model."""
        own = {id(named.parameter) for named in self._state.parameters.values()}
        if own and own.isdisjoint(_ids(optimizer)):
            raise ScheduleError(
                f"the {type(optimizer).__name__} optimizer holds none of the model's parameters, so that no step of it changes them; "
                "build it from the parameters of the model that the scheduler is given"
            )
        if optimizer not in self._followed:
            self._followed[optimizer] = 0, frozenset()
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def drive(self, optimizer: Optimizer) -> None:
        """Let every ``optimizer.step()`` be a step, the first one too."""
        self._driver = optimizer
        self._policies.watch("watch_minibatch", self._state)

    def refuse_driven(self) -> None:
        """Raise ``ScheduleError`` where the loop calls what the optimizer drives."""
        if self.driven:
            raise ScheduleError("optimizer.step() drives this scheduler, penalties included: leave its hooks, epochs, steps and loss out")

    def restore(self, begun: bool, stepped: bool) -> None:
        """Stand where a saved run stood."""
        self.begun, self.stepped = begun, stepped
        if self.driven:
            self._policies.watch("watch_minibatch", self._state)

    def begin_epoch(self) -> None:
        """What fires in this epoch begins."""
        self._penalties_due = self._penalties_asked = False
        self._state.masks.follow()
        self._policies.run("on_epoch_begin", self._state)
        self._policies.watch("watch_epoch", self._state)

    def end_epoch(self) -> None:
        """What fires in this epoch ends; warns, once, where penalties were due and the loop has trained without them."""
        self._policies.run("on_epoch_end", self._state)
        self._policies.watch("watch_epoch_end", self._state)
        if self._penalties_due and not self._penalties_asked and not self._warned:
            self._warned = True
            names = sorted({type(action).__name__ for _, action in self._policies.pairs if hasattr(action, PENALTIES)})
            warnings.warn(
                f"{', '.join(names)} had penalties to add in epoch {self._state.clock.epoch}, and the loop trained without them: "
                "use loss = scheduler.loss(loss), or loss = scheduler.before_backward_pass(...), before loss.backward()",
                ScheduleWarning,
                stacklevel=3,
            )

    def begin(self) -> None:
        """A minibatch begins; of several in one step the first begins the step."""
        self.count_left()
        self._state.masks.follow()
        self._state.masks.close()
        self._masked = self._prepared = self.stepped = False
        first, self.begun = not self.begun, True
        self._policies.run("on_minibatch_begin", self._state, by_step=first)
        self._policies.watch("watch_minibatch", self._state)

    def penalties(self) -> dict[str, Tensor]:
        """The penalties of this step's policies by name; equal names are added up."""
        self._penalties_asked = True
        self.components = {}
        for name, penalty in self._policies.run(PENALTIES, self._state):
            self.components[name] = self.components[name] + penalty if name in self.components else penalty
        return self.components

    def prepare(self) -> None:
        """The gradients are complete, and the optimizer has not used them yet."""
        if self._prepared:
            return
        self._prepared = True
        if self.driven:
            self._add_penalty_gradients()
        self._note_penalties()
        self._policies.run("before_parameter_optimization", self._state)
        self._state.masks.open()
        self._policies.watch("watch_step", self._state)  # a movement score reads the dense weights

    def end(self, stepped: bool) -> None:
        """A minibatch ends; ``stepped`` says whether the step ends with it."""
        if stepped and not self.stepped:  # by an optimizer that is not followed
            self._refuse_unopened()
            self._fire_after_step()
        self._note_penalties()
        if not self._masked:
            self._state.masks.apply()
        self._policies.run("on_minibatch_end", self._state, by_step=stepped)
        self._policies.watch("watch_minibatch_end", self._state, by_step=stepped)
        if stepped:
            self._count()

    def count_left(self) -> None:
        """Count the step of a minibatch that the loop left by ``break`` after ``optimizer.step()``."""
        if self.begun and self.stepped:
            self._count()

    # --- inside ------------------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        clock = self._state.clock
        self._state.clock = Clock(clock.epoch, clock.minibatch, clock.step + 1)
        self.begun = self.stepped = False

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._skipped = _will_skip(optimizer)
        if self._skipped:
            return None
        _unscale(optimizer)
        if self._merely_follows(optimizer):
            self._state.masks.open()
            return None
        if optimizer is self._driver and not self.begun:
            self.begin()
            setattr(optimizer, "_opt_called", True)  # noqa: B010  # it steps now: torch's learning rates built in begin() need not warn
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self.prepare()
            return None
        if "closure" in kwargs:
            return args, {**kwargs, "closure": self._around(closure)}
        return (args[0], self._around(closure), *args[2:]), kwargs

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure whose forward pass sees masked weights, and whose gradients are prepared, each time that the optimizer calls it."""

        def evaluate() -> Any:
            self._state.masks.close()
            self._prepared = False
            loss = closure()
            self.prepare()
            return loss

        return evaluate

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._skipped:
            return
        if self._merely_follows(optimizer):
            self._state.masks.apply()
            return
        if self.begun and not self.stepped:
            self._fire_after_step()
        self._state.masks.apply()
        self._masked = self._state.masks.ids <= self._known_ids(optimizer)
        self._prepared, self.stepped = False, True
        if optimizer is self._driver:
            self.end(stepped=True)
            self.begin()

    def _merely_follows(self, optimizer: Optimizer) -> bool:
        """Whether another optimizer makes the steps, so that this one only has masks to follow."""
        return self.driven and optimizer is not self._driver

    def _fire_after_step(self) -> None:
        """Windows by step whose clock counts the step that was made."""
        if not self._policies.have(AFTER_STEP):
            return
        clock = self._state.clock
        self._state.clock = Clock(clock.epoch, clock.minibatch, clock.step + 1)
        try:
            self._policies.run(AFTER_STEP, self._state)
        finally:
            self._state.clock = clock

    def _note_penalties(self) -> None:
        """Gradients are used, or will be: were there penalties to be added before?"""
        if not self._penalties_due and self._policies.have(PENALTIES) and self._policies.due(PENALTIES, self._state.clock):
            self._penalties_due = any(named.parameter.grad is not None for named in self._state.parameters.values())

    def _refuse_unopened(self) -> None:
        if name := self._state.masks.unopened:
            raise ScheduleError(
                f"the mask of '{name}' is for the forward pass alone, and the optimizer's step was not seen; give the optimizer to the "
                "scheduler, or call before_parameter_optimization before optimizer.step()"
            )

    def _add_penalty_gradients(self) -> None:
        if not self._policies.have(PENALTIES):
            return
        with torch.enable_grad():
            penalties = [penalty for penalty in self.penalties().values() if penalty.requires_grad]
        self.components = {name: penalty.detach() for name, penalty in self.components.items()}
        parameters = [named.parameter for named in self._state.parameters.values() if named.parameter.requires_grad]
        if not penalties:
            return
        for parameter, grad in zip(parameters, torch.autograd.grad(penalties, parameters, allow_unused=True), strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _known_ids(self, optimizer: Optimizer) -> frozenset[int]:
        """The ``id`` of every parameter of a followed optimizer, formed anew when their number changes."""
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._followed.get(optimizer)
        if known is None or known[0] != count:
            known = self._followed[optimizer] = count, _ids(optimizer)
        return known[1]


def _ids(optimizer: Optimizer) -> frozenset[int]:
    return frozenset(id(parameter) for group in optimizer.param_groups for parameter in group["params"])


def _will_skip(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has found gradients that are not finite, and left it to a fused optimizer to make no update of them.

    Other optimizers are not even called then, after a look at the same number on the host.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _unscale(optimizer: Optimizer) -> None:
    """Divide gradients by the scale that a gradient scaler left to a fused optimizer: who reads them, or adds penalties, wants them as they are."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    setattr(optimizer, "grad_scale", None)  # noqa: B010  # as after scaler.unscale_(optimizer)
