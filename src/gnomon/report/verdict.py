"""What the figures of a run say, in sentences, each computed from the data and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gnomon.report.format import better_sign, interval, measured, number
from gnomon.report.idle import idle
from gnomon.report.kinds import column_kinds, metric_kind
from gnomon.report.overoptimisation import Trajectory, trajectory
from gnomon.runs.comparison import Comparison
from gnomon.runs.peak import in_words, kept_run
from gnomon.runs.read import RunView, StageView
from gnomon.runs.rows import Column
from gnomon.stats.intervals import Interval, t_quantile, weighted_proportion
from gnomon.stats.prompts import independent_difference

Kind = Literal["good", "bad", "warn", "truth", "plain"]
MANY = 5
"""Models beyond which a comparison is summarised in one sentence per measure."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence, and whether it is good news, bad news, a warning, the truth of a simulated
    world (which is no news that a real run would have), or neither."""

    kind: Kind
    text: str


def verdicts(run: RunView) -> list[Verdict]:
    """All the sentences the run's figures support; empty when it has none to show.

    None is good news while an alarm stands.
    """
    run = kept_run(run)
    out = [*_completeness(run), *_comparison(run)]
    for stage in run.stages:
        if kept := in_words(stage.info):
            out.append(Verdict("plain", f"Stage {stage.name}: {kept}."))
        out += [*_idle(stage), *_finite_loss(stage), *_held_out_accuracy(stage), *_policy(stage)]
        out += _displacement(stage)
        t = trajectory(stage)
        if t is not None:
            out += _overoptimisation(stage, t, metric_kind(run, stage.name, "gold") == "truth")
    out += [v for stage in run.stages for v in _skipped(stage)]
    alarmed = run.audit is not None and bool(run.audit.alarms)
    return [Verdict("plain", v.text) if alarmed and v.kind == "good" else v for v in out]


def ends_differ(y: Column) -> tuple[float, float, bool]:
    """Means of the first and last fifth of a series, and whether they differ beyond its noise.

    Beyond means that Student's 95% interval of the difference leaves out 0. Where every value is 0
    or 1 the two are shares of few outcomes, and judged as such.
    """
    k = max(1, y.size // 5)
    first, last = float(y[:k].mean()), float(y[-k:].mean())
    if y.size < 5:
        return first, last, False
    if np.isin(y, (0.0, 1.0)).all():
        ends = (weighted_proportion(part) for part in (y[-k:], y[:k]))
        return first, last, independent_difference(*ends).excludes(0)
    # of the n - 2 second differences, each shares its values with its neighbours: 18/35 of them
    # say as much about the noise as as many values of their own would
    t = t_quantile(0.95, 18 / 35 * (y.size - 2))
    return first, last, abs(last - first) > t * _noise(y) * math.sqrt(2 / k)


def _noise(y: Column) -> float:
    """Standard deviation of the noise around a trend, from second differences.

    They cancel whatever is linear; for independent noise their mean square is 6 variances.
    """
    return math.sqrt(float(np.mean(np.diff(y, 2) ** 2)) / 6)


def _completeness(run: RunView) -> Iterator[Verdict]:
    for stage in run.stages:
        status, error = stage.info.status, stage.info.error
        if status == "failed":
            why = f" ({error})" if error else ""
            yield Verdict("bad", f"Stage {stage.name} failed{why}; what follows is what it left.")
        elif status != "done":
            yield Verdict("warn", f"Stage {stage.name} has not finished (status: {status}).")


def _skipped(stage: StageView) -> Iterator[Verdict]:
    if count := stage.info.skipped.count:
        rows = "row was" if count == 1 else "rows were"
        yield Verdict("warn", f"Stage {stage.name}: {count} {rows} skipped (listed below).")


def _comparison(run: RunView) -> Iterator[Verdict]:
    """The last model against each one before it, on every measure with a better direction; of many
    models, all against the reference."""
    view, kinds = run.comparison, column_kinds(run)
    for place, column in enumerate(view.columns):
        rows = view.column(place)
        sign, kind = better_sign(column), kinds[column]
        if len(rows) < 2 or sign == 0:
            continue
        if kind == "trained":
            sign = 0  # what was optimised: that it rose does not show a better model
        heading = f"{column[:1].upper()}{column[1:]}"
        heading += {"trained": " (trained on)", "truth": " (simulated truth)"}.get(kind, "")
        for verdict in _of_column(view, place, rows, heading, sign):
            told = kind == "truth" and verdict.kind != "plain"
            yield Verdict("truth", verdict.text) if told else verdict


def _of_column(
    view: Comparison, place: int, rows: Mapping[str, Interval], heading: str, sign: int
) -> Iterator[Verdict]:
    if len(rows) > MANY and view.reference in rows:
        yield _many(view, place, rows, heading, sign)
        return
    *before, (last, new) = rows.items()
    for model, old in before:
        figures = f"{measured(new)} against {measured(old)}"
        gap = view.difference(place, last, model)
        yield _pair(f"{heading}: {last}", model, gap, figures, sign)


def _many(
    view: Comparison, place: int, rows: Mapping[str, Interval], heading: str, sign: int
) -> Verdict:
    """Which of many models are above and below the reference beyond noise."""
    reference = view.reference
    found: dict[str, list[str]] = {"above": [], "below": [], "": []}
    for model in rows:
        if model != reference:
            gap = view.difference(place, model, reference)
            found["" if not gap.excludes(0) else "above" if gap.value > 0 else "below"].append(
                model
            )
    words = {"above": "above it", "below": "below it", "": "not told apart from it"}
    parts = [f"{', '.join(models)} {words[k]}" for k, models in found.items() if models]
    better, worse = (found[k] for k in (("above", "below") if sign > 0 else ("below", "above")))
    kind: Kind = "plain"
    if sign and (better or worse):
        kind = "warn" if worse else "good"
    about = f"{heading} against {reference} ({measured(rows[reference])})"
    return Verdict(kind, f"{about}: {'; '.join(parts)}.")


def _pair(heading: str, model: str, gap: Interval, figures: str, sign: int) -> Verdict:
    """Whether the model of ``heading`` and another differ, and which is the better."""
    if not gap.known:
        return Verdict("plain", f"{heading} {figures} for {model}, given without intervals.")
    ends = sorted((gap.low, gap.high) if gap.value >= 0 else (-gap.low, -gap.high))
    size = f"{abs(gap.value):.2g} [{ends[0]:.2g}, {ends[1]:.2g}]"
    if not gap.excludes(0):
        text = f"{heading} and {model} cannot be told apart ({size}; {figures})."
        return Verdict("plain", text)
    if sign == 0:
        word = "above" if gap.value > 0 else "below"
        return Verdict("plain", f"{heading} is {word} {model} by {size} ({figures}).")
    better = gap.value * sign > 0
    word = "better than" if better else "worse than"
    text = f"{heading} is {word} {model} by {size} ({figures})."
    return Verdict("good" if better else "bad", text)


def _idle(stage: StageView) -> Iterator[Verdict]:
    """Training that was for nothing, or mostly."""
    found = idle(stage)
    if found is not None and 2 * found.count >= found.of:
        yield Verdict("bad" if found.whole else "warn", f"Stage {stage.name} {found.sentence}")


def _finite_loss(stage: StageView) -> Iterator[Verdict]:
    _, loss = stage.series("loss")
    if loss.size < 10 or stage.info.algorithm not in ("sft", "reward_model"):
        return
    first, last, beyond = ends_differ(loss)
    if beyond:
        word = "rose" if last > first else "fell"
        text = f"the training loss {word} from {number(first)} to {number(last)} nats."
        yield Verdict("bad" if last > first else "plain", f"Stage {stage.name}: {text}")
    _, held = stage.series("eval/loss")
    if held.size >= 3 and held[-1] > 1.02 * held.min():
        yield Verdict(
            "warn",
            f"Stage {stage.name}: the held-out loss ended at {number(float(held[-1]))}, above its "
            f"lowest {number(float(held.min()))}: it over-fits; fewer epochs would do.",
        )


def _held_out_accuracy(stage: StageView) -> Iterator[Verdict]:
    if stage.info.algorithm != "reward_model" and "displacement" not in stage.metrics:
        return  # only where accuracy is the share of pairs ranked as labelled
    found = [m for n, m in stage.evals.figures().items() if n.split(".")[-1] == "accuracy"]
    accuracy = found[0] if found else _last_accuracy(stage)
    if accuracy is None:
        return
    text = f"Stage {stage.name}: held-out accuracy {number(accuracy.value)} {interval(accuracy)}"
    if not accuracy.known:
        yield Verdict("plain", f"{text.rstrip()}, given without an interval.")
    elif accuracy.low > 0.5:
        yield Verdict("good", f"{text}, above chance.")
    else:
        yield Verdict("bad", f"{text}, not shown to be better than chance.")
    for _, report in stage.evals.tables("length"):
        yield from _length_bias(stage, report["length"])


def _last_accuracy(stage: StageView) -> Interval | None:
    _, y = stage.series("eval/accuracy")
    if not y.size:
        return None
    rest = [stage.series(f"eval/accuracy_{part}")[1] for part in ("low", "high", "n")]
    low, high, n = (float(r[-1]) if r.size else math.nan for r in rest)
    return Interval(float(y[-1]), low, high, 0.0 if math.isnan(n) else n)


def _length_bias(stage: StageView, length: object) -> Iterator[Verdict]:
    if not isinstance(length, Mapping):
        return
    short = Interval.parse(length.get("accuracy_better_shorter"))
    long = Interval.parse(length.get("accuracy_better_longer"))
    if short is None or long is None:
        return
    gap = independent_difference(long, short)
    if gap.excludes(0):
        favours = "longer" if gap.value > 0 else "shorter"
        yield Verdict(
            "warn",
            f"Stage {stage.name}: the reward model favours {favours} responses: accuracy "
            f"{measured(long)} where the better one is longer, {measured(short)} where shorter.",
        )


def _policy(stage: StageView) -> Iterator[Verdict]:
    """Length growth and unfinished responses of a policy-gradient stage."""
    _, length = stage.series("length")
    if length.size >= 5 and "reward" in stage.metrics:
        first, last, beyond = ends_differ(length)
        if beyond and first > 0 and not 1 / 1.3 < last / first < 1.3:
            change = "grew" if last > first else "shrank"
            yield Verdict(
                "warn",
                f"Stage {stage.name}: responses {change} from {number(first)} to {number(last)} "
                "tokens; check that the reward is not paid for length.",
            )
    _, finished = stage.series("finished")
    if finished.size:
        last = ends_differ(finished)[1]
        if last < 0.8:
            yield Verdict(
                "warn",
                f"Stage {stage.name}: only {last:.0%} of the last responses ended by themselves.",
            )


def _displacement(stage: StageView) -> Iterator[Verdict]:
    """Likelihood displacement: chosen and rejected answers both became less likely."""
    share, chosen, rejected = (
        stage.series(name)[1]
        for name in ("displacement", "logprobs/chosen_change", "logprobs/rejected_change")
    )
    if share.size < 5 or not chosen.size or not rejected.size:
        return
    falls = [ends_differ(y)[1] for y in (chosen, rejected)]
    if ends_differ(share)[1] > 0.5 and max(falls) < 0:
        yield Verdict(
            "warn",
            f"Stage {stage.name}: in {ends_differ(share)[1]:.0%} of the last pairs both answers "
            f"became less likely (chosen by {number(-falls[0])}, rejected by {number(-falls[1])} "
            "nats on average): probability goes to answers nobody wrote. Look at the samples; "
            "nll_coef, a higher beta or a lower learning rate hold it.",
        )


def _overoptimisation(stage: StageView, t: Trajectory, truth: bool) -> Iterator[Verdict]:
    """What the trained reward did, and the gold reward where a simulation has one (``truth``) or
    somebody observed one of that name."""
    end = f"at a KL of {number(float(t.kl[-max(1, t.kl.size // 5) :].mean()))} nats per response"
    proxy_first, proxy_last, proxy_moved = ends_differ(t.proxy)
    proxy = f"from {number(proxy_first)} to {number(proxy_last)}"
    if t.gold is None:
        word = "moved" if proxy_moved else "did not move beyond noise,"
        yield Verdict("plain", f"Stage {stage.name}: the trained reward {word} {proxy} {end}.")
        return
    kind: Kind = "truth" if truth else "plain"
    gold_first, gold_last, gold_moved = ends_differ(t.gold)
    gold = f"from {number(gold_first)} to {number(gold_last)}"
    named = "the gold reward (simulated truth)" if truth else "the gold reward"
    if (fall := _fall_from_peak(t)) and proxy_moved and proxy_last > proxy_first:
        peak, at = fall
        yield Verdict(
            kind if truth else "bad",
            f"Stage {stage.name}: the trained reward is over-optimised. It rose {proxy} while "
            f"{named} fell from its peak {number(peak)} at √KL {number(at)} to "
            f"{number(gold_last)} {end}. Stop earlier, raise β, or train the reward model on the "
            "policy's own samples.",
        )
        return
    word = "did not move beyond noise"
    if gold_moved:
        word = "rose" if gold_last > gold_first else "fell"
        kind = kind if truth else "good" if gold_last > gold_first else "bad"
    yield Verdict(
        kind, f"Stage {stage.name}: {named} {word} ({gold}) {end}; trained reward {proxy}."
    )


def _fall_from_peak(t: Trajectory) -> tuple[float, float] | None:
    """(peak gold, sqrt KL there) when the gold reward ends below its peak beyond noise."""
    assert t.gold is not None
    n = t.gold.size
    k = max(1, n // 5)
    if n < 10:
        return None
    means = np.convolve(t.gold, np.ones(k) / k, mode="valid")
    peak = int(means.argmax())
    last = float(means[-1])
    noise = _noise(t.gold)
    # A peak is the best of many means, so it is asked for three standard errors rather than two.
    if float(means[peak]) - last <= 3 * noise * math.sqrt(2 / k):
        return None
    return float(means[peak]), float(t.distance[peak : peak + k].mean())
