"""What is drawn by chance is the same wherever and whenever it is drawn again."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import MaskError
from limbeck.pruning.chance import Chance, Noise, Survivors, Uniform, generator
from limbeck.pruning.criteria import Units, l1
from limbeck.schedules import Moment


def units(name: str = "conv.weight", now: int = 3, minibatch: int = 0) -> Units:
    weight = torch.ones(1000, 2)
    return Units(weight, 0.5, Moment(now, 0, 9, minibatch=minibatch), {}, name=name)


def test_a_draw_is_a_function_of_seed_name_and_moment() -> None:
    moment = Moment(3, 0, 9)
    variants = [
        (0, "a", moment),
        (1, "a", moment),
        (0, "b", moment),
        (0, "a", Moment(4, 0, 9)),
        (0, "a", Moment(3, 0, 9, unit="step")),
        (0, "a", Moment(3, 0, 9, minibatch=1)),
        (0, "a", None),
    ]
    draws = [torch.rand(1, generator=generator(*variant)).item() for variant in variants]
    assert draws == [torch.rand(1, generator=generator(*variant)).item() for variant in variants]
    assert len(set(draws)) == len(variants)
    assert draws[0] == torch.rand(1, generator=generator(0, "a", Moment(3, 2, 7, 1))).item()  # the window is not part of it


def test_the_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Chance()(units())
    Noise(l1, 1.0)(units())
    Uniform(0, 1)(Moment())
    assert torch.equal(torch.get_rng_state(), before)


def test_one_order_for_the_run_or_one_for_each_renewal() -> None:
    assert torch.equal(Chance()(units(now=3)), Chance()(units(now=4)))
    assert not torch.equal(Chance()(units("a")), Chance()(units("b")))
    assert not torch.equal(Chance(redraw=True)(units(now=3)), Chance(redraw=True)(units(now=4)))
    assert not torch.equal(Chance(redraw=True)(units()), Chance(redraw=True)(units(minibatch=7)))


def test_chance_is_uniform_and_never_zero() -> None:
    drawn = Chance()(units())
    assert drawn.shape == (1000,)
    assert 0 < drawn.min() < 0.02
    assert 0.98 < drawn.max() <= 1
    assert abs(drawn.mean().item() - 0.5) < 4 / (1000 * 12) ** 0.5  # four standard errors


def test_noise_strikes_with_its_probability() -> None:
    struck = [bool((Noise(l1, 0.3)(units(now=now)) != 1).any()) for now in range(1000)]
    assert abs(sum(struck) - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert torch.equal(Noise(l1, 0.0)(units()), torch.ones(1000))
    noise = Noise(l1, 1.0)(units())
    assert abs(noise.mean().item()) < 4 / 1000**0.5
    assert abs(noise.std().item() - 1) < 4 / 2000**0.5


def test_noise_needs_what_its_criterion_needs() -> None:
    class Needy:
        needs = "gradients"

        def __call__(self, units: Units) -> torch.Tensor:
            return l1(units)

    assert Noise(Needy(), 0.1).needs == "gradients"
    assert Noise(l1, 0.1).needs is None


def test_levels_fill_their_range() -> None:
    levels = [Uniform(0.2, 0.6, key="a")(Moment(now, 0, 1000)) for now in range(1000)]
    assert 0.2 <= min(levels) < 0.21
    assert 0.59 < max(levels) <= 0.6
    assert levels[0] != Uniform(0.2, 0.6, key="b")(Moment(0, 0, 1000))
    assert Uniform(0.5, 0.5)(Moment()) == 0.5
    with pytest.raises(ValueError, match=r"the range from 0.6 to 0.2 is empty"):
        Uniform(0.6, 0.2)


def test_one_unit_survives_unless_all_are_to_go() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.2], [0.8, 0.95, 0.7]])
    assert Survivors()(scores, None, 0.75).tolist() == [[True, False, False], [True, True, False]]
    assert not Survivors()(scores, None, 1.0).any()
    assert Survivors()(scores, None, 0.0).all()
    with pytest.raises(MaskError, match="NaN"):
        Survivors()(torch.tensor([[float("nan")]]), None, 0.5)
