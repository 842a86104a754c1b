"""One ledger of the labels of people and machines: what they cost, and what they say for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.errors import ConfigError
from gnomon.feedback.adjudication import of_labellers
from gnomon.feedback.consensus import Gold
from gnomon.feedback.information import (
    PEOPLE,
    Truths,
    information,
    others_truth,
    per_bit,
    per_point,
)
from gnomon.feedback.records import Label, Vote, standing, votes
from gnomon.runs.labels import CostLine, LabelCosts
from gnomon.runs.read import RunView
from gnomon.runs.records import now
from gnomon.stats.intervals import Interval

if TYPE_CHECKING:
    from gnomon.feedback.store import Expense, Store


@dataclass(frozen=True)
class Tariff:
    """Prices of labels that hold none of their own.

    Attributes:
        price: euros a label, by labeller or by kind.
        wage: euros an hour of people's work.
    """

    price: Mapping[str, float]
    wage: float = 0.0

    def of(self, label: Label, kind: str) -> float:
        """What a label is worth by the tariff; 0 where it says what it cost. By the piece, what is
        skipped is not paid."""
        if label.cost.money:
            return 0.0
        named = self.price.get(label.labeller, self.price.get(kind))
        if named is not None:
            return 0.0 if label.kind == "skip" else named
        return self.wage * label.cost.seconds / 3600.0 if kind in PEOPLE else 0.0


# -- the ledger of a store -------------------------------------------------------------------------


def ledger(
    labels: Sequence[Label],
    kinds: Mapping[str, str],
    *,
    expenses: Sequence[Expense] = (),
    gold: Gold | None = None,
    tariff: Tariff = Tariff({}),
) -> LabelCosts:
    """What each labeller's labels cost and say, and the sums by kind.

    Args:
        labels: all of them, those that were replaced too.
        kinds: of labellers; ``person`` where one is not named.
        expenses: what was paid beside; a labeller's own count as theirs.
        gold: truths that are known.

    Raises:
        ConfigError: a price for somebody who is neither a labeller nor a kind.
    """
    names = sorted({label.labeller for label in labels})
    of = {name: kinds.get(name, "person") for name in names}
    unknown = sorted(set(tariff.price) - set(names) - {"person", "model", "program", "simulated"})
    if unknown:
        raise ConfigError(
            f"a price for {unknown[0]!r}, who has no label here; labellers: "
            f"{', '.join(names[:8]) or 'none'}; kinds: person, model, program, simulated"
        )
    said = votes(of_labellers(labels))
    truth = others_truth(said, of, gold)
    by_name: dict[str, list[Label]] = {}
    for label in labels:
        by_name.setdefault(label.labeller, []).append(label)
    lines = [_line(name, of[name], by_name[name], said, truth, expenses, tariff) for name in names]
    beside = [
        CostLine(who=e.what, kind="expense", seconds=e.cost.seconds, tokens=e.cost.tokens,
                 money=e.cost.money)
        for e in expenses
        if e.labeller not in of
    ]  # fmt: skip
    sums = [
        _sum(kind, [line for line in lines if line.kind == kind], said, of, truth)
        for kind in sorted(set(of.values()))
    ]
    return LabelCosts(
        lines=lines + beside,
        sums=sums,
        notes=_notes(labels, said, truth, lines, of),
        made=now(),
    )


def _line(
    name: str, kind: str, own: Sequence[Label], said: Sequence[Vote], truth: Truths,
    expenses: Sequence[Expense], tariff: Tariff,
) -> CostLine:  # fmt: skip
    costs = [label.cost for label in own] + [e.cost for e in expenses if e.labeller == name]
    estimated = sum(tariff.of(label, kind) for label in own)
    mine = [v for v in said if v.labeller == name]
    return _priced(
        CostLine(
            who=name,
            kind=kind,
            labels=len(own),
            pairs=len(mine),
            seconds=float(sum(c.seconds for c in costs)),
            tokens=sum(c.tokens for c in costs),
            money=float(sum(c.money for c in costs)) + estimated,
            estimated=float(estimated),
        ),
        mine,
        truth,
    )


def _sum(
    kind: str, lines: Sequence[CostLine], said: Sequence[Vote], of: Mapping[str, str], truth: Truths
) -> CostLine:
    total = CostLine(
        who="all",
        kind=kind,
        labels=sum(x.labels for x in lines),
        pairs=sum(x.pairs or 0 for x in lines),
        seconds=sum(x.seconds for x in lines),
        tokens=sum(x.tokens for x in lines),
        money=sum(x.money for x in lines),
        estimated=sum(x.estimated for x in lines),
    )
    return _priced(total, [v for v in said if of[v.labeller] == kind], truth)


def _priced(line: CostLine, mine: Sequence[Vote], truth: Truths) -> CostLine:
    """The line with what its votes say."""
    found = information(mine, truth)
    line.checked = sum((v.labeller, v.item, v.a, v.b) in truth for v in mine)
    if not math.isnan(found.value):
        line.bits = found
        price = per_bit(line.per_pair or 0.0, found)
        line.per_bit = price if not math.isnan(price.value) else None
    return line


def _notes(
    labels: Sequence[Label], said: Sequence[Vote], truth: Truths, lines: Sequence[CostLine],
    of: Mapping[str, str],
) -> list[str]:  # fmt: skip
    notes = [] if labels else ["no labels: nothing has been paid for them yet"]
    replaced = len(labels) - len(standing(labels))
    if replaced:
        notes.append(
            f"{replaced} labels were replaced by later ones: they are paid for, and their pairs "
            "count once"
        )
    unchecked = len(said) - sum((v.labeller, v.item, v.a, v.b) in truth for v in said)
    if unchecked:
        notes.append(
            f"{unchecked} of {len(said)} comparisons are of pairs that nobody else compared: how "
            "much they tell is not known, and the bits are of the others"
        )
    free = [x.who for x in lines if not x.money]
    if free:
        notes.append(
            f"what labels of {', '.join(free[:5])}{' and others' if len(free) > 5 else ''} cost is "
            "not known: give --price WHO=EUROS, or --wage for people"
        )
    if said and not any(kind in PEOPLE for kind in of.values()):
        notes.append(
            "no person labelled: the bits say how far the judges agree, not how far they are right"
        )
    return notes


def store_ledger(store: Store, campaign: str | None, tariff: Tariff) -> LabelCosts:
    """The ledger of a store, or of one of its campaigns."""
    from gnomon.feedback.consensus import gold_pairs

    check_campaign(store, campaign)
    found = ledger(
        list(store.labels(campaign)),
        {info.name: info.kind for info in store.people.all()},
        expenses=store.expenses(campaign),
        gold=gold_pairs(store.items(campaign)),
        tariff=tariff,
    )
    found.source, found.campaign = store.where, campaign or ""
    return found


def check_campaign(store: Store, campaign: str | None) -> None:
    """Check that a campaign is there.

    Raises:
        ConfigError: it is not; the message names those that are.
    """
    names = [c.name for c in store.campaigns()]
    if campaign is not None and campaign not in names:
        known = ", ".join(repr(n) for n in names) or "none"
        raise ConfigError(f"{store.where} has no campaign {campaign!r}; it has {known}")


# -- the ledger of a run ---------------------------------------------------------------------------


def run_ledger(run: RunView) -> LabelCosts:
    """What the judges of a run took, stage by stage, its calibrations and evals among them, and
    the price of a point of its reward model's accuracy."""
    lines = [
        _judge_line(name, stage.name, raw)
        for stage in run.stages
        for name, raw in stage.info.judges.items()
    ]
    lines += [
        CostLine(who=c.judge, kind="judge", stage="calibration", version=c.version,
                 labels=c.labels, errors=c.errors, seconds=c.seconds, tokens=c.tokens,
                 money=c.money)
        for c in run.calibrations
    ]  # fmt: skip
    lines += [
        CostLine(who=e.judge, kind="judge", stage=f"eval {e.suite}", version=e.judge_version,
                 labels=e.n, errors=e.errors, seconds=e.seconds, tokens=e.tokens, money=e.money)
        for e in run.results
        if e.judge
    ]  # fmt: skip
    out = LabelCosts(source=str(run.path), lines=lines, made=now())
    spent = 0.0  # on labels so far: other stages' judges train a policy, rewrite or measure
    for stage in run.stages:
        if stage.info.algorithm == "collect":
            spent += sum(line.money for line in lines if line.stage == stage.name)
        held = stage.info.held_out
        if stage.info.algorithm == "reward_model" and "accuracy" in held:
            parts = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_n")
            numbers = [held.get(part) for part in parts]
            value, low, high, n = (float(x) if x is not None else math.nan for x in numbers)
            out.accuracy = Interval(value, low, high, 0.0 if math.isnan(n) else n)
            out.per_point = per_point(spent, out.accuracy) if spent else None
    if not lines:
        out.notes = ["no stage of this run had a judge that notes what it took"]
    elif not any(line.money for line in lines):
        out.notes = [
            "what the judges' tokens cost is not known: give price_input and price_output in a "
            "judge's options"
        ]
    return out


def _judge_line(name: str, stage: str, raw: Mapping[str, object]) -> CostLine:
    def number(key: str) -> float:
        value = raw.get(key, 0)
        return float(value) if isinstance(value, int | float) else 0.0

    return CostLine(
        who=name,
        kind="judge",
        stage=stage,
        version=str(raw.get("version", "")),
        labels=int(number("judged")),
        errors=int(number("errors")),
        seconds=number("seconds"),
        tokens=int(number("tokens")),
        money=number("money"),
    )


def is_run(place: str) -> bool:
    """Whether it is a run's folder and not a store."""
    return "://" not in place and Path(place).is_dir()
