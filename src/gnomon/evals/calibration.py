"""How far a judge agrees with people: their labels as pairs, the judge's verdicts, the record."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.data.formats import judgements
from gnomon.data.readers import fingerprint, prompt_key
from gnomon.errors import DataError, RunError
from gnomon.files import make_folder, write_text
from gnomon.judges.ai import AIJudge, Compared, Pair, Verdict
from gnomon.judges.protocol import Judge, judged, total_cost
from gnomon.judges.recorded import RecordedJudge
from gnomon.records import Group, Judgement
from gnomon.runs.evals import CALIBRATION_FOLDER, ENOUGH_LABELS, Calibration
from gnomon.runs.records import now
from gnomon.stats.intervals import Interval
from gnomon.stats.judges import (
    JudgedPair,
    agreement,
    attenuation,
    detectable_difference,
    first_share,
    flip_share,
    kappa,
    longer_share,
    people_agreement,
)

CHUNK = 32
"""Pairs asked about between two steps of the progress."""
MANY_FLIPS, ONE_SIDED, MANY_ERRORS = 0.25, 0.9, 0.05
"""Shares of flips, of verdicts for the first answer, and of errors that are warned of."""


@dataclass
class LabelledPair:
    """Two answers and what people say of them.

    Attributes:
        group: the prompt, and the two responses in the order of ``a`` and ``b``.
        cluster: the prompt's key.
        people: by labeller, what ``a`` wins: 1, 0 or (a tie) 1/2. A labeller without a name is a
            number.
        ordered: whether the file says which of the two was shown first, and that it was ``a``.
    """

    group: Group
    cluster: str
    people: dict[str | int, float] = field(default_factory=dict)
    ordered: bool = False

    @property
    def pair(self) -> Pair:
        a, b = self.group.responses
        return Pair(self.group.prompt, a.text, b.text)

    def add(self, who: str | None, won: float) -> None:
        """Add a label; a row that is there twice is one label."""
        if who is not None:
            self.people.setdefault(who, won)
        elif won not in [v for k, v in self.people.items() if isinstance(k, int)]:
            self.people[len(self.people)] = won


def labelled_pairs(groups: Sequence[Group]) -> list[LabelledPair]:
    """Every pair of answers that people compared, with all labels on it together.

    The same two answers to the same prompt are one pair, in whichever order and row they come.

    Raises:
        DataError: nothing in the groups compares two different answers.
    """
    found: dict[tuple[str, str, str], LabelledPair] = {}
    for group in groups:
        cluster = prompt_key(group)
        names = group.prompt.meta.get("labellers", ())
        for k, c in enumerate(judgements(group)):
            texts = [group.responses[i].text for i in (c.better, c.worse)]
            if texts[0] == texts[1] or not c.weight:
                continue
            key = (cluster, min(texts), max(texts))
            if key not in found:
                found[key] = _new(group, cluster, min(c.better, c.worse), max(c.better, c.worse))
            item = found[key]
            won = 0.5 if c.tie else float(item.group.responses[0].text == texts[0])
            item.add(names[k] if k < len(names) else None, won)
    if not found:
        raise DataError("the labels compare no two different answers to one prompt")
    return list(found.values())


def _new(group: Group, cluster: str, i: int, j: int) -> LabelledPair:
    """A pair in the file's order, where the ids say it: the better may come first in a group."""
    responses = (group.responses[i], group.responses[j])
    ordered = {r.id for r in responses} == {"a", "b"}
    if ordered and responses[0].id == "b":
        responses = (responses[1], responses[0])
    two = Group(group.prompt, responses, weight=group.weight)
    return LabelledPair(two, cluster, ordered=ordered)


# -- asking ----------------------------------------------------------------------------------------


def compared_by(
    judge: Judge, pairs: Sequence[LabelledPair], progress: Callable[[int], None] | None = None
) -> list[Compared]:
    """What a judge says of every pair; ``progress`` hears how many are done."""
    out: list[Compared] = []
    for first in range(0, len(pairs), CHUNK):
        some = pairs[first : first + CHUNK]
        if isinstance(judge, AIJudge) and judge.options.mode == "pairs":
            out += judge.compare([item.pair for item in some])
        else:
            out += map(_as_compared, judged(judge, [item.group for item in some]))
        if progress is not None:
            progress(len(out))
    return out


def _as_compared(judgement: Judgement) -> Compared:
    """A judgement of a group of two."""
    cost, reason = judgement.cost, judgement.reason
    error = next((s.error for s in judgement.scores if s.error is not None), None)
    if error is not None:
        return Compared(error=error, cost=cost)
    if judgement.comparisons:
        c = judgement.comparisons[0]
        p = c.probability if c.better == 0 else 1.0 - c.probability
        verdict = Verdict(0.0, 0.0, 1.0) if c.tie else Verdict(p, 1.0 - p)
        return Compared(forward=verdict, reason=reason, cost=cost)
    a, b = (score.value or 0.0 for score in judgement.scores)
    verdict = Verdict(0.0, 0.0, 1.0) if a == b else Verdict(float(a > b), float(a < b))
    return Compared(forward=verdict, reason=reason, cost=cost)


# -- the figures -----------------------------------------------------------------------------------


