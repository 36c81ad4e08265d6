"""A small training run of real steps under one component, or under none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from laws.rows import Row
from limbeck.apps._tree import decode, encode
from limbeck.events import Action
from limbeck.recipes import Recipe
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.thinning import replay

EPOCHS, STEPS, WORDS = 5, 2, 7
SAVES = EPOCHS * (STEPS + 1)
BATCHES = torch.randint(WORDS, (STEPS, 3, 9), generator=torch.Generator().manual_seed(3))
Saved = tuple[str, dict[str, Tensor]]


class Net(nn.Module):
    """Words into convolutions with a batch norm, a Linear layer with zeros in it, and back to words by the same table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 6)
        self.conv = nn.Conv2d(6, 8, 2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.next = nn.Conv2d(8, 8, 2)
        self.hidden = nn.Linear(8, 6)
        self.head = nn.Linear(6, WORDS, bias=False)
        self.head.weight = self.table.weight
        with torch.no_grad():
            self.hidden.weight[0] = 0.0
            self.hidden.weight[1, :3] = 0.0

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words).transpose(1, 2).reshape(-1, 6, 3, 3)
        x = self.next(torch.relu(self.norm(self.conv(x)))).flatten(1)
        return self.head(torch.tanh(self.hidden(x)))


torch.manual_seed(5)
FRESH = Net()


def objective(model: nn.Module, words: Tensor) -> Tensor:
    return functional.cross_entropy(model(words), words[:, 0])


class Enough(Exception):  # noqa: N818  # no error: as many states are saved as were asked for
    """Ends a run."""


class Run:
    """Trains, and saves after every step and every epoch."""

    def __init__(
        self,
        row: Row | None = None,
        *,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        model: nn.Module | None = None,
        lr: float = 0.1,
        others: list[tuple[Window, Action]] | None = None,
        inputs: tuple[Tensor, ...] | None = None,
    ) -> None:
        self.row, self.model = row, copy.deepcopy(FRESH) if model is None else model
        self.wrapped = wrap(self.model)
        still = lr == 0
        self.optimizer = SGD(self.model.parameters(), lr=lr, momentum=0 if still else 0.9, weight_decay=0 if still else 1e-3)
        own = [] if row is None else [(part.window, part.action()) for part in (row.beside, row) if part is not None]
        if row is not None and row.section == "extensions":
            inputs = (BATCHES[0],)
        self.scheduler = Scheduler(self.wrapped, [*own, *(others or [])], self.optimizer, example_inputs=inputs)
        self.taken: list[Saved] = []
        self.history: list[dict[str, Tensor]] = []
        self.masks: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self.most = 0

    def train(self, epochs: int = EPOCHS, saves: int = 0) -> Run:
        """To the end, or until so many states have been saved, of which one is after every step and every epoch."""
        self.most = saves
        with suppress(Enough):
            self._train(epochs)
        return self

    def _train(self, epochs: int) -> None:
        for epoch in self.scheduler.epochs(epochs, self.save):
            for words in self.scheduler.steps(BATCHES, self.save):
                self.rates.append(self.optimizer.param_groups[0]["lr"])
                self.held()
                loss = self.scheduler.loss(objective(self.wrapped, words))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.held()
                self.history.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
                self.masks.append({name: mask.clone() for name, mask in self.scheduler.masks.items()})
            self.held()
            self.scheduler.metrics(loss=float(epoch % 2))

    def held(self) -> None:
        """No forward pass, no evaluation and no checkpoint sees a weight that is masked and not zero."""
        for name, keep in self.scheduler.masks.items():
            assert not self.scheduler.state.parameters[name].parameter[~keep].any(), name

    def save(self) -> None:
        self.held()
        if self.most:
            self.taken.append(self.state())
            if len(self.taken) == self.most:
                raise Enough

    def state(self) -> Saved:
        """As a checkpoint holds it: text and named tensors."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        tree, tensors = encode({name: dict(part) for name, part in parts.items()})
        return json.dumps(tree), copy.deepcopy(tensors)

    def load(self, saved: Saved, parts: tuple[str, ...] = ("model", "scheduler", "optimizer")) -> Run:
        tree = decode(json.loads(saved[0]), copy.deepcopy(saved[1]))
        replay([Recipe.from_json(text) for text in tree["scheduler"]["recipes"]], self.model)
        for name in parts:
            getattr(self, name).load_state_dict(tree[name])
        return self


def equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same(one: Saved, other: Saved) -> bool:
    return one[0] == other[0] and equal(one[1], other[1])
