"""For random small networks: the thinned model computes what the masked one does, trains on, and its recipe replays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graph import Coupling, capture, coupling
from limbeck.thinning import Recipe, apply, thin

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

KINDS = ("convolution", "residual", "concat", "split", "depthwise", "grouped", "group_norm", "pool", "gate", "shuffle")


class Block(nn.Module):
    """One step of a random network on ``[batch, channels, height, width]``."""

    def __init__(self, kind: str, channels: int, wide: int) -> None:
        super().__init__()
        self.kind, self.out = kind, channels
        if kind in {"convolution", "concat"}:
            self.conv = nn.Conv2d(channels, wide, 3, padding=1, bias=kind == "concat")
            self.norm = nn.BatchNorm2d(wide)
            self.out = wide if kind == "convolution" else wide + channels
        elif kind in {"residual", "gate"}:
            self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        elif kind == "split":
            self.conv, self.norm = nn.Conv2d(channels, 2 * wide, 1), nn.BatchNorm2d(wide)
            self.out = wide
        elif kind in {"depthwise", "grouped"}:
            groups = channels if kind == "depthwise" else channels // 2
            self.conv, self.norm = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=groups), nn.BatchNorm2d(2 * channels)
            self.out = 2 * channels
        elif kind == "group_norm":
            self.conv, self.norm = nn.Conv2d(channels, 2 * wide, 1), nn.GroupNorm(wide, 2 * wide)
            self.out = 2 * wide

    def forward(self, x: Tensor) -> Tensor:  # noqa: PLR0911 one line a kind
        match self.kind:
            case "pool":
                return F.max_pool2d(F.silu(x), 3, 1, 1)
            case "shuffle":
                n, c, h, w = x.shape
                return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)
            case "split":
                left, right = self.conv(x).chunk(2, 1)
                return self.norm(left * torch.sigmoid(right))
        y = F.relu(self.norm(self.conv(x)))
        match self.kind:
            case "residual":
                return y + x
            case "gate":
                return x * y.mean((2, 3), keepdim=True)
            case "concat":
                return torch.cat((x, y), 1)
        return y


class Net(nn.Module):
    def __init__(self, kinds: list[tuple[str, int]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        blocks, channels = [], 4
        for kind, half in kinds:
            blocks.append(Block(kind, channels, 2 * half))
            channels = blocks[-1].out
        self.blocks = nn.Sequential(*blocks)
        self.flat = nn.Linear(channels * 6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.flat(self.blocks(self.stem(x)).flatten(1))))


class Chain(nn.Module):
    """Embedding, recurrent layers and a (tied) decoder."""

    def __init__(self, cells: list[str], tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        width, layers = 4, []
        for cell in cells:
            layers.append(RECURRENT[cell](width))
            width = layers[-1](torch.zeros(1, 1, width))[0].shape[-1]
        self.layers = nn.ModuleList(layers)
        self.back = nn.Linear(width, 4)
        self.decoder = nn.Linear(4, 7)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.embedding(index)
        for layer in self.layers:
            x, _ = layer(x)
        return self.decoder(self.back(x))


RECURRENT: dict[str, Callable[[int], nn.Module]] = {
    "lstm": lambda width: nn.LSTM(width, 5, 2),
    "both": lambda width: nn.LSTM(width, 3, bidirectional=True, batch_first=True),
    "projected": lambda width: nn.LSTM(width, 6, 2, proj_size=4, bias=False),
    "gru": lambda width: nn.GRU(width, 4, 2, bidirectional=True),
    "rnn": lambda width: nn.RNN(width, 5, nonlinearity="relu"),
}


def randomised(model: nn.Module) -> nn.Module:
    """With biases, norms and running statistics as training leaves them."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dim() == 1:
            tensor.data = torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor)
    return model


def masked(model: nn.Module, coupled: Coupling, share: float, generator: torch.Generator) -> None:
    """Zero, in place, a random share of all classes of units, in everything that computes them."""
    units = sorted({unit for classes in coupled.classes.values() for unit in classes})
    chosen = {unit for unit in units if torch.rand((), generator=generator) < share}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for (name, axis), classes in coupled.classes.items():
        places = [place for place, unit in enumerate(classes) if unit in chosen]
        computes = (name, axis) in coupled.produced or (tensors[name].dim() == 1 and not name.endswith(("running_mean", "running_var")))
        if places and computes:
            tensors[name].data.index_fill_(axis, torch.tensor(places), 0.0)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model.train()(x).square().mean().backward()
    optimizer.step()


def same(model: nn.Module, other: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected, found = model.eval()(x), other.eval()(x)
    assert (expected - found).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def holds(build: Callable[[], nn.Module], x: Tensor, seed: int) -> Recipe:
    """The law; returns the recipe."""
    torch.manual_seed(seed)
    model = randomised(build())
    example = x[:2] if x.is_floating_point() else x
    masked(model, coupling(capture(model, (example,))), 0.4, torch.Generator().manual_seed(seed))
    thinned = copy.deepcopy(model)
    optimizer = torch.optim.Adam(thinned.parameters(), lr=0.0)
    trained(thinned, optimizer, x)
    model.load_state_dict(thinned.state_dict())  # running statistics have moved
    recipe = thin(thinned, (example,), optimizer=optimizer)
    same(model, thinned, x)
    shapes = {name: parameter.shape for name, parameter in thinned.named_parameters()}
    trained(thinned, optimizer, x)
    assert {name: parameter.shape for name, parameter in thinned.named_parameters()} == shapes
    fresh = build()
    apply(Recipe.from_json(recipe.to_json()), fresh)
    fresh.load_state_dict(thinned.state_dict())
    same(thinned, fresh, x)
    return recipe


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 3)), min_size=1, max_size=4), st.integers(0, 1000))
def test_convolutional(kinds: list[tuple[str, int]], seed: int) -> None:
    holds(lambda: Net(kinds), torch.randn(3, 3, 2, 3, generator=torch.Generator().manual_seed(seed)), seed)


@settings(max_examples=10)
@given(st.lists(st.sampled_from(sorted(RECURRENT)), min_size=1, max_size=3), st.booleans(), st.integers(0, 1000))
def test_recurrent(cells: list[str], tied: bool, seed: int) -> None:
    holds(lambda: Chain(cells, tied), torch.randint(7, (3, 2), generator=torch.Generator().manual_seed(seed)), seed)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_block_loses_units(kind: str) -> None:
    recipe = holds(lambda: Net([("convolution", 3), (kind, 2)]), torch.randn(3, 3, 2, 3), 3)
    cut = {cut.tensor.split(".")[0] for cut in recipe.cuts}
    assert {"stem", "blocks", "flat", "head"} <= cut


@pytest.mark.parametrize("cell", RECURRENT)
def test_each_kind_of_recurrent_layer_loses_units(cell: str) -> None:
    recipe = holds(lambda: Chain([cell, "lstm"], tied=True), torch.randint(7, (3, 2)), 5)
    cut = {cut.tensor.split(".")[0] for cut in recipe.cuts}
    assert {"layers", "embedding", "back"} <= cut
