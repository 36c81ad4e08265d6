"""A corpus small enough to train on in a second, with words that follow from the ones before."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "dog",
    "that",
    "ran",
    "to",
    "my",
    "big",
    "red",
    "house",
    "in",
    "this",
    "town",
]


def sentences(count: int, seed: int) -> str:
    """Lines of words that walk through ``WORDS`` by a fixed rule."""
    state, lines = seed, []
    for _ in range(count):
        line = []
        for _ in range(9):
            state = (state * 1103515245 + 12345) % (1 << 31)
            line.append(WORDS[(len(line) * 3 + state // 65536 % 4) % len(WORDS)])
        lines.append(" ".join(line))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt, valid.txt and test.txt."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (name, count) in enumerate({"train": 120, "valid": 30, "test": 30}.items(), 1):
        (folder / f"{name}.txt").write_text(sentences(count, seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def schedule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruning by epoch and by step, a threshold that is measured once, and a regularizer, all at work within three epochs."""
    path = tmp_path_factory.mktemp("schedule") / "all.yaml"
    path.write_text(SCHEDULE, encoding="utf-8")
    return path


SCHEDULE = """\
version: 1
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.6, weights: encoder.weight}
  stepwise: {class: AutomatedGradualPruner, initial_sparsity: 0.0, final_sparsity: 0.5, weights: [rnn.weight_ih_l0]}
  sensitive: {class: SensitivityPruner, sensitivities: {rnn.weight_hh_l0: 0.4}}
regularizers:
  l1: {class: L1Regularizer, reg_regims: {rnn.weight_ih_l1: 0.0001}, threshold_criteria: Max}
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 3
  - pruner: {instance_name: stepwise}
    starting_step: 4
    ending_step: 30
    frequency: 5
  - pruner: {instance_name: sensitive}
    epochs: [1, 2]
  - regularizer: {instance_name: l1}
    starting_epoch: 0
    ending_epoch: 3
"""
