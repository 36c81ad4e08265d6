"""Comparison of run folders, with the published table of Distiller's language model tutorial as its golden."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from limbeck.apps.compare import Comparison, order
from limbeck.apps.figures import Point, short, size_figure
from limbeck.apps.lm.compare import READER, compare, table_of
from limbeck.cli.lm_compare import compare as command
from limbeck.errors import DataError, MissingExtraError
from limbeck.summaries.render import percent

# Type, weights, non-zeros, validation, test: Table 1 of the tutorial, whose first row's non-zeros are those of its model: 33278 * 200 + 16 * 200**2
TUTORIAL = [
    ("Small", 7_295_600, 7_295_600, 101.13, 96.29),
    ("Medium", 28_390_700, 28_390_700, 88.17, 84.21),
    ("Large", 85_917_000, 85_917_000, 87.49, 83.85),
    ("Large", 85_917_000, 25_487_550, 90.67, 85.96),
    ("Large", 85_917_000, 16_847_550, 89.31, 83.64),
    ("Large", 85_917_000, 8_591_700, 90.70, 85.67),
    ("Large", 85_917_000, 4_295_850, 98.42, 92.79),
]
HEAD = "epoch,step,split,loss,perplexity,learning_rate,sparsity,tokens_per_second\n"
matplotlib = pytest.importorskip("matplotlib")


def write_run(folder: Path, row: tuple[Any, ...] = TUTORIAL[0], epochs: int = 3, **changes: Any) -> Path:
    kind, weights, nonzeros, validation, test = row
    sparsity = 1 - nonzeros / weights
    record = {
        "application": "lm",
        "command": f"limbeck lm train --tied --save {folder.name}",
        "type": kind,
        "weights": weights,
        "nonzeros": nonzeros,
        "sparsity": sparsity,
        "validation_perplexity": validation,
        "test_perplexity": test,
        "finished": True,
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    lines = [
        f"{epoch},{10 * epoch},train,5.0,148.4,20.0,{sparsity},900\n{epoch},{10 * epoch},validation,4.6,{validation + epochs - epoch},20.0,{sparsity},\n"
        for epoch in range(epochs)
    ]
    (folder / "metrics.csv").write_text(HEAD + "".join(lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "runs" / f"run{index}", row) for index, row in enumerate(TUTORIAL)]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    base = tmp_path_factory.mktemp("compared")
    folders = [write_run(base / "runs" / f"run{index}", row) for index, row in enumerate(TUTORIAL)]
    return compare(folders[::-1], base / "new" / "out")


def test_the_tutorials_table(compared: Comparison) -> None:
    assert [run.folder.name for run in compared.runs] == [f"run{index}" for index in range(len(TUTORIAL))]
    markdown, table = compared.files[:2]
    lines = markdown.read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Type", "Sparsity", "NNZ", "Validation", "Test", "Command line"]
    assert cells[2] == ["Small", "0%", "7,295,600", "101.13", "96.29", "limbeck lm train --tied --save run0"]
    assert cells[6] == ["Large", "80.4%", "16,847,550", "89.31", "83.64", "limbeck lm train --tied --save run4"]
    assert [row[1] for row in cells[2:]] == ["0%", "0%", "0%", "70.3%", "80.4%", "90%", "95%"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["NNZ"]) for row in rows] == [row[2] for row in TUTORIAL]
    assert [float(row["Test"]) for row in rows] == [row[4] for row in TUTORIAL]


def test_the_pictures_are_written_in_both_forms(compared: Comparison) -> None:
    stems = ("perplexity_size", "sparsity_epochs", "perplexity_epochs")
    assert [path.name for path in compared.files[2:]] == [f"{stem}.{form}" for stem in stems for form in ("png", "svg")]
    for path in compared.files[2:]:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_no_global_state_of_matplotlib_is_touched(runs: list[Path], tmp_path: Path) -> None:
    imported, settings = "matplotlib.pyplot" in sys.modules, matplotlib.rcParams.copy()
    compare(runs[:1], tmp_path / "out")
    assert ("matplotlib.pyplot" in sys.modules) == imported
    assert matplotlib.rcParams.copy() == settings


def test_dense_runs_come_first_by_size_then_pruned_ones_by_sparsity(tmp_path: Path) -> None:
    rows = {"b": ("Large", 900, 90), "e": ("Small", 100, 20), "a": ("Large", 900, 900), "d": ("Small", 100, 100), "c": ("Large", 900, 450)}
    found = [READER.read(write_run(tmp_path / name, (*row, 9.0, 8.0))) for name, row in rows.items()]
    assert [run.folder.name for run in order(found)] == ["d", "a", "e", "c", "b"]


def test_a_few_zeros_by_chance_are_no_pruning(tmp_path: Path) -> None:
    """The tutorial's dense large model has 135,833,996 non-zeros of 135,834,000."""
    run = READER.read(write_run(tmp_path / "run", ("Large", 135_834_000, 135_833_996, 9.0, 8.0)))
    assert run.dense
    assert percent(run.sparsity) == "0%"


def test_an_unfinished_run_is_marked(runs: list[Path], tmp_path: Path) -> None:
    young = write_run(tmp_path / "young", TUTORIAL[1], epochs=0, finished=False, validation_perplexity=None, test_perplexity=None)
    table = table_of([READER.read(folder) for folder in (*runs, young)])
    row = table.rows[-1]
    assert (row.type, row.validation_perplexity, row.test_perplexity) == ("Medium (unfinished)", None, None)
    assert table.notes == ("Unfinished, with the figures so far: young.",)
    assert compare([young], tmp_path / "alone").table.rows == (row,)


