"""What the README and the docs show is true: Python runs, schedules have no faults, commands parse, and printed output is what is printed."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import limbeck
from limbeck.cli import app
from limbeck.config import components
from limbeck.config.check import check
from limbeck.config.load import load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+\.yaml)\n")
SECTIONS = {"pruners": "pruner", "regularizers": "regularizer", "lr_schedulers": "lr_scheduler"}
RUN = CliRunner()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.number}"

    @property
    def file_name(self) -> str | None:
        """The name that the first line gives the file, as a comment."""
        found = FILE_NAME.match(self.text)
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[list[str], str]]:
        """The limbeck commands of a shell block, each with the output that is shown after it."""
        prompt = "$ " if self.language == "console" else ""
        lines = iter(self.text.replace("\\\n", " ").splitlines())
        rest = list(lines)
        for place, line in enumerate(rest):
            if line.startswith(f"{prompt}limbeck"):
                shown = takewhile(lambda later: not later.startswith("$ "), rest[place + 1 :])
                yield program_arguments(line.removeprefix(prompt)), "\n".join(shown).strip("\n")


BLOCKS = [
    Block(page, number, *match.groups())
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
]
SCHEDULES = [block for block in BLOCKS if block.language == "yaml"]
SHELL = [block for block in BLOCKS if block.language in ("sh", "console")]


class TinyLanguageModel(nn.Module):
    """Ten words, the parameter names of the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(10, 8)
        self.rnn = nn.LSTM(8, 8, num_layers=2)
        self.decoder = nn.Linear(8, 10)
        self.decoder.weight = self.encoder.weight

    def forward(self, words: Tensor) -> Tensor:
        """Logits of the next word."""
        logits: Tensor = self.decoder(self.rnn(self.encoder(words))[0])
        return logits.flatten(0, 1)


def names_of_the_reader() -> dict[str, Any]:
    """What a page may take as given: a model, an optimizer, data, an evaluation."""
    model = TinyLanguageModel()
    loader = [(words[:-1], words[1:].flatten()) for words in torch.randint(10, (3, 5, 4))]

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return sum(F.cross_entropy(model(x), y).item() for x, y in loader)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {
        "limbeck": limbeck, "torch": torch, "nn": nn, "F": F, "model": model, "optimizer": optimizer, "loader": loader,
        "evaluate": evaluate,
    }  # fmt: skip


def program_arguments(line: str) -> list[str]:
    """A command line without the program's name, comment and redirection."""
    return list(takewhile(lambda word: word != ">", shlex.split(line, comments=True)[1:]))


def parse(arguments: list[str]) -> None:
    """Parse as the program would, without running."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(command.name, list(arguments))


def examples(command: Any = None) -> Iterator[str]:
    """The example of every command's help."""
    command = command or typer.main.get_command(app)
    if command.epilog:
        yield command.epilog.removeprefix("Example: ")
    for child in getattr(command, "commands", {}).values():
        yield from examples(child)


def scheduled(tree: dict[str, Any]) -> dict[str, Any]:
    """A fragment with a policy for each of its instances, each at an epoch of its own."""
    instances = [(kind, name) for section, kind in SECTIONS.items() for name in tree.get(section, {})]
    return {**tree, "policies": [{kind: {"instance_name": name}, "epochs": [epoch]} for epoch, (kind, name) in enumerate(instances)]}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A current folder with the schedules that the README and the test's page give a name."""
    page: Path = getattr(request.node.callspec.params.get("block"), "page", None) or request.node.callspec.params["page"]
    for block in SCHEDULES:
        if block.file_name and block.page in (ROOT / "README.md", page):
            (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
    (tmp_path / "schedules").symlink_to(ROOT / "schedules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return tmp_path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path) -> None:
    names = names_of_the_reader()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            if ">>> " in block.text:
                test = doctest.DocTestParser().get_doctest(block.text, names, str(block), str(page), 0)
                runner.run(test, clear_globs=False)
                names.update(test.globs)
            else:
                exec(compile(block.text, str(block), "exec"), names)
    assert not runner.failures


@pytest.mark.parametrize("block", SCHEDULES, ids=str)
def test_schedules_have_no_faults(block: Block) -> None:
    document = load(block.text)
    assert isinstance(document.tree, dict)
    if "policies" not in document.tree:
        document.tree = scheduled(document.tree)
    elif not document.tree.keys() & SECTIONS.keys():
        document.tree = {**document.tree, "pruners": dict.fromkeys(applied(document.tree), ANY_PRUNER)}
    report = check(document).report
    assert report.ok != (block.file_name == "faulty.yaml"), report.text()
    assert not report.warnings or not report.ok


ANY_PRUNER = {"class": "SparsityLevelParameterPruner", "levels": {"*": 0.5}}


def applied(tree: dict[str, Any]) -> list[str]:
    """The instances that a fragment's policies apply."""
    return [policy["pruner"]["instance_name"] for policy in tree["policies"]]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_parse_and_name_what_is_there(block: Block) -> None:
    for arguments, _ in block.commands():
        parse(arguments)
        named = [word.rpartition("=")[2] for word in arguments if word.endswith(".yaml")]
        assert not [name for name in named if not Path(name).is_file()]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("block", [block for block in SHELL if block.language == "console"], ids=str)
def test_what_check_and_plan_print_is_what_is_shown(block: Block) -> None:
    for arguments, shown in block.commands():
        if arguments[0] in ("check", "plan"):
            printed = RUN.invoke(app, arguments).output
            assert [line.rstrip() for line in printed.strip("\n").splitlines()] == [line.rstrip() for line in shown.splitlines()]


@pytest.mark.parametrize("line", list(examples()))
def test_the_example_of_every_help_parses(line: str) -> None:
    parse(program_arguments(line))


@pytest.mark.parametrize("line", [line for line in examples() if line.split()[1] in ("check", "plan", "schema")])
def test_the_example_of_a_quick_command_runs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = RUN.invoke(app, program_arguments(line))
    assert result.exit_code == 0, result.output
    assert result.output


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on a code host."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert link.startswith("https://") or target.exists(), link
        assert not anchor or link.startswith("https://") or anchor in anchors(target), link


def test_every_class_of_the_language_is_described() -> None:
    text = (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
    assert not [name for section in components.SECTIONS for name in section.classes if name not in text]
