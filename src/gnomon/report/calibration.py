"""A judge's calibration for people to read."""

from __future__ import annotations

from collections.abc import Iterator

from gnomon.report.format import duration, measured, number
from gnomon.runs.evals import Calibration
from gnomon.stats.intervals import Interval

Figure = tuple[str, Interval | None, str]
"""What it is, its value, and what to hold it against."""


def figures(found: Calibration) -> Iterator[Figure]:
    """Every figure that was measured, in words."""
    for what, figure, note in (
        ("agreement with people", found.agreement, "0.5 is a coin; a tie is half"),
        ("two people, with each other", found.people, ""),
        ("kappa", found.kappa, "0 is chance, 1 is people's very words"),
        ("good answers it calls good", found.sensitivity, "sensitivity"),
        ("bad answers it calls bad", found.specificity, "specificity"),
        ("wins of the answer shown first", found.first, "0.5 is fair"),
        ("verdicts that change with the order", found.flips, ""),
        ("wins for being shown first", found.position, "0 is fair, in probability"),
        ("wins of the longer answer, beyond people's", found.longer, "0 is fair, 0.5 is always"),
        ("wins of its own model's answers, beyond people's", found.own, "0 is fair"),
        *((f"wins by {name}", f, "0 is fair") for name, f in sorted(found.edits.items())),
        ("the same when asked again", found.repeat, "under another seed"),
        ("the same in other words", found.paraphrase, "of its instruction"),
        ("error of its probabilities (ECE)", found.ece, _by_chance(found)),
        ("slope of its log-odds", found.slope, "1 is right, below 1 too sure"),
        ("share of a difference that it keeps", found.attenuation, ""),
    ):
        if figure is not None:
            yield what, figure, note


def _by_chance(found: Calibration) -> str:
    parts = ["a verdict counts as certain"] if found.slope is None else []
    if found.ece_by_chance is not None:
        parts.append(f"perfect ones show {number(found.ece_by_chance)} over so many pairs")
    if found.ece_mapped is not None and found.map.get("kind", "none") != "none":
        parts.append(f"with its {found.map['kind']} map {number(found.ece_mapped)}")
    return "; ".join(parts)


def in_words(found: Calibration) -> list[str]:
    """A calibration, a line a figure."""
    what = "pairs" if found.good_from is None else "answers"
    lines = [
        f"{found.judge}: {found.labels} {what} with people's labels"
        + (f", {found.errors} more on which it failed" if found.errors else ""),
        f"version: {found.version or 'none'}",
    ]
    lines += [
        f"{name}   {measured(figure)}" + (f"  ({note})" if note else "")
        for name, figure, note in figures(found)
    ]
    for name, why in found.not_measured.items():
        lines.append(f"not measured: {name} ({why})")
    if found.smallest:
        seen = ", ".join(f"{name} {number(x)}" for name, x in found.smallest.items())
        lines.append(f"smallest bias that would have been seen (80% of the time): {seen}")
    shown = "none" if found.detectable is None else f"{number(found.detectable)} from 0.5"
    if found.good_from is None:
        lines.append(
            f"smallest difference of a win rate over {found.labels} prompts that it shows (80% of "
            f"the time, test at 5%): {shown}"
        )
    lines += [f"  {category}   {measured(f)}" for category, f in sorted(found.by_category.items())]
    lines += _since(found)
    cost = f"cost: {duration(found.seconds)} of judging, {found.tokens} tokens"
    return [*lines, cost + (f", {found.money:.2f} euros" if found.money else "")]


def _since(found: Calibration) -> list[str]:
    """What has changed since an earlier calibration."""
    drift = found.drift
    if not drift:
        return []
    changed, agreement = (Interval.parse(drift.get(k)) for k in ("changed", "agreement"))
    smallest, p = drift.get("smallest"), drift.get("p")
    lines = [
        f"since {drift.get('before')}, on {drift.get('items')} pairs that both have:",
        f"  verdicts that are others now   {measured(changed)}",
        f"  agreement with people, now less then   {measured(agreement)}"
        + ("" if smallest is None else f"  ({number(smallest)} would have been seen)"),
    ]
    if p is None:
        lines.append("  whether the model is the same: not known, without the fixed questions")
    else:
        verdict = "another" if drift.get("model_changed") else "not shown to be another"
        lines.append(f"  the model, by the fixed questions: {verdict} (p = {number(p)})")
    return lines
