"""The code of Distiller's tutorial on language models runs as it is printed, with other imports."""

from __future__ import annotations

import html
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
FENCED = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED_UP = re.compile(r"^<pre><code[^>]*>\n(.*?)^</code></pre>", re.MULTILINE | re.DOTALL)

IMPORTS = {
    "import distiller\n": "import limbeck.compat.distiller as distiller\n",
    "import apputils\n": "from limbeck.compat.distiller import apputils\n",
    "from distiller.data_loggers import": "from limbeck.compat.distiller.data_loggers import",
}

BEFORE = """
import argparse, math, time
from collections import OrderedDict
import torch
from torch import nn
parser = argparse.ArgumentParser()
for name, default in (("lr", 0.5), ("clip", 0.25)):
    parser.add_argument(f"--{name}", type=float, default=default)
for name, default in (("epochs", 21), ("bptt", 4), ("log-interval", 2)):
    parser.add_argument(f"--{name}", type=int, default=default)
"""

MODEL = """
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(12, 8)
        self.rnn = nn.LSTM(8, 8, num_layers=2)
        self.decoder = nn.Linear(8, 12)
        self.decoder.weight = self.encoder.weight

    def forward(self, words, hidden):
        output, hidden = self.rnn(self.encoder(words), hidden)
        return self.decoder(output), hidden

args = parser.parse_args(sys.argv[1:])
torch.manual_seed(0)
ntokens, model, criterion = 12, Words(), nn.CrossEntropyLoss()
train_data = torch.randint(12, (20, 2))
val_data = torch.randint(12, (9, 2))
compression_scheduler = None
history = []

def get_batch(source, i):
    length = min(args.bptt, len(source) - 1 - i)
    return source[i:i + length], source[i + 1:i + 1 + length].flatten()

def repackage_hidden(hidden):
    return tuple(part.detach() for part in hidden)

def evaluate(source):
    model.eval()
    history.append({name: distiller.sparsity(weight) for name, weight in model.named_parameters()})
    with torch.no_grad():
        output, _ = model(source[:-1], hidden_of(model))
        return criterion(output.view(-1, ntokens), source[1:].flatten()).item()

def hidden_of(model):
    return torch.zeros(2, 2, 8), torch.zeros(2, 2, 8)
"""

START_OF_TRAIN = """
    model.train()
    total_loss, start_time, hidden = 0.0, time.time(), hidden_of(model)
    steps_per_epoch = math.ceil(train_data.size(0) / args.bptt)
"""

RNN = (
    .05, .158091, .253481, .336963, .409332, .471382, .523906, .567698, .603552, .632261, .65462, .671423, .683462, .691533, .696428,
    .698942, .699868, .7,
)  # fmt: skip
"""The ancestor's own levels of the two recurrent pruners, in epochs 2 to 19."""


@pytest.fixture(scope="session")
def document() -> str:
    """The tutorial, where it lies beside the repository."""
    found = sorted(SEEDS.glob("000*.txt"))
    if not found:
        pytest.skip("the tutorial is not here: it belongs into ../shared/seeds beside the repository")
    return found[0].read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return


def blocks(document: str) -> dict[str, str]:
    """The tutorial's code, by what each block does."""
    fenced = [text for language, text in FENCED.findall(document) if language == "python"]
    marked = [html.unescape(re.sub(r"</?b>", "", text)) for text in MARKED_UP.findall(document)]
    names = ("imports", "arguments", "summary", "compress", "optimizer", "loggers", "signature", "replaced", "train", "progress", "loop")
    return dict(zip(names, fenced + marked, strict=True))


def schedule(document: str) -> str:
    """The schedule of 70 %, of which the tutorial prints one section after the other."""
    return "".join(text for language, text in FENCED.findall(document) if language == "YAML")


