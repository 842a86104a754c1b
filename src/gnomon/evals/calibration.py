"""How far a judge agrees with people: their labels as pairs, the judge's verdicts, the record."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.data.readers import fingerprint
from gnomon.errors import ConfigError, RunError
from gnomon.evals.calibration_asking import Asking, Watch
from gnomon.evals.calibration_pairs import LabelledPair, labelled_pairs
from gnomon.evals.calibration_probes import (
    Controlled,
    afresh,
    controlled_pairs,
    drawn,
    fingerprint_of,
    fingerprint_pairs,
    paraphrased,
    reseeded,
)
from gnomon.evals.calibration_words import smallest, warnings
from gnomon.files import make_folder, write_text
from gnomon.judges.ai import AIJudge, Compared
from gnomon.judges.protocol import Judge, total_cost
from gnomon.judges.recorded import RecordedJudge
from gnomon.records import Group
from gnomon.runs.evals import CALIBRATION_FOLDER, Calibration
from gnomon.runs.records import now
from gnomon.stats.intervals import Interval, finite_or_none, weighted_proportion
from gnomon.stats.judge_bias import longer_shift, own_shift, position_shift, shift
from gnomon.stats.judge_maps import probabilities
from gnomon.stats.judges import (
    JudgedPair,
    agreement,
    alike,
    attenuation,
    detectable_difference,
    first_share,
    flip_share,
    kappa,
    people_agreement,
)

CONTROLS = 40
"""Answers that are edited, and pairs that are asked about again, unless said otherwise."""
POINTS = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Options:
    """What is measured beside the labels themselves.

    Attributes:
        controls: answers that are edited, and pairs that are asked about again; 0 for none.
        own: what the data call the judge's own model; the model's name by default.
        authors: the columns that say who wrote a row's two answers; the usual ones where None.
        paraphrase: file with the judge's prompt in other words, for a judge with a prompt of its
            own.
        seed: of what is drawn.
    """

    controls: int = CONTROLS
    own: tuple[str, ...] = ()
    authors: tuple[str, str] | None = None
    paraphrase: Path | None = None
    seed: int = 0


# -- measuring -------------------------------------------------------------------------------------


def calibrate(
    judge: Judge,
    groups: Sequence[Group],
    source: str = "labels",
    watch: Watch | None = None,
    options: Options | None = None,
) -> tuple[Calibration, list[dict[str, Any]]]:
    """Ask a judge about every pair that people labelled, and compare what both say; then about
    answers beside edits of themselves, and about some pairs again.

    Args:
        source: what the labels are called in the record.
        watch: see :data:`Watch`.

    Returns:
        The record, and a row for each pair.

    Raises:
        DataError: the labels compare nothing.
        ConfigError: nobody in the data is called what ``own`` says, or ``authors`` are no columns.
        RunError: the judge failed on every pair.
    """
    how = options or Options()
    items = labelled_pairs(groups, how.authors)
    own = _own_models(items, judge, how.own)
    plan = _Plan(judge, items, how)
    ask = Asking(len(items) + plan.size, watch)
    found = ask(judge, [item.group for item in items])
    in_order = isinstance(judge, RecordedJudge)
    pairs = [judged_pair(i, c, in_order, own) for i, c in zip(items, found, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if not known:
        raise RunError(
            f"judge {judge.name!r} failed on all {len(items)} pairs. The first: {found[0].error}"
        )
    more = plan.ask(ask, dict(zip(map(id, items), found, strict=True)))
    cost = total_cost(ask.costs)
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
        own_models=list(own),
        **_figures(known),
        **more,
    )
    record.note(not_measured=plan.not_measured | _not_measured(record, items))
    record.note(smallest=smallest(record))
    record.note(warnings=list(warnings(record)))
    return record, list(_rows(items, found, pairs))


def _own_models(
    items: Sequence[LabelledPair], judge: Judge, given: Sequence[str]
) -> tuple[str, ...]:
    """What the data call the judge's own model.

    Raises:
        ConfigError: a name that was given wrote nothing.
    """
    authors = {author for item in items for author in item.authors if author}
    named = {author.strip().casefold() for author in authors}
    for name in given:
        if name.strip().casefold() not in named:
            who = ", ".join(sorted(authors)[:12]) or "the labels do not say who wrote an answer"
            raise ConfigError(f"no answer is by {name!r}; written by: {who}")
    model = str(getattr(judge, "model", "")).strip().casefold()
    return tuple(given) or tuple(sorted(a for a in authors if a.strip().casefold() == model))


class _Plan:
    """What is asked beside the labels: edits, the same pairs again, the fixed questions."""

    def __init__(self, judge: Judge, items: Sequence[LabelledPair], how: Options) -> None:
        self.judge, self.not_measured = judge, dict[str, str]()
        self.edited: list[Controlled] = []
        self.again: list[tuple[str, AIJudge]] = []
        self.repeated: list[LabelledPair] = []
        if isinstance(judge, RecordedJudge):
            self.not_measured["edits, repeat"] = "past verdicts cannot be asked again"
        elif judge.in_rounds:
            self.not_measured["edits, repeat"] = "people are asked once"
        elif how.controls:
            self.edited = controlled_pairs(items, how.controls, how.seed)
            if isinstance(judge, AIJudge) and judge.options.mode == "pairs":
                self._repeat(judge, items, how)
            else:
                self.not_measured["repeat"] = "only an AI judge that compares has a seed and words"
        else:
            self.not_measured["edits, repeat"] = "no controls were asked for"

    def _repeat(self, judge: AIJudge, items: Sequence[LabelledPair], how: Options) -> None:
        self.repeated = drawn(items, how.controls, how.seed)
        self.again = [("repeat", reseeded(judge))]
        other = paraphrased(judge, how.paraphrase)
        if other is None:
            self.not_measured["paraphrase"] = "its prompt is its own: name it in other words"
        else:
            self.again.append(("paraphrase", other))

    @property
    def size(self) -> int:
        """Pairs that are asked about."""
        fixed = 2 * len(fingerprint_pairs()) if self.again else 0
        return len(self.edited) + len(self.again) * len(self.repeated) + fixed

    def ask(self, ask: Asking, before: dict[int, Compared]) -> dict[str, Any]:
        """The figures; ``before`` is what the judge said of the labelled pairs, by the pair."""
        out: dict[str, Any] = {"edits": self._edits(ask)}
        clusters = [item.cluster for item in self.repeated]
        for name, judge in self.again:
            found = ask(judge, [item.group for item in self.repeated])
            said = [before[id(item)] for item in self.repeated]
            out[name] = _same(said, found, clusters)
        if isinstance(self.judge, AIJudge) and self.again:
            fixed = fingerprint_pairs()
            twice = [ask(judge, fixed) for judge in (self.judge, afresh(self.judge))]
            out["fingerprint"] = [fingerprint_of(found) for found in twice]
        return out

    def _edits(self, ask: Asking) -> dict[str, Interval | None]:
        found = ask(self.judge, [case.pair for case in self.edited])
        by: dict[str, list[tuple[str, float]]] = {}
        for case, compared in zip(self.edited, found, strict=True):
            mean = compared.mean
            if mean is not None:
                by.setdefault(case.edit, []).append((case.cluster, mean.win))
        return {
            edit: shift([win for _, win in rows], [cluster for cluster, _ in rows])
            for edit, rows in by.items()
        }


def _same(
    before: Sequence[Compared], now_: Sequence[Compared], clusters: Sequence[str]
) -> Interval | None:
    """How far a judge says the same twice; ties are half."""
    rows = [
        (alike(POINTS[a.mean.word], POINTS[b.mean.word]), cluster)
        for a, b, cluster in zip(before, now_, clusters, strict=True)
        if a.mean is not None and b.mean is not None
    ]
    share = weighted_proportion([x for x, _ in rows], clusters=[cluster for _, cluster in rows])
    return _measured(share)


# -- the figures -----------------------------------------------------------------------------------


def judged_pair(
    item: LabelledPair, compared: Compared, in_order: bool, own: Sequence[str] = ()
) -> JudgedPair | None:
    """A pair as the figures are made from; None where the judge failed.

    Args:
        in_order: the judge saw the answers in the file's order.
        own: what the data call the judge's own model.
    """
    mean = compared.mean
    if mean is None:
        return None
    turned = compared.backward
    shown = () if compared.forward is None else (POINTS[compared.forward.word],)
    if turned is not None:
        shown = (*shown, POINTS[turned.word])
    elif not (in_order and item.ordered):
        shown = ()
    flipped = None
    if compared.forward is not None and turned is not None:
        flipped = compared.forward.word != turned.swapped.word
    return JudgedPair(
        item.cluster,
        tuple(item.people.values()),
        POINTS[mean.word],
        mean.win,
        shown,
        flipped,
        item.longer,
        item.group.prompt.category,
        all(isinstance(who, str) for who in item.people),
        item.own(own),
        _first(compared),
        item.belief,
    )


def _first(compared: Compared) -> float | None:
    """What the answer shown first wins over both orders; None where one was not asked."""
    if compared.forward is None or compared.backward is None:
        return None
    return (compared.forward.win + compared.backward.win) / 2


def _figures(known: Sequence[JudgedPair]) -> dict[str, Any]:
    """The record's figures; those that nothing measures are None."""
    figures = {
        "agreement": agreement(known),
        "people": people_agreement(known),
        "kappa": kappa(known),
        "first": first_share(known),
        "flips": flip_share(known),
        "position": position_shift(known),
        "longer": longer_shift(known),
        "own": own_shift(known),
        "attenuation": attenuation(known),
    }
    categories = sorted({p.category for p in known if p.category is not None})
    by = {c: agreement([p for p in known if p.category == c]) for c in categories}
    detectable = detectable_difference(known)
    sure = probabilities(
        [p.win for p in known], [p.label for p in known], [p.cluster for p in known]
    )
    return {
        **{name: _measured(figure) for name, figure in figures.items()},
        "by_category": by,
        "detectable": detectable if math.isfinite(detectable) else None,
        "ece": _measured(sure.ece) if any(p.win != 0.5 for p in known) else None,
        "ece_by_chance": finite_or_none(sure.ece_by_chance),
        "slope": _measured(sure.slope) if sure.soft else None,
        "map": sure.map.to_dict(),
        "ece_mapped": finite_or_none(sure.ece_mapped),
    }


