"""Measure a model with a suite, and keep what was found: ``evals/<model>/<suite>.json``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import gnomon
from gnomon.evals.judging import calibration_of, other_version
from gnomon.evals.rows import Rows, key_of, set_aside
from gnomon.evals.suite import Measured, Suite, Tell, Watch, Work
from gnomon.runs.evals import EVAL_FOLDER, Calibration, EvalResult
from gnomon.runs.records import now
from gnomon.stats.intervals import Interval

if TYPE_CHECKING:
    from gnomon.evals.subject import Subject

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def result_file(run: Path, model: str, suite: str, step: int | None = None) -> Path:
    """Where a result is kept; of a model during training, by its step."""
    folder = run / EVAL_FOLDER / file_name(model)
    if step is not None:
        folder = folder / f"step-{step:06d}"
    return folder / f"{suite}.json"


def file_name(model: str) -> str:
    """A model's name as that of a folder."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in model).strip(".")
    return kept or "model"


def set_evals_aside(run: Path, model: str) -> list[Path]:
    """Keep each result of a model as ``FILE.old``, where nothing takes it for one of the model that
    is to be made in its place, and return their files. Rows stay: where the new model is the same,
    they are used again."""
    folder = result_file(run, model, "").parent
    files = sorted(folder.rglob("*.json"))
    for file in files:
        set_aside(file)
    return files


def evaluate(
    suite: Suite,
    subject: Subject,
    run: Path,
    *,
    stage: str | None = None,
    step: int | None = None,
    watch: Watch | None = None,
    tell: Tell | None = None,
    again: bool = False,
) -> EvalResult:
    """Measure ``subject`` with ``suite`` and write the record and its rows.

    Rows that an earlier call wrote for the same model, settings and data are kept; where all of it
    is the same, so is the result, and nothing is measured.

    Args:
        run: the folder of a run, or any other, in which ``evals/`` is.
        stage, step: where a model was measured during training.
        watch: see :data:`~gnomon.evals.suite.Watch`.
        tell: is told what is kept, and what starts anew.
        again: measure anew whatever is there.

    Raises:
        GnomonError: the suite cannot measure the model; rows that are done stay.
    """
    say: Tell = tell or (lambda line: None)
    name = suite.name
    file = result_file(run, subject.name, name, step)
    suite.prepare(subject)
    settings, data = suite.settings(subject), suite.data()
    facts = {"suite": name, "model": subject.sha256, "settings": settings, "data": data}
    before = EvalResult.read_or_empty(file)
    key = key_of(facts)
    known = before.key == key and list(before.data) == list(data)  # of an earlier version
    if list(data) != sorted(data) and not known:
        # a limit takes the first, and items of one id are counted
        key = key_of(facts | {"order": list(data)})
    if before.key == key and not before.errors and not again:
        if not suite.opinion or _is_told(before, run):
            say(f"measured already ({file}); --again measures anew")
            return before
        say(f"the calibration of the judge {before.judge} is another than {file} speaks of: its "
            "figures are made again")  # fmt: skip
    if file.is_file():
        set_aside(file)
    rows = _open_rows(file.with_suffix(".jsonl"), key, again, say)
    earlier = max(rows.seconds_before, before.seconds if before.key == key and not again else 0.0)
    began = time.perf_counter()
    found = suite.run(subject, Work(rows, run, watch, say))
    rows.tidy()
    if suite.opinion and found.judge and not found.calibration:
        _find_calibration(suite, found, run)
    result = _record(suite, subject, found)
    result.note(
        key=key,
        stage=stage,
        step=step,
        settings=settings,
        data=data,
        seconds=round(earlier + time.perf_counter() - began, 3),
    )
    result.write(file)
    for note in found.notes:
        say(note)
    return result


def _open_rows(file: Path, key: str, again: bool, say: Tell) -> Rows:
    """The rows that count, and words about those that do not."""
    if again and file.is_file():
        set_aside(file)
    rows = Rows(file, key)
    if rows.foreign:
        say(
            f"{rows.foreign} rows in {file} are of another model, of other settings or other data: "
            f"it starts anew, and they are kept as {file.name}.old"
        )
    elif rows.kept:
        say(f"continues after the {rows.kept} rows in {file}")
    return rows


def _find_calibration(suite: Suite, found: Measured, run: Path) -> None:
    """Name the judge's calibration in the run's folder and what it says, or say that there is
    none."""
    found.calibration, calibration = calibration_of(run, found.judge, found.judge_version)
    if calibration is None:
        found.notes.append(f"no calibration of the judge {found.judge} is in {run}"
                           f"{_not_known(found, run)}")  # fmt: skip
        return
    found.notes += _said(found, calibration)
    if not calibration.doubt:
        suite.believe(found, calibration)


def _is_told(before: EvalResult, run: Path) -> bool:
    """Whether a result says what the calibration of its judge says now."""
    if not before.judge:
        return True
    file, calibration = calibration_of(run, before.judge, before.judge_version)
    if calibration is None:
        lack = _not_known(before, run)
        return not before.calibration and any(note.endswith(lack) for note in before.notes)
    same = before.calibration == file and calibration.made <= before.made
    return same and {*_said(before, calibration)} <= {*before.notes}


def _not_known(found: Measured, run: Path) -> str:
    """What is to be said of a judge without a calibration, and whether another version has one."""
    other = other_version(run, found.judge, found.judge_version)
    return f"{other}: how far it agrees with people is not known"


def _said(found: Measured, calibration: Calibration) -> list[str]:
    """What a calibration has against its judge, in words."""
    against = [*filter(None, [calibration.doubt]), *calibration.warnings]
    return [f"the judge {found.judge}: {text}" for text in against]


def _record(suite: Suite, subject: Subject, found: Measured) -> EvalResult:
    own = {name: getattr(found, name) for name in Measured.model_fields}
    own["scores"] = _known(found.scores)
    own["by_category"] = {name: _known(scores) for name, scores in found.by_category.items()}
    own["versions"] = {**_versions(), **found.versions}
    return EvalResult(
        suite=suite.name,
        model=subject.name,
        model_sha256=subject.weights_sha256,
        made=now(),
        **own,
    )


def _known(scores: Mapping[str, Interval | None]) -> dict[str, Interval | None]:
    """The scores that something was measured of."""
    return {
        name: figure
        for name, figure in scores.items()
        if figure is not None and math.isfinite(figure.value)
    }


def _versions() -> dict[str, str]:
    found = {"gnomon": gnomon.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
