"""The samples that a report shows: to search and sort, and before and after side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.audit.kinds import Kind
from gnomon.audit.truths import label, reward_entries
from gnomon.report.candidate import before, subject
from gnomon.report.format import number
from gnomon.report.kinds import column_kinds, metric_kind, stage_specs
from gnomon.report.plots import before_after
from gnomon.runs.answers import read_answers
from gnomon.runs.peak import kept_run, kept_stage
from gnomon.runs.read import RunView, StageView
from gnomon.runs.rows import SampleRow
from gnomon.stats.intervals import Interval

MOST = 300
"""Samples that a page holds to search; the rest are in samples.parquet."""
PAIRS = 40
LONGEST = 4000
"""Characters of a text; what is longer is cut, and says so."""


@dataclass(frozen=True)
class Sampled:
    """A response to search and sort; ``reward`` as it is shown and as it is sorted by, both empty
    where it failed."""

    prompt: str
    response: str
    reward: str
    reward_value: str
    length: str
    step: str
    note: str


@dataclass(frozen=True)
class Side:
    """One model's answer to a prompt."""

    who: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """A prompt and its answers by several models, or before and after training."""

    prompt: str
    answers: Sequence[Side] = field(default_factory=tuple)


@dataclass(frozen=True)
class Browser:
    """Samples of one stage, lowest reward first; ``of`` is how many there are in its file."""

    stage: str
    rows: Sequence[Sampled]
    of: int


def browser(run: RunView) -> Browser | None:
    """The last samples of the policy that the run ends with; None where none were kept."""
    own = [s for s in run.stages if s.name == subject(run) and s.samples]
    stage = (own or [s for s in reversed(run.stages) if s.samples])[:1]
    if not stage:
        return None
    rows = sorted(_last(kept_stage(stage[0])), key=_worst_first)
    truths = truths_of(run, stage[0])
    return Browser(stage[0].name, [sampled(row, truths) for row in rows], len(stage[0].samples))


def truths_of(run: RunView, stage: StageView) -> list[str]:
    """The observers of a stage that know a simulation's truth."""
    entries = reward_entries(stage_specs(run).get(stage.name, {}).get("observe") or [])
    names = [label(entry) for entry in entries]
    return [name for name in names if metric_kind(run, stage.name, name) == "truth"]