def _measured(figure: Interval) -> Interval | None:
    return None if math.isnan(figure.value) else figure


def _not_measured(found: Calibration, items: Sequence[LabelledPair]) -> dict[str, str]:
    """Why figures are missing that depend on the data."""
    out = {}
    if found.people is None:
        out["people"] = "no two named people labelled the same pair"
    if found.own is None:
        named = any(author for item in items for author in item.authors)
        out["own"] = (
            "no answer is known to be by the judge's own model: name it (--own)"
            if named
            else "the labels do not say who wrote an answer"
        )
    if found.ece is None:
        out["ece"] = "it prefers no answer in any pair"
    if found.slope is None:
        out["slope"] = "it gives verdicts, not probabilities"
    if found.first is None:
        out["first"] = "the order in which it saw the answers is not known, or it has none"
    return out


def _rows(
    items: Sequence[LabelledPair], found: Sequence[Compared], pairs: Sequence[JudgedPair | None]
) -> Iterator[dict[str, Any]]:
    """One row a pair, for people to look at."""
    for item, compared, pair in zip(items, found, pairs, strict=True):
        yield {
            "prompt_id": item.group.prompt.id,
            "source": str(item.group.prompt.source or ""),
            "category": item.group.prompt.category,
            "cluster": hashlib.sha256(item.cluster.encode()).hexdigest()[:16],
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

    The name hangs on the judge's version, the data and the round, so that another one replaces
    nothing. One that says what the file says already (the same answers, read again) keeps its date.
    """
    about = [record.judge, record.version, record.data, *filter(None, [record.round])]
    said = json.dumps(about, sort_keys=True)
    judge = re.sub(r"[^A-Za-z0-9._-]+", "_", record.judge).lstrip(".") or "judge"
    name = f"{judge}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    place = folder / CALIBRATION_FOLDER
    make_folder(place)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(place / f"{name}.jsonl", lines)
    before = Calibration.read_or_empty(place / f"{name}.json")
    if before.made and _said(before) == _said(record):
        record.note(made=before.made)
    record.write(place / f"{name}.json")
    return place / f"{name}.json"


def _said(record: Calibration) -> dict[str, Any]:
    """What a record says, but for its date and cost, and what it was compared with."""
    more = {"made", "seconds", "tokens", "money", "drift", "warnings"}
    return record.model_dump(mode="json", exclude=more)
