from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import CaptureError
from limbeck.graph import capture


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.sum() > 0:
            return y
        return y * 2


class Leaving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


@pytest.mark.parametrize(("model", "line"), [(Branching(), r"if y\.sum\(\) > 0"), (Leaving(), r"x\.numpy\(\)")])
def test_what_cannot_be_captured_is_named_with_its_line(model: nn.Module, line: str) -> None:
    with pytest.raises(CaptureError, match=rf"test_capture\.py:\d+.*{line}"):
        capture(model, (torch.zeros(2, 3),))


def test_names_modules_operations_tensors_and_shapes() -> None:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3))
    net.add_module("norm", nn.BatchNorm2d(4))
    graph = capture(net, (torch.zeros(2, 3, 5, 5),))
    calls = [node for node in graph.nodes if node.kind == "call"]
    assert [(node.operation, node.module, node.shapes[0]) for node in calls] == [
        ("conv2d", "conv", (2, 4, 3, 3)),
        ("batch_norm", "norm", (2, 4, 3, 3)),
    ]
    assert graph.tensors["norm.running_var"].buffer
    assert graph.tensors["conv.weight"].shape == (4, 3, 3, 3)
    assert graph.modules["conv"].sizes["out_channels"] == 4


def test_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    net[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    capture(net, (torch.randn(4, 3),))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_tied_parameters_have_one_name_and_aliases() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Embedding(5, 3)
            self.decoder = nn.Linear(3, 5, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, index: Tensor) -> Tensor:
            return self.decoder(self.encoder(index))

    graph = capture(Tied(), (torch.zeros(2, dtype=torch.int64),))
    assert graph.tensors["encoder.weight"].aliases == ("decoder.weight",)
    assert set(graph.stored.values()) == {"encoder.weight"}


def test_what_runs_without_gradients_is_captured_too() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.backbone(x)
            return self.head(y)

    calls = [(node.operation, node.module) for node in capture(Frozen(), (torch.zeros(2, 3),)).nodes if node.kind == "call"]
    assert calls == [("linear", "backbone"), ("linear", "head")]
