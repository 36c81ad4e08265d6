"""Networks for the embedded digits that train in a second, by their SPEC ``apps.images.tiny:net``."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + x).relu()


def net(num_classes: int) -> nn.Sequential:
    """A residual network for images [batch, 1, 8, 8], with dropout, so that the generators have a state."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(8), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(128, num_classes),
    )  # fmt: skip


class Exits(nn.Module):
    """Two answers, the earlier one first."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both."""
        return self.early(x.flatten(1)), self.late(x.flatten(1))


def exits() -> nn.Module:
    """A network with an early exit, which takes no number of classes."""
    return Exits()


def broken(num_classes: int) -> nn.Module:
    """No classifier: it returns maps."""
    return nn.Conv2d(1, num_classes, 3)


def wide() -> nn.Module:
    """A network for larger images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


def few() -> nn.Module:
    """A network for three classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def failing() -> nn.Module:
    """A function that raises."""
    raise RuntimeError("no such weights")


NUMBER = 3
