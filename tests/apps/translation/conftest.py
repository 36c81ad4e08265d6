"""The command line in this process, a handful of sentences, and runs of the smallest model on them."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from limbeck.cli import app

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "red": "rot", "big": "gross", "cat": "Katze", "dog": "Hund"}
SMALL = (
    "--width 16 --heads 2 --encoder_layers 1 --decoder_layers 1 --ffn 16 --vocabulary 60 --batch_tokens 48 --warmup_steps 20 --lr_factor 0.3 "
    "--dropout 0.1 --eval_batch_size 8 --beam_size 1 --summary_steps 3"
)
PRUNED = "--target_sparsity 0.5 --end_pruning_step 12 --pruning_frequency 3"


def invoke(line: str) -> Result:
    """Run ``limbeck LINE`` in this process."""
    return CliRunner().invoke(app, shlex.split(line))


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def sentences(count: int, seed: int) -> list[list[str]]:
    """Sentences of one to five words that follow a fixed rule."""
    names, state, found = list(WORDS), seed, []
    for place in range(count):
        line = []
        for _ in range(1 + (place * 7 + seed) % 5):
            state = (state * 1103515245 + 12345) % (1 << 31)
            line.append(names[state // 65536 % len(names)])
        found.append(line)
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs to train on, to choose by and to test on."""
    made = tmp_path_factory.mktemp("corpus")
    for seed, (split, count) in enumerate({"train": 48, "val": 6, "test_a": 5}.items(), 1):
        lines = sentences(count, seed)
        (made / f"{split}.en").write_text("".join(f"{' '.join(line)}\n" for line in lines), encoding="utf-8")
        (made / f"{split}.de").write_text("".join(f"{' '.join(WORDS[word] for word in line)}\n" for line in lines), encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A finished run without pruning; do not write to it."""
    run = tmp_path_factory.mktemp("dense") / "run"
    result = invoke(f"translate train --data {folder} {SMALL} --train_steps 12 --eval_steps 6 --save_checkpoint_steps 6 --save {run}")
    assert result.exit_code == 0, result.output
    return run
