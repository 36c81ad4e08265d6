"""Small models as users write them, each with what of it may go: the weights whose rows (or columns, of an embedding) nothing holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class User:
    """A model, what it takes, and the weights that lose units."""

    build: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    loses: tuple[str, ...]


def block(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, act: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs), act()]


class Excited(nn.Module):
    """Squeeze and excitation by linear layers, expanded as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(*block(3, 8, 3)), nn.Conv2d(8, 2, 1)
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True), nn.Linear(4, 8), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return self.head(x * self.fc(y).view(b, c, 1, 1).expand_as(x))


class Inverted(nn.Module):
    """Two inverted residuals, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*block(3, 6, 3, act=nn.Hardswish))
        self.one, self.two = (
            nn.Sequential(*block(6, 12, act=nn.ReLU6), *block(12, 12, 3, groups=12, act=nn.ReLU6), *block(12, 6, act=nn.Identity))
            for _ in range(2)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        return self.head(x + self.two(x))


class Dense(nn.Module):
    """Concatenations of all that came before, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(6 + 4 * place), nn.ReLU(), nn.Conv2d(6 + 4 * place, 4, 3, padding=1)) for place in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 8, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.head(self.transition(torch.cat(found, 1)).mean((2, 3)))


class Ladder(nn.Module):
    """A U-Net: skips are concatenated with what transposed convolutions, padded to size, bring back up."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Sequential(*block(3, 6, 3)), nn.Sequential(*block(6, 8, 3))
        self.up, self.join, self.head = nn.ConvTranspose2d(8, 6, 2, 2), nn.Sequential(*block(12, 6, 3)), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        y = self.up(self.low(F.max_pool2d(skip, 2)))
        high, wide = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        y = F.pad(y, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        return self.head(self.join(torch.cat([skip, y], 1)))


class Cardinal(nn.Module):
    """A ResNeXt block of four groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*block(3, 8))
        self.path = nn.Sequential(*block(8, 8), *block(8, 8, 3, groups=4), *block(8, 8, act=nn.Identity))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.path(x) + x))


class Patches(nn.Module):
    """A vision transformer whose heads are counted by what is left: ``(-1, width of a head)``."""

    def __init__(self, counted: bool = False) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 3)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.shape = (4, -1) if counted else (-1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1) + self.positions
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, self.shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(self.norm(x)[:, 0])


class Generator(nn.Module):
    """A GPT block whose embedding is its decoder's weight, with a causal mask kept as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe, self.norm = nn.Embedding(9, 8), nn.Embedding(6, 8), nn.LayerNorm(8)
        self.attn, self.proj, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.decoder = nn.Linear(8, 9, bias=False)
        self.decoder.weight = self.wte.weight
        self.register_buffer("causal", torch.tril(torch.ones(6, 6)).view(1, 1, 6, 6))

    def forward(self, index: Tensor) -> Tensor:
        t = index.size(1)
        x = self.wte(index) + self.wpe(torch.arange(t))
        q, k, v = (part.view(len(x), t, -1, 2).transpose(1, 2) for part in self.attn(self.norm(x)).chunk(3, 2))
        scores = (q @ k.transpose(-2, -1) / math.sqrt(2)).masked_fill(self.causal[:, :, :t, :t] == 0, float("-inf"))
        x = x + self.proj((F.softmax(scores, -1) @ v).transpose(1, 2).contiguous().view(len(x), t, -1))
        return self.decoder(self.norm(x + self.down(F.gelu(self.up(self.norm(x))))))


class Judge(nn.Module):
    """A classifier that reads the last hidden states of both directions."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(9, 6, padding_idx=0), kind(6, 5, 2, bidirectional=True, batch_first=True)
        self.fc, self.out = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, index: Tensor) -> Tensor:
        state = self.rnn(self.embedding(index))[1]
        last = state[0] if isinstance(state, tuple) else state
        return self.out(F.relu(self.fc(torch.cat((last[-2], last[-1]), 1))))


class Translator(nn.Module):
    """An encoder whose state the decoder begins with, step by step, with Luong's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(9, 6), nn.Embedding(9, 6)
        self.encoder, self.bridge = nn.GRU(6, 4, bidirectional=True, batch_first=True), nn.Linear(8, 7)
        self.cell, self.attend, self.out = nn.GRUCell(14, 7), nn.Linear(7, 8, bias=False), nn.Linear(15, 9)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        seen, last = self.encoder(self.source(source))
        state, context, words, found = self.bridge(torch.cat((last[0], last[1]), -1)), seen.mean(1), self.target(target), []
        for step in range(target.shape[1]):
            state = self.cell(torch.cat((words[:, step], context), -1), state)
            weights = torch.bmm(seen, self.attend(state).unsqueeze(2)).squeeze(2).softmax(-1)
            context = torch.bmm(weights.unsqueeze(1), seen).squeeze(1)
            found.append(self.out(torch.cat((state, context), -1)))
        return torch.stack(found, 1)


class Constants(nn.Module):
    """Functions with constants: a scale by a number is followed, a tensor made in the code has a length of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.maximum(self.a(x) * 0.5, torch.zeros_like(self.a(x))) / 3
        return self.c(F.relu(self.b(x)) * torch.ones(6))


USERS: dict[str, User] = {
    "flattened": User(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 3)),
        (IMAGE,),
        ("0.weight", "4.weight"),
    ),
    "squeeze and excitation": User(Excited, (IMAGE,), ("stem.0.weight", "fc.0.weight", "fc.2.weight")),
    "inverted residuals": User(
        Inverted, (IMAGE,), ("stem.0.weight", *[f"{part}.{place}.weight" for part in ("one", "two") for place in (0, 3, 6)])
    ),
    "DenseNet": User(
        Dense, (IMAGE,), ("stem.weight", "layers.0.2.weight", "layers.1.2.weight", "layers.2.2.weight", "transition.2.weight")
    ),
    "U-Net": User(Ladder, (torch.randn(2, 3, 7, 9),), ("down.0.weight", "low.0.weight", "up.weight", "join.0.weight")),
    "ResNeXt": User(Cardinal, (IMAGE,), ("stem.0.weight", "path.0.weight", "path.3.weight", "path.6.weight")),
    "pixel shuffle": User(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.PixelUnshuffle(2), nn.Conv2d(24, 2, 1)
        ),
        (IMAGE,),
        ("0.weight", "3.weight"),
    ),
    "ViT": User(Patches, (IMAGE,), ("q.weight", "k.weight", "v.weight", "up.weight")),
    "GPT": User(Generator, (WORDS,), ("attn.weight", "up.weight")),
    "LSTM classifier": User(lambda: Judge(nn.LSTM), (WORDS,), ("embedding.weight", "rnn.weight_ih_l0", "fc.weight")),
    "GRU classifier": User(lambda: Judge(nn.GRU), (WORDS,), ("embedding.weight", "rnn.weight_ih_l0", "fc.weight")),
    "seq2seq": User(
        Translator,
        (WORDS, WORDS[:, :3]),
        ("source.weight", "target.weight", "encoder.weight_ih_l0", "bridge.weight", "cell.weight_ih", "attend.weight"),
    ),
    "constants": User(Constants, (torch.randn(4, 3),), ("a.weight",)),
}
"""What is not named stays: first inputs and last outputs, the width that layer norms run over, positions and words, which are looked up by number,
the width of a head, and in ``constants`` what meets a tensor of six ones."""
