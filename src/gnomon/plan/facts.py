"""What a data set offers to learn from, in the numbers that the choice of a method rests on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.data.columns import rename
from gnomon.data.formats import READABLE_AS, detect, judgements
from gnomon.data.inspect import Inspection, identities, inspect
from gnomon.data.readers import prompt_key, read_groups
from gnomon.data.rows import iter_rows
from gnomon.data.values import RawRow
from gnomon.errors import ConfigError, DataError
from gnomon.plan.bill import HUMAN
from gnomon.plan.reading import Reading
from gnomon.records import Group
from gnomon.stats.intervals import Interval, exact_interval

ANSWERS = ("answer", "solution", "ground_truth", "target", "final_answer", "gold")
"""Columns beside a prompt that may hold what a program can check a response against."""
TESTS = ("tests", "test_list", "test")
"""Columns with unit tests."""
_MATHS = re.compile(r"####|\\boxed|^\s*[-+$]?\d[\d,. /%]*\s*$")
VERDICT = "verdict"
"""The format of two answers and a label that says which is better."""
SHORT = 6
"""Words of an answer that can be compared as text."""
STRAY = 0.01
"""Share of rows of another kind that is a mistake in single rows, not a mixed file."""
TOKENS_A_WORD = 1.4
Rows = Counter[tuple[Any, ...]]
"""The rows of a file by what makes them the same, and how often each is there."""


@dataclass(frozen=True)
class Facts:
    """Counts of what the data holds; all zero where it holds none of it.

    Attributes:
        demonstrations: answers to imitate (the better one of a pair counts too).
        pairs, rankings: prompts with two judged answers; with three or more.
        good, bad: single answers labelled so.
        checkable: prompts with something that a program can check an answer against.
        prompts: different prompts; ``asked`` are those that answers are sampled for, where files
            of prompts alone are among the data.
        constitution: whether a constitution is given.
        agreement: share of judgements of one pair by several people that agree, where there are
            any.
        contradictions: pairs judged both ways.
        longer: share of the comparisons whose better answer is the longer one.
        leaked: prompts that are also in the held-out file; None without one.
        prompt_tokens, response_tokens: at the 95th percentile; ``mean_prompt`` and
            ``mean_response`` of a usual one.
        counted: whether the model's own tokenizer counted them; else they are words times
            ``TOKENS_A_WORD``.
        label_price: euros of a person's judgement of a pair.
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
    asked: int = 0
    constitution: bool = False
    agreement: Interval | None = None
    contradictions: int = 0
    longer: float | None = None
    leaked: int | None = None
    prompt_tokens: int = 0
    response_tokens: int = 0
    mean_prompt: float = 0.0
    mean_response: float = 0.0
    counted: bool = False
    label_price: float = HUMAN.price
    off_policy: Interval | None = None
    judge: bool = False
    tuned: bool = True

    @property
    def sampled(self) -> int:
        """Prompts that answers would be sampled for: of files of prompts, else of all data."""
        return self.asked or self.prompts

    @property
    def compared(self) -> int:
        """Prompts with judged answers."""
        return self.pairs + self.rankings

    @property
    def unpaired(self) -> int:
        """Single judged answers."""
        return self.good + self.bad


@dataclass(frozen=True)
class DataFile:
    """One file and what is in it.

    Attributes:
        kind: of its rows; answers of a word or a number, which a program can check and nobody can
            learn to write from, make ``prompts`` of demonstrations.
        check: the builtin reward that can check answers here, and the column that it reads.
        reading: the data keys of a recipe that it was read with: ``columns``, ``labels``.
        repeats: rows that a file named before it has too, in words.
    """

    path: Path
    seen: Inspection
    kind: str
    facts: Facts
    check: tuple[str, str] | None
    reading: Mapping[str, Any] = field(default_factory=dict)
    repeats: str = ""


