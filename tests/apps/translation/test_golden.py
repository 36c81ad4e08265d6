"""NeurST's golden tables, run through the application's own loop.

Source: the non-zeros that NeurST itself gave after each step, with ``w = linspace(1, 1000, 1000)``, a learning rate of 0, and its schedule from 0 to 0.1
over 500 steps, every 100; and its formula for the other targets.
"""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from limbeck import Window
from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.log import RunLog
from limbeck.apps.progress import Progress
from limbeck.apps.translation.options import TrainOptions
from limbeck.apps.translation.session import Session, resume, start
from limbeck.apps.translation.track import COLUMNS
from limbeck.apps.translation.train import train
from limbeck.events import Action, State
from limbeck.schedules import Moment

NEURST = {1: 1000, 99: 1000, 100: 951, 199: 951, 200: 922, 300: 906, 400: 901, 499: 901, 500: 900, 501: 900, 600: 900, 700: 900}
"""After how many updates how many weights of a thousand are not zero: a run of NeurST itself."""
SPARSITIES = {
    0.1: (0.0488, 0.0784, 0.0936, 0.0992, 0.1),
    0.2: (0.0976, 0.1568, 0.1872, 0.1984, 0.2),
    0.3: (0.1464, 0.2352, 0.2808, 0.2976, 0.3),
    0.4: (0.1952, 0.3136, 0.3744, 0.3968, 0.4),
    0.5: (0.244, 0.392, 0.468, 0.496, 0.5),
}
"""NeurST's sparsities at the steps 100, 200, 300, 400 and 500, by target."""
NAME = "encoder.layers.0.ffn.conv1.weight"
"""A thousand weights: 50 x 20."""


class Watch(Action):
    """Notes after each update how many weights are left."""

    def __init__(self) -> None:
        self.nonzeros: dict[int, int] = {}

    def on_minibatch_end(self, state: State, moment: Moment) -> None:
        self.nonzeros[moment.now + 1] = int(state.parameters[NAME].parameter.count_nonzero())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of sentences."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ["one two", "two one", "one one two", "two", "two two one", "one"]
    for split in ("train", "val", "test"):
        for language, text in (("de", [line.replace("o", "a") for line in words]), ("en", words)):
            (folder / f"{split}.{language}").write_text("\n".join(text[: 6 if split == "train" else 1]) + "\n", encoding="utf-8")
    return folder


def options(pairs: Path, **given: object) -> TrainOptions:
    """NeurST's schedule on the smallest model that has a thousand weights in a matrix; a learning rate that changes no weight of this size."""
    small = TrainOptions(
        data=str(pairs), vocabulary=16, batch_tokens=16, width=20, heads=1, encoder_layers=1, decoder_layers=1, ffn=50, beam_size=1,
        lr_schedule="constant", learning_rate=1e-30, train_steps=501, eval_start_at=100_000, save_checkpoint_steps=100_000,
        end_pruning_step=500, nopruning_variable_pattern="(ln/gamma)|(ln/beta)|(modalit)",
    )  # fmt: skip
    return replace(small, **given)  # type: ignore[arg-type]


def followed(session: Session, folder: Path) -> None:
    """Train, in a folder."""
    folder.mkdir()
    with (
        RunLog(folder, COLUMNS, tensorboard=False) as log,
        Progress(len(session.train), console=Console(file=StringIO())) as progress,
    ):
        train(session, folder, log, progress)


def watched(session: Session, folder: Path) -> dict[int, int]:
    """Train, and give the non-zeros after each step."""
    watch = Watch()
    session.scheduler.add(Window(unit="step"), watch)
    followed(session, folder)
    return watch.nonzeros


def begun(given: TrainOptions) -> Session:
    session = start(given)
    weight = session.model.get_parameter(NAME)
    weight.data.copy_(torch.linspace(1, 1000, 1000).view_as(weight))
    return session


@pytest.mark.parametrize("updates", [201, pytest.param(701, marks=pytest.mark.long)])
def test_a_thousand_weights_fall_as_in_neurst(pairs: Path, tmp_path: Path, updates: int) -> None:
    session = begun(options(pairs, target_sparsity=0.1, train_steps=updates))
    found = watched(session, tmp_path / "run")
    reached = {step: count for step, count in NEURST.items() if step <= updates}
    assert {step: found[step] for step in reached} == reached
    left = session.model.get_parameter(NAME).detach()
    assert torch.equal(left[left != 0], torch.linspace(1, 1000, 1000)[-found[updates] :])  # the largest stay, bit for bit


@pytest.mark.long
@pytest.mark.parametrize("target", SPARSITIES)
def test_every_target_follows_neurst_s_ramp(pairs: Path, tmp_path: Path, target: float) -> None:
    found = watched(begun(options(pairs, target_sparsity=target)), tmp_path / "run")
    for step in range(1, 502):
        shares = (0.0, *SPARSITIES[target])
        assert found[step] == int(np.rint(np.float32(1000) * (1 - np.float32(shares[min(step, 500) // 100]))))


def test_a_pruning_step_is_an_update_and_counts_this_run_s_own(pairs: Path, tmp_path: Path) -> None:
    """NeurST's ``update_cycle`` makes one update of several batches, and its ``initial_global_step`` never moves the pruning (facts 1.5 and 1.2)."""
    given = {"target_sparsity": 0.5, "end_pruning_step": 5, "pruning_frequency": 1, "train_steps": 6}
    ramp = {step: round(1000 * (1 - 0.5 + 0.5 * (1 - min(step, 5) / 5) ** 3)) for step in range(1, 7)}
    for name, more in (("cycle", {"update_cycle": 2}), ("later", {"initial_global_step": 250_000})):
        assert watched(begun(options(pairs, **given, **more)), tmp_path / name) == ramp


def test_a_run_that_goes_on_does_not_begin_the_schedule_anew(pairs: Path, tmp_path: Path) -> None:
    """Where NeurST restarts, its schedule does, and the mask regrows (facts 1.6)."""
    given = options(pairs, target_sparsity=0.5, end_pruning_step=6, pruning_frequency=2, train_steps=8, save_checkpoint_steps=1)
    followed(begun(given), tmp_path / "whole")
    followed(resume(load_checkpoint(tmp_path / "whole" / "ckpt-3"), given, None), tmp_path / "rest")
    whole = [load_checkpoint(tmp_path / "whole" / f"ckpt-{step}").model[NAME] for step in range(1, 9)]
    rest = [load_checkpoint(tmp_path / "rest" / f"ckpt-{step}").model[NAME] for step in range(4, 9)]
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], rest, strict=True))
    shares = (0.0, 0.5 * (1 - (2 / 3) ** 3), 0.5 * (1 - (1 / 3) ** 3), 0.5)
    assert [int(weight.count_nonzero()) for weight in whole] == [round(1000 * (1 - shares[min(step, 6) // 2])) for step in range(1, 9)]
