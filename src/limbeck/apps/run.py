"""A training from its options to its record, in every application: the run folder, what a resumed run goes on from, and where its model is."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from limbeck.apps.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from limbeck.apps.log import RunLog
from limbeck.apps.loop import choose_device, finite, has_bfloat16, new_run_folder
from limbeck.apps.options import Dataclass, continued
from limbeck.apps.progress import Progress
from limbeck.apps.record import Options, Session
from limbeck.apps.track import Best
from limbeck.apps.track import Options as EpochOptions
from limbeck.apps.track import Session as EpochSession
from limbeck.config import Plan, load_schedule, plan
from limbeck.config.load import Source
from limbeck.errors import CheckpointError, DataError, ScheduleWarning
from limbeck.scheduler import Scheduler

RUNS = Path("runs")


class TrainOptions(Options, Dataclass, Protocol):
    """The options of a training, as a frozen dataclass."""


AnyOptions = TypeVar("AnyOptions", bound=TrainOptions)
AnySession = TypeVar("AnySession", bound=Session)


class Network(NamedTuple):
    """What a plan is made for: the model, how long it trains, and the schedule that the options alone describe, where they do."""

    model: nn.Module
    steps_per_epoch: int
    epochs: int
    steps: int | None = None
    """Of the whole run, where it ends within an epoch."""
    schedule: Source | None = None


def bring_best(session: EpochSession, own: Path | None, folder: Path) -> None:
    """A resumed run takes its best checkpoint into another folder; where that was lost, the next validation finds a new one."""
    if folder.resolve() != own:
        new_run_folder(folder)
        if own is not None and is_checkpoint(own / "best"):
            shutil.copytree(load_checkpoint(own / "best").path, folder / "best")
    if not is_checkpoint(folder / "best"):
        session.best = Best()


@dataclass(frozen=True)
class Training(Generic[AnyOptions, AnySession]):
    """How an application trains."""

    application: str
    columns: tuple[str, ...]
    """Of ``metrics.csv``."""
    fixed: Sequence[str]
    """Options that a resumed run cannot change."""
    start: Callable[[AnyOptions], AnySession]
    resume: Callable[[Checkpoint, AnyOptions, Path | None], AnySession]
    train: Callable[[AnySession, Path, RunLog, Progress], dict[str, Any]]
    summary: Callable[[Mapping[str, Any]], str]
    """What a record says, in a line."""
    bring: Callable[[AnySession, Path | None, Path], None]
    """Has a resumed run's best models stand in its folder: given the folder that it comes from, if any, and the one it goes to."""
    splits: tuple[str, ...] | None = None
    """Of which splits the log keeps rows when a run is resumed, which leaves out the tests of one that was stopped; None: of all."""

    def run(self, options: AnyOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
        """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
        session, folder = self._open(options, given, resume_from)
        resumed = session.scheduler.clock.step if resume_from is not None else None
        tensorboard = session.options.log_gradients or has_tensorboard()
        with (
            RunLog(folder, self.columns, resume_step=resumed, tensorboard=tensorboard, splits=self.splits) as log,
            Progress(len(session.train), console=Console(stderr=True)) as progress,
        ):

            def tell(text: str) -> None:
                progress.say(text)
                log.say(text)

            for note in [f"saving to {folder}", *session.notes]:
                tell(note)
            with telling_warnings(tell):
                record = self.train(session, folder, log, progress)
        console = Console()
        if as_json:
            console.print_json(data=finite(record))
            return
        say(console, self.summary(record))
        if not record["finished"]:
            say(console, f"stopped before the end; go on with: limbeck {self.application} train --resume {folder}")

    def continued(self, options: AnyOptions, given: set[str], resume_from: Path) -> tuple[Checkpoint, AnyOptions, Path | None]:
        """A checkpoint to go on from, the options then, and the schedule: the saved one unless another is given."""
        checkpoint = open_checkpoint(self.application, resume_from, "last")
        merged = continued(options, checkpoint.state["options"], given, self.fixed)
        saved = None if checkpoint.schedule is None else checkpoint.path / "schedule.yaml"
        return checkpoint, merged, Path(merged.compress) if "compress" in given and merged.compress else saved

    def plan(
        self,
        options: AnyOptions,
        given: set[str],
        resume_from: Path | None,
        network: Callable[[AnyOptions, Checkpoint | None], Network],
    ) -> Plan:
        """What the schedule does in the very run that the options describe, resumed or not; ``network`` gives its model.

        Raises ``DataError`` without a schedule.
        """
        checkpoint: Checkpoint | None = None
        schedule: Source | None = None if options.compress is None else Path(options.compress)
        if resume_from is not None:
            checkpoint, options, schedule = self.continued(options, given, resume_from)
        found = network(options, checkpoint)
        schedule = found.schedule or schedule  # options that prune may do so for longer than the schedule that was saved
        if schedule is None:
            raise DataError("--plan shows what a schedule will do: name one with --compress FILE, or give options that prune")
        return plan(schedule, found.model, steps_per_epoch=found.steps_per_epoch, epochs=found.epochs, steps=found.steps)

    def _open(self, options: AnyOptions, given: set[str], resume_from: Path | None) -> tuple[AnySession, Path]:
        if resume_from is None:
            fresh = Path(options.save) if options.save else folder_by_time(self.application, datetime.now())
            session = self.start(replace(options, save=str(fresh)))
            return session, new_run_folder(fresh)
        checkpoint, merged, schedule = self.continued(options, given, resume_from)
        place = find_checkpoint(resume_from, "last").resolve()
        own = place.parent if place.name in ("last", "best") or (place.parent / "run.json").is_file() else None
        folder = Path(merged.save) if "save" in given and merged.save else own
        if folder is None or folder.resolve() == place:
            raise CheckpointError(
                f"{resume_from} is a checkpoint outside of a run folder; name the folder of the run that goes on with --save DIR"
            )
        session = self.resume(checkpoint, merged, schedule)
        self.bring(session, own, folder)
        clock = session.scheduler.clock
        session.notes.append(f"resumed from {checkpoint.path} at epoch {clock.epoch}, step {clock.step}")
        return session, folder


def build_scheduler(
    options: EpochOptions,
    schedule: Path | None,
    model: nn.Module,
    optimizer: Optimizer,
    steps: int,
    example_inputs: Sequence[Any] | None = None,
) -> tuple[Scheduler, list[str]]:
    """The scheduler of a run with so many steps an epoch, with a schedule or without one, and as notes what its plan warns of."""
    return scheduled(schedule, optimizer, Network(model, steps, options.epochs), example_inputs)


def scheduled(
    schedule: Source | None, optimizer: Optimizer, run: Network, example_inputs: Sequence[Any] | None = None
) -> tuple[Scheduler, list[str]]:
    """The scheduler of a run, with a schedule or without one, and as notes what its plan warns of."""
    if schedule is None:
        return Scheduler(run.model, optimizer=optimizer, example_inputs=example_inputs), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScheduleWarning)  # the plan's warnings hold them too
        scheduler = load_schedule(schedule, run.model, optimizer, example_inputs=example_inputs)
    planned = plan(schedule, run.model, steps_per_epoch=run.steps_per_epoch, epochs=run.epochs, steps=run.steps)
    return scheduler, [f"warning: {text}" for text in planned.warnings]


@contextmanager
def telling_warnings(tell: Callable[[str], None]) -> Iterator[None]:
    """Have each ``ScheduleWarning`` of a job told once, as a line among the others, rather than as Python shows warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ScheduleWarning)
        show, said = warnings.showwarning, set[str]()

        def show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, ScheduleWarning):
                show(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                tell(f"warning: {message}")

        warnings.showwarning = show_warning
        yield


def folder_by_time(application: str, now: datetime) -> Path:
    """The folder of a run that was given none.

    >>> folder_by_time("lm", datetime(2026, 1, 2, 3, 4, 5)).as_posix()
    'runs/lm-20260102-030405'
    """
    return RUNS / f"{application}-{now:%Y%m%d-%H%M%S}"


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def has_tensorboard() -> bool:
    """Whether the optional TensorBoard is installed."""
    return find_spec("tensorboard") is not None


def find_checkpoint(path: Path, prefer: str) -> Path:
    """The checkpoint that a path means: itself, or of a run folder the ``best``, its average or the ``last``, whichever is preferred and there."""
    for name in (prefer, "best", "best_avg", "last"):
        if is_checkpoint(path / name):
            return path / name
    return path


def open_checkpoint(application: str, path: Path, prefer: str) -> Checkpoint:
    """A checkpoint of an application; raises ``CheckpointError`` for another's."""
    checkpoint = load_checkpoint(find_checkpoint(path, prefer))
    kind = checkpoint.state.get("application") if isinstance(checkpoint.state, dict) else None
    if kind != application:
        raise CheckpointError(f"{path} is not a checkpoint of 'limbeck {application}' but of '{kind}'")
    return checkpoint


def newest_run(runs: Path, application: str) -> Path:
    """The run folder that was written last; raises ``CheckpointError`` when there is none."""
    found = [path for path in runs.glob("*") if find_checkpoint(path, "best") != path and _is_of(path / "run.json", application)]
    if not found:
        raise CheckpointError(f"no run in {runs}/; train one with 'limbeck {application} train', or name one with --checkpoint DIR")
    return max(found, key=lambda path: find_checkpoint(path, "best").stat().st_mtime)


def _is_of(record: Path, application: str) -> bool:
    """Whether a run is an application's; one without a record may be."""
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["application"] == application)
    except (OSError, ValueError, KeyError, TypeError):
        return True


def chosen_device(cuda: bool, device: str | None) -> torch.device:
    """The device asked for, with a warning on the terminal where another one runs."""
    chosen, warning = choose_device(cuda, device)
    if warning is not None:
        say(Console(stderr=True), warning)
    return chosen


def choose_precision(device: torch.device, amp: bool) -> tuple[bool, list[str]]:
    """Whether to run in bfloat16, and a note where that was asked for in vain."""
    if amp and not has_bfloat16(device):
        return False, [f"this {device.type} device has no bfloat16 arithmetic: --amp is ignored and the run goes on in float32"]
    return amp, []


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 where it helps, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
