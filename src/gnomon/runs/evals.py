"""evals/<model>/<suite>.json: what an eval measured, and calibrations/<judge>.json: how far a judge
agrees with people.

Beside each eval's record lie its rows, one JSON line an item, in ``<suite>.jsonl``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field

from gnomon.files import read_object
from gnomon.runs.comparison import Figure
from gnomon.runs.records import STAGE, JsonFile, Record, StageInfo, read_recipe
from gnomon.stats.intervals import Interval
from gnomon.stats.judges import ENOUGH_LABELS as ENOUGH_LABELS

R = TypeVar("R", bound=JsonFile)

EVAL_FOLDER, CALIBRATION_FOLDER = "evals", "calibrations"
BASE, RECIPE = "base", "recipe.yaml"
"""The name of the recipe's own model in evals, and the file of the recipe."""
OPENINGS = "openings"
"""The judge of refusals by how they open (:mod:`gnomon.stats.refusals`): a program."""


class Measured(Record):
    """What a suite found.

    Attributes:
        scores: figures by name, each with its interval; ``main`` names the one to show first.
        item_score: the score whose part each row's ``score`` is (a number, or one for each
            sample), so that two models can be compared item by item; empty where there is none.
        higher_is_better: False for scores that measure harm.
        by_category: the same scores by category.
        n, errors: items, and those that failed and are in no score.
        against: the model that a win rate is against.
        judge, judge_version: who judged, where a judge did.
        calibration: the file of that judge's calibration.
        notes: what a reader of the figures must know, in words.
        versions: of the libraries that made it.
        tokens, money: what it took, all attempts at an item together.
    """

    scores: dict[str, Figure] = Field(default_factory=dict)
    main: str = ""
    item_score: str = ""
    higher_is_better: bool = True
    by_category: dict[str, dict[str, Figure]] = Field(default_factory=dict)
    n: int = 0
    errors: int = 0
    against: str = ""
    judge: str = ""
    judge_version: str = ""
    calibration: str = ""
    notes: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    tokens: int = 0
    money: float = 0.0

    @classmethod
    def of(
        cls,
        scores: Mapping[str, Interval],
        by_category: Mapping[str, Mapping[str, Interval]] | None = None,
        **more: Any,
    ) -> Self:
        """With these scores; ``more`` are other attributes."""
        by = {name: dict(own) for name, own in (by_category or {}).items()}
        return cls(scores=dict(scores), by_category=by, **more)  # type: ignore[arg-type]


class EvalResult(Measured):
    """What one suite measured on one model.

    Attributes:
        suite: which eval: ``lm_eval/gsm8k``, ``win_rate``, ``xstest``, a file of one's own.
        model: the stage's name, or the folder or id of a model.
        model_sha256: fingerprint of its weights.
        stage, step: where it was measured during training; None afterwards.
        data: SHA-256 and rows of each file of questions.
        settings: everything that changes the figures: shots, temperature, tokens, seed, template.
        key: tells apart what was measured: model, settings and data (a fingerprint).
        seconds: what it took, the calls before that it continues included.
    """

    suite: str = ""
    model: str = ""
    model_sha256: str = ""
    stage: str | None = None
    step: int | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    key: str = ""
    made: str = ""
    seconds: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Self:
        """The result in ``file``; one whose model or scores are not there or not as they should be
        is damaged, for without them it would be passed over without a word.

        Raises:
            ValueError: it cannot be read or is damaged; the message begins with the file.
        """
        found, raw = super().read(file), read_object(file)
        written = raw.get("scores")
        lacks = [name for name in ("suite", "model") if not getattr(found, name)]
        figures = written if isinstance(written, dict) else {"": written}
        lost = [n for n, v in figures.items() if found.scores.get(n) is None and not _nothing(v)]
        if lost or not isinstance(written, dict):
            lacks.append("scores")
        if lacks and raw.keys() & {"suite", "scores"}:  # else it is no result at all
            raise ValueError(f"{file} has no {' and no '.join(lacks)} that can be read")
        return found


def _nothing(figure: Any) -> bool:
    """Whether a figure says that nothing was measured, as NaN was written by earlier versions."""
    return figure is None or (isinstance(figure, Mapping) and figure.get("value", "") is None)


