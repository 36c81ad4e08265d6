"""Pruning by step as NeurST and TFMOT define it, against the numbers that runs of their code gave, and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.pruning.neurst import PolynomialDecay, constant_sparsity_pruner, keep_zeros_pruner, polynomial_decay_pruner
from limbeck.pruning.pruner import Pruner, Site
from limbeck.schedules import Moment, Window, at

STEPS = (100, 200, 300, 400, 500)
# NeurST's own ramp, 0 to the target over 500 steps with power 3, every 100 steps: from a run of its code under TensorFlow 2.15.
NEURST = {
    0.1: (0.0488, 0.0784, 0.0936, 0.0992, 0.1),
    0.2: (0.0976, 0.1568, 0.1872, 0.1984, 0.2),
    0.3: (0.1464, 0.2352, 0.2808, 0.2976, 0.3),
    0.4: (0.1952, 0.3136, 0.3744, 0.3968, 0.4),
    0.5: (0.244, 0.392, 0.468, 0.496, 0.5),
}
KEPT = (3989622, 3865470, 3801717, 3778229, 3774874)
"""Of 1024 * 4096 weights at a target of 0.1, from the same run; float64 would keep 3,865,471 at step 200."""


def kept(pruner: Pruner, units: int, moment: Moment, name: str = "w") -> int:
    return units - pruner.select.dropped(at(pruner.targets[name], moment), units)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", NEURST)
def test_the_ramp_of_neurst(target: float) -> None:
    ramp = PolynomialDecay(0.0, target)
    assert [round(ramp(moment), 6) for moment in Window(0, 501, 100).firings()][1:] == list(NEURST[target])


def test_what_neurst_keeps_of_a_large_matrix() -> None:
    pruner = polynomial_decay_pruner(0.1, ["w"])
    assert tuple(kept(pruner, 1024 * 4096, Moment(step, 0, 501, 100)) for step in STEPS) == KEPT


@given(
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.integers(0, 1000),
    st.integers(1, 1000),
    st.integers(0, 3000),
    st.sampled_from([1, 2, 3, 0.5]),
)
def test_the_ramp_is_that_of_a_numpy_transcription(initial: float, target: float, begin: int, length: int, now: int, power: float) -> None:
    """TFMOT: divide, clip, ``pow(1 - p, power)``, multiply, add, each in float32; numpy's own power may round the last bit another way."""
    moment, end = Moment(begin + now, begin, begin + length + 1), begin + length
    p = np.clip(np.float32(moment.now - begin) / np.float32(end - begin), np.float32(0), np.float32(1))
    expected = np.float32(initial - target) * np.power(np.float32(1) - p, np.float32(power)) + np.float32(target)
    found = PolynomialDecay(initial, target, power)(moment)
    assert found == float(np.float32(found))
    assert abs(found - float(expected)) <= 2 * float(np.spacing(np.float32(1)))


def test_a_frequency_that_does_not_divide_ends_below_the_target() -> None:
    """By hand: the last step is 450 of 500, so 0.5 * (1 - 0.1 ** 3)."""
    *_, last = Window(0, 501, 150).firings()
    assert last.now == 450
    assert PolynomialDecay(0.0, 0.5)(last) == pytest.approx(0.4995, abs=1e-7)


def test_ends_of_its_own_leave_the_window() -> None:
    late = Moment(100, 100, 501, 100)
    assert PolynomialDecay(0.0, 0.5, begin=0)(late) == PolynomialDecay(0.0, 0.5)(Moment(100, 0, 501, 100))
    assert PolynomialDecay(0.2, 0.5, begin=200)(late) == pytest.approx(0.2)
    assert PolynomialDecay(0.2, 0.5, end=100)(late) == 0.5
    shifted = PolynomialDecay(0.0, 0.5, begin=-1, end=499)
    assert [round(shifted(Moment(step - 1, 99, 500, 100)), 6) for step in STEPS] == list(NEURST[0.5])


@pytest.mark.parametrize("begin", [0, 7])
def test_a_begin_that_is_the_end_is_the_target_at_once(begin: int) -> None:
    ramp = PolynomialDecay(0.0, 0.5)
    assert ramp(Moment(begin, begin, begin + 1)) == 0.5
    assert math.isfinite(PolynomialDecay(0.0, 0.5, begin=begin, end=begin)(Moment(begin, begin, begin + 9)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"begin": 5, "end": 4}, "the ramp ends at 4, before it begins at 5"), ({"power": 0}, "a power of 0 makes no ramp")],
)
def test_a_ramp_that_is_none_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolynomialDecay(0.0, 0.5, **arguments)


