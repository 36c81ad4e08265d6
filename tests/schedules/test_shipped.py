"""Every schedule that is shipped is checked against the model that its own header trains."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.apps.images.models import MODELS
from limbeck.apps.lm.model import RNNModel
from limbeck.config import check_file, plan

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "schedules").rglob("*.yaml"))

NONZEROS = {
    # hand calculation: 49,917,000 and 4 * 9,000,000 weights, kept to 1 - sparsity; all but the first are printed in the tutorial's Table 1
    "lm/large_70.yaml": 25_775_100,
    "lm/large_70b.yaml": 25_487_550,
    "lm/large_80.yaml": 16_847_550,
    "lm/large_90.yaml": 8_591_700,
    "lm/large_95.yaml": 4_295_850,
    "lm/large_baidu.yaml": None,
    # 6,655,600 - floor(0.83 * 6,655,600) and half of 4 * 160,000
    "lm/small_80.yaml": 1_451_452,
    # hand calculation: 1,072 dense weights, and n - floor(level * n) of each of the others
    "images/resnet20_cifar_agp_75.yaml": 67_791,
    "images/resnet20_cifar_blocks.yaml": 1_072 + 269_824 // 2,
    "images/resnet56_cifar_agp_80.yaml": 170_208,
    "images/resnet56_cifar_blocks.yaml": 1_072 + 850_432 // 2,
}
STRUCTURED = "_filters"
"""Schedules that thin are rehearsed, in test_images.py: a plan knows the masks that it is asked for, and not what goes with them."""


def name(file: Path) -> str:
    return file.relative_to(ROOT / "schedules").as_posix()


def command(file: Path) -> list[str]:
    """The command line in the header of a schedule."""
    text = file.read_text(encoding="utf-8").replace("\\\n#    ", "")
    (line,) = re.findall(r"^#   (limbeck .*)$", text, flags=re.MULTILINE)
    return shlex.split(line.replace("=", " "))


def model(words: list[str]) -> nn.Module:
    """The model of a command line, without memory; ``docs`` gets a vocabulary of a typical size."""
    if words[1] == "images":
        with torch.device("meta"):
            return MODELS[words[words.index("--model") + 1]]()

    def size(option: str) -> int:
        return int(words[words.index(option) + 1]) if option in words else 200

    with torch.device("meta"):
        return RNNModel("LSTM", 5_000 if "docs" in words else 33_278, size("--emsize"), size("--nhid"), 2, 0.2, tied="--tied" in words)


def test_there_are_schedules() -> None:
    assert {name(file) for file in FILES} >= NONZEROS.keys()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_shipped_schedule_has_no_fault_and_no_warning(file: Path) -> None:
    report = check_file(file, model(command(file)))
    assert not report.faults
    assert not report.warnings


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_header_names_its_own_file(file: Path) -> None:
    words = command(file)
    assert words[:3] in (["limbeck", "lm", "train"], ["limbeck", "images", "train"])
    assert words[words.index("--compress") + 1] == f"schedules/{name(file)}"


@pytest.mark.parametrize("file", [file for file in FILES if STRUCTURED not in file.name], ids=name)
def test_a_shipped_schedule_keeps_what_its_header_says(file: Path) -> None:
    words = command(file)
    epochs = int(words[words.index("--epochs") + 1]) if "--epochs" in words else 40
    planned = plan(file, model(words), epochs=epochs, steps_per_epoch=391 if "cifar-10" in words else None)
    assert not planned.warnings
    stay = re.search(r"([\d,]+) of ([\d,]+) weights stay", file.read_text(encoding="utf-8"))
    if stay:
        assert [f"{planned.nonzeros:,}", f"{planned.weights:,}"] == list(stay.groups())
    if name(file) in NONZEROS:
        assert planned.nonzeros == NONZEROS[name(file)]
    elif not stay:
        level = re.search(r"_(\d\d)\.yaml$", file.name)
        assert level
        assert planned.sparsity == pytest.approx(int(level[1]) / 100, abs=1e-4)
