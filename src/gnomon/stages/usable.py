"""How many rows of a stage's data can be used: read, split and tokenised as a run does it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnomon.algorithms.base import EncodedPrompt
from gnomon.algorithms.registry import find_algorithm
from gnomon.data.encode import EncodeAs, Encoder
from gnomon.data.values import Skipped, summarise_skipped
from gnomon.errors import DataError
from gnomon.recipe.schema import DataSpec, Recipe, StageSpec
from gnomon.records import Group
from gnomon.runs.folder import RunFolder
from gnomon.stages.environments import build_environment, openings
from gnomon.stages.resolve import DATA_KIND, samples_responses, stage_seed, stage_settings
from gnomon.stages.sources import LENGTH
from gnomon.stages.stage_data import StageData

TRIED = 20_000
"""Groups of a stage that are tokenised; of more, as many drawn at random stand for all."""


@dataclass(frozen=True)
class Usable:
    """What there is to train on.

    Attributes:
        rows: that can be trained on; None while an earlier stage still has to write them.
        read: that the sources hold, the unreadable included.
        held_out: that can be evaluated on.
        skipped: what is left out, and why.
        estimated: not all rows were tokenised, so ``rows`` is scaled up from those that were.
        prompt_tokens, response_tokens: means of a row (a prompt with all its responses).
        prompts: of on-line methods, a few of them.
    """

    rows: int | None
    read: int = 0
    held_out: int = 0
    skipped: Sequence[Skipped] = ()
    estimated: bool = False
    prompt_tokens: float = 0.0
    response_tokens: float = 0.0
    prompts: Sequence[EncodedPrompt] = field(default_factory=list)


def usable_rows(
    recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path, encoder: Encoder, code: bool
) -> Usable:
    """Read and tokenise a stage's data; sources that earlier stages still have to write are left
    out.

    Args:
        code: whether the recipe's own Python may be imported (an environment's opening).

    Raises:
        DataError, ConfigError: nothing, or too little, can be used; with the reasons.
    """

    def there(specs: Sequence[DataSpec]) -> list[DataSpec]:
        return [s for s in specs if not _pending(s, run)]

    fields = ("data", "eval_data", "pretraining", "normalise_on")
    ready = stage.model_copy(update={name: there(getattr(stage, name)) for name in fields})
    data = StageData(
        ready, base, lambda name: run.stage(name).groups, stage_seed(recipe, stage.name)
    )
    data.text(encoder)
    data.normalisers(encoder)
    if not ready.data:
        return Usable(None, skipped=data.report.skipped)
    if samples_responses(stage):
        return _online(recipe, stage, data, base, encoder, code)
    return _offline(stage, data, encoder)


def _pending(spec: DataSpec, run: RunFolder) -> bool:
    where, _, name = spec.path.partition(":")
    return where == "stage" and not run.stage(name).groups.is_file()


def _online(
    recipe: Recipe, stage: StageSpec, data: StageData, base: Path, encoder: Encoder, code: bool
) -> Usable:
    groups, held_out = data.groups("prompts")
    read = len(groups) + len(held_out) + len(data.report.skipped)
    spec = stage.environment
    if spec is not None and (code or ":" not in spec.name):
        window = recipe.max_length or LENGTH
        environment = build_environment(spec, encoder, base=base, window=window)
        groups = list(openings(environment, groups))
        held_out = list(openings(environment, held_out))
    some, share = _some(groups)
    unread = len(data.report.skipped)
    prompts = data.prompts(encoder, some)
    kept = data.prompts(encoder, held_out)
    _refuse_many(stage, len(some) + len(held_out), data.report.skipped[unread:])
    return Usable(
        rows=round(len(prompts) / share),
        read=read,
        held_out=len(kept),
        skipped=data.report.skipped,
        estimated=share < 1,
        prompt_tokens=sum(len(p.ids) for p in prompts) / len(prompts),
        prompts=prompts[:32],
    )


def _offline(stage: StageSpec, data: StageData, encoder: Encoder) -> Usable:
    algorithm = find_algorithm(stage.algorithm)
    settings = stage_settings(stage)
    groups, held_out = data.groups(DATA_KIND[algorithm.data])
    read = len(groups) + len(held_out) + len(data.report.skipped)
    how: EncodeAs = "demonstrations" if algorithm.data == "demonstrations" else "groups"
    some, share = _some(groups)
    unread = len(data.report.skipped)
    rows, left_out = algorithm.prepare(data.encode(encoder, some, how), settings, training=True)
    kept, also = algorithm.prepare(data.encode(encoder, held_out, how), settings, training=False)
    _refuse_many(stage, len(some) + len(held_out), data.report.skipped[unread:])
    return Usable(
        rows=round(len(rows) / share),
        read=read,
        held_out=len(kept),
        skipped=[*data.report.skipped, *left_out, *also],
        estimated=share < 1,
        prompt_tokens=_mean(len(g.prompt_ids) for g in rows),
        response_tokens=_mean(sum(len(r.ids) for r in g.responses) for g in rows),
    )


def _refuse_many(stage: StageSpec, rows: int, left_out: Sequence[Skipped]) -> None:
    """What is left would be another data set than the one that was given."""
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
