"""Chance in training: generators that are seeded by several numbers, and the states of all global ones as a tree that a checkpoint can hold."""

from __future__ import annotations

import random
import sys
from importlib import import_module

import numpy as np
import torch

from limbeck.apps._tree import Tree


def generator(*numbers: int) -> torch.Generator:
    """A generator of chance that is seeded by several numbers at once: seed, epoch, step.

    >>> first, other, again = (torch.randint(1000, (4,), generator=generator(*numbers)) for numbers in ((1, 2, 3), (1, 3, 2), (1, 2, 3)))
    >>> first.equal(other), first.equal(again)
    (False, True)
    """
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence([number % 2**63 for number in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )


def rng_state() -> Tree:
    """The states of Python's, NumPy's (where it is loaded), torch's CPU and, where CUDA is in use, torch's CUDA generators.

    >>> state = rng_state()
    >>> before = torch.rand(2), random.random()
    >>> set_rng_state(state)
    >>> after = torch.rand(2), random.random()
    >>> torch.equal(before[0], after[0]), before[1] == after[1]
    (True, True)
    """
    state: dict[str, Tree] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        kind, key, position, has_gauss, gauss = sys.modules["numpy"].random.get_state(legacy=True)
        state["numpy"] = (kind, key.tolist(), int(position), int(has_gauss), float(gauss))
    if torch.cuda.default_generators:  # there are none before the first use of CUDA
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Tree) -> None:
    """Set every generator that the state names; those of CUDA devices that this machine lacks are left out."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import_module("numpy").random.set_state(state["numpy"])
    if torch.cuda.is_available():
        for device, saved in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, device)
