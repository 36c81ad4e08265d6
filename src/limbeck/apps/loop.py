"""What every application's training loop shares: Ctrl-C, the run folder, and the clock of saving."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from limbeck.errors import CheckpointError, LimbeckError


class Interrupt:
    """Turns the first Ctrl-C, or a request to terminate, into a flag that the loop looks at between steps; a second one stops at once.

    ``hurried`` tells the request to terminate (SIGTERM), which leaves time for a checkpoint and no more, from Ctrl-C.

    >>> with Interrupt() as interrupt:
    ...     interrupt.asked
    False
    """

    def __init__(self) -> None:
        self.asked = self.hurried = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        """Take over SIGINT and SIGTERM."""
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the signals back."""
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked, self.hurried = True, number == signal.SIGTERM
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def new_run_folder(path: Path) -> Path:
    """Make an empty run folder; raises ``CheckpointError`` where a run lies already, so that none is overwritten."""
    if path.exists() and (not path.is_dir() or any((path / name).exists() for name in ("last", "best", "run.json"))):
        raise CheckpointError(f"{path} holds a run already; continue it with --resume {path}, or save to another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; see ``finite``."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(finite(value), file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def finite(tree: Any) -> Any:
    """A tree for JSON, which has no NaN and no infinity: None stands for them.

    >>> finite({"perplexity": float("inf"), "epochs": [1, 2.5, float("nan")]})
    {'perplexity': None, 'epochs': [1, 2.5, None]}
    """
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def choose_device(cuda: bool, device: str | None) -> tuple[torch.device, str | None]:
    """The device asked for, and a warning where it is not the one that runs.

    >>> choose_device(False, None)
    (device(type='cpu'), None)

    Raises ``LimbeckError`` for a device by name that this machine, or this torch, does not have.
    """
    if device is not None:
        try:
            return torch.empty(0, device=device).device, None
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise LimbeckError(f"--device {device} cannot be used here: {reason}; leave it out to run on the CPU") from error
    if cuda and not torch.cuda.is_available():
        return torch.device("cpu"), "no CUDA device here: --cuda is ignored and the run goes on on the CPU"
    return torch.device("cuda" if cuda else "cpu"), None


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it many times slower; an x86 CPU needs AVX-512 for that."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return (
        device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64") or torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"
