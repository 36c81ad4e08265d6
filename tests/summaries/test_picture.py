"""The drawing of a model's graph."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.apps.images.models import MODELS
from limbeck.errors import LimbeckError
from limbeck.summaries import picture
from limbeck.summaries.drawing import Drawing, drawing
from limbeck.summaries.picture import to_dot
from summaries.dot_language import Read, read

SMALL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
IMAGE = (torch.zeros(1, 1, 4, 4),)


def lines(found: Drawing) -> list[tuple[str, ...]]:
    return [box.lines for box in found.boxes]


class Residual(nn.Module):
    """Both ways of a residual block, with a dropout that draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.drop, self.relu = nn.Dropout(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.drop(self.bn(self.conv(x))) + x)


def test_norms_and_activations_stand_in_the_box_of_their_layer() -> None:
    found = drawing(Residual(), (torch.zeros(1, 2, 4, 4),))
    assert lines(found) == [("input x",), ("conv", "Conv2d k=3x3 p=1x1", "bn BatchNorm2d"), ("add", "relu ReLU"), ("output",)]
    assert found.arrows == ((0, 1), (1, 2), (0, 2), (2, 3))


def test_an_activation_that_others_read_past_has_its_own_box() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y * torch.sigmoid(y)

    found = drawing(Gate(), (torch.zeros(1, 2),))
    assert lines(found)[1:] == [("layer", "Linear"), ("sigmoid",), ("mul",), ("output",)]
    assert found.arrows == ((0, 1), (1, 2), (1, 3), (2, 3), (3, 4))


def test_a_module_that_runs_twice_has_two_boxes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    assert drawing(Twice(), (torch.zeros(1, 2),)).arrows == ((0, 1), (1, 2), (2, 3))


def test_an_attention_is_one_box_and_a_transformer_layer_is_not() -> None:
    found = drawing(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.zeros(1, 5, 8),))
    assert lines(found)[1:-1] == [
        ("self_attn", "MultiheadAttention heads=2"),
        ("add", "norm1 LayerNorm"),
        ("linear1", "Linear", "relu"),
        ("linear2", "Linear"),
        ("add", "norm2 LayerNorm"),
    ]
    assert found.boxes[1].macs == 4 * 5 * 8 * 8 + 2 * (2 * 5 * 5 * 4)


def drawn(net: nn.Module, *shape: int, parameters: bool = False) -> Read:
    """What the text says, read back."""
    return read(to_dot(drawing(net, (torch.zeros(*shape),)), parameters))


def test_the_text_shows_shapes_and_sparsity() -> None:
    net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, bias=False))
    net[0].weight.data.fill_(1.0)[:, :3] = 0
    net[0].bias.data.fill_(1.0)
    net[1].weight.data.fill_(1.0)
    found = drawn(net, 1, 4)
    assert [box["label"].splitlines() for box in found.nodes.values()] == [
        ["input", "1x4"],
        ["0", "Linear", "1x2", "8 weights, 75% zero"],
        ["1", "Linear", "1x2", "4 weights, 0% zero"],
        ["output"],
    ]
    assert found.nodes["b1"]["fillcolor"] != found.nodes["b2"]["fillcolor"]
    full = drawn(net, 1, 4, parameters=True)
    assert full.nodes["b1"]["label"].splitlines()[4:] == ["0.weight 2x4, 75% zero", "0.bias 2", "8 MACs"]


def test_resnet_50_is_drawn_whole() -> None:
    """53 convolutions, 16 sums, and pooling twice, flattening, the last layer, input and output; blocks stand in their stages."""
    with torch.device("meta"):
        found = drawn(MODELS["resnet50"](), 1, 3, 224, 224)
    assert len(found.nodes) == 53 + 16 + 6
    assert len(found.edges) == len(found.nodes) - 1 + 16  # a chain, and a second way for each sum
    assert {name.removeprefix("cluster_"): len(nodes) for name, nodes in found.subgraphs.items() if "." not in name} == {
        "layer1": 3 * 4 + 1, "layer2": 4 * 4 + 1, "layer3": 6 * 4 + 1, "layer4": 3 * 4 + 1,
    }  # fmt: skip
    assert found.labels["cluster_layer3.5"] == "layer3.5"
    labels = [box["label"].splitlines() for box in found.nodes.values()]
    assert ["layer4.2.conv3", "Conv2d k=1x1", "bn3 BatchNorm2d", "1x2048x7x7", "1,048,576 weights"] in labels


def test_what_a_label_may_hold_is_quoted() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('say "a\\b"', nn.Linear(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.get_submodule('say "a\\b"')(x)

    assert drawn(Named(), 1, 2).nodes["b1"]["label"].splitlines()[0] == 'say "a\\b"'


@pytest.mark.parametrize(
    "text", ['digraph g {a [label="x];}', "digraph g {a -> ;}", "digraph g {a [label=];}", "digraph g {a -> b;", "digraph g {} }"]
)
def test_the_reader_refuses_what_is_not_of_the_language(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        read(text)


# --- the program -----------------------------------------------------------------------------------------------------------------


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ``dot`` that is the only one to be found."""
    program = folder / "dot"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_a_picture_is_what_dot_makes_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "open(sys.argv[3], 'w').write(' '.join(sys.argv[1:3]) + sys.stdin.read())", monkeypatch)
    picture(SMALL, IMAGE, tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text() == "-Tsvg -o" + to_dot(drawing(SMALL, IMAGE))


def test_without_dot_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        LimbeckError, match=r"needs Graphviz' program 'dot', which is not installed .*; or write the drawing as text: .*net\.dot"
    ):
        picture(SMALL, IMAGE, tmp_path / "net.png")
    picture(SMALL, IMAGE, tmp_path / "net.dot")
    assert len(read((tmp_path / "net.dot").read_text()).nodes) == 3


def test_what_dot_says_when_it_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "sys.exit('Format: \"pdf\" not recognized')", monkeypatch)
    with pytest.raises(LimbeckError, match=r'dot failed \(Format: "pdf" not recognized\)'):
        picture(SMALL, IMAGE, tmp_path / "net.pdf")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimbeckError, match=r"net\.jpg is no file for a drawing; end its name in one of \.png, \.svg, \.pdf, \.dot, \.gv"):
        picture(SMALL, IMAGE, tmp_path / "net.jpg")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz' program dot is not installed here")
def test_graphviz_itself_draws_it(tmp_path: Path) -> None:
    picture(Residual(), (torch.zeros(1, 2, 4, 4),), tmp_path / "net.png", parameters=True)
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
