"""The best checkpoints of a run, and their average: sparse as they are, and measured by its own translations."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck._tensors import first_names, load_into
from limbeck.apps.average import Average, Snapshot, average_sparse
from limbeck.apps.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint, with_masks
from limbeck.apps.loop import new_run_folder
from limbeck.apps.translation.session import Averaged, Session
from limbeck.apps.translation.track import AVERAGE, BEST, Tracker, name_of
from limbeck.apps.translation.validate import Decoding, Validation, validate


def validate_and_keep(session: Session, tracker: Tracker) -> None:
    """Translate the validation set; keep the model if it is one of the best, and then their average if it is the best average."""
    found = _validated(session, tracker, session.model, "validation")
    step, kept = session.global_step, tracker.recorder.kept()
    session.ranking = session.ranking.add(found.scores.detokenised, step, kept)
    best = session.ranking.best
    session.waited = 0 if best is not None and best.step == step else session.waited + 1
    if step in session.ranking.steps:
        save_checkpoint(tracker.folder / BEST / name_of(step), session.model, _told(session, found), session.scheduler.text)
        _average(session, tracker, found, kept)
    tracker.begin()


def bring(session: Session, own: Path | None, folder: Path) -> None:
    """A resumed run takes its best checkpoints and their average into another folder; it goes on without those that were lost."""
    if folder.resolve() != own:
        new_run_folder(folder)
        names = [f"{BEST}/{name_of(step)}" for step in session.ranking.steps]
        for name in (*names, AVERAGE):
            if own is not None and is_checkpoint(own / name):
                shutil.copytree(load_checkpoint(own / name).path, folder / name)
    there = [entry for entry in session.ranking.entries if is_checkpoint(folder / BEST / name_of(entry.step))]
    if lost := [str(entry.step) for entry in session.ranking.entries if entry not in there]:
        session.notes.append(
            f"of the best checkpoints those of the steps {', '.join(lost)} are not there any more: the run goes on without them"
        )
    session.ranking = replace(session.ranking, entries=tuple(there))
    if session.averaged is not None and _averaged_steps(folder / AVERAGE) != session.averaged.steps:
        session.averaged = None  # what lies there is of a later step; the next average takes its place


def _averaged_steps(path: Path) -> tuple[int, ...]:
    """The steps that an average is one of; none where there is no average."""
    return tuple(load_checkpoint(path).state["averaged"]) if is_checkpoint(path) else ()


def decoding(session: Session) -> Decoding:
    """How the run translates."""
    options = session.options
    return Decoding(options.beam_size, options.length_penalty, options.eval_batch_size, session.amp)


@dataclass(frozen=True)
class _Mean:
    average: Average
    steps: tuple[int, ...]


def _average(session: Session, tracker: Tracker, found: Validation, kept: int) -> None:
    """Renew the average; one of a single checkpoint is that checkpoint, and is not translated with again."""
    mean = _mean(session, tracker.folder)
    model = session.model
    if len(mean.steps) > 1:
        model = copy.deepcopy(session.model)
        aliases = {name: owner for name, owner in first_names(model.state_dict(keep_vars=True)).items() if name != owner}
        load_into(model, dict(mean.average.snapshot.tensors), aliases, "the average")
        found = _validated(session, tracker, model, "average")
    before = session.averaged
    if before is None or before.kept != kept or found.scores.detokenised >= before.bleu:
        session.averaged = Averaged(found.scores.detokenised, found.scores.tokenised, mean.steps, kept)
        state = with_masks(_told(session, found), mean.average.snapshot.masks)
        save_checkpoint(tracker.folder / AVERAGE, model, {**state, "averaged": list(mean.steps)}, session.scheduler.text)
    else:
        told, stays = (", ".join(map(str, sorted(steps))) for steps in (mean.steps, before.steps))
        figures = f"BLEU {found.scores.detokenised:.2f}, not {before.bleu:.2f}"
        tracker.recorder.tell(f"the average of the steps {told} is worse ({figures}): {AVERAGE} stays that of {stays}")


def _mean(session: Session, folder: Path) -> _Mean:
    """The average of the newest model and of the other best ones that may be averaged with it, which are read one after the other."""
    steps = [session.global_step]

    def older() -> Iterator[Snapshot]:
        for step in session.ranking.steps:
            if step != steps[0]:
                checkpoint = load_checkpoint(folder / BEST / name_of(step))
                if checkpoint.recipes == session.scheduler.recipes:  # as thin as the model is now
                    steps.append(step)
                    yield Snapshot(checkpoint.model, checkpoint.masks)

    own = session.model.state_dict(keep_vars=True)
    first = first_names(own)
    newest = Snapshot({name: tensor.detach() for name, tensor in own.items() if first[name] == name}, dict(session.scheduler.masks.items()))
    average = average_sparse(newest, older(), session.options.average_prune_again)
    return _Mean(average, tuple(steps[place] for place in average.used))


def _told(session: Session, found: Validation) -> dict[str, Any]:
    return {**session.snapshot(), "validation": found.measures}


def _validated(session: Session, tracker: Tracker, model: Any, split: str) -> Validation:
    corpus = session.corpus
    tracker.progress.begin(split, total=len(session.valid), done=0)
    found = validate(
        model, session.valid, corpus.valid.target, session.vocabularies.target, corpus.target, decoding(session), tracker.progress
    )
    tracker.evaluated(split, found, None if model is session.model else model)
    return found
