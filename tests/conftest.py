from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
WIKITEXT_2 = DATA / "wikitext-2"
CIFAR_10 = DATA / "cifar-10"
MULTI30K = DATA / "multi30k"

settings.register_profile("limbeck", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("limbeck")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def wikitext_2() -> Path:
    """The folder of the real WikiText-2, where it lies beside the repository."""
    if not (WIKITEXT_2 / "train.txt").is_file():
        pytest.skip("WikiText-2 is not here: it belongs into ../shared/data/wikitext-2 beside the repository")
    return WIKITEXT_2


@pytest.fixture(scope="session")
def cifar_10() -> Path:
    """The folder of the real CIFAR-10, where it lies beside the repository."""
    if not (CIFAR_10 / "train.parquet").is_file():
        pytest.skip("CIFAR-10 is not here: it belongs into ../shared/data/cifar-10 beside the repository")
    return CIFAR_10


@pytest.fixture(scope="session")
def multi30k() -> Path:
    """The folder of the real Multi30k, English and German, where it lies beside the repository."""
    if not (MULTI30K / "train.en.gz").is_file():
        pytest.skip("Multi30k is not here: it belongs into ../shared/data/multi30k beside the repository")
    return MULTI30K
