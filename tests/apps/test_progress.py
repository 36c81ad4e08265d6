"""Progress: a bar on a terminal, plain lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from limbeck.apps import progress as module
from limbeck.apps.progress import Progress

NUMBERS = {"loss": 4.5, "perplexity": 90.0171, "learning_rate": 20.0, "sparsity": 0.8, "tokens_per_second": 12345.0}
SAID = "loss 4.500, perplexity 90.02, learning rate 20, sparsity 80.00%, 12,345 tokens/s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(file: io.StringIO, **options: object) -> str:
    with Progress(4, "epoch 1/2", console=Console(file=file, **options)) as progress:
        for step in range(4):
            progress.advance()
            if step % 2:
                progress.show(NUMBERS)
        progress.say("[saved] last")
        progress.begin("epoch 2/2", done=0)
        progress.show({"loss": 1.0})
    return file.getvalue()


@pytest.mark.parametrize("force", [False, True])
def test_off_a_terminal_it_prints_plain_lines(monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    if force:
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert drive(io.StringIO()) == f"epoch 1/2, 2/4: {SAID}\nepoch 1/2, 4/4: {SAID}\n[saved] last\nepoch 2/2, 0/4: loss 1.000\n"


def test_off_a_terminal_a_silent_job_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    with Progress(100, "calibration", console=Console(file=file)) as progress:
        for _ in range(75):
            clock[0] += 1.0
            progress.advance()
            if clock[0] == 40:
                progress.show({"loss": 1.0})
    assert file.getvalue() == "calibration, 31/100\ncalibration, 40/100: loss 1.000\ncalibration, 71/100\n"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in drive(Terminal())


def test_on_a_terminal_it_draws_a_bar_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    drawn = drive(Terminal(), width=100, force_terminal=True)
    assert drawn.startswith("\x1b[?25l")
    assert drawn.rstrip().endswith("\x1b[?25h"), "the cursor comes back"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "epoch 1/2" in text
    assert "2/4" in text
    assert SAID in text
    assert "[saved] last" in text
    assert "epoch 2/2" in text


def test_a_narrow_terminal_shortens_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drive(Terminal(), width=50, force_terminal=True))
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 50


def test_the_terminal_is_left_as_it_was_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(4, console=Console(file=file, force_terminal=True)):
        raise KeyboardInterrupt
    assert file.getvalue().rstrip().endswith("\x1b[?25h")


def test_advancing_draws_twice_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now, drawn = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.Live, "refresh", lambda live: drawn.append(now[0]))
    with Progress(10_000, console=Console(file=Terminal(), force_terminal=True)) as progress:
        for _ in range(10_000):
            now[0] += 0.001
            progress.advance()
    assert 19 <= len(drawn) <= 23


def test_it_writes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "epoch 1/1") as progress:
        progress.show({"loss": 1.0})
    assert capsys.readouterr() == ("", "epoch 1/1, 0/2: loss 1.000\n")
