from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import DataError
from limbeck.sensitivity import Row, append_rows, parse_levels, read_rows

ROWS = [Row("a.weight", 0.05, 91.25, 99.5, 0.1 + 0.2, 0.0), Row("b.weight", 1 / 3, 10.0, 50.0, float("inf"), 1 / 3)]


def test_a_table_reads_back_to_the_bit(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    for row in ROWS:
        append_rows(table, [row])
    assert read_rows(table) == ROWS
    assert table.read_text().splitlines()[0] == "parameter,sparsity,top1,top5,loss,pruned"


def test_without_a_file_there_are_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "t.csv") == []


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_table_that_was_cut_off_anywhere_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    table = tmp_path_factory.mktemp("cut") / "t.csv"
    append_rows(table, ROWS)
    table.write_bytes(table.read_bytes()[:cut])
    held = read_rows(table)
    assert held == ROWS[: len(held)]
    append_rows(table, ROWS[len(held) :])
    assert read_rows(table) == ROWS


def test_another_file_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("epoch,loss\n1,2\n")
    with pytest.raises(DataError, match="no table of a sensitivity analysis"):
        read_rows(table)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    append_rows(table, ROWS)
    table.write_text(table.read_text() + "a.weight,half,1,2,3,4\n")
    with pytest.raises(DataError, match="line 4"):
        read_rows(table)


def test_levels_include_both_ends() -> None:
    assert parse_levels("0:0.95:0.05") == tuple(round(0.05 * index, 2) for index in range(20))


@pytest.mark.parametrize("text", ["", "0:1:0.1", "0.5:0:0.1", "0:0.9:0", "0:0.9", "half", "-0.1,0.5", "nan"])
def test_what_is_no_range_of_levels_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="no range of levels"):
        parse_levels(text)
