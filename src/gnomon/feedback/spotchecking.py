"""Asking people for a spot check, and reading what they said: the run's side and the store's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.audit.evidence import evidence
from gnomon.audit.truths import label
from gnomon.errors import DataError
from gnomon.feedback.opening import open_store
from gnomon.feedback.people_judge import without_password
from gnomon.feedback.spotcheck import choose, item_of, read_labels
from gnomon.files import make_folder
from gnomon.plugins import nearest
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.records import now
from gnomon.runs.spotchecks import SPOTCHECK_FOLDER, SpotCheck

if TYPE_CHECKING:
    from gnomon.feedback.store import Store

PAIRS = 40
LABELS = "labels.db"
"""The store in RUN/spotchecks, where none is given."""
GUIDELINE = """# Which answer is better?

You see a question and two answers. Choose the one that serves the person who asked better:

- first whether it is **right**, and answers what was asked;
- then whether it says what is needed and no more.

Length, politeness and confidence make no answer better by themselves. Where neither is better, say
that they are about equal. Where the question cannot be judged, skip it.
"""
"""What people work by where nothing else is given."""


def begun(run: Path, stage: str | None) -> tuple[Path, SpotCheck | None]:
    """Where a stage's spot check is kept, and the check where it was begun.

    Raises:
        DataError: no run, no such stage, none with rewarded samples, or a damaged record.
    """
    view = read_run(run)
    checked = {check.stage: check for check in view.spotchecks if check}
    if stage is None and len(checked) == 1:
        stage = next(iter(checked))
    name = _stage(view, stage).name
    file = run / SPOTCHECK_FOLDER / f"{name}.json"
    if name not in checked and file.exists():
        raise DataError(
            f"{file} is damaged: put it back. Without it nobody knows any more which answers were "
            "the best-rewarded; if it is lost, remove it and begin anew with another --store"
        )
    return file, checked.get(name)


def _stage(run: RunView, name: str | None) -> StageView:
    """The stage of that name; the last whose samples have rewards where there is none."""
    known = {stage.name: stage for stage in run.stages}
    if name is not None:
        if name not in known:
            near = nearest(name, known, cutoff=0.5) or f"it has {', '.join(known) or 'none'}"
            raise DataError(f"{run.path} has no stage {name!r}; {near}")
        return known[name]
    for stage in reversed(run.stages):
        if any(row.get("reward") is not None for row in stage.samples):
            return stage
    raise DataError(
        f"{run.path} has no stage whose samples have rewards: a spot check is of a policy that was "
        "trained on a reward (PPO, GRPO, online DPO, ...)"
    )


def ask(
    run: Path,
    stage: str | None = None,
    *,
    n: int | None = None,
    overlap: int | None = None,
    store: str | None = None,
    guideline: Path | None = None,
    seed: int = 0,
) -> SpotCheck:
    """Choose pairs of a stage's samples, and put them into a store of labels.

    What was asked before stays; a larger ``n`` adds to it. The record is written before the store:
    a call that was killed in between is repaired by the next.

    Args:
        run: the run's folder.
        stage: the last one with rewarded samples by default.
        n: pairs in all; 40 by default.
        overlap: people for each pair; as before, or 1.
        store: a file or URL; as before, or RUN/spotchecks/labels.db.
        guideline: a Markdown file that people work by.
        seed: of the draw.

    Raises:
        DataError: no such stage, or no two answers to a prompt with different rewards.
        ConfigError: a package is missing.
    """
    file, check = begun(run, stage)
    view = read_run(run)
    own = _stage(view, file.stem)
    seen, _ = evidence(view, own)
    known = check.pairs if check is not None else []
    pairs = choose(seen.rollouts, max(n or len(known) or PAIRS, len(known)), seed, known)
    if not pairs:
        raise DataError(
            f"{run}: stage {own.name!r} kept no two different answers to one prompt with different "
            "rewards. Sample several a prompt (rollout.samples), keep more of them "
            "(train.sample_every: 1), or look at a reward that tells answers apart"
        )
    where = None if store is None else _kept(store)
    if check is not None and where not in (None, check.store):
        raise DataError(
            f"{file}: people are being asked in {check.store}; leave --store out, or remove the "
            "record to begin anew"
        )
    before = check or SpotCheck(
        stage=own.name, made=now(), campaign=f"spotcheck {_key(view)} {own.name}"
    )
    version, text = _guideline(guideline, before.guideline)
    campaign = before.campaign
    asked = before.model_copy(
        update={
            "pairs": [p.model_copy(update={"item": item_of(p, campaign).id}) for p in pairs],
            "asked": len(pairs),
            "overlap": overlap or before.overlap,
            "guideline": version,
            "rewards": [label(entry) for entry in seen.trained],
            "store": where or before.store or LABELS,
        }
    )
    with open_store(store or place(run, asked), create=True) as opened:
        make_folder(file.parent)
        asked.write(file)
        _put(asked, opened, text)
    return asked


def _guideline(file: Path | None, before: str) -> tuple[str, str | None]:
    """The version that people work by from now on, and its text where that is known."""
    name, text = ("spotcheck", GUIDELINE) if file is None else (file.name, _text(file))
    version = f"{name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if file is None and before not in ("", version):
        return before, None
    return version, text


def _key(run: RunView) -> str:
    """The run's name, and what tells it from another of that name in a shared store."""
    made = f"{run.path.resolve()} {run.manifest.started}"
    return f"{run.name}-{hashlib.sha256(made.encode()).hexdigest()[:6]}"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"guideline {file} cannot be read: {error}") from error


def place(run: Path, check: SpotCheck) -> str:
    """The store of a check: what is kept is a URL without its password, a file's absolute path, or
    a file's name in RUN/spotchecks, so that a run may be moved."""
    return check.store if "://" in check.store else str(run / SPOTCHECK_FOLDER / check.store)


def _kept(store: str) -> str:
    return without_password(store) if "://" in store else str(Path(store).absolute())


def _put(check: SpotCheck, store: Store, text: str | None) -> None:
    """Put the campaign and its items into the store; what an admin set besides is kept."""
    from gnomon.feedback.store import Campaign, Guideline

    if text is not None:
        store.add_guideline(Guideline(check.guideline, text))
    settings = {"ask": "ranking", "question": "Which answer is better?"}
    fresh = Campaign(check.campaign, kind="spotcheck", settings=settings)
    known = {campaign.name: campaign for campaign in store.campaigns()}
    own = known.get(check.campaign, fresh)
    store.set_campaign(replace(own, overlap=check.overlap, guideline=check.guideline))
    store.add_items(item_of(pair, check.campaign) for pair in check.pairs)


def look(run: Path, check: SpotCheck | Path, store: str | None = None) -> SpotCheck:
    """Read the labels of a spot check, and keep what they say in the run.

    Args:
        check: the check, or where it would be, had anybody been asked.
        store: where it is, if that is not what the check says (a URL with its password).

    Raises:
        DataError: nobody was asked yet, or the store is gone.
    """
    if isinstance(check, Path):
        raise DataError(
            f"{check}: nobody has been asked about this stage yet; leave --read out to begin"
        )
    with open_store(store or place(run, check)) as opened:
        labels = list(opened.labels(check.campaign))
    found = read_labels(check, labels)
    found.write(run / SPOTCHECK_FOLDER / f"{check.stage}.json")
    return found
