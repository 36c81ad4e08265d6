"""Random small networks: what hypothesis draws is a list of steps, and each step is a module that users have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCES = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True)
class Step:
    """One module of a network of maps."""

    kind: str
    half: int
    """Half of its width."""
    other: int
    """Which earlier result it takes beside the last, counted from the first."""


class Plain(nn.Module):
    """A convolution, a batch norm, a rectifier."""

    def __init__(self, axes: int, channels: int, out: int, *, transposed: bool = False, groups: int = 1) -> None:
        super().__init__()
        kind = TRANSPOSED[axes] if transposed else CONVOLUTIONS[axes]
        self.conv, self.norm, self.out = kind(channels, out, 3, padding=1, groups=groups), NORMS[axes](out), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Bare(nn.Module):
    """A convolution without a norm, over a circle, and a slope for each channel."""

    def __init__(self, axes: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.act = CONVOLUTIONS[axes](channels, out, 3, padding=1, padding_mode="circular"), nn.PReLU(out)
        self.out = out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Sum(nn.Module):
    """A residual block, whose shortcut is projected where the widths differ."""

    def __init__(self, axes: int, channels: int, beside: int) -> None:
        super().__init__()
        self.path, self.out = Plain(axes, channels, channels), channels
        self.shortcut = nn.Identity() if beside == channels else CONVOLUTIONS[axes](beside, channels, 1, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.gelu(self.path(x, x) + self.shortcut(y))


class Concat(nn.Module):
    """As in DenseNet: what was there and what is new, normalised together."""

    def __init__(self, axes: int, channels: int, beside: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = CONVOLUTIONS[axes](channels, out, 1), NORMS[axes](beside + out)
        self.out = beside + out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(self.norm(torch.cat((y, self.conv(x)), 1)))


class Split(nn.Module):
    """Two halves, one of which goes through a convolution."""

    def __init__(self, axes: int, channels: int) -> None:
        super().__init__()
        self.path, self.out = Plain(axes, channels // 2, channels // 2), channels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat((left, self.path(right, right)), 1)


class Gate(nn.Module):
    """A gated linear unit."""

    def __init__(self, axes: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.out = CONVOLUTIONS[axes](channels, 2 * out, 1), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.glu(self.conv(x), 1)


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.down, self.up, self.out = nn.Linear(channels, out), nn.Linear(out, channels), channels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = x.flatten(2).mean(2)
        scale = torch.sigmoid(self.up(F.relu(self.down(pooled))))
        return x * scale.view(*scale.shape, *[1] * (x.dim() - 2)).expand_as(x)


class Grouped(nn.Module):
    """A group norm after a convolution; whole groups go."""

    def __init__(self, axes: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm, self.out = CONVOLUTIONS[axes](channels, out, 1, bias=False), nn.GroupNorm(out // 2, out), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.elu(self.norm(self.conv(x)))


class Instance(nn.Module):
    """An instance norm with a gain and a shift after a convolution."""

    def __init__(self, axes: int, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm, self.out = CONVOLUTIONS[axes](channels, out, 1), INSTANCES[axes](out, affine=True), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)))


class Last(nn.Module):
    """Linear over channels that were moved to the end, and a scale for each, as in ConvNeXt."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.linear, self.scale, self.out = nn.Linear(channels, out), nn.Parameter(torch.randn(out)), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.linear(x.movedim(1, -1)) * self.scale).movedim(-1, 1)


class Shuffle(nn.Module):
    """As in ShuffleNet: channels of two halves take turns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = channels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        grid = x.shape[2:]
        return x.view(len(x), 2, x.shape[1] // 2, *grid).transpose(1, 2).contiguous().view(len(x), -1, *grid)


class Pool(nn.Module):
    """A maximum over neighbours, and elements dropped at random in training, though never any here."""

    def __init__(self, axes: int, channels: int) -> None:
        super().__init__()
        self.pool, self.drop, self.out = POOLS[axes](3, 1, 1), nn.Dropout(0.0), channels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.drop(self.pool(x))


class Pixels(nn.Module):
    """Channels become pixels, and four pixels one again."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(channels, 4 * out, 1), out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(F.pixel_shuffle(self.conv(x), 2)), 2)


