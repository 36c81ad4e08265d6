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
from limbeck.apps.translation.hparams import SIZES
from limbeck.apps.translation.model import build_model
from limbeck.config import check_file, plan

ROOT = Path(__file__).parents[2]
EVERY = sorted((ROOT / "schedules").rglob("*.yaml"))
QUANTIZED = [file for file in EVERY if file.parent.name == "quantize"]
FILES = [file for file in EVERY if file not in QUANTIZED]

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
    # the embedding, and by hand round(n * (1 - sparsity)) of 4 * (2 * 49,152 + 4 * 16,384 + 5 * 32,768) weights
    "translate/polynomial_10.yaml": 8_000 * 128 + 1_179_652,
    "translate/polynomial_20.yaml": 8_000 * 128 + 1_048_568,
    "translate/polynomial_30.yaml": 8_000 * 128 + 917_512,
    "translate/polynomial_40.yaml": 8_000 * 128 + 786_428,
    "translate/polynomial_50.yaml": 8_000 * 128 + 655_360,
    "translate/polynomial_70.yaml": 8_000 * 128 + 393_208,
    "translate/polynomial_90.yaml": 8_000 * 128 + 131_068,
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


def number(words: list[str], option: str) -> int | None:
    """The value of an option of a command line."""
    return int(words[words.index(option) + 1]) if option in words else None


def model(words: list[str]) -> nn.Module:
    """The model of a command line, without memory; ``docs`` and translations get a vocabulary of a typical size."""
    if words[1] == "translate":
        with torch.device("meta"):
            return build_model(SIZES[words[words.index("--hparams_set") + 1]], 8_000, 8_000)
    if words[1] == "images":
        with torch.device("meta"):
            return MODELS[words[words.index("--model") + 1]]()

    width, hidden = (number(words, option) or 200 for option in ("--emsize", "--nhid"))
    with torch.device("meta"):
        return RNNModel("LSTM", 5_000 if "docs" in words else 33_278, width, hidden, 2, 0.2, tied="--tied" in words)


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
    assert words[:3] in (["limbeck", application, "train"] for application in ("lm", "images", "translate"))
    assert words[words.index("--compress") + 1] == f"schedules/{name(file)}"


@pytest.mark.parametrize("file", [file for file in FILES if STRUCTURED not in file.name], ids=name)
def test_a_shipped_schedule_keeps_what_its_header_says(file: Path) -> None:
    words = command(file)
    epochs, steps = number(words, "--epochs") or 40, 391 if "cifar-10" in words else None
    if words[1] == "translate":
        epochs, steps = 1, number(words, "--train_steps")
    planned = plan(file, model(words), epochs=epochs, steps_per_epoch=steps)
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


@pytest.mark.parametrize("file", QUANTIZED, ids=name)
def test_a_shipped_quantizer_has_no_fault_and_its_header_names_its_own_file(file: Path) -> None:
    report = check_file(file)
    assert not report.faults
    assert not report.warnings
    assert command(file)[:3] == ["limbeck", "quantize", f"schedules/{name(file)}"]
