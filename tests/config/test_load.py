"""Reading YAML: YAML 1.2 scalars, lines, duplicate keys, and nothing that runs code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from limbeck.config.load import load, scalar


def messages(text: str) -> list[str]:
    return [str(fault) for fault in load(text + "\n").faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("2E3", 2000.0), ("-.5", -0.5), ("1.", 1.0), ("+3", 3), ("010", 10), ("0", 0),
        ("true", True), ("False", False), ("yes", "yes"), ("on", "on"), ("No", "No"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"),
        ("null", None), ("~", None), ("", None), (".inf", math.inf), ("-.inf", -math.inf), ("1_000", "1_000"), ("0x1f", "0x1f"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_an_endless_number_stays_a_number() -> None:
    assert scalar("9" * 5000) == math.inf


def test_quoted_scalars_are_text() -> None:
    assert load("a: '1e-6'\nb: \"true\"\n").tree == {"a": "1e-6", "b": "true"}


def test_a_tag_decides_what_a_scalar_is() -> None:
    tree = load("a: !!str 5\nb: !!float 5\nc: !!int '5'\nd: !!null ''\ne: !!bool true\nf: !!str\nh: !!seq [!!str 1, 1]\n").tree
    assert tree == {"a": "5", "b": 5.0, "c": 5, "d": None, "e": True, "f": "", "h": ["1", 1]}
    assert messages("a: !!int x\nb: !!bool 1\nc: !!map 5") == [
        "line 1, a: 'x' is not what its tag '!!int' says; leave the tag out",
        "line 2, b: '1' is not what its tag '!!bool' says; leave the tag out",
        "line 3, c: '5' is not what its tag '!!map' says; leave the tag out",
    ]


def test_yaml_1_1_would_have_read_a_word() -> None:
    assert yaml.safe_load("wd: 1e-6") == {"wd": "1e-6"}
    assert load("wd: 1e-6\n").tree == {"wd": 1e-6}


def test_every_node_has_its_line() -> None:
    document = load("version: 1\npruners:\n  fc:\n    weights:\n      - a\n      - b\n")
    assert {document.line(path) for path in [("pruners",), ("pruners", "fc")]} == {2, 3}
    assert document.line(("pruners", "fc", "weights", 1)) == 6
    assert document.line(("pruners", "fc", "missing")) == 3
    assert document.line(("policies",)) is None


def test_duplicate_keys_name_both_lines_and_reading_goes_on() -> None:
    document = load("version: 1\npruners:\n  a: {x: 1}\n  a: {x: 1,\n    x: 2}\n")
    assert [str(fault) for fault in document.faults] == [
        "line 4, pruners: 'a' is given twice, on lines 3 and 4",
        "line 5, pruners.a: 'x' is given twice, on lines 4 and 5",
    ]
    assert document.tree == {"version": 1, "pruners": {"a": {"x": 2}}}


def test_anchors_and_merge_keys() -> None:
    text = "base: &base {class: A, q: 1}\nmore: &more {q: 2, r: 3}\none: {<<: *base, q: 5}\ntwo: {<<: [*base, *more]}\nthree: *base\n"
    tree = load(text).tree
    assert isinstance(tree, dict)
    assert tree["one"] == {"class": "A", "q": 5}
    assert tree["two"] == {"class": "A", "q": 1, "r": 3}
    assert tree["three"] == {"class": "A", "q": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch ran']",
         "line 1, a: the tag '!!python/object/apply:os.system' is refused: a schedule holds plain data only, and loading it runs no code"),
        ("a: !!python/name:os.system ''",
         "line 1, a: the tag '!!python/name:os.system' is refused: a schedule holds plain data only, and loading it runs no code"),
        ("a: !mine 1", "line 1, a: the tag '!mine' is refused: a schedule holds plain data only, and loading it runs no code"),
        ("a:\n\t- b", "line 2: not YAML: while scanning for the next token found character '\\t' that cannot start any token"),
        ("a: b: c", "line 1: not YAML: mapping values are not allowed here"),
        ("a: [1, 2\nb: 3", "line 2: not YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
        ("a: *b", "line 1: not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "line 2: not YAML: expected a single document in the stream but found another document"),
        ("a: \x01", "not YAML: unacceptable character #x0001: special characters are not allowed"),
        ("[a]: 1", "line 1: a key must be a word"),
        ("a: &a [*a]", "line 1, a[0]: an alias contains itself"),
        ("a: {<<: 3}", "line 1, a: '<<' must name a mapping"),
        ("[" * 1000, "is nested too deeply to be a schedule"),
    ],
)  # fmt: skip
def test_what_is_not_plain_yaml_is_a_fault(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert messages(text) == [message]
    assert list(tmp_path.iterdir()) == []


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert messages("\n".join(lines)) == ["its aliases unfold to more than 100,000 nodes"]


def test_files_texts_and_mappings(tmp_path: Path) -> None:
    path = tmp_path / "agp.yaml"
    path.write_text("version: 1\n", encoding="utf-8")
    assert load(path).tree == load(str(path)).tree == load("version: 1\n").tree == load({"version": 1}).tree == {"version": 1}
    assert load(path).source == str(path)
    assert load(path).text == "version: 1\n"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    assert [str(fault) for fault in load(tmp_path / "none.yaml").faults] == ["cannot be read: No such file or directory"]
    assert [str(fault) for fault in load(tmp_path).faults] == ["cannot be read: Is a directory"]
    assert [str(fault) for fault in load(tmp_path / "latin.yaml").faults] == ["is not UTF-8 text: invalid continuation byte at byte 3"]


def test_a_pattern_without_quotes_is_told_to_take_them() -> None:
    (fault,) = load("version: 1\npruners:\n  a: {levels: {*.weight: 0.5}}\n").faults
    assert str(fault).endswith("put quotes around a pattern that begins with '*'")
    assert str(fault).startswith("line 3: not YAML: while scanning an alias")