def _last(stage: StageView) -> list[SampleRow]:
    """The last evaluation's samples and the last of training, up to MOST of both together."""
    held_out, trained = ([r for r in stage.samples if is_held_out(r) is x] for x in (True, False))
    last_held_out = _at_end(held_out)[: MOST // 2]
    return [*last_held_out, *_at_end(trained)[: MOST - len(last_held_out)]]


def _at_end(rows: Sequence[SampleRow]) -> list[SampleRow]:
    last = max((r["step"] for r in rows if r.get("step") is not None), default=None)
    return [r for r in rows if r.get("step") == last]


def is_held_out(row: Mapping[str, Any]) -> bool:
    """Whether a sample is an evaluation's, on a prompt that is never trained on; False where that
    is not known."""
    trained = row.get("policy_iteration", "unknown")
    return row.get("evaluation") is not None or trained is None


def _worst_first(row: SampleRow) -> tuple[bool, float]:
    reward = row.get("reward")
    known = isinstance(reward, int | float) and math.isfinite(reward)
    return (known, float(reward) if known and reward is not None else 0.0)


def sampled(row: SampleRow, truths: Collection[str]) -> Sampled:
    reward, length, step = row.get("reward"), row.get("length"), row.get("step")
    where = "held-out prompt" if is_held_out(row) else ""
    noted = [where, f"step {step}" if step is not None else "", row.get("category") or ""]
    return Sampled(
        prompt=cut(row.get("prompt")),
        response=cut(row.get("response")),
        reward=number(reward) if reward is not None else "",
        reward_value=repr(float(reward)) if reward is not None and math.isfinite(reward) else "",
        length="" if length is None else str(length),
        step="" if step is None else str(step),
        note=" · ".join([n for n in noted if n] + _notes(row, truths, with_reward=False)),
    )


def cut(text: object) -> str:
    """A text as it is shown: what is too long is cut, and says so."""
    shown = "" if text is None else str(text)
    more = len(shown) - LONGEST
    return shown if more <= 0 else f"{shown[:LONGEST]}… (and {more:,} characters more)"


# -- before and after -----------------------------------------------------------------------------


def pairs(run: RunView) -> list[Pair]:
    """Prompts with answers side by side: the compared models', else a stage's first and last
    evaluation's, else what its first and last steps have in common."""
    run = kept_run(run)
    for found in (_answered(run), _evaluated(run), _compared(run), _stepped(run)):
        some = list(found)
        if some:
            return some[:PAIRS]
    return []


def _answered(run: RunView) -> Iterator[Pair]:
    """What the model before and the model after answered to the compared prompts."""
    after = subject(run)
    models = [before(run, after), after]
    answers, _ = read_answers(run.path)
    sides: dict[str, dict[str, Side]] = {}
    prompts: dict[str, str] = {}
    scores = {m: run.comparison.scores(m) for m in models if m in run.comparison.models}
    kinds = column_kinds(run)
    for answer in answers:
        if answer.model in models and answer.sample == 0:
            prompts[answer.prompt_id] = answer.prompt
            note = _scored(scores.get(answer.model, {}), answer.prompt_id, kinds)
            notes = [note, f"{answer.length} tokens", "" if answer.finished else "cut off"]
            if answer.error is not None:
                notes = [f"the episode failed: {answer.error}"]
            side = Side(answer.model, cut(answer.response), " · ".join(n for n in notes if n))
            sides.setdefault(answer.prompt_id, {})[answer.model] = side
    for id, own in sides.items():
        if len(own) == len(set(models)):
            yield Pair(cut(prompts[id]), [own[m] for m in dict.fromkeys(models)])


def _scored(
    scores: Mapping[str, Mapping[str, Sequence[float | None]]],
    prompt: str,
    kinds: Mapping[str, Kind],
) -> str:
    notes = []
    for name, of in scores.items():
        value = (of.get(prompt) or [None])[0]
        if value is not None:
            told = " (simulated truth)" if kinds.get(name) == "truth" else ""
            notes.append(f"{name} {number(value)}{told}")
    return " · ".join(notes)


def _evaluated(run: RunView) -> Iterator[Pair]:
    for stage in _last_first(run):
        rows = [r for r in stage.samples if is_held_out(r)]
        steps = sorted({r["step"] for r in rows if r.get("step") is not None})
        if len(steps) > 1:
            first, last = ([r for r in rows if r.get("step") == s] for s in (steps[0], steps[-1]))
            yield from _joined(stage, first, last, truths_of(run, stage))
            return


def _compared(run: RunView) -> Iterator[Pair]:
    for sample in run.comparison.samples:
        sides = [Side(who, cut(text)) for who, text in sample.items() if who != "prompt"]
        yield Pair(cut(sample.get("prompt")), sides)


def _stepped(run: RunView) -> Iterator[Pair]:
    for stage in _last_first(run):
        first, last = before_after(stage)
        truths = truths_of(run, stage)
        found = list(_joined(stage, first, last, truths))
        if not first:
            who = f"after {stage.name}"
            found = [Pair(cut(r.get("prompt")), [side_of(who, r, truths)]) for r in last]
        if found:
            yield from found
            return


def _last_first(run: RunView) -> Iterable[StageView]:
    last = subject(run)
    own = [stage for stage in run.stages if stage.name == last]
    return [*own, *(stage for stage in reversed(run.stages) if stage.name != last)]


def _joined(
    stage: StageView,
    first: Sequence[SampleRow],
    last: Sequence[SampleRow],
    truths: Collection[str],
) -> Iterator[Pair]:
    """Rows of the same prompts, the earlier beside the later."""
    earlier = {row.get("prompt_id"): row for row in first}
    for row in last:
        old = earlier.get(row.get("prompt_id"))
        if old is not None:
            rows = (("before", old), ("after", row))
            sides = [side_of(f"{when} {stage.name}", one, truths) for when, one in rows]
            yield Pair(cut(row.get("prompt")), sides)


def side_of(who: str, row: SampleRow, truths: Collection[str]) -> Side:
    length = row.get("length")
    notes = _notes(row, truths) + ([] if length is None else [f"{length} tokens"])
    return Side(who, cut(row.get("response")), " · ".join(notes))


def _notes(row: SampleRow, truths: Collection[str], with_reward: bool = True) -> list[str]:
    notes = []
    if row.get("error"):
        notes.append(f"reward failed: {row['error']}")
    elif with_reward and (reward := row.get("reward")) is not None:
        notes.append(f"reward {number(reward)}")
    named = _json(row.get("parts"))
    for name, raw in named.items():
        if (value := Interval.parse(raw)) is not None:
            told = " (simulated truth)" if name.partition("/")[0] in truths else ""
            notes.append(f"{name} {number(value.value)}{told}")
    if row.get("finished") is False:
        notes.append("cut off")
    return notes


def _json(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, str):
        return {}
    try:
        parsed = json.loads(raw)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