def test_a_diverged_run_and_one_without_logs_can_be_compared(runs: list[Path], tmp_path: Path) -> None:
    wild = write_run(tmp_path / "wild", ("LSTM 300", 9, 9, float("inf"), float("nan")), epochs=2)
    bare = write_run(tmp_path / "bare", ("LSTM 300", 9, 0, 9.0, 9.0))
    (bare / "metrics.csv").unlink()
    compared = compare([wild, bare, runs[0]], tmp_path / "out")
    assert "Diverged, without a finite perplexity: wild." in (tmp_path / "out" / "table.md").read_text()
    assert [row.test_perplexity for row in compared.table.rows] == [None, 96.29, 9.0]
    result = CliRunner().invoke(application(), [str(wild), "--json", "--out", str(tmp_path / "json")])
    assert json.loads(result.output)["rows"][0]["test_perplexity"] is None
    assert compared.runs[0].folder == wild


def test_an_epoch_that_was_logged_again_counts_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=2)
    with (folder / "metrics.csv").open("a") as file:
        file.write("1,10,validation,4.0,54.5,20.0,0.5,\n2,20,validation,3.9,49.4,20.0,0.")
    assert [(epoch.epoch, epoch.sparsity, epoch.measure) for epoch in READER.read(folder).epochs] == [(0, 0.0, 103.13), (1, 0.5, 54.5)]


def test_the_same_folder_twice_is_one_run(runs: list[Path], tmp_path: Path) -> None:
    assert len(compare([runs[0], runs[0] / ".." / runs[0].name], tmp_path / "out").runs) == 1


def damage(name: str, text: str, encoding: str = "utf-8") -> Any:
    def write(folder: Path) -> None:
        (folder / name).write_text(text, encoding)

    return write


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: [path.unlink() for path in (folder / "run.json", folder / "metrics.csv")],
            "'{folder}' has no run.json; give a folder that 'limbeck lm train --save DIR' wrote",
        ),
        (damage("run.json", '{"type": "Sm'), "'{folder}/run.json' is damaged: Unterminated string"),
        (damage("run.json", '{"type": "é"}', "latin-1"), "'{folder}/run.json' is damaged: "),
        (damage("run.json", "[1]"), "'{folder}/run.json' is not the record of a run: the file: "),
        (
            damage("run.json", '{"name": "my-package"}'),
            "'{folder}/run.json' is not the record of a run: type: field required; command: field",
        ),
        (
            damage("run.json", '{"type": "S", "command": "c", "weights": 3, "nonzeros": 4, "finished": true}'),
            "'{folder}/run.json' counts 4 non-zeros of 3 weights",
        ),
        (damage("metrics.csv", HEAD + "0,1,validation,4,many,2,0,\n"), "'{folder}/metrics.csv' is damaged near line 2: could not convert"),
        (damage("metrics.csv", HEAD + "0,1,validation\n"), "'{folder}/metrics.csv' is damaged near line 2: "),
        (damage("metrics.csv", "time,value\n0,1\n"), "'{folder}/metrics.csv' has no column 'split'; give a folder that"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named_with_a_remedy(runs: list[Path], tmp_path: Path, harm: Any, message: str) -> None:
    harm(runs[1])
    with pytest.raises(DataError, match="^" + re.escape(message.format(folder=runs[1]))) as raised:
        compare(runs, tmp_path / "out")
    assert "limbeck lm train --save DIR" in str(raised.value) or "train the run again, or leave it out" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_cut_off_can_be_resumed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "run.json").unlink()
    with pytest.raises(
        DataError, match=r"has no run.json yet: its run is going on or was cut off; 'limbeck lm train --resume' finishes it"
    ):
        READER.read(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere'; give a folder that"):
        compare([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(DataError, match="there is no run to compare"):
        compare([], tmp_path / "out")


def test_without_matplotlib_it_says_what_to_install(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'limbeck[all]'")):
        compare(runs, tmp_path / "out")


def test_labels_of_the_size_figure_cover_nothing() -> None:
    points = [
        Point(
            kind if nonzeros == weights else percent(1 - nonzeros / weights),
            nonzeros,
            test,
            None if nonzeros == weights else "Large, pruned",
        )
        for kind, weights, nonzeros, _, test in TUTORIAL
    ]
    figure = size_figure(points, "test perplexity")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == sorted(point.label for point in points)
    assert not any(box.overlaps(other) for index, box in enumerate(boxes) for other in boxes[:index])
    spots = axes.transData.transform([(point.size, point.measure) for point in points])
    assert not any(box.contains(*spot) for box in boxes for spot in spots)
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize(("number", "text"), [(999_999, "1M"), (999, "999"), (20_000, "20k"), (135_834_000, "136M")])
def test_counts_on_the_axis(number: float, text: str) -> None:
    assert short(number) == text


def application() -> typer.Typer:
    program = typer.Typer()
    program.command()(command)
    return program


def test_the_command_prints_the_table_and_the_paths(runs: list[Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(application(), [*map(str, runs[4:5]), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "16,847,550" in result.output
    assert result.output.splitlines()[-1] == str(tmp_path / "out" / "perplexity_epochs.svg")


def test_the_command_prints_json(runs: list[Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(application(), [*map(str, runs[3:5]), "--json", "--out", str(tmp_path / "out")])
    tree = json.loads(result.output)
    assert [row["nonzeros"] for row in tree["rows"]] == [row[2] for row in TUTORIAL[3:5]]
    assert tree["rows"][1]["sparsity"] == (85_917_000 - 16_847_550) / 85_917_000
    assert tree["files"][0] == str(tmp_path / "out" / "table.md")