class Calibration(Record):
    """How far a judge agrees with people, on which data, and what it likes beside what they like.

    Attributes:
        judge, version, model, prompt_sha256: which judge; it says nothing of another one.
        round: which asking, where the same judge was asked anew.
        data: SHA-256 and rows of each file of people's labels.
        learned: whether the judge is a reward model that learned from these very labels.
        labels: items with people's labels that the judge answered.
        agreement: share of the items (ties half) on which it says what people say, in both orders
            together.
        people: share on which two people agree, where several labelled the same item.
        kappa: agreement beyond chance.
        first: share of verdicts for the answer shown first; 0.5 is without position bias.
        flips: share of the items whose verdict changes with the order.
        position: what an answer wins beyond 1/2 for being shown first, in probability.
        longer: what the longer answer wins beyond 1/2, where people find both equally good.
        own: the same of the answers of the judge's own model.
        own_models: what the data call that model.
        edits: what answers win against themselves beyond 1/2 after an edit that adds nothing, by
            its name.
        repeat, paraphrase: share of items (ties half) on which it says the same when asked again
            under another seed, or in other words.
        ece: expected calibration error of its probabilities.
        ece_by_chance: what perfect probabilities would show over as many items.
        slope: of its log-odds; 1 is right, below 1 it is too sure.
        map: from its probabilities to people's (:class:`gnomon.stats.judge_maps.ProbabilityMap`).
        ece_mapped: what is left of the error with the map, on items that it was not made from.
        sensitivity, specificity: where people called single answers good or bad: the share of the
            good ones that the judge calls good, of the bad ones that it calls bad.
        good_from: the score from which it calls one good; None where it compared pairs.
        by_category: agreement by category.
        attenuation: how much of a difference that people see its win rate keeps: 1 is all of it.
        detectable: the smallest difference of people's win rate from 0.5 that a win rate over
            ``labels`` items by this judge shows with a chance of 80%; None where it shows none.
        smallest: by figure, the smallest bias that would have been seen with a chance of 80%.
        fingerprint: the judge's answers to a fixed set of questions, asked twice.
        drift: how an earlier calibration of the same judge compares, item by item.
        errors: items with labels that the judge failed on, which are in no figure.
        not_measured: figures that this judge or these data could not give, and why.
        warnings: in words: it always says A, say.
        seconds, tokens, money: what it took.
    """

    judge: str = ""
    version: str = ""
    model: str = ""
    prompt_sha256: str = ""
    round: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    learned: bool = False
    labels: int = 0
    agreement: Figure = None
    people: Figure = None
    kappa: Figure = None
    first: Figure = None
    flips: Figure = None
    position: Figure = None
    longer: Figure = None
    own: Figure = None
    own_models: list[str] = Field(default_factory=list)
    edits: dict[str, Figure] = Field(default_factory=dict)
    repeat: Figure = None
    paraphrase: Figure = None
    ece: Figure = None
    ece_by_chance: float | None = None
    slope: Figure = None
    map: dict[str, Any] = Field(default_factory=dict)
    ece_mapped: float | None = None
    sensitivity: Figure = None
    specificity: Figure = None
    good_from: float | None = None
    by_category: dict[str, Figure] = Field(default_factory=dict)
    attenuation: Figure = None
    detectable: float | None = None
    smallest: dict[str, float] = Field(default_factory=dict)
    fingerprint: list[list[float | None]] = Field(default_factory=list)
    drift: dict[str, Any] = Field(default_factory=dict)
    errors: int = 0
    not_measured: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    made: str = ""
    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0

    @property
    def doubt(self) -> str:
        """Why no gate believes the judge, in words; empty where one may."""
        if self.labels < ENOUGH_LABELS:
            return f"its calibration is of {self.labels} people's labels"
        if self.learned:
            return "it learned from the very labels that it was calibrated on"
        if self._is_a_coin():
            return "its calibration does not show that it agrees with people more than a coin does"
        if self.drift.get("model_changed"):
            return "the model behind its name has changed since it was calibrated before"
        return ""

    def _is_a_coin(self) -> bool:
        """Whether it is not shown to agree beyond chance; of single answers, most of which may be
        good, kappa says so."""
        figure, null = (self.agreement, 0.5) if self.good_from is None else (self.kappa, 0.0)
        if figure is None:  # of an older version
            return False
        return figure.value <= null or (figure.known and not figure.low > null)

    @property
    def opens_gates(self) -> bool:
        """Whether enough people's labels stand behind it, and speak for it."""
        return not self.doubt

    def is_of(self, judge: str, version: str) -> bool:
        """Whether it speaks of this very judge, its probabilities corrected or not."""
        return (self.judge, self.version) == (judge, version.partition(CORRECTED)[0])

    def differs(self, version: str) -> str:
        """What another version of the judge changes, in words."""
        theirs = version.partition(CORRECTED)[0]
        names = ("model", "prompt", "settings")
        old, new = (dict(zip(names, _parts(v), strict=True)) for v in (self.version, theirs))
        changed = [name for name in names if old[name] != new[name]]
        return " and ".join(changed) if changed and all(new.values()) else "version"


