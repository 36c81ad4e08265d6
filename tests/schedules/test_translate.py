"""The shipped schedules for translation models against NeurST's options that their headers name."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from torch import nn

from limbeck import NeurST, Scheduler
from limbeck.apps.translation.hparams import Sizes
from limbeck.apps.translation.model import Transformer, build_model
from limbeck.apps.translation.pruning import policies
from limbeck.cli import app
from limbeck.config import load_schedule
from limbeck.pruning import Prune

FILES = sorted((Path(__file__).parents[2] / "schedules" / "translate").glob("*.yaml"))
SPARSITIES = (10, 20, 30, 40, 50, 70, 90)


def options(file: Path) -> NeurST:
    """The options in the header, read as the program reads them."""
    text = file.read_text(encoding="utf-8").replace("\\\n#    ", "")
    command, line = re.findall(r"^#   (?:limbeck| ) *(translate .*|--.*)$", text, flags=re.MULTILINE)
    train: Any = typer.main.get_command(app)
    words = [*shlex.split(command), *shlex.split(line)]
    assert words[:2] == ["translate", "train"]
    given = train.commands["translate"].commands["train"].make_context("train", words[2:]).params
    return NeurST(**{field.name: given[field.name] for field in fields(NeurST)})


def network() -> Transformer:
    torch.manual_seed(6)
    return build_model(Sizes(width=4, heads=1, encoder_layers=1, decoder_layers=1, ffn=4, dropout=0.1), 9, 9)


def trained(file: Path, by_options: bool, updates: int) -> Transformer:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = Scheduler(model, policies(options(file), model), optimizer) if by_options else load_schedule(file, model, optimizer)
    source = torch.tensor([[5, 7, 3], [8, 3, 0]])
    for _ in scheduler.epochs(1):
        for batch in scheduler.steps([source] * updates):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch, batch).flatten(0, 1), batch.flatten()).backward()
            optimizer.step()
    return model


def test_there_is_a_schedule_a_sparsity() -> None:
    assert [file.name for file in FILES] == [f"polynomial_{level}.yaml" for level in SPARSITIES]
    assert [options(file).target_sparsity for file in FILES] == [level / 100 for level in SPARSITIES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_and_its_options_have_the_same_policies(file: Path) -> None:
    found = []
    for make in (lambda model: Scheduler(model, policies(options(file), model)), lambda model: load_schedule(file, model)):
        scheduler = make(network())
        actions = [(window, action) for window, action in scheduler.schedule if isinstance(action, Prune)]
        found.append([(window, action.pruner, action._options) for window, action in actions])
        assert len(actions) == len(scheduler.schedule) == 2
    assert found[0] == found[1]


def test_a_file_and_its_options_give_the_same_model_bit_for_bit() -> None:
    (file,) = [file for file in FILES if file.stem == "polynomial_50"]
    one, other = (trained(file, by_options, updates=101) for by_options in (True, False))
    assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))
    kept = round(16 * (1 - 0.244))  # NeurST's sparsity at step 100
    assert int(one.encoder.layers[0].ffn.conv1.weight.count_nonzero()) == kept  # type: ignore[union-attr]