def test_neurst_s_run_of_a_thousand_weights() -> None:
    """The table of a real run: ``linspace(1, 1000, 1000)``, no learning, target 0.1; the non-zeros after each renewal."""
    pruner, weight, keep = polynomial_decay_pruner(0.1, ["w"]), torch.linspace(1, 1000, 1000), None
    found = []
    for moment in list(Window(0, 501, 100).firings())[1:]:
        keep = pruner.masks({"w": Site(weight, keep)}, moment)["w"]
        weight = weight * keep
        found.append(int(weight.count_nonzero()))
    assert found == [951, 922, 906, 901, 900]


@pytest.mark.parametrize(("units", "sparsity", "left"), [(1, 0.5, 1), (2, 0.99, 1), (5, 0.5, 2), (7, 0.5, 4), (1000, 0.0, 1000)])
def test_what_is_kept_is_rounded_half_to_even_and_never_nothing(units: int, sparsity: float, left: int) -> None:
    weight = torch.arange(1.0, units + 1)
    mask = constant_sparsity_pruner(sparsity, ["w"]).masks({"w": Site(weight)}, Moment())["w"]
    assert int(mask.count_nonzero()) == left
    assert mask[units - left :].all()


def test_ties_are_counted_exactly() -> None:
    """NeurST keeps all of a constant tensor; asked for is half."""
    mask = constant_sparsity_pruner(0.5, ["w"]).masks({"w": Site(torch.ones(4, 4))}, Moment())["w"]
    assert int(mask.count_nonzero()) == 8


MATRIX = torch.tensor([[1.0, 1.0, 0.0, 9.0], [1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.1, 0.1], [2.0, 2.0, 0.1, 0.1]])


def test_blocks_are_pooled_by_mean_or_greatest() -> None:
    """By hand: means 1, 2.25, 2, 0.1; greatest 1, 9, 2, 0.1: the two differ at three of four kept... and agree on the least."""
    for pooling, order in (("AVG", [(2, 2), (0, 0), (2, 0), (0, 2)]), ("MAX", [(2, 2), (0, 0), (2, 0), (0, 2)])):
        for dropped in (1, 2, 3):
            pruner = constant_sparsity_pruner(dropped / 4, ["w"], block_size=(2, 2), block_pooling_type=pooling)  # type: ignore[arg-type]
            expected = torch.ones(4, 4, dtype=torch.bool)
            for row, column in order[:dropped]:
                expected[row : row + 2, column : column + 2] = False
            assert torch.equal(pruner.masks({"w": Site(MATRIX)}, Moment())["w"], expected)
    spiked = MATRIX.clone()
    spiked[0, 3] = 5.0  # mean 1.25: below that of the last row's block, 2, but its greatest is above
    keep = {
        pooling: constant_sparsity_pruner(0.75, ["w"], block_size=(2, 2), block_pooling_type=pooling).masks({"w": Site(spiked)}, Moment())[
            "w"
        ]  # type: ignore[arg-type]
        for pooling in ("AVG", "MAX")
    }
    assert keep["AVG"].nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert keep["MAX"].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_a_partial_block_is_scored_by_what_it_holds() -> None:
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0, 3.0]])
    mask = constant_sparsity_pruner(0.5, ["w"], block_size=(1, 4)).masks({"w": Site(weight)}, Moment())["w"]
    assert mask.tolist() == [[False] * 4 + [True]]


def test_zeros_stay_but_where_all_are() -> None:
    sites = {"a": Site(torch.tensor([[0.0, -2.0], [3.0, 0.0]])), "b": Site(torch.zeros(3)), "c": Site(torch.ones(2))}
    masks = keep_zeros_pruner(["a", "b", "c"]).masks(sites, Moment())
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [True] * 3
    assert masks["c"].tolist() == [True] * 2


def test_zeros_are_not_looked_for_among_nan() -> None:
    with pytest.raises(ValueError, match="'a': 1 of 2 scores are NaN"):
        keep_zeros_pruner(["a"]).masks({"a": Site(torch.tensor([math.nan, 0.0]))}, Moment())