def calibrations_of(every: Iterable[Calibration], judge: str, version: str) -> list[Calibration]:
    """Those of this very judge. What was measured before a later one found that the model behind
    its name has changed speaks of another model, and is left out."""
    own = [c for c in every if c.is_of(judge, version)]
    changed = max((c.made for c in own if c.drift.get("model_changed")), default="")
    return [c for c in own if c.made >= changed]


CORRECTED = " corrected="
"""In a judge's version: its probabilities are corrected, by the map with this fingerprint."""


def _parts(version: str) -> tuple[str, str, str]:
    """Model, prompt and settings in an AI judge's version; empty where it is none's."""
    found = re.fullmatch(r"(.*) prompt=(\S+) settings=(.*)", version)
    return (found[1], found[2], found[3]) if found else ("", "", "")


def read_evals(run: Path) -> Iterator[tuple[Path, EvalResult]]:
    """The results in a run's folder of the models that are there, by model and suite; files that
    are no result are passed over (:func:`gnomon.runs.read.read_run` names them)."""
    models = model_fingerprints(run)
    for file, result in _records(run / EVAL_FOLDER, EvalResult):
        if not is_outdated(result, models):
            yield file, result


def outdated_evals(run: Path) -> Iterator[tuple[Path, EvalResult]]:
    """Results that go by the name of a model of the run and are of other weights: the stage was
    made anew since, say, or they were written there for another run's stage of that name."""
    models = model_fingerprints(run)
    for file, result in _records(run / EVAL_FOLDER, EvalResult):
        if is_outdated(result, models):
            yield file, result


def unread_evals(run: Path) -> Iterator[tuple[Path, str]]:
    """Files of results in a run's folder that cannot be read, and why."""
    for file in sorted((run / EVAL_FOLDER).rglob("*.json")):
        try:
            EvalResult.read(file)
        except ValueError as error:
            yield file, str(error)


def model_fingerprints(run: Path) -> dict[str, str]:
    """The fingerprint of each stage's model by the stage's name, and of the recipe's own model
    (:data:`BASE`), as far as the run's records say."""
    try:
        own = str(read_recipe(run / RECIPE).get("model"))
    except ValueError:  # missing or damaged
        own = ""
    found: dict[str, str] = {}
    for file in sorted(run.glob(f"stages/*/{STAGE}")):
        info = StageInfo.read_or_empty(file)
        if info.name and info.model_sha256:
            found[info.name] = info.model_sha256
        if info.start.get("from") == own:
            found.setdefault(BASE, str(info.start.get("sha256") or ""))
    return found


def is_outdated(result: EvalResult, models: Mapping[str, str]) -> bool:
    """Whether a result after training is of other weights than the model of that name has.

    Args:
        models: of :func:`model_fingerprints`.
    """
    now = models.get(result.model)
    known = bool(now and result.model_sha256) and result.step is None
    return known and result.model_sha256 != now


def outdated(result: EvalResult) -> str:
    """What is wrong with a result that is outdated, and what to do, in words."""
    return (
        f"eval {result.suite} of {result.model} ({result.made or 'no date'}) is of other weights "
        f"than {result.model} has now, and counts for nothing; gnomon eval measures it again"
    )


def read_calibrations(run: Path) -> Iterator[tuple[Path, Calibration]]:
    """The calibrations in a run's folder."""
    yield from _records(run / CALIBRATION_FOLDER, Calibration)


def _records(folder: Path, kind: type[R]) -> Iterator[tuple[Path, R]]:
    for file in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
        try:
            yield file, kind.read(file)
        except ValueError:
            continue
