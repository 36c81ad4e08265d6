"""Laws of regularizers: what a penalty is, what it pulls at, and what a threshold cuts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laws.rows import CONV, Row, every_penalty
from laws.runs import Run
from limbeck.regularization import REGULARIZERS
from limbeck.regularization.regularizers import Penalty

KINDS = ("normal", "small", "zeros", "one zero channel")


def penalty(row: Row) -> Penalty:
    [found] = REGULARIZERS[row.name](**row.arguments).targets.values()
    return found


def weight(row: Row, kind: str = "normal", precision: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn((8, 6, 2, 2) if CONV in row.targets else (7, 6), dtype=torch.float64)
    if kind == "zeros":
        values.zero_()
    elif kind == "one zero channel":
        values[:, 0] = 0.0
    elif kind == "small":
        values *= 1e-3
    return values.to(precision)


def gradient(function: object, at: Tensor) -> tuple[Tensor, Tensor]:
    leaf = at.clone().requires_grad_()
    value = function(leaf)  # type: ignore[operator]
    [grad] = torch.autograd.grad(value, leaf)
    return value.detach(), grad


@every_penalty
@pytest.mark.parametrize("kind", ["normal", "small", "one zero channel"])
def test_law_a_penalty_and_its_gradient_are_those_of_the_plain_formula(row: Row, kind: str) -> None:
    at = weight(row, kind)
    (value, grad), (expected, slope) = gradient(penalty(row).norm, at), gradient(row.dense, at)
    assert value.dim() == 0
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, slope.nan_to_num(0.0))  # a plain norm has 0 / 0 where a group is zero


@every_penalty
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_law_a_penalty_is_finite_everywhere_and_not_negative(row: Row, kind: str, precision: torch.dtype) -> None:
    value, grad = gradient(penalty(row).norm, weight(row, kind, precision))
    if (row.degree, kind, precision) == (-2, "small", torch.float16):
        return  # the slope of one over a small variance is beyond 65504, which is all that this precision holds
    assert torch.isfinite(value)
    assert value >= 0
    assert value.dtype == torch.float32
    assert grad.dtype == precision
    assert torch.isfinite(grad).all()


@every_penalty
def test_law_a_penalty_does_not_know_signs_nor_the_order_of_filters_and_channels(row: Row) -> None:
    at, norm = weight(row), penalty(row).norm
    signs = torch.randn_like(at).sign()
    for twin in (-at, at * signs, at.flip(0), at.flip(1), at[torch.randperm(len(at))]):
        torch.testing.assert_close(norm(twin), norm(at))


@every_penalty
def test_law_a_penalty_is_homogeneous_and_euler_s_theorem_holds_of_its_gradient(row: Row) -> None:
    at, norm = weight(row), penalty(row).norm
    torch.testing.assert_close(norm(3 * at), 3**row.degree * norm(at), rtol=1e-6, atol=0)
    value, grad = gradient(norm, at)
    torch.testing.assert_close((grad * at).sum(), row.degree * value, rtol=1e-6, atol=0)


@every_penalty
def test_law_a_norm_obeys_the_triangle_inequality(row: Row) -> None:
    if row.degree == 1:
        one, other, norm = weight(row), weight(row), penalty(row).norm
        assert norm(one + other) <= norm(one) + norm(other)
        assert norm(0.3 * one + 0.7 * other) <= 0.3 * norm(one) + 0.7 * norm(other) + 1e-9


@every_penalty
def test_law_a_step_down_its_gradient_makes_a_penalty_smaller(row: Row) -> None:
    at, norm = weight(row), penalty(row).norm
    value, grad = gradient(norm, at)
    assert norm(at - 1e-4 * grad / grad.norm()) < value


@every_penalty
def test_law_a_penalty_reaches_its_target_only_and_is_reported_by_name(row: Row) -> None:
    run, added = Run(row), 0.0
    for _ in run.scheduler.epochs(5):
        for _ in run.scheduler.steps([0, 1]):
            run.optimizer.zero_grad()
            loss = run.scheduler.loss(torch.zeros(()))
            if not run.scheduler.loss_components:
                assert not loss.requires_grad
                run.optimizer.step()
                continue
            loss.backward()
            run.optimizer.step()
            assert [name for name, parameter in run.model.named_parameters() if parameter.grad is not None] == row.targets
            assert list(run.scheduler.loss_components) == [f"{row.name}_loss"]
            torch.testing.assert_close(run.scheduler.loss_components[f"{row.name}_loss"], loss.detach())
            added += float(loss.detach())
    assert added > 0


@every_penalty
def test_law_what_a_threshold_cuts_it_cuts_whole_and_nothing_else(row: Row) -> None:
    """With a learning rate of 0: a group falls if and only if its own measure does not exceed the strength."""
    run, [name] = Run(row, lr=0).train(), row.targets
    found, regularizer = penalty(row), REGULARIZERS[row.name](**row.arguments)
    before, after = dict(Run().model.named_parameters())[name].detach(), dict(run.model.named_parameters())[name].detach()
    cut, current = torch.zeros_like(before, dtype=torch.bool), before
    for tile in found.groups if regularizer.criteria is not None else ():
        groups = tile.fold(current).abs().double()
        size = groups.mean(1) if regularizer.criteria == "Mean_Abs" else groups.amax(1)
        cut |= tile.unfold((size <= found.strength)[:, None], before.shape)
        current = current.masked_fill(cut, 0.0)
    assert torch.equal(after == 0, cut | (before == 0))
    assert torch.equal(after[~cut], before[~cut])
    if regularizer.criteria is not None:
        assert cut.any()
        assert not cut.all()
    keeps = row.options.get("keep_mask")
    assert list(run.scheduler.masks) == ([name] if keeps else [])
    assert not keeps or torch.equal(run.scheduler.masks[name], ~cut)
