"""What a comparison says: rewards and gains with intervals, pass@k, episodes that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gnomon.runs.answers import Answer
from gnomon.runs.comparison import Comparison, ComparisonRow
from gnomon.stats.intervals import Bounds, Interval
from gnomon.stats.prompts import (
    common_bounds,
    gain_over_prompts,
    ks_up_to,
    over_prompts,
    pass_curve,
    pass_gain,
)

Values = list[list[float | None]]
"""[prompts][samples] a reward's values; None where it failed."""


def add_rewards(
    rows: Sequence[ComparisonRow], judged: Mapping[str, list[Values]], reference: str
) -> None:
    """Complete the rows by the rewards' means, the gains over the reference, and the scores.

    It comes last, since a reward's bounds are known only once every policy is judged.
    """
    bounds = _bounds(judged)
    for row in rows:
        scores, theirs = judged[row.model], judged[reference]
        means = [over_prompts(v, b) for v, b in zip(scores, bounds, strict=True)]
        gains = [gain_over_prompts(*x) for x in zip(scores, theirs, bounds, strict=True)]
        if row.model == reference:  # over itself: 0, and that is certain
            gains = [Interval(0.0, 0.0, 0.0, gain.n) for gain in gains]
        row.values = [*means, *row.values]
        row.note(gains=gains, scores=scores)


def pass_tables(
    names: Sequence[str], judged: dict[str, list[Values]], reference: str, samples: int
) -> list[Comparison]:
    """For each reward of 0 and 1: pass@k of every policy, and its gain over the reference.

    Args:
        names: of the rewards.
        judged: for each policy, the values of each reward.
        samples: answers to a prompt; with one there is nothing to tabulate.
    """
    tables: list[Comparison] = []
    ks = ks_up_to(samples)
    for i, name in enumerate(names):
        values = {policy: rewards[i] for policy, rewards in judged.items()}
        found = {v for rows in values.values() for row in rows for v in row if v is not None}
        if samples < 2 or not found <= {0.0, 1.0}:
            continue
        right = {
            policy: [[None if v is None else v == 1.0 for v in row] for row in rows]
            for policy, rows in values.items()
        }
        curves = {policy: pass_curve(rows, ks) for policy, rows in right.items()}
        gains = {
            policy: pass_gain(rows, right[reference], ks)
            for policy, rows in right.items()
            if policy != reference
        }
        for title, figures in (
            (f"{name}: pass@k", curves),
            (f"{name}: gain in pass@k over {reference}, paired by prompt", gains),
        ):
            table_rows = [ComparisonRow(model=m, values=list(v)) for m, v in figures.items()]
            columns = [f"pass@{k}" for k in ks]
            tables.append(Comparison(title=title, columns=columns, rows=table_rows))
    return tables


def _bounds(judged: Mapping[str, Sequence[Values]]) -> list[Bounds | None]:
    """For each reward, the bounds of its values if they are shares, judged over all policies."""
    columns = zip(*judged.values(), strict=True)
    return [common_bounds(row for rows in column for row in rows) for column in columns]


def failures(policies: Sequence[str], kept: Sequence[Answer]) -> Iterator[Comparison]:
    """The share of each policy's episodes that failed and are in no other figure, if any did."""
    if not any(answer.error for answer in kept):
        return
    rows = []
    for policy in policies:
        own: dict[str, list[float | None]] = {}
        for answer in kept:
            if answer.model == policy:
                own.setdefault(answer.prompt_id, []).append(float(answer.error is not None))
        share = over_prompts(list(own.values()), (0.0, 1.0))
        rows.append(ComparisonRow(model=policy, values=[share]))
    title = "Episodes that the environment failed (in no other figure)"
    yield Comparison(title=title, columns=["failed (share)"], rows=rows)
