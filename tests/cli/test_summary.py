"""``limbeck summary``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck import cli
from limbeck.errors import LimbeckError
from limbeck.summaries import NAMES

RUN = CliRunner()
RESNET = ["--model", "images:resnet20_cifar"]


def test_compute_knows_the_size_of_an_image() -> None:
    """40,813,184 MACs at 32x32 are those of the ancestor's summary; at 16x16 all but the 640 of the last layer are a quarter."""
    found = [json.loads(RUN.invoke(cli.app, ["summary", "compute", *RESNET, "--json", *shape]).output)["total"]["macs"] for shape in SHAPES]
    assert found == [40_813_184, (40_813_184 - 640) // 4 + 640]


SHAPES: list[list[str]] = [[], ["--input-shape", "1,3,16,16"]]


def test_a_table_goes_to_a_file_as_its_name_says(tmp_path: Path) -> None:
    file = tmp_path / "compute.csv"
    assert RUN.invoke(cli.app, ["summary", "compute", *RESNET, "--out", str(file)]).output == f"wrote {file}\n"
    *_, total = csv.DictReader(file.read_text().splitlines())
    assert (total["Name"], total["MACs"]) == ("Total", "40813184")


@pytest.mark.parametrize("name", ["sparsity", "model", "modules", "percentile"])
def test_summaries_of_a_model_alone_need_no_shape(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary_models.py").write_text("from torch import nn\n\n\ndef net() -> nn.Module:\n    return nn.Bilinear(5, 4, 3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = RUN.invoke(cli.app, ["summary", name, "--model", "summary_models:net"])
    assert result.exit_code == 0
    assert ("Bilinear" if name in ("model", "modules") else "weight") in result.output
    refused = RUN.invoke(cli.app, ["summary", "compute", "--model", "summary_models:net"])
    assert isinstance(refused.exception, LimbeckError)
    assert "give the shape" in str(refused.exception)
    shapes = ["--input-shape", "2,5", "--input-shape", "2,4"]
    assert (
        "Total MACs: 150" in RUN.invoke(cli.app, ["summary", "compute", "--model", "summary_models:net", *shapes]).output
    )  # 2 * 3 * 5 * (4 + 1)


def test_a_drawing_is_text_where_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "net.dot"
    assert RUN.invoke(cli.app, ["summary", "png_w_params", *RESNET, "--out", str(file)]).output == f"wrote {file}\n"
    assert "conv1.weight 16x3x3x3" in file.read_text()


def test_a_name_that_there_is_not_is_wrong_usage() -> None:
    result = RUN.invoke(cli.app, ["summary", "compte", *RESNET])
    assert result.exit_code == 2
    told = " ".join(result.output.replace("│", " ").split())
    assert f"no summary named 'compte'; did you mean 'compute'?; choose one of {', '.join(NAMES)}" in told
