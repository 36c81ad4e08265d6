"""Signatures as schemas."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from limbeck.config.signature import Problem, signature
from limbeck.training.learning_rate import lr_schedulers


def builder(
    rate: float,
    steps: Iterable[int] = (),
    names: Sequence[str] | None = None,
    mode: Literal["min", "max"] = "min",
    copy: bool = False,
    groups: float | list[float] = 0.5,
    call: Callable[[int], float] | None = None,
) -> None: ...


def check(**arguments: object) -> tuple[dict[str, object], list[Problem]]:
    return signature(builder, "Builder").check(arguments)


def test_only_what_is_given_is_handed_on_coerced() -> None:
    assert check(rate=1, steps=[1, 2], copy=True) == ({"rate": 1.0, "steps": [1, 2], "copy": True}, [])
    assert check(rate="0.5", names=["a"], groups=[1]) == ({"rate": 0.5, "names": ["a"], "groups": [1.0]}, [])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, Problem("Builder needs 'rate'")),
        ({"rat": 1}, Problem("Builder has no 'rat'; did you mean 'rate'?", at=("rat",))),
        ({"rate": 1, "x": 1}, Problem("Builder has no 'x'; it has rate, steps, names, mode, copy, groups", at=("x",))),
        ({"rate": 1, "call": "f"}, Problem("Builder takes a Python function as 'call', which a schedule file cannot hold; leave it out", at=("call",))),
        ({"rate": None}, Problem("nothing should be a valid number", ("rate",), ("rate",))),
        ({"rate": 1, "mode": "mid"}, Problem("'mid' should be 'min' or 'max'", ("mode",), ("mode",))),
        ({"rate": 1, "groups": {}}, Problem("a mapping should be a valid number or a valid list", ("groups",), ("groups",))),
        ({"rate": 1, "steps": [1, "b"]},
         Problem("'b' should be a valid integer, unable to parse string as an integer", ("steps", 1), ("steps", 1))),
    ],
)  # fmt: skip
def test_problems(arguments: dict[str, object], problem: Problem) -> None:
    assert check(**arguments) == ({}, [problem])


def test_a_builder_that_takes_anything_gets_anything() -> None:
    def anything(first: int, *rest: int, **others: object) -> None: ...

    assert signature(anything, "Anything").check({"first": 1, "second": 2}) == ({"first": 1, "second": 2}, [])
    assert signature(dict, "dict").check({"second": 2}) == ({"second": 2}, [])


def test_unknown_annotations_accept_anything() -> None:
    def odd(first: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # that is the point

    assert signature(odd, "Odd").check({"first": [1]}) == ({"first": [1]}, [])


@pytest.mark.parametrize(("name", "builder"), lr_schedulers().items())
def test_every_argument_of_torchs_schedulers_is_checked(name: str, builder: Callable[..., object]) -> None:
    """Their annotations can be evaluated, though torch imports some of the names only for type checkers."""
    own = frozenset({"optimizer", "last_epoch"})
    found = signature(builder, name, own)
    fields: dict[str, Any] = found.json_schema().get("properties", {})
    assert set(fields) | found.functions == set(inspect.signature(builder).parameters) - own
    assert all(set(field) & {"type", "anyOf", "enum"} for field in fields.values())


def test_lists_reach_torch_as_lists() -> None:
    valid, problems = signature(lr_scheduler.MultiStepLR, "MultiStepLR", frozenset({"optimizer", "last_epoch"})).check(
        {"milestones": [2, 4]}
    )
    assert not problems
    scheduler = lr_scheduler.MultiStepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), **valid)  # type: ignore[arg-type]  # checked above
    assert sorted(scheduler.milestones) == [2, 4]
