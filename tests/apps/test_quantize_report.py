from __future__ import annotations

import math

import pytest

from limbeck.apps.quantize_report import layer_table, report_figure, tensor_table, zeros_kept
from limbeck.quantization.rows import Row
from limbeck.summaries.render import to_text

ROWS = (
    Row("conv", "inputs.0", "int8", 8, "symmetric", 0.02, 0, low=-2.5, high=2.5, snr_db=40.1, snr_of="histogram"),
    Row(
        "conv",
        "weight",
        "int4",
        4,
        "symmetric",
        0.01,
        0,
        groups=16,
        snr_db=20.0,
        snr_of="weights",
        values=100,
        zeros_before=80,
        zeros_after=85,
    ),
    Row("conv", "output", "int8", 8, "symmetric", 0.05, 3, clipping="avg", low=-6.0, high=6.0, snr_db=31.26, snr_of="evaluation"),
    Row("fc", "weight", "fp16", 16, snr_db=math.inf, snr_of="weights", values=50, zeros_before=0, zeros_after=0),
    Row("fc", "output", "fp16", 16),
)


def test_a_line_a_layer_in_the_models_order_with_what_costs_most_below() -> None:
    table = layer_table(ROWS, {"conv": 0.5, "fc": -0.25}, "LeNet", ["as it is"])
    assert table.cells == [
        ["conv", "int4/int8", "0.01", "20.0", "0.05", "3", "avg", "31.3", "0.5"],
        ["fc", "fp16", "-", "inf", "-", "-", "-", "-", "-0.25"],
    ]
    assert table.notes[0] == (
        "Divergence: from FP32's predictions, nats a sample, where that layer alone is quantized; the costliest are conv (0.5)."
    )
    assert table.notes[-1] == "as it is"
    assert layer_table(ROWS, {}, "LeNet").cells[0][-1] == "-"


def test_a_line_a_tensor_with_where_its_ratio_comes_from() -> None:
    table = tensor_table(ROWS, "LeNet")
    assert [cells[:3] for cells in table.cells][:2] == [["conv", "inputs.0", "int8"], ["conv", "weight", "int4"]]
    assert table.cells[1][-1] == "80 -> 85"
    text = to_text(table)
    for said in ("of weights, exactly", "against FP32 in an evaluation", "estimated from the statistics' histograms", "the geometric mean"):
        assert said in text


def test_lost_zeros_are_named() -> None:
    assert zeros_kept(ROWS) == ["Zeros stay zeros: 80 of 150 weights were zero (53.3%), 85 are now (56.7%): small ones fall to zero too."]
    assert zeros_kept([Row("fc", "weight", "int8", 8, values=9, zeros_before=5, zeros_after=4)]) == ["Zeros were lost in fc."]
    assert zeros_kept(ROWS[:1]) == []


@pytest.mark.parametrize("costs", [{}, {"conv": 0.5, "fc": -0.25}])
def test_the_picture_has_a_place_for_every_layer_and_a_second_frame_for_costs(costs: dict[str, float]) -> None:
    pytest.importorskip("matplotlib")
    figure = report_figure(ROWS, costs, "LeNet")
    assert len(figure.axes) == 1 + bool(costs)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["conv", "fc"]
    points = [tuple(point) for dots in figure.axes[0].collections for point in dots.get_offsets().tolist()]
    assert points == [(20.0, 0.0), (31.26, 0.0)]  # an infinite ratio has no place
    if costs:
        assert [bar.get_width() for bar in figure.axes[1].patches] == [0.5, -0.25]
