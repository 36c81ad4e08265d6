"""The ancestor's helpers for applications."""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import NoReturn

from limbeck.errors import did_you_mean

CHECKPOINTS = ("load_checkpoint", "save_checkpoint")
"""Names of the ancestor's that are not here: its checkpoints were pickles."""


class MessageLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that knows the folder of its run: ``logdir``, and in it ``log_filename``."""

    def __init__(self, logger: logging.Logger, log_filename: Path) -> None:
        super().__init__(logger, {})
        self.logdir = str(log_filename.parent)
        self.log_filename = str(log_filename)


def config_pylogger(
    log_cfg_file: str | os.PathLike[str] | None,
    experiment_name: str | None,
    output_dir: str | os.PathLike[str] = "logs",
    verbose: bool = False,
) -> MessageLogger:
    """Make ``output_dir/[experiment_name___]YYYY.MM.DD-HHMMSS/`` and a logger that writes to the console and to a file in there.

    Where ``log_cfg_file`` is a file, and not None, the handlers are those that it describes, in the format of ``logging.config.fileConfig``, with
    ``%(logfilename)s`` as the name of the log file. That function evaluates what stands there, so name only files that you trust. The links
    ``latest_log_file`` and ``latest_log_dir`` in the current folder point at the newest run, where the file system has links.
    """
    folder = _new_folder(Path(output_dir), "___".join(part for part in (experiment_name, f"{datetime.now():%Y.%m.%d-%H%M%S}") if part))
    file = folder / f"{folder.name}.log"
    logger = logging.Logger(folder.name, logging.DEBUG if verbose else logging.INFO)
    logger.parent = logging.getLogger()
    if log_cfg_file is not None and Path(log_cfg_file).is_file():
        logging.config.fileConfig(log_cfg_file, defaults={"logfilename": str(file)}, disable_existing_loggers=False)
    else:
        logger.propagate = False
        _write_to(logger, logging.StreamHandler(sys.stdout), "%(message)s")
        _write_to(logger, logging.FileHandler(file, encoding="utf-8"), "%(asctime)s  %(message)s")
    messages = MessageLogger(logger, file)
    messages.info(f"Log file for this run: {file.resolve()}")
    for link, target in (("latest_log_file", file), ("latest_log_dir", folder)):
        _point(Path(link), target)
    return messages


def __getattr__(name: str) -> NoReturn:
    if name in CHECKPOINTS:
        raise ImportError(
            f"there is no '{name}': use that of limbeck.apps.checkpoint, whose files hold no pickle, or torch.save with the scheduler's "
            "state_dict(); both are in docs, under Checkpoints of python.md and of from-distiller.md"
        )
    known = [known for known in globals() if not known.startswith("_")]
    raise AttributeError(
        f"limbeck.compat.distiller.apputils has no '{name}'{did_you_mean(name, known)}; docs/from-distiller.md lists what is here"
    )


def _new_folder(parent: Path, name: str) -> Path:
    """A folder of that name, or, where a run began in the same second, of that name and a number."""
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable: count is endless")


def _write_to(logger: logging.Logger, handler: logging.Handler, line: str) -> None:
    handler.setFormatter(logging.Formatter(line))
    logger.addHandler(handler)


def _point(link: Path, target: Path) -> None:
    """Let a link point at the target; what is there and is no link stays, and so does a file system without links."""
    with suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target.resolve())