def read_facts(
    paths: Sequence[Path],
    held_out: Path | None = None,
    tokenizer: Any = None,
    reading: Reading | None = None,
    **known: Any,
) -> tuple[Facts, list[DataFile]]:
    """What is in the files, together and one by one.

    Args:
        paths: data files, each of its own format.
        held_out: a file whose prompts should be in none of them.
        tokenizer: the model's, to count tokens with; without it words are counted.
        reading: the files' own names of columns, and what their labels mean.
        known: further fields of :class:`Facts`, as ``judge`` and ``tuned``.

    Raises:
        ConfigError: no files, one twice, or two of which one holds all rows of the other.
        DataError: a file that cannot be read, holds no row that can be used, or mixes kinds.
    """
    if not paths:
        raise ConfigError("plan needs data: files of demonstrations, pairs, labels or prompts")
    whole = [path.resolve() for path in paths]
    for path in paths:
        if whole.count(path.resolve()) > 1:
            raise ConfigError(f"{path} is named twice")
        if held_out is not None and path.resolve() == held_out.resolve():
            raise ConfigError(f"{path} is both data and --held-out: name another file for one")
    reading = reading or Reading()
    reading.check([*paths, *([held_out] if held_out is not None else [])])
    read = [_read(path, held_out, tokenizer, reading) for path in paths]
    files = _told_apart(read)
    known["counted"] = tokenizer is not None
    asked = sum(file.facts.prompts for file in files if file.kind == "prompts")
    return replace(_together([file.facts for file in files]), asked=asked, **known), files


def _read(
    path: Path, held_out: Path | None, tokenizer: Any, reading: Reading
) -> tuple[DataFile, Rows]:
    """A file, and its rows by what makes them the same as others."""
    options = reading.options(path)
    _one_kind(path, options.get("columns", {}))
    against = reading.options(held_out) if held_out is not None else None
    seen = inspect(path, other=held_out, other_options=against, tokenizer=tokenizer, **options)
    if not seen.groups:
        raise DataError(f"{path}: no row of it can be used: gnomon data inspect {path} says why")
    groups = read_groups(path, max_skipped=1.0, **options).groups
    asked = groups
    if seen.kind != "prompts" and "prompts" in READABLE_AS.get(seen.kind, ()):
        asked = read_groups(path, kind="prompts", max_skipped=1.0, **options).groups
    if seen.format != VERDICT:  # nothing else has labels to be told the meaning of
        options.pop("labels", None)
    check, checkable = _check(asked)
    facts = replace(_facts(seen, groups), checkable=checkable)
    rows = identities(groups, [prompt_key(group) for group in groups])
    words = [len(response.text.split()) for group in groups for response in group.responses]
    if seen.kind == "demonstrations" and check and np.median(words) <= SHORT:
        bare = replace(facts, demonstrations=0, response_tokens=0, mean_response=0.0)
        return DataFile(path, seen, "prompts", bare, check, options), rows
    return DataFile(path, seen, seen.kind, facts, check, options), rows


def _told_apart(read: Sequence[tuple[DataFile, Rows]]) -> list[DataFile]:
    """The files, with what each repeats of those before it.

    Raises:
        ConfigError: all rows of one are in another; the same rows would count twice.
    """
    found = []
    for i, (file, rows) in enumerate(read):
        said = []
        for other, theirs in read[:i]:
            same = (rows & theirs).total() if other.kind == file.kind else 0
            if same and same == min(rows.total(), theirs.total()):
                part, whole = (file, other) if same == rows.total() else (other, file)
                raise ConfigError(
                    f"{part.path}: all {same:,} rows of it are in {whole.path}, too, and would "
                    f"count twice: name {whole.path} alone"
                )
            if same:
                said.append(f"{same:,} of {rows.total():,} rows are in {other.path}, too")
        count = f"{'; '.join(said)}: they count twice, also in training" if said else ""
        found.append(replace(file, repeats=count))
    return found


def _one_kind(path: Path, columns: Mapping[str, str]) -> None:
    """Refuse a file whose rows are of several kinds, which a reader would leave out or misread.

    Raises:
        DataError: it has them, with the rows of each.
    """
    if not path.is_file():
        return  # a folder, or what the reader itself explains
    rows: dict[str, list[int]] = {}
    raw = iter_rows(path)
    for row in rename(list(raw), columns, str(path)) if columns else raw:
        if isinstance(row, RawRow) and (found := detect([row.data])) is not None:
            kind = "preferences" if found[1] == "rankings" else str(found[1])
            rows.setdefault(kind, []).append(row.source.row)
    total = sum(map(len, rows.values()))
    kinds = {kind: found for kind, found in rows.items() if len(found) > STRAY * total}
    if len(kinds) > 1:
        listed = "; ".join(f"{kind} in rows {_ranges(found)}" for kind, found in kinds.items())
        raise DataError(
            f"{path} mixes rows of several kinds: {listed}. A file is read as one kind: put each "
            "into a file of its own, and name them all"
        )


