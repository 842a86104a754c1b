"""What a data file holds, before anything is trained on it.

>>> found = inspect("pairs.jsonl", other="test.jsonl")
>>> rich.print(found.render()); found.plot("pairs.png")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gnomon.data.formats import judgements
from gnomon.data.joins import Side, look
from gnomon.data.parts import part, prompt_text
from gnomon.data.readers import prompt_key, read_groups
from gnomon.data.values import Skipped, summarise_skipped
from gnomon.records import Group, Response

_WORD = re.compile(r"[㐀-鿿぀-ヿ가-힯]|[^\s㐀-鿿぀-ヿ가-힯]+")
_MISSING = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT"})
_OWN_META = ("tools", "labellers", "reference")  # in the prompt, or written by the reader
SAME = "chosen and rejected are the same"


@dataclass(frozen=True)
class Lengths:
    """Lengths of one kind of text, in the inspection's unit (words or tokens)."""

    values: tuple[int, ...]

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.values, q)) if self.values else 0.0

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else 0.0


@dataclass(frozen=True)
class Inspection:
    """What was found in a file.

    Attributes:
        name, format, kind: the file, and how it was read.
        rows: rows used or skipped (one row may give several groups).
        groups, prompts: groups read, and how many different prompts they have.
        skipped: rows left out, with reasons.
        unit: "words" (Chinese, Japanese and Korean by the character) or "tokens".
        lengths: by part: "prompt", and "chosen"/"rejected", "good"/"bad" or "response".
        gaps: length of the better response minus the worse, for each strict comparison.
        longer: of those whose lengths differ, the share in which the better is longer; None if
            there are none.
        group_sizes: how many groups have K responses.
        duplicates: groups that repeat an earlier one exactly (prompt, responses and who judged
            them; of prompts alone, everything in the row).
        contradictions: pairs of responses judged one way and the other way round.
        comparisons, ties: judgements, and how many of them are ties.
        identical: rows skipped because chosen and rejected are the same.
        labels: unpaired responses labelled good and bad.
        categories: groups by category.
        switched_off: groups of weight 0.
        unseen: columns that no format uses: a reward can read them, the model never does.
        empty: columns that no row fills.
        missing_words: texts whose last line is what programs write for a missing value ("nan").
        broken_texts: texts with the character that replaces bytes read in a wrong encoding.
        leaked: groups whose prompt is also in the other file; None without another file.
        other: that file's name.
        joins: of each side, whether its answers stand beside their own prompts.
    """

    name: str
    format: str
    kind: str
    rows: int
    groups: int
    prompts: int
    skipped: list[Skipped]
    unit: str
    lengths: dict[str, Lengths]
    gaps: tuple[int, ...]
    longer: float | None
    group_sizes: dict[int, int]
    duplicates: int
    contradictions: int
    comparisons: int
    ties: int
    identical: int
    labels: dict[bool, int]
    categories: dict[str, int] = field(default_factory=dict)
    switched_off: int = 0
    unseen: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    missing_words: int = 0
    broken_texts: int = 0
    leaked: int | None = None
    other: str | None = None
    joins: tuple[Side, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What to look at before training, each with a cure."""
        out = []
        if self.skipped:
            out.append(f"{len(self.skipped)} of {self.rows} rows cannot be used (listed below)")
        out += [side.warning for side in self.joins if side.warning]
        if self.duplicates:
            out.append(f"{self.duplicates} exact duplicates; remove them or they count twice")
        if self.contradictions:
            out.append(
                f"{self.contradictions} pairs are judged both ways; settle or remove them "
                "(or train with label smoothing)"
            )
        if self.missing_words:
            out.append(
                f"{self.missing_words} texts have 'nan' as a line of its own; where it stands for "
                "a missing value, leave the field out"
            )
        if self.broken_texts:
            out.append(
                f"{self.broken_texts} texts hold \ufffd: the file was made from one that was read "
                "in a wrong encoding; make it again"
            )
        spread = 2 * (0.25 / max(1, len(self.gaps))) ** 0.5
        if self.longer is not None and abs(self.longer - 0.5) > max(0.1, spread):
            side = "longer" if self.longer > 0.5 else "shorter"
            out.append(
                f"the better response is the {side} one in {max(self.longer, 1 - self.longer):.0%} "
                "of pairs: a reward model can learn length instead of quality (length-debiased "
                "reward model, SimPO, R-DPO)"
            )
        if self.labels and min(self.labels.get(True, 0), self.labels.get(False, 0)) == 0:
            only = "good" if self.labels.get(True) else "bad"
            out.append(f"all labels are {only}: KTO cannot learn from one side; add the other")
        if self.leaked:
            out.append(
                f"{self.leaked} groups have a prompt that is also in {self.other}: scores there "
                "would be on seen prompts; remove them from one side"
            )
        return out

    def render(self) -> RenderableType:
        """Tables and warnings, for a terminal."""
        facts = Table(show_header=False, box=None)
        facts.add_column(style="bold")
        facts.add_column()
        for label, value in self._facts():
            facts.add_row(label, Text(value))
        parts: list[RenderableType] = [Text(self.name, style="bold"), facts, self._length_table()]
        if self.warnings:
            parts += [Text(), *(Text(f"! {w}", style="yellow") for w in self.warnings)]
        strays = [row for side in self.joins if side.warning for row in side.rows]
        if strays:
            parts += [Text(), *(Text(f"  {row}") for row in strays)]
        if self.skipped:
            parts += [Text(), Text(summarise_skipped(self.skipped))]
        return Stack(*parts)

    def _facts(self) -> list[tuple[str, str]]:
        sizes = ", ".join(f"{n} of K={k}" for k, n in sorted(self.group_sizes.items()))
        facts = [
            ("format", f"{self.format} ({self.kind})"),
            ("rows", f"{self.rows} ({len(self.skipped)} skipped)"),
            ("groups", f"{self.groups}: {sizes}"),
            ("prompts", f"{self.prompts} different"),
            ("duplicates", str(self.duplicates)),
        ]
        if self.comparisons:
            facts.append(
                (
                    "judgements",
                    f"{self.comparisons} ({self.ties} ties, {self.contradictions} contradictory, "
                    f"{self.identical} rows with the same text on both sides)",
                )
            )
        if self.longer is not None:
            facts.append(
                (
                    "length gap",
                    f"better - worse: mean {np.mean(self.gaps):+.1f}, median "
                    f"{np.median(self.gaps):+.1f} {self.unit}; better is longer in "
                    f"{self.longer:.1%}",
                )
            )
        facts += [("own prompts", side.line) for side in self.joins]
        if self.labels:
            good, bad = self.labels.get(True, 0), self.labels.get(False, 0)
            facts.append(("labels", f"{good} good, {bad} bad ({good / (good + bad):.0%} good)"))
        if self.categories:
            top = sorted(self.categories.items(), key=lambda kv: -kv[1])
            text = ", ".join(f"{name} {n}" for name, n in top[:6])
            facts.append(("categories", f"{len(top)}: {text}{', ...' if len(top) > 6 else ''}"))
        if self.switched_off:
            facts.append(("switched off", f"{self.switched_off} groups have weight 0"))
        if self.unseen:
            facts.append(("not for the model", f"{', '.join(self.unseen)} (kept for rewards)"))
        if self.empty:
            facts.append(("empty columns", ", ".join(self.empty)))
        if self.leaked is not None:
            facts.append(("leakage", f"{self.leaked} groups share a prompt with {self.other}"))
        return facts

    def _length_table(self) -> Table:
        table = Table(title=f"length ({self.unit})", title_justify="left")
        for head in ("", "mean", "median", "90%", "99%", "longest"):
            table.add_column(head, justify="left" if not head else "right")
        for name, lengths in self.lengths.items():
            numbers = [lengths.mean, *(lengths.quantile(q) for q in (0.5, 0.9, 0.99, 1.0))]
            table.add_row(name, *(f"{n:.0f}" for n in numbers))
        return table

    def plot(self, path: str | Path) -> None:
        """Save a PNG: lengths by part and, where responses are compared, the length gap."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        panels = 2 if self.gaps else 1
        figure = Figure(figsize=(5.5 * panels, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        shown = {p: v.values for p, v in self.lengths.items() if v.values}
        if shown:
            limit = max(float(np.quantile(v, 0.99)) for v in shown.values())
            bins = np.linspace(0, max(1.0, limit), 41)
            for part, values in shown.items():
                share = f"{part} (median {np.median(values):.0f})"
                axes[0].hist(np.minimum(values, bins[-1]), bins, histtype="step", label=share)
            axes[0].legend(frameon=False)
        axes[0].set_xlabel(f"{self.unit} (the last bin holds everything longer)")
        axes[0].set_ylabel("texts")
        axes[0].set_title(f"{Path(self.name).name}: lengths")
        if self.gaps:
            edge = max(1.0, float(np.quantile(np.abs(self.gaps), 0.99)))
            axes[1].hist(np.clip(self.gaps, -edge, edge), 41, color="tab:grey")
            axes[1].axvline(0, color="black", linewidth=1)
            axes[1].set_xlabel(f"better - worse, {self.unit}")
            axes[1].set_title(f"better response is longer in {self.longer or 0.0:.0%}")
        figure.savefig(path, dpi=120)


def inspect(
    path: str | Path,
    *,
    other: str | Path | None = None,
    tokenizer: Any = None,
    other_options: Mapping[str, Any] | None = None,
    **read_options: Any,
) -> Inspection:
    """Read a file and describe it; with ``other``, also count prompts that are in both.

    Args:
        other: a second file (the test split, say), read with the same options, or with
            ``other_options``.
        tokenizer: measure lengths in its tokens rather than in words.
        read_options: of :func:`~gnomon.data.readers.read_groups`.

    Raises:
        DataError: no row of the file can be used, or it cannot be read at all.
    """
    options = {"max_skipped": 1.0, **read_options}
    result = read_groups(path, **options)
    theirs = options if other_options is None else {"max_skipped": 1.0, **other_options}
    against = read_groups(other, **theirs) if other is not None else None
    groups = result.groups
    measure = _words if tokenizer is None else _tokens(tokenizer)
    keys = [prompt_key(g) for g in groups]
    prompt_lengths = measure([prompt_text(g.prompt) for g in groups])
    sizes = [len(g.responses) for g in groups]
    flat = iter(measure([r.text for g in groups for r in g.responses]))
    response_lengths = [[next(flat) for _ in range(n)] for n in sizes]
    gaps = tuple(
        lengths[c.better] - lengths[c.worse]
        for g, lengths in zip(groups, response_lengths, strict=True)
        for c in judgements(g)
        if not c.tie
    )
    seen_elsewhere = {prompt_key(g) for g in against.groups} if against else None
    rows = {g.prompt.source for g in groups if g.prompt.source}
    unseen = {str(k): None for g in groups for k in g.prompt.meta if k not in _OWN_META}
    texts = [r.text for g in groups for r in g.responses] + [prompt_text(g.prompt) for g in groups]
    said = [c for g in groups for c in judgements(g)]
    labels = Counter(
        bool(r.meta["label"]) for g in groups for r in g.responses if "label" in r.meta
    )
    return Inspection(
        name=str(path),
        format=result.format,
        kind=result.kind,
        rows=len(rows) + len(result.skipped),
        groups=len(groups),
        prompts=len(set(keys)),
        skipped=result.skipped,
        unit="words" if tokenizer is None else "tokens",
        lengths=_by_part(groups, prompt_lengths, response_lengths),
        gaps=gaps,
        longer=float(np.mean([g > 0 for g in gaps if g])) if any(gaps) else None,
        group_sizes=dict(Counter(sizes)),
        duplicates=_duplicates(groups, keys),
        contradictions=_contradictions(groups, keys),
        comparisons=len(said),
        ties=sum(c.tie for c in said),
        identical=sum(s.reason == SAME for s in result.skipped),
        labels=dict(labels),
        categories=dict(Counter(g.prompt.category for g in groups if g.prompt.category)),
        switched_off=sum(g.weight == 0 for g in groups),
        unseen=tuple(unseen),
        empty=result.empty,
        missing_words=sum(t.split("\n")[-1].strip() in _MISSING for t in texts),
        broken_texts=sum("\ufffd" in t for t in texts),
        leaked=None if seen_elsewhere is None else sum(k in seen_elsewhere for k in keys),
        other=None if other is None else str(other),
        joins=tuple(look(groups)),
    )


def _words(texts: Sequence[str]) -> list[int]:
    return [len(_WORD.findall(text)) for text in texts]


def _tokens(tokenizer: Any) -> Callable[[Sequence[str]], list[int]]:
    def measure(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        ids = tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return [len(i) for i in ids]

    return measure


def _by_part(
    groups: Sequence[Group], prompts: Sequence[int], responses: Sequence[Sequence[int]]
) -> dict[str, Lengths]:
    found: dict[str, list[int]] = {"prompt": list(prompts)}
    for group, lengths in zip(groups, responses, strict=True):
        for i, (response, length) in enumerate(zip(group.responses, lengths, strict=True)):
            found.setdefault(part(group, response, i), []).append(length)
    return {name: Lengths(tuple(values)) for name, values in found.items()}


def _plain(response: Response) -> str:
    return " ".join(response.text.split())


def identities(groups: Sequence[Group], keys: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """What makes a row the same as another: its prompt (by its key), its responses and who judged
    them, and with neither what is asked about the prompt; how often each is there."""

    def identity(group: Group, key: str) -> tuple[Any, ...]:
        said = [(_plain(r), r.rank or 0.0, str(r.meta.get("label"))) for r in group.responses]
        judged = [(_plain(group.responses[c.better]), c.tie) for c in group.comparisons]
        about = group.prompt.meta.get("labellers") if said else sorted(group.prompt.meta.items())
        return key, tuple(sorted(said)), tuple(judged), repr(about)

    return Counter(identity(g, k) for g, k in zip(groups, keys, strict=True))


def _duplicates(groups: Sequence[Group], keys: Sequence[str]) -> int:
    return sum(n - 1 for n in identities(groups, keys).values())


def _contradictions(groups: Sequence[Group], keys: Sequence[str]) -> int:
    """Pairs of answers to one prompt judged both ways, and answers labelled both good and bad."""
    seen: set[tuple[str, str, str]] = set()
    for group, key in zip(groups, keys, strict=True):
        texts = [_plain(r) for r in group.responses]
        for c in judgements(group):
            if not c.tie:
                seen.add((key, texts[c.better], texts[c.worse]))
        for response, text in zip(group.responses, texts, strict=True):
            if "label" in response.meta:
                good = bool(response.meta["label"])
                seen.add((key, text, "\0bad") if good else (key, "\0bad", text))
    return sum((key, b, a) in seen for key, a, b in seen) // 2
