"""Several language models as one judge: each is asked, and they agree by mean or by vote.

Verga et al. (2024, "Replacing Judges with Juries") find a panel of small models of different makers
closer to people than one large model, at a lower price. How far its members disagree is part of
every score.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gnomon.errors import BudgetSpent
from gnomon.judges import ranking
from gnomon.judges.ai import AIJudge, Principles, budget_of
from gnomon.judges.ai_options import AIOptions
from gnomon.judges.answers import AnswerBook
from gnomon.judges.protocol import Judge, judged_by, total_cost
from gnomon.judges.ways import Opinion
from gnomon.recipe.load import validate_as
from gnomon.records import Comparison, Group, Judgement, Score

DISAGREEMENT = "disagreement"
"""Part of a panel's score: the standard deviation of its members' scores of the same answer."""


def ai_judge(
    *,
    base: Path | None = None,
    answers: Path | None = None,
    principles: Principles | None = None,
    **options: Any,
) -> AIJudge | Panel:
    """``builtin: ai``: one language model, or a panel of them; see
    :class:`~gnomon.judges.ai_options.AIOptions`.

    Raises:
        ConfigError: options that cannot be used.
    """
    spec = validate_as(AIOptions, options, "ai judge")
    if spec.panel:
        return Panel(spec, base=base, answers=answers, principles=principles)
    return AIJudge(base=base, answers=answers, principles=principles, **options)


class Panel(Judge):
    """Asks every member about every group.

    A score is the mean of the members' scores; with ``vote: majority`` each member has one vote a
    pair (or answer), and the score is the share of them. The parts of a score are each member's own
    and their ``disagreement``. A group on which a member failed is an error, unless ``quorum``
    members answered.

    Args:
        spec: options with a panel.

    Raises:
        ConfigError: a member's options cannot be used.
    """

    paid = True

    def __init__(
        self,
        spec: AIOptions,
        *,
        base: Path | None = None,
        answers: Path | None = None,
        principles: Principles | None = None,
    ) -> None:
        self.name = "ai"
        self.options = spec
        self.groupwise = spec.mode in ("pairs", "ranking")
        kept = None if spec.cache is None else (base or Path()) / spec.cache
        self.book, self.budget = AnswerBook(kept or answers), budget_of(spec)
        self.remembers = self.book.file is not None
        shared: dict[str, Any] = {"base": base, "book": self.book, "cap": self.budget}
        self.members = {
            name: AIJudge(
                principles=principles, **shared, **one.model_dump(include=one.model_fields_set)
            )
            for name, one in spec.members().items()
        }
        for name, member in self.members.items():
            member.name = name
        self.model = "+".join(member.model for member in self.members.values())
        self.quorum = spec.quorum or len(self.members)

    @property
    def prompt_sha256(self) -> str:
        """Of its members' templates, without repeats."""
        return ",".join(dict.fromkeys(m.prompt_sha256 for m in self.members.values()))

    @property
    def version(self) -> str:  # type: ignore[override]
        """Of every member, and how they agree."""
        each = "; ".join(f"{name}: {member.version}" for name, member in self.members.items())
        return f"{self.options.vote} of {self.quorum}: {each}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        found = self.opinions(groups)
        if any(opinion.over for opinion in found):
            raise BudgetSpent.of(self.budget)
        return [opinion.judgement for opinion in found]

    def opinions(self, groups: Sequence[Group]) -> list[Opinion]:
        """The panel's judgements, with its members' opinions."""
        columns = self._columns(groups)
        return [
            self._together(group, dict(zip(self.members, row, strict=True)))
            for group, row in zip(groups, zip(*columns, strict=True), strict=True)
        ]

    def _columns(self, groups: Sequence[Group]) -> list[list[Opinion]]:
        """Each member's opinions; those at endpoints are asked at the same time."""
        members = list(self.members.values())
        if any(member.options.local is not None for member in members):
            return [member.opinions(groups) for member in members]
        with ThreadPoolExecutor(max_workers=len(members)) as pool:
            return list(pool.map(lambda member: member.opinions(groups), members))

    def _together(self, group: Group, opinions: dict[str, Opinion]) -> Opinion:
        complete = {
            name: judged_by(self.members[name], group, opinion.judgement)
            for name, opinion in opinions.items()
        }
        reasons = [f"{name}: {j.reason}" for name, j in complete.items() if j.reason]
        about = Judgement(
            self.name,
            version=self.version,
            cost=total_cost(o.judgement.cost for o in opinions.values()),
            reason="\n".join(reasons) or None,
            principle=next((j.principle for j in complete.values() if j.principle), ""),
        )
        scores = [
            self._score({name: j.scores[i] for name, j in complete.items()})
            for i in range(len(group.responses))
        ]
        comparisons = None
        if self.groupwise:
            known = {n: j for n, j in complete.items() if all(s.error is None for s in j.scores)}
            if len(known) >= self.quorum:
                wins = self._wins([j.comparisons or () for j in known.values()])
                comparisons = ranking.compared(wins)
                scores = self._of_wins(wins, scores)
        over = any(opinion.over for opinion in opinions.values())
        judgement = Judgement(
            about.judge,
            tuple(scores),
            comparisons,
            about.version,
            about.cost,
            about.reason,
            principle=about.principle,
        )
        return Opinion(judgement, (), over, tuple(opinions.items()))

    def _score(self, given: dict[str, Score]) -> Score:
        """One answer's score from its members'."""
        values = {name: s.value for name, s in given.items() if s.value is not None}
        errors = [f"{name}: {s.error}" for name, s in given.items() if s.error is not None]
        parts = dict(values)
        if len(values) < self.quorum:
            failed = f"{len(errors)} of the panel's {len(given)} members failed"
            return Score(None, parts, f"{failed}: {'; '.join(errors)}")
        parts[DISAGREEMENT] = statistics.pstdev(values.values())
        if self.options.vote == "majority":
            values = {name: _vote(value) for name, value in values.items()}
        return Score(statistics.fmean(values.values()), parts)

    def _wins(self, compared: Sequence[Sequence[Comparison]]) -> dict[tuple[int, int], float]:
        """What each pair comes to."""
        majority = self.options.vote == "majority"
        several = []
        for comparisons in compared:
            wins = {}
            for c in comparisons:
                p = 0.5 if c.tie else c.probability
                won = p if c.better < c.worse else 1.0 - p
                wins[min(c.better, c.worse), max(c.better, c.worse)] = (
                    _vote(won) if majority else won
                )
            several.append(wins)
        return ranking.mean_wins(several)

    def _of_wins(self, wins: ranking.Wins, scores: Sequence[Score]) -> list[Score]:
        """Scores from what the panel says of the pairs, with the members' own as parts."""
        bt = self.options.scores == "bradley_terry"
        values = (ranking.bradley_terry if bt else ranking.shares)(wins, len(scores))
        return [Score(value, score.parts) for value, score in zip(values, scores, strict=True)]


def _vote(p: float) -> float:
    """What a probability votes for; 1/2 abstains."""
    return 0.5 if abs(p - 0.5) < 1e-9 else float(p > 0.5)
