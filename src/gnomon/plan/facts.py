"""What a data set offers to learn from, in the numbers that the choice of a method rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.data.inspect import Inspection, inspect
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, DataError
from gnomon.records import Group
from gnomon.stats.intervals import Interval, exact_interval

ANSWERS = ("answer", "solution", "ground_truth", "target", "final_answer", "gold", "tests", "test")
"""Columns beside a prompt whose contents a program can check a response against."""


@dataclass(frozen=True)
class Facts:
    """Counts of what the data holds; all zero where it holds none of it.

    Attributes:
        demonstrations: answers to imitate (the better one of a pair counts too).
        pairs, rankings: prompts with two judged answers; with three or more.
        good, bad: single answers labelled so.
        checkable: prompts with something that a program can check an answer against.
        prompts: different prompts.
        constitution: whether a constitution is given.
        agreement: share of judgements of one pair by several people that agree, where there are
            any.
        contradictions: pairs judged both ways.
        longer: share of the comparisons whose better answer is the longer one.
        leaked: prompts that are also in the held-out file; None without one.
        prompt_tokens, response_tokens: at the 95th percentile, about; ``mean_tokens`` of a row.
        off_policy: nats per token by which the model finds its own answers likelier than the data's
            better ones; None where nobody measured.
        judge: whether there is a judge or a reward model to ask.
        tuned: whether the model has been instruction-tuned already.
    """

    demonstrations: int = 0
    pairs: int = 0
    rankings: int = 0
    good: int = 0
    bad: int = 0
    checkable: int = 0
    prompts: int = 0
    constitution: bool = False
    agreement: Interval | None = None
    contradictions: int = 0
    longer: float | None = None
    leaked: int | None = None
    prompt_tokens: int = 0
    response_tokens: int = 0
    mean_tokens: float = 0.0
    off_policy: float | None = None
    judge: bool = False
    tuned: bool = True

    @property
    def compared(self) -> int:
        """Prompts with judged answers."""
        return self.pairs + self.rankings

    @property
    def unpaired(self) -> int:
        """Single judged answers."""
        return self.good + self.bad


def read_facts(
    paths: Sequence[Path], held_out: Path | None = None, constitution: bool = False, **known: Any
) -> tuple[Facts, dict[Path, Inspection]]:
    """What is in the files, together and one by one.

    Args:
        paths: data files, each of its own format.
        held_out: a file whose prompts should be in none of them.
        known: further fields of :class:`Facts`, as ``judge`` and ``tuned``.

    Raises:
        ConfigError: no files.
        DataError: a file that cannot be read, or holds no row that can be used.
    """
    if not paths:
        raise ConfigError("plan needs data: a file of demonstrations, pairs, labels or prompts")
    found: dict[Path, Inspection] = {}
    parts = []
    for path in paths:
        found[path] = seen = inspect(path, other=held_out)
        if not seen.groups:
            raise DataError(f"{path}: no row of it can be used: gnomon data {path} says why")
        parts.append(_facts(seen, read_groups(path, max_skipped=1.0).groups))
    return replace(_together(parts), constitution=constitution, **known), found


def _facts(seen: Inspection, groups: Sequence[Group]) -> Facts:
    """Of one file."""
    pairs = seen.group_sizes.get(2, 0) if seen.kind in ("preferences", "rankings") else 0
    rankings = sum(n for size, n in seen.group_sizes.items() if size > 2)
    words = {part: lengths for part, lengths in seen.lengths.items() if lengths.values}
    scale = 1.4 if seen.unit == "words" else 1.0  # tokens a word, about
    answers = [v for part, lengths in words.items() if part != "prompt" for v in lengths.values]
    prompts = words["prompt"].values if "prompt" in words else ()
    return Facts(
        demonstrations=seen.groups if seen.kind in ("demonstrations", "text") else pairs + rankings,
        pairs=pairs,
        rankings=rankings,
        good=seen.labels.get(True, 0),
        bad=seen.labels.get(False, 0),
        checkable=sum(_can_be_checked(group) for group in groups),
        prompts=seen.prompts,
        agreement=_agreement(groups),
        contradictions=seen.contradictions,
        longer=seen.longer,
        leaked=seen.leaked,
        prompt_tokens=_quantile(prompts, scale),
        response_tokens=_quantile(answers, scale),
        mean_tokens=scale * (sum(prompts) + sum(answers)) / max(1, seen.groups),
    )


def _quantile(values: Sequence[int], scale: float) -> int:
    return int(np.ceil(scale * np.quantile(values, 0.95))) if len(values) else 0


def _can_be_checked(group: Group) -> bool:
    """Whether a prompt of this group comes with an answer or with tests."""
    return any(group.prompt.meta.get(column) not in (None, "", []) for column in ANSWERS)


def _agreement(groups: Sequence[Group]) -> Interval | None:
    """Of pairs that several people judged: the share of two judgements that are the same."""
    same = of = 0
    for group in groups:
        sides: dict[tuple[int, int], list[bool]] = {}
        for c in group.comparisons:
            if not c.tie:
                low, high = sorted((c.better, c.worse))
                sides.setdefault((low, high), []).append(c.better == low)
        for votes in sides.values():
            first = sum(votes)
            of += len(votes) * (len(votes) - 1) // 2
            same += first * (first - 1) // 2
            same += (len(votes) - first) * (len(votes) - first - 1) // 2
    return exact_interval(same, of) if of else None


def _together(parts: Sequence[Facts]) -> Facts:
    """Of several files: counts are added, the largest length counts."""
    counts = (
        *("demonstrations", "pairs", "rankings", "good", "bad", "checkable", "prompts"),
        "contradictions",
    )
    rows = sum(part.prompts for part in parts)
    known = [part.agreement for part in parts if part.agreement is not None]
    longer = [(part.longer, part.compared) for part in parts if part.longer is not None]
    leaks = [part.leaked for part in parts if part.leaked is not None]
    return Facts(
        **{name: sum(getattr(part, name) for part in parts) for name in counts},
        agreement=min(known, key=lambda a: a.value) if known else None,
        longer=sum(x * n for x, n in longer) / max(1, sum(n for _, n in longer))
        if longer
        else None,
        leaked=sum(leaks) if leaks else None,
        prompt_tokens=max(part.prompt_tokens for part in parts),
        response_tokens=max(part.response_tokens for part in parts),
        mean_tokens=sum(part.mean_tokens * part.prompts for part in parts) / max(1, rows),
    )