def judged_pair(item: LabelledPair, compared: Compared, in_order: bool) -> JudgedPair | None:
    """A pair as the figures are made from; None where the judge failed.

    Args:
        in_order: the judge saw the answers in the file's order.
    """
    mean = compared.mean
    if mean is None:
        return None
    points = {"first": 1.0, "second": 0.0, "tie": 0.5}
    turned = compared.backward
    shown = () if compared.forward is None else (points[compared.forward.word],)
    if turned is not None:
        shown = (*shown, points[turned.word])
    elif not (in_order and item.ordered):
        shown = ()
    flipped = None
    if compared.forward is not None and turned is not None:
        flipped = compared.forward.word != turned.swapped.word
    sizes = [len(r.text) for r in item.group.responses]
    return JudgedPair(
        item.cluster,
        tuple(item.people.values()),
        points[mean.word],
        mean.win,
        shown,
        flipped,
        (sizes[0] > sizes[1]) - (sizes[0] < sizes[1]),
        item.group.prompt.category,
        all(isinstance(who, str) for who in item.people),
    )


def calibrate(
    judge: Judge,
    groups: Sequence[Group],
    source: str = "labels",
    progress: Callable[[int], None] | None = None,
) -> tuple[Calibration, list[dict[str, Any]]]:
    """Ask a judge about every pair that people labelled, and compare what both say.

    Returns:
        The record, and a row for each pair.

    Raises:
        DataError: the labels compare nothing.
        RunError: the judge failed on every pair.
    """
    items = labelled_pairs(groups)
    found = compared_by(judge, items, progress)
    in_order = isinstance(judge, RecordedJudge)
    pairs = [judged_pair(i, c, in_order) for i, c in zip(items, found, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if not known:
        raise RunError(
            f"judge {judge.name!r} failed on all {len(items)} pairs. The first: {found[0].error}"
        )
    cost = total_cost(c.cost for c in found)
    record = Calibration(
        judge=judge.name,
        version=judge.version,
        model=getattr(judge, "model", ""),
        prompt_sha256=getattr(judge, "prompt_sha256", ""),
        data={source: {"sha256": fingerprint(groups), "rows": len(groups)}},
        labels=len(known),
        errors=len(items) - len(known),
        made=now(),
        seconds=cost.seconds,
        tokens=cost.tokens,
        money=cost.money,
        **_figures(known),
    )
    record.note(warnings=list(_warnings(record)))
    return record, list(_rows(items, found, pairs))


def _figures(known: Sequence[JudgedPair]) -> dict[str, Any]:
    """The record's figures; those that nothing measures are None."""
    figures = {
        "agreement": agreement(known),
        "people": people_agreement(known),
        "kappa": kappa(known),
        "first": first_share(known),
        "flips": flip_share(known),
        "longer": longer_share(known),
        "attenuation": attenuation(known),
    }
    categories = sorted({p.category for p in known if p.category is not None})
    by = {c: agreement([p for p in known if p.category == c]) for c in categories}
    detectable = detectable_difference(known)
    return {
        **{name: _measured(figure) for name, figure in figures.items()},
        "by_category": by,
        "detectable": detectable if math.isfinite(detectable) else None,
    }


def _measured(figure: Interval) -> Interval | None:
    return None if math.isnan(figure.value) else figure


def _warnings(found: Calibration) -> Iterator[str]:
    """What one must know before one believes the judge."""
    if found.labels < ENOUGH_LABELS:
        yield (
            f"only {found.labels} pairs with people's labels: a calibration opens a gate from "
            f"{ENOUGH_LABELS} on"
        )
    if found.agreement is not None and not found.agreement.low > 0.5:
        yield "it is not shown to agree with people more than a coin does"
    if found.first is not None and abs(found.first.value - 0.5) > ONE_SIDED - 0.5:
        side = "first" if found.first.value > 0.5 else "second"
        yield f"it almost always prefers the answer shown {side}"
    if found.flips is not None and found.flips.value > MANY_FLIPS:
        yield f"{found.flips.value:.0%} of its verdicts change with the order of the answers"
    if found.longer is not None and found.longer.excludes(0.0):
        more = "longer" if found.longer.value > 0 else "shorter"
        yield f"it prefers {more} answers more than people do ({found.longer.value:+.3f})"
    total = found.labels + found.errors
    if found.errors > MANY_ERRORS * total:
        yield f"it failed on {found.errors} of {total} pairs, which are in no figure"
    if found.detectable is None:
        yield "a win rate by this judge over so many pairs would show no difference of any size"


def _rows(
    items: Sequence[LabelledPair], found: Sequence[Compared], pairs: Sequence[JudgedPair | None]
) -> Iterator[dict[str, Any]]:
    """One row a pair, for people to look at."""
    for item, compared, pair in zip(items, found, pairs, strict=True):
        yield {
            "prompt_id": item.group.prompt.id,
            "source": str(item.group.prompt.source or ""),
            "category": item.group.prompt.category,
            "a": item.group.responses[0].text,
            "b": item.group.responses[1].text,
            "people": {str(who): won for who, won in item.people.items()},
            "judge": None if pair is None else pair.judge,
            "win": None if pair is None else pair.win,
            "flipped": None if pair is None else pair.flipped,
            "reason": compared.reason,
            "error": compared.error,
        }


def write_calibration(folder: Path, record: Calibration, rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``calibrations/<judge>-<8 hex>.json`` into a folder, and its rows beside it.

    The name hangs on the judge's version and the data, so that another one replaces nothing.
    """
    said = json.dumps([record.judge, record.version, record.data], sort_keys=True)
    judge = re.sub(r"[^A-Za-z0-9._-]+", "_", record.judge).lstrip(".") or "judge"
    name = f"{judge}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    place = folder / CALIBRATION_FOLDER
    make_folder(place)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(place / f"{name}.jsonl", lines)
    record.write(place / f"{name}.json")
    return place / f"{name}.json"
