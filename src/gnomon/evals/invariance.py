"""The trained reward asked again: how its score of real answers moves under edits that leave them
no better, and whether training has moved the policy the same way.

Edits of *early* answers show what the reward can be made to pay for, whatever the policy did; edits
of *late* answers what the policy's gain is made of. Nothing here knows the truth: every figure is
of the trained reward itself.

References: Ribeiro et al. 2020 ("Beyond accuracy: behavioral testing of NLP models with CheckList",
invariance and directional tests); Shen et al. 2023 ("The trickle-down impact of reward
(in-)consistency on RLHF").
"""

from __future__ import annotations

import math
import random
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gnomon.evals.edits import (
    EDITS,
    NEUTRAL,
    Edited,
    union_members,
)
from gnomon.evals.paired import Answer, Lay, agreement, by_prompt, certain, detectable, share_of
from gnomon.judges.protocol import Judge, judged
from gnomon.records import Group
from gnomon.runs.probes import EARLY, LATE, EditEffect, EditExample, Phrase, RewardProbes
from gnomon.stats.drift import Drift, grown_phrases
from gnomon.stats.intervals import (
    Bounds,
    Interval,
    share_bounds,
)
from gnomon.stats.prompts import gain_over_prompts, independent_difference, over_prompts
from gnomon.stats.ratio import error_correlation, ratio
from gnomon.stats.texts import sentences

SHOWN = 3
"""Examples kept of each edit."""
PART = 16
"""Groups that are asked about at a time."""


@dataclass(frozen=True)
class _Case:
    """One answer with everything that is asked about it.

    Attributes:
        side: whose it is.
        members: the union's other members.
        texts: the edited answers by the edit's name.
        group: the answer, the members and the edited answers, as the judge is asked.
    """

    side: str
    answer: Answer
    members: int
    texts: Mapping[str, str]
    group: Group


@dataclass
class _Scored:
    """A case's scores: of the answer, its siblings in the union, and its edits."""

    case: _Case
    before: float | None
    members: float | None
    after: dict[str, float | None]


