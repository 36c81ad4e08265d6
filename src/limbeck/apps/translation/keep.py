"""The best checkpoints of a run, and their average: sparse as they are, and measured by its own translations."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from limbeck._tensors import first_names, load_into
from limbeck.apps._replace import standing
from limbeck.apps.average import Average, Snapshot, average_sparse
from limbeck.apps.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint, step_of, with_masks
from limbeck.apps.loop import new_run_folder
from limbeck.apps.translation.averaged import Averaged
from limbeck.apps.translation.session import Session
from limbeck.apps.translation.track import AVERAGE, BEST, LAST, Tracker, name_of, of_steps, steps_in
from limbeck.apps.translation.validate import Decoding, PostponedError, Validation, validate
from limbeck.errors import CheckpointError


def validate_and_keep(session: Session, tracker: Tracker) -> bool:
    """Translate the validation set; keep the model if it is one of the best, and then their average if it is the best average.

    Where the process is asked to end at once, all stays as it was, and the validation is the first thing that the resumed run does. Gives whether
    it was done.
    """
    before = session.ranking, session.averaged, session.waited
    try:
        _validate_and_keep(session, tracker)
        session.pending = False
    except PostponedError:
        session.ranking, session.averaged, session.waited = before
        session.pending = True
        tracker.recorder.tell(f"asked to end: the validation of step {session.global_step} is left to the run that goes on")
    tracker.begin()
    return not session.pending


def _validate_and_keep(session: Session, tracker: Tracker) -> None:
    found = _validated(session, tracker, session.model, "validation")
    step, kept = session.global_step, tracker.recorder.kept()
    session.ranking = session.ranking.add(found.scores.detokenised, step, kept)
    best = session.ranking.best
    waits = (best is None or best.step != step) and not session.prunes_on
    session.waited = session.waited + 1 if waits else 0
    if step in session.ranking.steps:
        save_checkpoint(tracker.folder / BEST / name_of(step), session.model, _told(session, found), session.scheduler.text)
        _average(session, tracker, found, kept)


def bring(session: Session, own: Path | None, folder: Path) -> None:
    """A resumed run takes its best checkpoints and their average into another folder; it goes on without those that were lost."""
    if folder.resolve() != own:
        new_run_folder(folder)
        names = [f"{BEST}/{name_of(step)}" for step in session.ranking.steps]
        for name in (*names, AVERAGE):
            if own is not None and is_checkpoint(own / name):
                shutil.copytree(load_checkpoint(own / name).path, folder / name)
    else:
        _set_aside(session, folder)
    there = [entry for entry in session.ranking.entries if is_checkpoint(folder / BEST / name_of(entry.step))]
    if lost := [str(entry.step) for entry in session.ranking.entries if entry not in there]:
        session.notes.append(
            f"of the best checkpoints those of the steps {', '.join(lost)} are not there any more: the run goes on without them"
        )
    session.ranking = replace(session.ranking, entries=tuple(there))
    if session.averaged is not None and _averaged_steps(folder / AVERAGE) != session.averaged.steps:
        session.averaged = None  # what lies there is of a later step; the next average takes its place


def _set_aside(session: Session, folder: Path) -> None:
    """A run that goes on from an older step takes another course from there: what it wrote after that step goes into a folder of its own.

    From the newest step on it writes the same again, and what a crash left there is soon replaced.
    """
    step, last = session.scheduler.clock.step, _step_in(folder / LAST)
    if last == step:
        return
    kept = () if session.averaged is None else session.averaged.steps
    found = [path for place in (folder, folder / BEST) for number, path in sorted(steps_in(place).items()) if number > session.global_step]
    found += [folder / AVERAGE] if _averaged_steps(folder / AVERAGE) not in {kept, ()} else []
    found += [folder / LAST] if is_checkpoint(folder / LAST) and (last is None or last > step) else []
    if not found:
        return
    aside = next(path for number in count(1) if not (path := folder / f"aside-{number}").exists())
    for path in found:
        (aside / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        standing(path.resolve()).rename(aside / path.relative_to(folder))
    session.save(folder / LAST)
    names = ", ".join(path.relative_to(folder).as_posix() for path in found)
    session.notes.append(f"the run had gone on from here: what it kept of later steps is set aside in {aside} ({names})")


def _step_in(path: Path) -> int | None:
    """The step of a checkpoint; None where there is none, or a damaged one."""
    try:
        return step_of(path)
    except CheckpointError:
        return None


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
        scores, own = found.scores, {entry.step: entry.score for entry in session.ranking.entries}
        bleus = tuple(own[step] for step in mean.steps)
        signatures = scores.detokenised_signature, scores.tokenised_signature
        session.averaged = Averaged(scores.detokenised, scores.tokenised, mean.steps, kept, bleus, signatures)
        state = with_masks(_told(session, found), mean.average.snapshot.masks)
        about = {"averaged": list(mean.steps), "averaged_bleus": list(bleus)}
        save_checkpoint(tracker.folder / AVERAGE, model, {**state, **about}, session.scheduler.text)
    else:
        now, digits = found.scores.detokenised, 2 if before.bleu - found.scores.detokenised >= 0.01 else 5
        figures = f"BLEU {now:.{digits}f}, not {before.bleu:.{digits}f}"
        tracker.recorder.tell(f"{of_steps(mean.steps)} is worse ({figures}): {AVERAGE} stays {of_steps(before.steps)}")


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
        model, session.valid, corpus.valid.target, session.vocabularies.target, corpus.target, decoding(session), tracker.progress,
        tracker.before_batch,
    )  # fmt: skip
    tracker.evaluated(split, found, None if model is session.model else model)
    return found
