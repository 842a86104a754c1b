"""Drift of the reward model between rounds: what the one before preferred and this one does not.

Both are columns of the comparison, so they scored the same answers to the same held-out prompts.
Drift is no fault by itself (new labels are there to change it); a model that contradicts the one
before in more pairs than two unrelated ones would has learned something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from gnomon.audit.decide import decided, not_looked
from gnomon.audit.evidence import Evidence
from gnomon.audit.truths import label, reward_entries
from gnomon.runs.audit import Exhibit, Finding
from gnomon.stats.intervals import weighted_proportion

NAME, DETECTOR = "drift", "reward_model_drift"
REWARD_MODEL = "reward_model"
SHOWN = 6


@dataclass(frozen=True)
class _Scored:
    """An answer with what the model of the round before and this one's give it."""

    model: str
    prompt: str
    sample: int
    old: float
    new: float


def reward_model_drift(evidence: Evidence) -> list[Finding]:
    """The share of pairs of answers to one prompt of which this round's reward model prefers the
    one and the round before's the other."""
    before = _before(evidence)
    if evidence.algorithm != REWARD_MODEL or before is None:
        return []
    columns = _column(evidence, before), _column(evidence, evidence.stage)
    by_prompt = _scored(evidence, *columns) if all(columns) else {}
    flips: list[float] = []
    prompts: list[str] = []
    turned: list[tuple[float, _Scored, _Scored]] = []
    for prompt, answers in by_prompt.items():
        for a, b in combinations(answers, 2):
            old, new = a.old - b.old, a.new - b.new
            if old and new:
                flips.append(float(old * new < 0))
                prompts.append(prompt)
            if old * new < 0:
                turned.append((abs(new), a, b) if new > 0 else (abs(new), b, a))
    if not flips:
        needs = (
            f"answers scored by {before} and {evidence.stage} alike: compare: "
            f"{{rewards: [{{model: {before}}}, {{model: {evidence.stage}}}]}}"
        )
        return not_looked(evidence, NAME, DETECTOR, needs)
    share = weighted_proportion(flips, clusters=prompts)
    tau = [1.0 - 2.0 * x for x in (share.value, share.high, share.low)]
    told = (
        f"{evidence.stage} prefers the other of two answers to one prompt than {before} does in "
        f"{share.value:.0%} of {len(flips)} pairs of {len(by_prompt)} prompts (rank correlation, "
        f"Kendall's tau within prompts: {tau[0]:.2f} [{tau[1]:.2f}, {tau[2]:.2f}])"
    )
    finding = decided(
        evidence,
        NAME,
        DETECTOR,
        share,
        measure=f"share of pairs of answers on which {before} and {evidence.stage} disagree",
        alarm=f"{told}: more than two unrelated models would that are right in three of four",
        exhibits=_exhibits(evidence, before, turned),
    )
    if not finding.text:
        finding.note(text=f"{told}.")
    return [finding]


def _before(evidence: Evidence) -> str | None:
    """The reward model of the round before: the last one that this stage's follows on."""
    given = evidence.recipe.get("stages")
    stages = [s for s in given if isinstance(s, Mapping)] if isinstance(given, list) else []
    names = [str(s.get("name")) for s in stages]
    if evidence.stage not in names:
        return None
    here = names.index(evidence.stage)
    found = [
        names[i]
        for i in range(here)
        if stages[i].get("algorithm") == REWARD_MODEL and _follows(stages, here, i)
    ]
    return found[-1] if found else None


def _follows(stages: Sequence[Mapping[str, Any]], here: int, earlier: int) -> bool:
    """Whether a reward model is the next round's after an earlier one, and not one of something
    else: it learns from the earlier one's data and more, or from what was collected after it, or
    policies were trained on the two in turn."""
    own, theirs = _sources(stages[here]), _sources(stages[earlier])
    if theirs and all(source in own for source in theirs):
        return True
    later = {f"stage:{s.get('name')}" for s in stages[earlier + 1 : here]}
    if any(source.get("path") in later for source in own):
        return True
    old, new = (str(stages[i].get("name")) for i in (earlier, here))
    trained = [{e.get("model") for e in reward_entries(s.get("reward") or [])} for s in stages]
    on_old = [i for i, models in enumerate(trained) if old in models and new not in models]
    on_new = [i for i, models in enumerate(trained) if new in models and old not in models]
    return bool(on_old and on_new) and min(on_old) < here < max(on_new)


def _sources(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a stage's data come from, however they are written."""
    data = stage.get("data") or []
    items = data if isinstance(data, list) else [data]
    entries = [{"path": item} if isinstance(item, str) else item for item in items]
    return [entry for entry in entries if isinstance(entry, Mapping)]


def _column(evidence: Evidence, stage: str) -> str:
    """The column of the comparison with a stage's reward model; empty where there is none."""
    compare = evidence.recipe.get("compare")
    entries = reward_entries(compare.get("rewards") or []) if isinstance(compare, Mapping) else []
    names = [label(entry).replace("_", " ") for entry in entries if entry.get("model") == stage]
    return next((name for name in names if name in evidence.comparison.columns), "")


def _scored(evidence: Evidence, old: str, new: str) -> dict[str, list[_Scored]]:
    """Every policy's answers to each prompt that both scored."""
    found: dict[str, list[_Scored]] = {}
    for model in evidence.comparison.models:
        scores = evidence.comparison.scores(model)
        if old not in scores or new not in scores:
            continue
        for prompt in scores[old].keys() & scores[new].keys():
            both = zip(scores[old][prompt], scores[new][prompt], strict=False)
            for i, (a, b) in enumerate(both):
                if a is not None and b is not None and math.isfinite(a) and math.isfinite(b):
                    found.setdefault(prompt, []).append(_Scored(model, prompt, i, a, b))
    return found


def _exhibits(
    evidence: Evidence, before: str, turned: list[tuple[float, _Scored, _Scored]]
) -> list[Exhibit]:
    """The pairs whose preference turned most, where their texts were kept."""
    texts = {
        (model, answer.prompt_id, answer.sample): answer
        for model, answers in evidence.answers.items()
        for answer in answers
    }
    found = []
    for _, now, then in sorted(turned, key=lambda one: -one[0])[:SHOWN]:
        own, other = (texts.get((x.model, x.prompt, x.sample)) for x in (now, then))
        if own is not None and other is not None:
            shows = f"{evidence.stage} prefers it; {before} prefers: {other.response}"
            found.append(
                Exhibit(prompt=own.prompt, response=own.response, reward=now.new, shows=shows)
            )
    return found
