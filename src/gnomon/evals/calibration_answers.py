"""How far a judge of single answers agrees with people who called them good or bad.

Shares that such a judge reports (of refusals, say) are corrected by how often it is right among the
good and among the bad (:func:`gnomon.stats.rates.rogan_gladen`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gnomon.data.fields import labeller_of
from gnomon.data.readers import fingerprint, prompt_key
from gnomon.errors import DataError, RunError
from gnomon.evals.calibration_asking import CHUNK, Watch
from gnomon.evals.calibration_pairs import row_of
from gnomon.evals.calibration_words import warnings
from gnomon.judges.protocol import Judge, judged, total_cost
from gnomon.records import Cost, Group, Judgement
from gnomon.runs.evals import Calibration
from gnomon.runs.records import now
from gnomon.stats.intervals import Interval, weighted_proportion
from gnomon.stats.judges import JudgedPair, agreement, people_agreement, same_beyond_chance


@dataclass
class LabelledAnswer:
    """An answer and what people say of it: by labeller, 1 for good and 0 for bad; ``rows`` are what
    else the rows say that name no labeller."""

    group: Group
    cluster: str
    people: dict[str | int, float]
    rows: set[str] = field(default_factory=set)


def labelled_answers(groups: Sequence[Group]) -> list[LabelledAnswer]:
    """Every answer that people called good or bad, with all labels on it together.

    Raises:
        DataError: none was, or all were called the same.
    """
    found: dict[tuple[str, str], LabelledAnswer] = {}
    for group in groups:
        cluster = prompt_key(group)
        for response in group.responses:
            good = response.meta.get("label")
            if good is None or not group.weight:
                continue
            one = replace(group, responses=(response,), comparisons=())
            item = found.setdefault(
                (cluster, response.text), LabelledAnswer(one, cluster, dict[str | int, float]())
            )
            who = labeller_of(response.meta) or labeller_of(group.prompt.meta)
            about = row_of({**group.prompt.meta, "of the answer": dict(response.meta)})
            if who is not None:
                item.people[who] = float(good)
            elif about not in item.rows:  # a row that is there twice is one label
                item.rows.add(about)
                item.people[len(item.people)] = float(good)
    said = {value for item in found.values() for value in item.people.values()}
    if len(said) < 2:
        what = "no answer is labelled good or bad"
        if said:
            what = f"people call every answer {'good' if said == {1.0} else 'bad'}"
        raise DataError(f"{what}: nothing can be said of a judge without answers of both kinds")
    return list(found.values())


def calibrate_answers(
    judge: Judge,
    groups: Sequence[Group],
    source: str = "labels",
    watch: Watch | None = None,
    good_from: float = 0.5,
) -> tuple[Calibration, list[dict[str, Any]]]:
    """Ask a judge about every answer that people called good or bad.

    Args:
        source: what the labels are called in the record.
        good_from: the judge calls good what it scores from here on.

    Returns:
        The record, and a row for each answer.

    Raises:
        DataError: the labels say nothing.
        RunError: the judge failed on every answer.
    """
    items = labelled_answers(groups)
    found = list(_asked(judge, items, watch))
    verdicts = [_verdict(judgement, good_from) for judgement in found]
    known = [
        JudgedPair(
            item.cluster,
            tuple(item.people.values()),
            said,
            said,
            category=item.group.prompt.category,
            named=all(isinstance(who, str) for who in item.people),
        )
        for item, said in zip(items, verdicts, strict=True)
        if said is not None
    ]
    if not known:
        raise RunError(
            f"judge {judge.name!r} failed on all {len(items)} answers. The first: "
            f"{_error(found[0])}"
        )
    cost = total_cost(judgement.cost or Cost() for judgement in found)
    figures = {"agreement": agreement(known), "people": people_agreement(known)}
    figures |= {"kappa": same_beyond_chance(known)}
    figures |= {"sensitivity": right_among(known, 1.0), "specificity": right_among(known, 0.0)}
    measured: dict[str, Any] = {name: x for name, x in figures.items() if x.value == x.value}
    record = Calibration(
        judge=judge.name,
        version=judge.version,
        model=getattr(judge, "model", ""),
        prompt_sha256=getattr(judge, "prompt_sha256", ""),
        data={source: {"sha256": fingerprint(groups), "rows": len(groups)}},
        good_from=good_from,
        labels=len(known),
        errors=len(items) - len(known),
        by_category=_by_category(known),
        made=now(),
        seconds=cost.seconds,
        tokens=cost.tokens,
        money=cost.money,
        **measured,
    )
    record.note(warnings=list(warnings(record)))
    return record, list(_rows(items, found, verdicts))


def _asked(
    judge: Judge, items: Sequence[LabelledAnswer], watch: Watch | None
) -> Iterator[Judgement]:
    for first in range(0, len(items), CHUNK):
        yield from judged(judge, [item.group for item in items[first : first + CHUNK]])
        if watch is not None:
            watch(min(first + CHUNK, len(items)), len(items))


def _error(judgement: Judgement) -> str | None:
    return judgement.error or next((s.error for s in judgement.scores if s.error), None)


def _verdict(judgement: Judgement, good_from: float) -> float | None:
    """1 for good, 0 for bad; None where the judge failed."""
    value = judgement.scores[0].value
    return None if value is None or _error(judgement) else float(value >= good_from)


def right_among(known: Sequence[JudgedPair], label: float) -> Interval:
    """The share that the judge calls what people call it, among those that they call good (1) or
    bad (0); an answer that they disagree on counts in parts."""
    weights = [sum(x == label for x in p.people) / len(p.people) for p in known]
    some = [(p, w) for p, w in zip(known, weights, strict=True) if w]
    return weighted_proportion(
        [float(p.judge == label) for p, _ in some],
        [w for _, w in some],
        clusters=[p.cluster for p, _ in some],
    )


def _by_category(known: Sequence[JudgedPair]) -> dict[str, Interval | None]:
    names = sorted({p.category for p in known if p.category is not None})
    return {name: agreement([p for p in known if p.category == name]) for name in names}


def _rows(
    items: Sequence[LabelledAnswer], found: Sequence[Judgement], said: Sequence[float | None]
) -> Iterator[dict[str, Any]]:
    for item, judgement, verdict in zip(items, found, said, strict=True):
        prompt = item.group.prompt
        yield {
            "prompt_id": prompt.id,
            "source": str(prompt.source or ""),
            "category": prompt.category,
            "cluster": hashlib.sha256(item.cluster.encode()).hexdigest()[:16],
            "a": item.group.responses[0].text,
            "b": "",
            "people": {str(who): won for who, won in item.people.items()},
            "judge": verdict,
            "win": verdict,
            "score": judgement.scores[0].value,
            "reason": judgement.reason,
            "error": _error(judgement),
        }
