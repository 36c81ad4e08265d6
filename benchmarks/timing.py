"""What the benchmarks share: turns, blocks, medians, tables, and the line that says where a table was made."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def machine() -> str:
    """Processor, cores, threads, torch and the date, for the line under a table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    cores = len(names) or torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{cpu} ({capability}), {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today().isoformat()}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as its row is there; all columns but the first stand right."""
    yield f"| {' | '.join(header)} |"
    yield "|---|" + "---:|" * (len(header) - 1)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def show(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table line by line."""
    for line in table(header, rows):
        print(line, flush=True)


def seconds(turn: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    turn()
    return time.perf_counter() - begin


def medians_in_turns(prepare: Mapping[str, Callable[[], Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median seconds of every contender, a function that prepares a turn, untimed, and returns the turn.

    Every contender takes its turn in every round, so that a machine that is busy for a moment is busy for all. A first round warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in prepare}
    for _ in range(rounds + 1):
        for name, make in prepare.items():
            times[name].append(seconds(make()))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def blocks_in_turns(
    loops: Mapping[str, Iterator[T]], steps: int, rounds: int, random: OwnRandomness
) -> tuple[dict[str, list[float]], dict[str, list[T]]]:
    """Seconds of every block of ``steps`` steps, by contender, and what the steps yielded; a step is one ``next`` of a training loop.

    The contenders alternate block by block, A B, then B A, so that drift of the machine cancels.
    """
    times: dict[str, list[float]] = {name: [] for name in loops}
    yielded: dict[str, list[T]] = {name: [] for name in loops}
    for turn in range(rounds):
        for name in list(loops) if turn % 2 == 0 else list(loops)[::-1]:
            with random.of(name):
                times[name].append(seconds(partial(_walk, loops[name], steps, yielded[name])))
    return times, yielded


def _walk(loop: Iterator[T], steps: int, into: list[T]) -> None:
    into.extend(islice(loop, steps))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """The median with the quartiles: ``0.21 (0.19 to 0.24) ms``."""
    low, middle, high = (format(value, form) for value in quartiles(values))
    return f"{middle} ({low} to {high}){unit}"


class OwnRandomness:
    """Lets every contender draw from a stream of its own, all from one seed, although they take turns.

    The dropout masks of one are then those of the other.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: dict[str, torch.Tensor] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Go on where this contender's stream stood, and remember where it stands then."""
        if name in self._states:
            torch.set_rng_state(self._states[name])
        else:
            torch.manual_seed(self._seed)
        yield
        self._states[name] = torch.get_rng_state()


def matrix_rate(size: int = 2048, rounds: int = 7) -> float:
    """Floating-point operations a second of the best of some large matrix products: the machine's limit at the threads that are set."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    return 2 * size**3 / min(seconds(lambda: torch.mm(left, right, out=out)) for _ in range(rounds))
