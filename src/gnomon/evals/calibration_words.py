"""What one must know before one believes a judge: a calibration's warnings, in words."""

from __future__ import annotations

from collections.abc import Iterator

from gnomon.evals.calibration_probes import ADDS_NOTHING
from gnomon.runs.evals import ENOUGH_LABELS, Calibration
from gnomon.stats.intervals import Interval
from gnomon.stats.judge_bias import smallest_seen, stands_out

MANY_FLIPS, ONE_SIDED, MANY_ERRORS = 0.25, 0.9, 0.05
"""Shares of flips, of verdicts for the answer shown first, and of errors that are warned of."""
STEADY = 0.8
"""The share of items on which a judge should say the same when asked again."""


def labelled(found: Calibration) -> str:
    """What people labelled."""
    return "pairs" if found.good_from is None else "answers"


def biases(found: Calibration) -> dict[str, tuple[Interval, float]]:
    """Every bias that was measured, by name, and what it is without bias."""
    out = {
        name: (figure, null)
        for name, figure, null in (
            ("position", found.position, 0.0),
            ("first", found.first if found.position is None else None, 0.5),
            ("longer", found.longer, 0.0),
            ("own", found.own, 0.0),
        )
        if figure is not None
    }
    edits = found.edits.items()
    return out | {f"edit {name}": (figure, 0.0) for name, figure in edits if figure is not None}


def smallest(found: Calibration) -> dict[str, float]:
    """By bias, the smallest that would have been warned of in four cases of five."""
    figures = biases(found)
    seen = {name: smallest_seen(figure, len(figures)) for name, (figure, _) in figures.items()}
    if found.slope is not None:
        seen["slope"] = smallest_seen(found.slope)
    return {name: value for name, value in seen.items() if value is not None}


def shown_biases(found: Calibration) -> list[str]:
    """The biases that stand out of chance, of all that were looked for together."""
    figures = biases(found)
    return [
        name
        for name, (figure, null) in figures.items()
        if stands_out(figure, null, len(figures)) and not _dislikes_what_adds_nothing(name, figure)
    ]


def _dislikes_what_adds_nothing(name: str, figure: Interval) -> bool:
    return name.removeprefix("edit ") in ADDS_NOTHING and figure.value < 0


def warnings(found: Calibration) -> Iterator[str]:
    """What one must know before one believes the judge."""
    if found.labels < ENOUGH_LABELS:
        yield (
            f"only {found.labels} {labelled(found)} with people's labels: a calibration opens a "
            f"gate from {ENOUGH_LABELS} on"
        )
    yield from _of_agreement(found)
    right, wrong = found.sensitivity, found.specificity
    if right is not None and wrong is not None and not right.value + wrong.value > 1:
        yield "it calls bad answers good as often as good ones: its shares say nothing"
    yield from _of_position(found)
    shown = shown_biases(found)
    if "longer" in shown and found.longer is not None:
        more = "longer" if found.longer.value > 0 else "shorter"
        yield f"it prefers {more} answers more than people do ({found.longer.value:+.3f})"
    if "own" in shown and found.own is not None:
        more = "more" if found.own.value > 0 else "less"
        yield f"it likes its own model's answers {more} than people do ({found.own.value:+.3f})"
    for name in shown:
        if name.startswith("edit "):
            edit = name.removeprefix("edit ")
            figure = found.edits[edit]
            assert figure is not None
            likes = "likes" if figure.value > 0 else "dislikes"
            yield f"it {likes} {edit} for itself ({figure.value:+.3f} from 1/2)"
    yield from _of_probabilities(found)
    total = found.labels + found.errors
    if found.errors > MANY_ERRORS * total:
        yield f"it failed on {found.errors} of {total} {labelled(found)}, which are in no figure"
    if found.detectable is None and found.good_from is None:
        yield "a win rate by this judge over so many pairs would show no difference of any size"


def _of_agreement(found: Calibration) -> Iterator[str]:
    if found.people is not None and not found.people.low > 0.5:
        yield (
            "people are not shown to agree with each other more than coins do "
            f"({found.people.value:.3f}): their labels say little of any judge"
        )
    if found.agreement is not None and not found.agreement.low > 0.5:
        yield "it is not shown to agree with people more than a coin does"
    for name, figure in sorted(found.by_category.items()):
        if figure is None or figure.value > 0.5:
            continue
        if stands_out(figure, 0.5, len(found.by_category)):
            yield f"on {name!r} it says the opposite of what people say ({figure.value:.3f})"


def _of_position(found: Calibration) -> Iterator[str]:
    if found.first is not None:
        side = "first" if found.first.value > 0.5 else "second"
        if abs(found.first.value - 0.5) > ONE_SIDED - 0.5:
            yield f"it almost always prefers the answer shown {side}"
        elif {"first", "position"} & set(shown_biases(found)):
            beyond = found.first.value - 0.5 if found.position is None else found.position.value
            side = "first" if beyond > 0 else "second"
            yield f"it prefers the answer shown {side} for its place ({beyond:+.3f} from 1/2)"
    if found.flips is not None and found.flips.value > MANY_FLIPS:
        yield f"{found.flips.value:.0%} of its verdicts change with the order of the answers"
    for figure, how in ((found.repeat, "again"), (found.paraphrase, "in other words")):
        if figure is not None and figure.high < STEADY:
            yield f"asked {how}, it says the same only {figure.value:.0%} of the time"


def _of_probabilities(found: Calibration) -> Iterator[str]:
    if found.slope is None or not stands_out(found.slope, 1.0):
        return
    if not found.slope.value > 0:
        yield "the surer it is, the less often it is right: no map corrects its probabilities"
        return
    sure = "surer" if found.slope.value < 1 else "less sure"
    yield (
        f"it is {sure} than it is right (its log-odds are worth {found.slope.value:.2f} times as "
        "much): the map in this record corrects its probabilities"
    )
