from __future__ import annotations

import pytest

from limbeck.apps.sensitivity_figure import TOGETHER, sensitivity_figure
from limbeck.sensitivity import Row


def rows(names: int) -> list[Row]:
    return [
        Row(f"layer{name}.conv1.weight", level, 90 - 50 * level, 99.0, level, level) for name in range(names) for level in (0.0, 0.5, 0.9)
    ]


@pytest.mark.parametrize("names", [1, TOGETHER])
def test_few_curves_share_a_frame_with_a_legend(names: int) -> None:
    (axes,) = sensitivity_figure(rows(names), "title").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"layer{name}.conv1.weight" for name in range(names)]
    assert list(axes.lines[0].get_ydata()) == [90, 65, 45]


def test_many_curves_have_a_frame_each_and_the_others_in_grey() -> None:
    figure = sensitivity_figure(rows(53), "title")
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in drawn] == [f"layer{name}.conv1.weight" for name in range(53)]
    assert all(len(axes.lines) == 54 for axes in drawn)


def test_an_empty_table_and_what_is_not_finite_can_be_drawn() -> None:
    sensitivity_figure([], "title").draw_without_rendering()
    (axes,) = sensitivity_figure([Row("a", 0.0, 90.0, 99.0, 0.1, 0.0), Row("a", 0.5, float("nan"), 1.0, 1.0, 0.5)], "title").axes
    assert list(axes.lines[0].get_ydata()) == [90]
