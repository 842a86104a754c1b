"""How many rows of a stage's data can be used: read, split and tokenised as a run does it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gnomon.agents.build import build_environment, openings
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.data.values import Skipped, summarise_skipped
from gnomon.errors import ConfigError, DataError
from gnomon.judges.build import AI, ASK_PEOPLE, one_judge
from gnomon.judges.protocol import judged
from gnomon.models.save import load_reward_model
from gnomon.plan.job import Lengths
from gnomon.recipe.schema import DataSpec, RewardSpec, StageSpec
from gnomon.records import Group, Message, Response, TokenGroup
from gnomon.runs.folder import RunFolder
from gnomon.stages.encoder import LENGTH
from gnomon.stages.own_code import own_function
from gnomon.stages.stage import Stage

TRIED = 20_000
"""Groups of a stage that are tokenised; of more, as many are drawn at random."""


@dataclass(frozen=True)
class Usable:
    """What there is to train on.

    Attributes:
        rows: that can be trained on; None while an earlier stage still has to write them.
        read: that the sources hold, the unreadable included.
        held_out: that can be evaluated on.
        skipped: what is left out, and why.
        estimated: not all rows were tokenised, so ``rows`` is scaled up from those that were.
        lengths: of all that are trained on, for the planner.
        prompts: of on-line methods, a few of them.
    """

    rows: int | None
    read: int = 0
    held_out: int = 0
    skipped: Sequence[Skipped] = ()
    estimated: bool = False
    lengths: Lengths | None = None
    prompts: Sequence[EncodedPrompt] = field(default_factory=list)


def usable_rows(stage: Stage, encoder: Encoder, code: bool) -> Usable:
    """Read and tokenise a stage's data; sources that earlier stages still have to write are left
    out.

    Args:
        code: whether the recipe's own Python may be imported (an environment's opening).

    Raises:
        DataError, ConfigError: nothing, or too little, can be used; with the reasons.
    """
    run, spec = stage.run, stage.spec

    def there(specs: Sequence[DataSpec]) -> list[DataSpec]:
        return [s for s in specs if not _pending(s, run)]

    ready = spec.model_copy(
        update={
            "data": there(spec.data),
            "eval_data": there(spec.eval_data),
            "pretraining": there(spec.pretraining),
            "normalise_on": there(spec.normalise_on),
        }
    )
    stage.data.stage = ready
    stage.data.text(encoder)
    stage.data.normalisers(encoder)
    if not ready.data:
        return Usable(None, skipped=stage.data.report.skipped)
    groups, held_out = stage.data.groups(stage.data_kind)
    read = len(groups) + len(held_out) + len(stage.data.report.skipped)
    if stage.samples:
        found = _online(stage, groups, held_out, encoder, code)
    else:
        found = _offline(stage, groups, held_out, encoder)
    return replace(found, read=read)


def _pending(spec: DataSpec, run: RunFolder) -> bool:
    where, _, name = spec.path.partition(":")
    return where == "stage" and not run.stage(name).groups.is_file()


def _online(
    stage: Stage, groups: Sequence[Group], held_out: Sequence[Group], encoder: Encoder, code: bool
) -> Usable:
    data, spec = stage.data, stage.spec.environment
    if spec is not None and (code or ":" not in spec.name):
        window = stage.recipe.max_length or LENGTH
        environment = build_environment(spec, encoder, base=stage.base, window=window)
        groups, held_out = openings(environment, groups), openings(environment, held_out)
    some, share = _some(groups)
    unread = len(data.report.skipped)
    prompts = stage.prompts(encoder, some)
    kept = stage.prompts(encoder, held_out)
    _refuse_many(stage.spec, len(some) + len(held_out), data.report.skipped[unread:])
    return Usable(
        rows=round(len(prompts) / share),
        held_out=len(kept),
        skipped=data.report.skipped,
        estimated=share < 1,
        lengths=lengths_of(prompts, stage.spec),
        prompts=prompts[:32],
    )


def _offline(
    stage: Stage, groups: Sequence[Group], held_out: Sequence[Group], encoder: Encoder
) -> Usable:
    some, share = _some(groups)
    report = stage.data.report
    unread = len(report.skipped)
    rows, left_out = stage.prepare(encoder, some, training=True)
    kept, also = stage.prepare(encoder, held_out, training=False)
    _refuse_many(stage.spec, len(some) + len(held_out), report.skipped[unread:])
    return Usable(
        rows=round(len(rows) / share),
        held_out=len(kept),
        skipped=[*report.skipped, *left_out, *also],
        estimated=share < 1,
        lengths=lengths_of(rows, stage.spec),
    )


def lengths_of(rows: Sequence[EncodedPrompt | TokenGroup], spec: StageSpec) -> Lengths:
    """The lengths of rows; answers that are sampled may all be as long as they can."""
    sizes, answers = [], []
    for row in rows:
        if isinstance(row, EncodedPrompt):
            sizes.append(len(row.ids))
            answers.append([spec.response_tokens] * spec.rollout.samples)
        else:
            sizes.append(len(row.prompt_ids))
            answers.append([len(r.ids) for r in row.responses])
    every = [size for some in answers for size in some]
    return Lengths(
        prompt=max(sizes),
        response=max(every, default=0),
        mean_prompt=sum(sizes) / len(sizes),
        mean_response=_mean(every),
        samples=max(map(len, answers)),
    )


def _refuse_many(stage: StageSpec, rows: int, left_out: Sequence[Skipped]) -> None:
    """Refuse data of which too many rows cannot be used: the rest would be another data set."""
    allowed = max((s.max_skipped for s in [*stage.data, *stage.eval_data]), default=1.0)
    if len(left_out) > allowed * rows:
        raise DataError(
            f"{len(left_out)} of {rows} rows cannot be used, more than the {allowed:.0%} allowed "
            f"(max_skipped of the data). {summarise_skipped(left_out)}"
        )


def _some(groups: Sequence[Group]) -> tuple[Sequence[Group], float]:
    """Groups to tokenise, and the share of all that they are."""
    if len(groups) <= TRIED:
        return groups, 1.0
    chosen = sorted(random.Random(0).sample(range(len(groups)), TRIED))
    return [groups[i] for i in chosen], TRIED / len(groups)


def _mean(values: Iterable[int]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


TRIED_PROMPTS = 8
TRIED_PROGRAMS = 2
"""Prompts that a reward is tried on; a program takes a sandbox each."""
ANSWER = "0"


def check_judging(
    stage: StageSpec,
    prompts: Sequence[EncodedPrompt],
    base: Path,
    code: bool,
    elsewhere: bool = False,
) -> None:
    """Check that each builtin reward finds in the prompts what it needs (an answer, tests).

    The recipe's own rewards, reward models and AI judges (which cost money) are not called.

    Args:
        code: whether a verifier of the recipe's own may be called.
        elsewhere: workers are on other machines, so that what they need need not be here.

    Raises:
        ConfigError: it fails on more prompts than ``max_reward_errors`` allows.
    """
    for spec in [*stage.reward, *stage.observe]:
        if spec.workers and elsewhere:
            continue
        if spec.builtin not in (None, *ASK_PEOPLE, AI) and (code or own_function(spec) is None):
            tried = prompts[: TRIED_PROGRAMS if spec.builtin == "code" else TRIED_PROMPTS]
            _check(spec, tried, base, stage.max_reward_errors)


def _check(spec: RewardSpec, prompts: Sequence[EncodedPrompt], base: Path, allowed: float) -> None:
    judge = one_judge(spec, base=base, load=load_reward_model)
    groups = [
        Group(
            p.prompt,
            (Response((Message("assistant", ANSWER),), ids=p.ids[-1:]),),
            prompt_ids=p.ids,
        )
        for p in prompts
    ]
    scores = [score for judgement in judged(judge, groups) for score in judgement.scores]
    failures = [score.error for score in scores if score.error is not None]
    # one that took longer shows a slow machine, not bad data
    errors = [error for error in failures if "took longer" not in error]
    if groups and len(errors) > allowed * len(groups):
        raise ConfigError(
            f"reward {spec.label!r} cannot judge {len(errors)} of {len(groups)} prompts it was "
            f"tried on: {errors[0]}"
        )
