"""A run that is thinned after its training: everything in its checkpoint follows, so that it can be evaluated and trained on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from limbeck.apps.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from limbeck.apps.images.options import TrainOptions as ImageOptions
from limbeck.apps.images.session import APPLICATION as IMAGES
from limbeck.apps.images.session import resume as resume_images
from limbeck.apps.lm.options import TrainOptions as WordOptions
from limbeck.apps.lm.session import APPLICATION as WORDS
from limbeck.apps.lm.session import resume as resume_words
from limbeck.apps.loop import write_json
from limbeck.apps.run import find_checkpoint
from limbeck.errors import CheckpointError
from limbeck.names import named_parameters
from limbeck.scheduler import Scheduler
from limbeck.stats import nonzero_groups, weights
from limbeck.summaries.compute import compute
from limbeck.thinning import save_thinned, thin_now
from limbeck.thinning.save import is_thinned


class Session(Protocol):
    """What this asks of an application's session."""

    scheduler: Scheduler
    options: Any

    @property
    def model(self) -> nn.Module:
        """The network."""

    def save(self, directory: Path) -> None:
        """Write a checkpoint."""


Resume = Callable[[Checkpoint, Mapping[str, Any], Path | None], Session]


def _words(checkpoint: Checkpoint, changes: Mapping[str, Any], schedule: Path | None) -> Session:
    return resume_words(checkpoint, replace(WordOptions.of(checkpoint.state["options"]), **changes), schedule)


def _images(checkpoint: Checkpoint, changes: Mapping[str, Any], schedule: Path | None) -> Session:
    return resume_images(checkpoint, replace(ImageOptions.of(checkpoint.state["options"]), **changes), schedule)


RESUME: Mapping[str, Resume] = {WORDS: _words, IMAGES: _images}
"""How each application takes a run up again."""


@dataclass(frozen=True)
class Cost:
    """The elements of the parameters of two dimensions or more, and the MACs of one forward pass; None where an operation is not known."""

    weights: int
    macs: int | None


@dataclass(frozen=True)
class Thinned:
    """What went: the shapes before and after of each tensor that was cut, what the model costs, and what is zero and yet stays."""

    checkpoint: str
    out: str
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    before: Cost
    after: Cost
    left: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def thin_run(path: Path, out: Path, data: str | None = None) -> Thinned:
    """Take the units that are zero out of a run's model, and write it: a run folder, or, for a name that ends in ``.safetensors``, the model alone.

    The folder has the thinned checkpoint as its best one, and a record that says what it was thinned from, with the results of that run: the model
    computes the same. ``path`` is a run folder (its best model) or a checkpoint; ``data`` is where its data lie now, if elsewhere. Raises ``CheckpointError``
    for what is no run's checkpoint, and where ``out`` is taken: only a thinned model's own file is written anew.
    """
    checkpoint = load_checkpoint(find_checkpoint(path, "best"))
    application = str(checkpoint.state.get("application")) if isinstance(checkpoint.state, Mapping) else ""
    if application not in RESUME:
        raise CheckpointError(
            f"{path} is no checkpoint of {' or '.join(f'limbeck {name} train' for name in RESUME)}; in Python limbeck.thinning.thin takes any model"
        )
    if out.exists() and not (out.suffix == ".safetensors" and is_thinned(out)):  # other weights are not lost to a thinned model
        what = "holds a checkpoint already" if is_checkpoint(out) else "is there already"
        raise CheckpointError(f"{out} {what}; write to another place")
    changes = {"cuda": False, "device": None, **({} if data is None else {"data": data})}
    schedule = None if checkpoint.schedule is None else checkpoint.path / "schedule.yaml"
    session = RESUME[application](checkpoint, changes, schedule)
    shapes, before = _shapes(session.model), _cost(session)
    recipe = thin_now(session.scheduler.state)
    shapes = {name: (shape, now) for name, shape in shapes.items() if (now := _shapes(session.model)[name]) != shape}
    session.options = replace(session.options, **{name: checkpoint.state["options"].get(name) for name in ("cuda", "device")})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"no folder {out.parent} can be made for {out.name}: {error.strerror}; write to another place") from error
    if out.suffix == ".safetensors":
        save_thinned(out, session.model, session.scheduler.recipes)
    else:
        session.save(out / "best")
    after = _cost(session)
    if out.is_dir():
        _record(path, checkpoint.path, session, after, out)
    return Thinned(str(checkpoint.path), str(out), shapes, before, after, recipe.left)


def _record(path: Path, checkpoint: Path, session: Session, cost: Cost, out: Path) -> None:
    """Write ``run.json`` where the record of the run tells of this checkpoint: of its best one."""
    try:
        record = json.loads((checkpoint.parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if checkpoint.name != "best":
        return
    tensors = [named.parameter.detach() for named in weights(named_parameters(session.model).values())]
    total, nonzeros = sum(tensor.numel() for tensor in tensors), sum(map(nonzero_groups, tensors))
    parameters = sum(named.parameter.numel() for named in named_parameters(session.model).values())
    sizes = {"weights": total, "nonzeros": nonzeros, "sparsity": 1 - nonzeros / total, "parameters": parameters, "macs": cost.macs}
    known = {name: value for name, value in sizes.items() if name in record}
    told = {"command": shlex.join(["limbeck", "thin", str(path), "--out", str(out)]), "thinned_from": str(path)}
    write_json(out / "run.json", {**record, **known, **told, "thinnings": len(session.scheduler.recipes)})


def _shapes(model: nn.Module) -> dict[str, Any]:
    return {name: tuple(named.parameter.shape) for name, named in named_parameters(model).items()}


def _cost(session: Session) -> Cost:
    """Of one forward pass of one input."""
    inputs = session.scheduler.state.inputs()
    assert inputs is not None
    found = compute(session.model, tuple(value[:1] for value in inputs))
    return Cost(found.weights, None if found.unsupported else found.macs)
