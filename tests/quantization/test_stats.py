"""Statistics as data and files: the ancestor's layout, and every fault of a file at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from limbeck.errors import QuantizationError
from limbeck.quantization.clipping import CLIPPINGS, Grid, named_clipping
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.stats import LayerStats, Stats, TensorStats

DISTILLERS = """
module.encoder:
  inputs: {}
  output:
    min: -0.5
    max: 0.25
    avg_min: -0.375
    avg_max: 0.125
    mean: 1.0e-05
    std: 0.1
    b: 0.0625
    shape: (35, 10, 650)
rnn.cells.0.act_f:
  inputs:
    0: {min: -4, max: 4, avg_min: -3, avg_max: 3, mean: 0, std: 1, b: 0.8, shape: "(10, 650)"}
  output: {min: 0.01, max: 0.99, avg_min: 0.1, avg_max: 0.9, mean: 0.5, std: 0.2, b: 0.1, shape: [10, 650]}
"""


def test_a_file_in_the_layout_of_the_ancestor_is_read(tmp_path: Path) -> None:
    (tmp_path / "stats.yaml").write_text(DISTILLERS, encoding="utf-8")
    stats = Stats.load(tmp_path / "stats.yaml")
    assert list(stats.layers) == ["encoder", "rnn.cells.0.act_f"]
    assert stats["encoder"] == LayerStats({}, TensorStats(-0.5, 0.25, -0.375, 0.125, 1e-5, 0.1, 0.0625, (35, 10, 650)))
    assert stats["rnn.cells.0.act_f"].inputs[0].shape == (10, 650)
    assert "decoder" not in stats
    assert len(stats) == 2


@pytest.mark.parametrize("name", ["stats.yaml", "stats.json"])
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    seen = TensorStats(-0.1, 1 / 3, -1e-20, 0.3, 1e-5, 0.1, 1e-300, (2, 3), Histogram.of(torch.randn(100)))
    stats = Stats({"": LayerStats({0: seen, 2: TensorStats(0.0, 0.0)}, seen), "a.b": LayerStats({}, None)})
    stats.save(tmp_path / name)
    assert Stats.load(tmp_path / name) == stats
    stats.save(tmp_path / name, histograms=False)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert "histogram" not in text
    assert Stats.load(str(tmp_path / name))[""].output == TensorStats(-0.1, 1 / 3, -1e-20, 0.3, 1e-5, 0.1, 1e-300, (2, 3))
    assert Stats.of(stats.tree()) == stats


def test_the_layout_is_the_ancestors() -> None:
    seen = TensorStats(0.0, 1.0, 0.25, 0.75, 0.5, 0.125, 0.0625, (4, 2))
    told = {"min": 0.0, "max": 1.0, "avg_min": 0.25, "avg_max": 0.75, "mean": 0.5, "std": 0.125, "b": 0.0625, "shape": "(4, 2)"}
    assert Stats({"fc": LayerStats({0: seen, 1: seen}, seen)}).tree() == {"fc": {"inputs": {0: told, 1: told}, "output": told}}


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    tree = {
        "fc": {"inputs": {"0": {"min": 0, "max": 1, "averge_min": 0, "stdd": 1}}, "outputs": {"min": 0, "max": 1}},
        "act": {"output": {"min": 2, "max": 1}},
        "conv": {"inputs": {"x": {"min": 0}}, "output": {"min": "low", "max": float("inf"), "std": -1}},
        "rnn": {"inputs": {}, "output": {"min": 0, "max": 1, "histogram": {"width": 0, "first": 0, "counts": "1 -2", "bins": 3}}},
    }
    (tmp_path / "faulty.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(QuantizationError) as caught:
        Stats.load(tmp_path / "faulty.json")
    assert str(caught.value).startswith(f"{tmp_path / 'faulty.json'}: {len(caught.value.faults)} faults\n  ")
    for fault in (
        "fc.inputs.0: unknown key 'stdd'; did you mean 'std'?",
        "fc.inputs.0: unknown key 'averge_min'; did you mean 'avg_min'?",
        "fc: unknown key 'outputs'; did you mean 'output'?",
        "act: 'inputs' is missing",
        "act.output: min is 2 and max is 1; the lower one is min",
        "conv.inputs.x: 'max' is missing",
        "conv.output: max: Input should be a finite number",
        "conv.output: std: Input should be greater than or equal to 0",
        "rnn.output.histogram: unknown key 'bins'",
        "rnn.output.histogram: width: Input should be greater than 0",
    ):
        assert fault in caught.value.faults
    assert any(fault.startswith("conv.output: min: Input should be a valid number") for fault in caught.value.faults)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"there is no file '.*none.yaml'; collect_stats makes statistics"):
        Stats.load(tmp_path / "none.yaml")
    for name, text in (("a.json", "{"), ("a.yaml", "a: ["), ("b.yaml", "!!python/object/apply:os.getcwd []")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(QuantizationError, match="is neither YAML nor JSON"):
            Stats.load(tmp_path / name)
    for text in ("[1]", "text", "ranges: {fc.weight: [mse, 1.0]}\nloss: 4.2\n"):
        (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(QuantizationError, match=r"other\.yaml: no layer in it has inputs or an output; collect_stats makes statistics"):
            Stats.load(tmp_path / "other.yaml")
    with pytest.raises(QuantizationError, match="cannot be read: Is a directory; name a file of statistics"):
        Stats.load(tmp_path)


def test_a_layer_without_statistics_is_named() -> None:
    stats = Stats.of({"rnn.cells.0.act_f": {"inputs": {}}})
    with pytest.raises(QuantizationError, match=r"no statistics of 'rnn.cell.0.act_f'; did you mean 'rnn.cells.0.act_f'\?"):
        stats["rnn.cell.0.act_f"]
    with pytest.raises(QuantizationError, match="no statistics of 'x'; collect them from this model"):
        stats["x"]


def test_a_clipping_names_what_the_statistics_lack() -> None:
    bare = TensorStats(-1.0, 2.0).observed("the output of 'fc'")
    assert [bound.item() for bound in named_clipping("none")(bare, Grid())] == [-1.0, 2.0]
    for name in CLIPPINGS.keys() - {"none"}:
        with pytest.raises(
            QuantizationError, match=r"the statistics of the output of 'fc' have no '?(avg_min|avg_max|mean|std|b|histogram)"
        ):
            named_clipping(name)(bare, Grid(n_stds=1.0))


def test_clippings_of_statistics_by_hand() -> None:
    """As of a tensor, but an asymmetric range of ACIQ begins at ``avg_min`` at the lowest."""
    seen = TensorStats(-2.0, 10.0, -1.5, 7.0, 2.0, 4.0, 3.0).observed()
    asymmetric = Grid(4, "asymmetric_unsigned", n_stds=2.0)
    expected = {
        "avg": (-1.5, 7.0), "n_std": (-2.0, 10.0), "laplace": (-1.5, -1.5 + 2 * 5.03 * 3), "gauss": (-1.5, -1.5 + 2 * 2.55 * 4)
    }  # fmt: skip
    for name, bounds in expected.items():
        assert [bound.item() for bound in named_clipping(name)(seen, asymmetric)] == pytest.approx(bounds)