def probe_reward(
    judge: Judge,
    early: Sequence[Answer],
    late: Sequence[Answer],
    lay: Lay,
    *,
    answers: int = 64,
    seed: int = 0,
    edits: Collection[str] = EDITS,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> RewardProbes:
    """Ask a reward again about edits of a stage's answers; the same call gives the same figures.

    Args:
        judge: the trained reward.
        early, late: all answers that were kept of the first and of the last iterations, in order;
            ``late`` may be empty.
        lay: lays a prompt and an answer out as the judge is asked.
        answers: how many are edited, half of them early.
        seed: fixes which.
        edits: names of those that are made; all by default, and then agreeing is asked about, too.
        tick: called with (done, all) groups; may raise to stop.
    """
    began = time.perf_counter()
    phrases = grown_phrases([a.text for a in early], [a.text for a in late]) if late else []
    padding = _padding(early)
    drawn = [
        (side, a, pool)
        for side, pool in ((EARLY, early), (LATE, late))
        for a in _drawn(pool, max(1, answers // 2), seed)
    ]
    said = [p for p, _, _ in phrases]
    found_cases = (_case(side, a, pool, padding, said, lay, seed, edits) for side, a, pool in drawn)
    cases = [case for case in found_cases if case is not None]
    scored = list(_scores(judge, cases, tick))
    found = RewardProbes(
        judge=judge.name,
        version=judge.version,
        early_step=early[-1].step if early else None,
        late_step=late[0].step if late else None,
        phrases=[Phrase(text=p, early=round(b, 4), late=round(a, 4)) for p, b, a in phrases],
        asked=sum(len(c.group.responses) for c in cases),
    )
    _levels(found, early, late, scored)
    effects = _Effects(scored, early, late)
    found.effects = [e for name in EDITS for side in (EARLY, LATE) if (e := effects.of(name, side))]
    if edits is EDITS:
        found.effects += agreement(judge, drawn, early, late, lay)
    found.problems = [] if found.effects else ["no answer could be scored again"]
    found.seconds = round(time.perf_counter() - began, 3)
    return found


def _drawn(pool: Sequence[Answer], count: int, seed: int) -> list[Answer]:
    """``count`` of the answers, of as many prompts as there are; finished and scored ones first."""
    rng = random.Random(f"probes/{seed}")
    by_prompt: dict[str, list[Answer]] = {}
    for answer in pool:
        by_prompt.setdefault(answer.prompt.id, []).append(answer)
    queues = []
    for own in by_prompt.values():
        shuffled = rng.sample(own, len(own))
        queues.append(sorted(shuffled, key=lambda a: (a.reward is None, not a.text.strip())))
    rng.shuffle(queues)
    rounds = max(map(len, queues), default=0)
    return [q[i] for i in range(rounds) for q in queues if i < len(q)][:count]


def _padding(early: Sequence[Answer]) -> list[str]:
    """Sentences that answers to at least three prompts have, in the policy's own words; neutral
    ones where it has too few such."""
    prompts: dict[str, set[str]] = {}
    for answer in early:
        for sentence in sentences(answer.text):
            prompts.setdefault(sentence, set()).add(answer.prompt.id)
    common = [s for s, who in prompts.items() if len(who) >= 3 and not re.search(r"\d", s)]
    return sorted(common) if len(common) >= len(NEUTRAL) else list(NEUTRAL)


def _case(
    side: str,
    answer: Answer,
    pool: Sequence[Answer],
    padding: Sequence[str],
    phrases: Sequence[str],
    lay: Lay,
    seed: int,
    edits: Collection[str],
) -> _Case | None:
    """The answer with all its edits that the model has room for; None where it has none for it."""
    siblings = [a.text for a in pool if a.prompt.id == answer.prompt.id]
    foreign = [a.text for a in pool if a.asked != answer.asked and a.text.strip()]
    edited = Edited(answer.asked, answer.text, siblings, foreign, padding, phrases, seed)
    found = {name: edit(edited) for name, edit in EDITS.items() if name in edits}
    texts = {
        name: text
        for name, text in found.items()
        if text is not None
        and (text != answer.text or name == "swap")  # a policy may say one thing
    }
    laid = {k: lay(answer.prompt, text, answer.finished) for k, text in texts.items()}
    texts = {k: text for k, text in texts.items() if laid[k] is not None}
    members = union_members(edited)[1:] if "union" in texts else []
    asked = [lay(answer.prompt, text, answer.finished) for text in (answer.text, *members)]
    whole = [item for item in [*asked, *(laid[k] for k in texts)] if item is not None]
    if len(whole) != len(asked) + len(texts):
        return None
    group = Group(answer.prompt, tuple(r for _, r in whole), prompt_ids=whole[0][0])
    return _Case(side, answer, len(members), texts, group)


def _scores(
    judge: Judge, cases: Sequence[_Case], tick: Callable[[int, int], None]
) -> Iterator[_Scored]:
    """Every case asked about as one group: the answer, the union's other members, the edits."""
    for start in range(0, len(cases), PART):
        tick(start, len(cases))
        part = cases[start : start + PART]
        for case, judgement in zip(part, judged(judge, [c.group for c in part]), strict=True):
            values = [score.value for score in judgement.scores]
            several = 1 + case.members
            members = [v for v in values[:several] if v is not None]
            mean = sum(members) / several if len(members) == several else None
            edited = dict(zip(case.texts, values[several:], strict=True))
            yield _Scored(case, values[0], mean, edited)


def _levels(
    found: RewardProbes,
    early: Sequence[Answer],
    late: Sequence[Answer],
    scored: Sequence[_Scored],
) -> None:
    """The reward's level early and late, on all that was kept; its spread on what was scored again
    where no reward was kept."""
    bounds = share_bounds([a.reward for a in (*early, *late) if a.reward is not None])
    known = [a.reward for a in early if a.reward is not None]
    known = known or [s.before for s in scored if s.case.side == EARLY and s.before is not None]
    if known:
        mean = sum(known) / len(known)
        found.spread = math.sqrt(sum((x - mean) ** 2 for x in known) / len(known))
    found.early = over_prompts(by_prompt((a.prompt.id, a.reward) for a in early), bounds)
    if late:
        found.late = over_prompts(by_prompt((a.prompt.id, a.reward) for a in late), bounds)
        found.gain = independent_difference(found.late, found.early)


class _Effects:
    """The figures of each edit on each side."""

    def __init__(
        self, scored: Sequence[_Scored], early: Sequence[Answer], late: Sequence[Answer]
    ) -> None:
        self.scored = scored
        texts = ([(a.asked, a.text) for a in side] for side in (early, late))
        self.drift = Drift(*texts) if early and late else None
        values = [v for s in scored for v in (s.before, *s.after.values()) if v is not None]
        self.bounds: Bounds | None = share_bounds(values) if values else None
        self.worth = {side: self._worth(side) for side in (EARLY, LATE)}

    def of(self, edit: str, side: str) -> EditEffect | None:
        """The effect of an edit; None where it changes no answer."""
        rows = [s for s in self.scored if s.case.side == side and edit in s.case.texts]
        if not rows:
            return None
        pairs = [(s, _before(s, edit), s.after[edit]) for s in rows]
        known = [(s, b, a) for s, b, a in pairs if b is not None and a is not None]
        effect = EditEffect(edit=edit, of=side, n=len(known), failed=len(rows) - len(known))
        if not known:
            return effect
        ids = [s.case.answer.prompt.id for s, _, _ in known]
        gain = _Gain([(id, b, a) for id, (_, b, a) in zip(ids, known, strict=True)])
        before, after = gain.before, gain.after
        bounds = None if edit == "union" else self.bounds  # a mean of members is no 0 or 1
        effect.change = certain(gain_over_prompts(after, before, bounds))
        effect.score = over_prompts(after, self.bounds)
        effect.rises = share_of([a > b + 1e-9 for _, b, a in known], ids)
        effect.falls = share_of([a < b - 1e-9 for _, b, a in known], ids)
        effect.detectable = detectable(effect.change)
        effect.kept = self._kept(side, effect.change, gain)
        if side == EARLY and self.drift is not None:
            edited = [(s.case.answer.asked, s.case.texts[edit]) for s, _, _ in known]
            moved = self.drift.towards(edited)
            effect.moved = moved if math.isfinite(moved.value) else None
        effect.examples = _examples(known, edit)
        return effect

    def _worth(self, side: str) -> tuple[Interval, _Gain] | None:
        """What an answer's own prompt adds to its score: less another prompt's answer."""
        rows = [s for s in self.scored if s.case.side == side]
        triples = [(s.case.answer.prompt.id, s.after.get("swap"), s.before) for s in rows]
        known = [(id, a, b) for id, a, b in triples if a is not None and b is not None]
        if not known:
            return None
        gain = _Gain(known)
        return gain_over_prompts(gain.after, gain.before, self.bounds), gain

    def _kept(self, side: str, change: Interval, gain: _Gain) -> Interval | None:
        if (found := self.worth[side]) is None or not found[0].low > 0:
            return None
        worth, of = found
        lost = ratio(change, worth, error_correlation(gain.by_prompt, of.by_prompt))
        return Interval(1.0 + lost.value, 1.0 + lost.low, 1.0 + lost.high, lost.n)


class _Gain:
    """Scores before and after, by prompt.

    Args:
        known: (the prompt's id, before, after) of each answer.
    """

    def __init__(self, known: Sequence[tuple[str, float, float]]) -> None:
        self.before = by_prompt((id, before) for id, before, _ in known)
        self.after = by_prompt((id, after) for id, _, after in known)
        gained = by_prompt((id, after - before) for id, before, after in known)
        ids = dict.fromkeys(id for id, _, _ in known)
        means = [statistics.fmean(v for v in own if v is not None) for own in gained]
        self.by_prompt = dict(zip(ids, means, strict=True))


def _before(scored: _Scored, edit: str) -> float | None:
    """What an edit is compared with: a union with the mean of its members."""
    return scored.members if edit == "union" else scored.before


def _examples(known: Sequence[tuple[_Scored, float, float]], edit: str) -> list[EditExample]:
    """The answers whose score the edit moves most."""
    most = sorted(known, key=lambda k: -abs(k[2] - k[1]))[:SHOWN]
    return [
        EditExample(
            prompt=s.case.answer.asked,
            before=s.case.answer.text,
            after=s.case.texts[edit],
            reward_before=b,
            reward_after=a,
            step=s.case.answer.step,
        )
        for s, b, a in most
    ]