def _ranges(rows: Sequence[int], most: int = 4) -> str:
    """Row numbers, neighbours together: ``1-120, 140``."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in runs[:most]]
    more = f" and {len(rows) - sum(b - a + 1 for a, b in runs[:most]):,} more"
    return ", ".join(shown) + (more if len(runs) > most else "")


def _facts(seen: Inspection, groups: Sequence[Group]) -> Facts:
    """Of one file."""
    pairs = seen.group_sizes.get(2, 0) if seen.kind in ("preferences", "rankings") else 0
    rankings = sum(n for size, n in seen.group_sizes.items() if size > 2)
    answers = [v for part, x in seen.lengths.items() if part != "prompt" for v in x.values]
    prompts = seen.lengths["prompt"].values if "prompt" in seen.lengths else ()
    tokens = 1.0 if seen.unit == "tokens" else TOKENS_A_WORD
    return Facts(
        demonstrations=seen.groups if seen.kind in ("demonstrations", "text") else pairs + rankings,
        pairs=pairs,
        rankings=rankings,
        good=seen.labels.get(True, 0),
        bad=seen.labels.get(False, 0),
        prompts=seen.prompts,
        agreement=_agreement(groups),
        contradictions=seen.contradictions,
        longer=seen.longer,
        leaked=seen.leaked,
        prompt_tokens=_quantile(prompts, tokens),
        response_tokens=_quantile(answers, tokens),
        mean_prompt=tokens * float(np.mean(prompts)) if prompts else 0.0,
        mean_response=tokens * float(np.mean(answers)) if answers else 0.0,
    )


def _quantile(lengths: Sequence[int], tokens: float) -> int:
    return int(np.ceil(tokens * np.quantile(lengths, 0.95))) if len(lengths) else 0


def _check(groups: Sequence[Group]) -> tuple[tuple[str, str] | None, int]:
    """The reward and the column that can check the most prompts, and how many."""
    votes = Counter(found for group in groups if (found := _checked_by(group.prompt.meta)))
    if not votes:
        return None, 0
    return votes.most_common(1)[0]


def _checked_by(meta: Mapping[str, Any]) -> tuple[str, str] | None:
    """What can check an answer to a prompt: a builtin reward, and the column that it reads."""
    for column in TESTS:
        if meta.get(column) and (column != "test" or meta.get("entry_point")):
            return "code", column
    for column in ANSWERS:
        value = meta.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        if _MATHS.search(str(value)):
            return "maths", column
        if 0 < len(str(value).split()) <= SHORT:
            return "exact", column
    return None


def _agreement(groups: Sequence[Group]) -> Interval | None:
    """Of pairs that several people judged: the share of two judgements that are the same.

    People's judgements of one pair are in one group, or in rows of their own with their names.
    """
    votes: dict[tuple[Any, ...], dict[Any, bool]] = {}
    for row, group in enumerate(groups):
        names, said = group.prompt.meta.get("labellers") or (), judgements(group)
        named = len(names) == len(said)
        texts = [response.text for response in group.responses]
        for i, c in enumerate(said):
            if not c.tie:
                low, high = sorted((c.better, c.worse), key=lambda side: texts[side])
                key = (prompt_key(group), texts[low], texts[high], *(() if named else (row,)))
                votes.setdefault(key, {})[names[i] if named else i] = c.better == low
    same = of = 0
    for sides in votes.values():
        first, n = sum(sides.values()), len(sides)
        of += n * (n - 1) // 2
        same += first * (first - 1) // 2 + (n - first) * (n - first - 1) // 2
    return exact_interval(same, of) if of else None


def _together(parts: Sequence[Facts]) -> Facts:
    """Of several files: counts are added, the largest length counts, the worst agreement too."""
    counts = (
        *("demonstrations", "pairs", "rankings", "good", "bad", "checkable", "prompts"),
        "contradictions",
    )
    known = [part.agreement for part in parts if part.agreement is not None]
    longer = [(part.longer, part.compared) for part in parts if part.longer is not None]
    compared = sum(n for _, n in longer)
    leaks = [part.leaked for part in parts if part.leaked is not None]
    answered = [(part.mean_response, part.prompts) for part in parts if part.mean_response]
    return Facts(
        **{name: sum(getattr(part, name) for part in parts) for name in counts},
        agreement=min(known, key=lambda a: a.value) if known else None,
        longer=sum(x * n for x, n in longer) / compared if compared else None,
        leaked=sum(leaks) if leaks else None,
        prompt_tokens=max(part.prompt_tokens for part in parts),
        response_tokens=max(part.response_tokens for part in parts),
        mean_prompt=_mean([(part.mean_prompt, part.prompts) for part in parts]),
        mean_response=_mean(answered),
    )


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    total = sum(n for _, n in weighted)
    return sum(x * n for x, n in weighted) / total if total else 0.0