def program(document: str) -> str:
    """The blocks in the order of a program, with what they take as given around them."""
    code = blocks(document)
    imports = code["imports"]
    for old, new in IMPORTS.items():
        assert imports.count(old) == 1
        imports = imports.replace(old, new)
    optimizer = code["optimizer"]
    assert "verbose=True, " in optimizer  # torch has dropped this argument, so no program can give it
    train = code["train"].replace("    ...\n", START_OF_TRAIN)
    assert train != code["train"]
    return "\n".join(
        [
            imports, BEFORE, code["arguments"], MODEL, code["loggers"], code["summary"], code["compress"],
            optimizer.replace("verbose=True, ", ""), train, textwrap.indent(code["progress"], " " * 8), code["loop"], "finally: pass",
        ]
    )  # fmt: skip


def run(text: str, *arguments: str) -> dict[str, Any]:
    """Run a program; gives its names, its loggers closed."""
    names: dict[str, Any] = {"__file__": "examples/word_language_model/main.py", "__name__": "__main__"}
    before, sys.argv = sys.argv, ["main.py", *arguments]
    try:
        exec(compile(text, "main.py", "exec"), names)
    finally:
        sys.argv = before
        for handler in names["msglogger"].logger.handlers:
            handler.close()
        names["tflogger"].close()
    return names


pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of TensorBoard's own


def test_the_tutorial_prunes_as_it_says(document: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="the tutorial logs to TensorBoard, which is not installed")
    (tmp_path / "large_70.yaml").write_text(schedule(document), encoding="utf-8")
    names = run(program(document), "--compress", "large_70.yaml")
    levels = [epoch["rnn.weight_ih_l0"] for epoch in names["history"]]
    weights = names["model"].rnn.weight_ih_l0.numel()
    assert levels == [0, 0, *(int(level * weights) / weights for level in RNN), int(0.7 * weights) / weights]
    last = names["history"][-1]
    assert {round(last[f"rnn.weight_{kind}_l{layer}"], 2) for kind in ("ih", "hh") for layer in (0, 1)} == {0.7}
    assert last["encoder.weight"] == int(0.7 * 96) / 96
    assert last["rnn.bias_ih_l0"] == 0
    assert names["model"].decoder.weight is names["model"].encoder.weight
    said = capsys.readouterr().out
    assert "| epoch   0 |     2/    5 batches" in said
    assert list(tmp_path.glob("logs/*/events.out.tfevents.*"))


@pytest.mark.parametrize("what", ["sparsity", "model", "modules", "percentile"])
def test_the_tutorial_prints_its_summaries(document: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="the tutorial logs to TensorBoard, which is not installed")
    with pytest.raises(SystemExit) as end:
        run(program(document), "--summary", what)
    assert end.value.code == 0
    assert "encoder" in capsys.readouterr().out


PENALTY = """
regularizers:
  small: {class: L1Regularizer, reg_regims: {encoder.weight: 0.01, rnn.weight_hh_l0: 0.001}}
policies:
  - regularizer: {instance_name: small}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
"""


def test_a_penalty_reaches_the_gradient_though_the_tutorial_drops_what_is_returned(document: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tutorial logs to TensorBoard, which is not installed")
    (tmp_path / "l1.yaml").write_text(PENALTY, encoding="utf-8")
    as_printed = program(document)
    call = "compression_scheduler.before_backward_pass("
    corrected = as_printed.replace(call, f"loss = {call}")
    penalty = "loss = loss + 0.01 * model.encoder.weight.abs().sum() + 0.001 * model.rnn.weight_hh_l0.abs().sum()"
    by_hand = as_printed.replace("        optimizer.zero_grad()\n", f"        {penalty}\n        optimizer.zero_grad()\n")
    assert len({as_printed, corrected, by_hand}) == 3
    first, second = (run(text, "--compress", "l1.yaml", "--epochs", "3")["model"].state_dict() for text in (as_printed, corrected))
    third = run(by_hand, "--epochs", "3")["model"].state_dict()
    without = run(as_printed, "--epochs", "3")["model"].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, third)
    assert not torch.equal(first["encoder.weight"], without["encoder.weight"])