STEPS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "plain": lambda axes, channels, beside, out: Plain(axes, channels, out),
    "bare": lambda axes, channels, beside, out: Bare(axes, channels, out),
    "transposed": lambda axes, channels, beside, out: Plain(axes, channels, out, transposed=True),
    "transposed groups": lambda axes, channels, beside, out: Plain(axes, channels, channels, transposed=True, groups=channels // 2),
    "depthwise": lambda axes, channels, beside, out: Plain(axes, channels, channels, groups=channels),
    "multiplied": lambda axes, channels, beside, out: Plain(axes, channels, 2 * channels, groups=channels),
    "groups": lambda axes, channels, beside, out: Plain(axes, channels, channels, groups=channels // 2),
    "sum": lambda axes, channels, beside, out: Sum(axes, channels, beside),
    "concat": Concat,
    "split": lambda axes, channels, beside, out: Split(axes, channels),
    "gate": lambda axes, channels, beside, out: Gate(axes, channels, out),
    "excite": lambda axes, channels, beside, out: Excite(channels, out),
    "group norm": lambda axes, channels, beside, out: Grouped(axes, channels, out),
    "instance norm": lambda axes, channels, beside, out: Instance(axes, channels, out),
    "channels last": lambda axes, channels, beside, out: Last(channels, out),
    "shuffle": lambda axes, channels, beside, out: Shuffle(channels) if channels > 2 else Pool(axes, channels),
    "pool": lambda axes, channels, beside, out: Pool(axes, channels),
    "pixels": lambda axes, channels, beside, out: Pixels(channels, out) if axes == 2 else Bare(axes, channels, out),
}


class Maps(nn.Module):
    """A network of maps ``[batch, 3, ..]`` over so many axes, whose head reads flattened maps or their means."""

    def __init__(self, axes: int, steps: list[Step], flat: bool) -> None:
        super().__init__()
        self.stem, widths, modules = CONVOLUTIONS[axes](3, 8, 3, padding=1), [8], []
        self.others = [step.other % (place + 1) for place, step in enumerate(steps)]
        for step, other in zip(steps, self.others, strict=True):
            modules.append(STEPS[step.kind](axes, widths[-1], widths[other], 2 * step.half))
            widths.append(modules[-1].out)
        self.steps, self.flat = nn.ModuleList(modules), flat
        self.neck = nn.Linear(widths[-1] * (2**axes if flat else 1), 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        results = [self.stem(x)]
        for step, other in zip(self.steps, self.others, strict=True):
            results.append(step(results[-1], results[other]))
        end = results[-1].flatten(1) if self.flat else results[-1].flatten(2).mean(2)
        return self.head(F.relu(self.neck(end)))


def maps(min_size: int = 1, max_size: int = 4) -> st.SearchStrategy[tuple[int, list[Step], bool]]:
    """What ``Maps`` takes."""
    steps = st.lists(
        st.builds(Step, st.sampled_from(sorted(STEPS)), st.integers(1, 4), st.integers(0, 3)), min_size=min_size, max_size=max_size
    )
    return st.tuples(st.sampled_from((1, 2, 3)), steps, st.booleans())


class Recurrent(nn.Module):
    """A recurrent layer over ``[batch, time, width]``."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.out = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)[0]
        return result


class Cell(nn.Module):
    """A cell, step by step, from a state that it makes itself."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.out = cell, cell.hidden_size

    def forward(self, x: Tensor) -> Tensor:
        state, found = None, []
        for moment in x.unbind(1):
            state = self.cell(moment, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


class Attention(nn.Module):
    """Causal heads of two features each, fused or by hand, with positions and a residual."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.inputs, self.output = nn.Linear(width, 6 * heads), nn.Linear(2 * heads, width)
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        self.fused, self.out = fused, width

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions[:, : x.shape[1]]
        q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in self.inputs(x).chunk(3, -1))
        if self.fused:
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            seen = torch.softmax((q @ k.transpose(-2, -1) / 2**0.5).masked_fill(hidden, float("-inf")), -1) @ v
        return x + self.output(seen.transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """A layer norm, then two linear layers, gated or not, and a residual."""

    def __init__(self, width: int, inner: int, gated: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.gate = nn.Linear(width, inner) if gated else None
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.gelu(self.up(y)) if self.gate is None else F.silu(self.gate(y)) * self.up(y))


class Across(nn.Module):
    """A convolution over time."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(width, out, 3, padding=1), out

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "lstm": lambda width, half: Recurrent(nn.LSTM(width, 2 * half + 1, 2, batch_first=True)),
    "both ways": lambda width, half: Recurrent(nn.LSTM(width, 2 * half, bidirectional=True, batch_first=True)),
    "projected": lambda width, half: Recurrent(nn.LSTM(width, 8, 2, proj_size=half + 1, bias=False, batch_first=True)),
    "gru": lambda width, half: Recurrent(nn.GRU(width, 2 * half, 2, bidirectional=True, batch_first=True)),
    "rnn": lambda width, half: Recurrent(nn.RNN(width, 2 * half, nonlinearity="relu", batch_first=True)),
    "lstm cell": lambda width, half: Cell(nn.LSTMCell(width, 2 * half)),
    "gru cell": lambda width, half: Cell(nn.GRUCell(width, 2 * half)),
    "fused heads": lambda width, half: Attention(width, half + 1, fused=True),
    "heads": lambda width, half: Attention(width, half + 1, fused=False),
    "feed": lambda width, half: Feed(width, 3 * half, gated=False),
    "gated feed": lambda width, half: Feed(width, 2 * half, gated=True),
    "convolution": lambda width, half: Across(width, 2 * half),
}


class Tokens(nn.Module):
    """An embedding, layers over ``[batch, time, width]`` and a decoder, tied to the embedding or not, of each token or of the last alone."""

    def __init__(self, layers: list[tuple[str, int]], tied: bool, last: bool) -> None:
        super().__init__()
        self.embedding, width, modules = nn.Embedding(7, 6), 6, []
        for kind, half in layers:
            modules.append(LAYERS[kind](width, half))
            width = modules[-1].out
        self.layers, self.back, self.decoder = nn.Sequential(*modules), nn.Linear(width, 6), nn.Linear(6, 7)
        self.last = last
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.layers(self.embedding(index))
        return self.decoder(self.back(x[:, -1] if self.last else x))


def tokens(max_size: int = 3) -> st.SearchStrategy[tuple[list[tuple[str, int]], bool, bool]]:
    """What ``Tokens`` takes."""
    layers = st.lists(st.tuples(st.sampled_from(sorted(LAYERS)), st.integers(1, 3)), min_size=1, max_size=max_size)
    return st.tuples(layers, st.booleans(), st.booleans())
