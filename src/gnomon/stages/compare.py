"""Every policy of a run on the same held-out prompts: rewards, KL and length with intervals.

With several samples a prompt (``compare.rollout.samples``), intervals are over the prompts, and
every reward that gave nothing but 0 and 1 gets a table of pass@k. With an environment
(``compare.environment``) every policy plays the same episodes, and their return is a column more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gnomon.agents.build import build_environment, openings
from gnomon.agents.episodes import Episode, EpisodeRunner
from gnomon.algorithms.base import per_response_sum
from gnomon.algorithms.rollouts import EncodedPrompt, as_response, written
from gnomon.algorithms.rollouts import shown as text_shown
from gnomon.data.batch import microbatches, pack
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, RunError
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import Judge
from gnomon.judges.tally import Tally
from gnomon.judges.workers import Workplace
from gnomon.models.load import load_causal_lm, read_model
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import LoadedReward, load_reward_model
from gnomon.recipe.schema import CompareSpec, Recipe
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import Completion, Request, sampled_group
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.runs.answers import Answer, write_answers
from gnomon.runs.comparison import LENGTH as LENGTH_COLUMN
from gnomon.runs.comparison import Comparison, ComparisonRow
from gnomon.runs.folder import RunFolder
from gnomon.runs.records import COMPARISON
from gnomon.stages.compare_tables import Values, add_rewards, failures, pass_tables
from gnomon.stages.encoder import LENGTH, context_of, recipe_encoder
from gnomon.stages.names import policy_stages, reward_folder
from gnomon.stages.sources import DataReport, encode_prompts, read_specs
from gnomon.stages.stage import ANSWERS, pick_device, recipe_precision
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import over_prompts
from gnomon.training.played import failed, judged_played, play
from gnomon.training.progress import Progress
from gnomon.training.sampled import Sampling
from gnomon.training.watch import Stop

BASE = "base"
TOKENS = 8192

Answers = list[list[Completion]]
"""[prompts][samples]"""


@dataclass(frozen=True)
class Policy:
    """One policy to compare: its name in the recipe and where its weights are."""

    name: str
    source: str


def compare(
    recipe: Recipe,
    run: RunFolder,
    base: Path,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Sample the base model and every trained policy, score them, write ``comparison.json`` and
    ``answers.jsonl``.

    A row's ``gains`` are its rewards less the reference's, prompt by prompt (paired intervals), and
    its ``scores`` [rewards][prompts][samples] what both are made from, for ``prompts`` by id.

    One policy is in memory at a time, along with the reference and the reward models.

    Raises:
        RunStopped: the run was asked to stop; the comparison is not kept.
    """
    with ExitStack() as closing:
        return _compared(recipe, run, base, stop or Stop(), progress, closing)


def _compared(
    recipe: Recipe,
    run: RunFolder,
    base: Path,
    stop: Stop,
    progress: Progress | None,
    closing: ExitStack,
) -> Comparison:
    spec = recipe.compare
    if spec is None:
        raise ConfigError("the recipe has no compare section")
    encoder, environment = _world(spec, recipe, base)
    asked = _prompts(spec, run, base, encoder, environment)
    policies = [Policy(BASE, recipe.model)] + [
        Policy(stage.name, str(run.stage(stage.name).model))
        for stage in policy_stages(recipe, base)
    ]
    reference = _reference(spec, policies)
    reference_role = _load(reference, recipe)
    judges = _judges(spec, recipe, run, base, reference_role, closing)
    rows: list[ComparisonRow] = []
    shown: list[dict[str, str]] = [{"prompt": _text(p)} for p in asked[: spec.show]]
    judged: dict[str, list[Values]] = {}
    kept: list[Answer] = []
    tally = Tally()
    progress = progress or Progress("compare", len(policies), enabled=False)
    for done, policy in enumerate(policies, start=1):
        stop.check()
        role = reference_role if policy == reference else _load(policy, recipe)
        prompts, answers = _answer(role, asked, environment, recipe, spec, stop, progress)
        for sample, prompt, own in zip(shown, prompts, answers, strict=False):
            sample |= {"prompt": _text(prompt), policy.name: _told(own[0])}
        kept += _kept(policy.name, prompts, answers)
        returns = [] if environment is None else [_returns(answers)]
        judged[policy.name] = [*_scores(prompts, answers, judges, tally), *returns]
        kl = _kl(role, reference_role, prompts, answers, spec.rollout.temperature)
        values: list[Interval | None] = [
            over_prompts(kl, None),
            over_prompts(_each(answers, written), None),
            over_prompts(_each(answers, lambda c: c.finished), (0.0, 1.0)),
        ]
        rows.append(ComparisonRow(model=policy.name, values=values))
        progress.update(done, {})
    names = [judge.name for judge in judges]
    names += [] if environment is None else [environment.name]
    add_rewards(rows, judged, reference.name)
    result = Comparison(
        columns=[*names, f"KL from {reference.name} (nats)", LENGTH_COLUMN, "finished"],
        reference=reference.name,
        rows=rows,
        prompts=[p.prompt.id for p in asked],
        samples=shown,
        tables=[
            *pass_tables(names, judged, reference.name, spec.rollout.samples),
            *failures([policy.name for policy in policies], kept),
        ],
        judges={name: _without_seconds(took) for name, took in tally.totals().items()},
    )
    write_answers(run.path, kept)
    result.write(run.path / COMPARISON)
    return result


def _without_seconds(took: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge took, but for the clock: the file is the same whenever it is made."""
    return {key: value for key, value in took.items() if key != "seconds"}


def _judges(
    spec: CompareSpec,
    recipe: Recipe,
    run: RunFolder,
    base: Path,
    reference: Role,
    closing: ExitStack,
) -> list[Judge]:
    """The judges of every policy's answers."""
    dtype, device = recipe_precision(recipe).frozen, pick_device(recipe.device)
    folder = partial(reward_folder, recipe, run, base)

    def load(name: str) -> LoadedReward:
        return load_reward_model(folder(name), dtype=dtype, device=device)

    return [
        one_judge(
            reward,
            base=base,
            load=load,
            tokenizer=reference.trunk.tokenizer,
            answers=run.path / ANSWERS,
            place=Workplace(closing, folder, dtype, str(device), recipe.ray),
        )
        for reward in spec.rewards
    ]


def _world(spec: CompareSpec, recipe: Recipe, base: Path) -> tuple[Encoder, EpisodeRunner | None]:
    """How prompts become tokens, and what plays the episodes, where they are played."""
    config, tokenizer = read_model(recipe.model)
    context, place = context_of(config), spec.environment
    encoder = recipe_encoder(recipe, tokenizer, context=context, new_tokens=spec.response_tokens)
    if place is None:
        return encoder, None
    window = context or recipe.max_length or LENGTH
    return encoder, build_environment(place, encoder, base=base, window=window)


def _prompts(
    spec: CompareSpec,
    run: RunFolder,
    base: Path,
    encoder: Encoder,
    environment: EpisodeRunner | None,
) -> list[EncodedPrompt]:
    report = DataReport()
    groups = read_specs(
        spec.prompts,
        base=base,
        stage_groups=lambda name: run.stage(name).groups,
        kind="prompts",
        report=report,
    )
    if environment is not None:
        groups = openings(environment, groups)
    return encode_prompts(encoder, groups, report)[: spec.size]


def _reference(spec: CompareSpec, policies: Sequence[Policy]) -> Policy:
    """The policy that KL is measured against: the one asked for, else the last but one."""
    if spec.reference is None:
        return policies[-2] if len(policies) > 1 else policies[0]
    by_name = {policy.name: policy for policy in policies}
    if spec.reference not in by_name:
        raise ConfigError(
            f"compare.reference {spec.reference!r} is not a policy; "
            f"the policies are {', '.join(by_name)}"
        )
    return by_name[spec.reference]


def _load(policy: Policy, recipe: Recipe) -> Role:
    dtype = recipe_precision(recipe).frozen
    loaded = load_causal_lm(policy.source, dtype=dtype, device=pick_device(recipe.device))
    return Role(policy.name, Trunk.from_loaded(loaded))


def _answer(
    role: Role,
    prompts: Sequence[EncodedPrompt],
    environment: EpisodeRunner | None,
    recipe: Recipe,
    spec: CompareSpec,
    stop: Stop,
    progress: Progress,
) -> tuple[Sequence[EncodedPrompt], Answers]:
    """The answers, or the episodes, of a policy, and the prompts as it was given them."""
    encoder = recipe_encoder(recipe, role.trunk.tokenizer)
    engine = TorchEngine(
        role.trunk.model,
        role.trunk.tokenizer,
        max_rows=spec.rollout.max_rows,
        eos_token_ids=encoder.stop_ids,
    )
    n = spec.rollout.samples
    requests = [Request(p.prompt.id, p.ids, n, seed=i) for i, p in enumerate(prompts)]
    watch = stop.watching(lambda done, total: progress.phase(role.name, done, total))
    params = Sampling.of(spec.rollout).params
    if environment is None:
        return prompts, engine.generate(requests, params, watch)
    opened, episodes = play(environment, engine, prompts, requests, params, watch)
    return opened, [list(own) for own in episodes]


def _scores(
    prompts: Sequence[EncodedPrompt], answers: Answers, judges: Sequence[Judge], tally: Tally
) -> list[Values]:
    """Every judge's values of the answers; None for an episode that failed.

    Raises:
        RunError: a judge failed on all of them.
    """
    groups = [sampled_group(p.prompt, p.ids, own) for p, own in zip(prompts, answers, strict=True)]
    out: list[Values] = []
    for judge in judges:
        judgements = judged_played(judge, groups, answers)
        tally.add(judgements)
        values = [[score.value for score in judgement.scores] for judgement in judgements]
        if all(value is None for row in values for value in row):
            errors = [s.error for judgement in judgements for s in judgement.scores if s.error]
            raise _failed(f"reward {judge.name!r}", len(errors), next(iter(errors), None))
        out.append(values)
    return out


def _returns(answers: Answers) -> Values:
    """The episodes' returns.

    Raises:
        RunError: every episode failed.
    """
    played = [[c for c in own if isinstance(c, Episode)] for own in answers]
    values = [[episode.value for episode in own] for own in played]
    if all(value is None for row in values for value in row):
        raise _failed("the environment", sum(map(len, values)), played[0][0].error)
    return values


def _each(answers: Answers, figure: Callable[[Completion], float]) -> Values:
    """A figure of every answer; None for an episode that failed."""
    return [[None if failed(c) else float(figure(c)) for c in own] for own in answers]


def _failed(what: str, count: int, first: str | None) -> RunError:
    return RunError(
        f"compare: {what} failed on all {count} samples. The first: {first}\n"
        "Fix it, then resume with --resume; the trained stages are kept."
    )


def _kept(model: str, prompts: Sequence[EncodedPrompt], answers: Answers) -> Iterator[Answer]:
    """A policy's answers as rows of answers.jsonl."""
    for prompt, own in zip(prompts, answers, strict=True):
        for sample, completion in enumerate(own):
            yield Answer(
                model=model,
                prompt_id=prompt.prompt.id,
                category=prompt.prompt.category,
                prompt=_text(prompt),
                response=text_shown(completion),
                sample=sample,
                length=written(completion),
                finished=completion.finished,
                error=_error(completion),
            )


def _error(completion: Completion) -> str | None:
    """Why the environment failed an episode."""
    return completion.error if isinstance(completion, Episode) else None


def _told(completion: Completion) -> str:
    """An answer for the samples side by side; one that is none says so."""
    error = _error(completion)
    return text_shown(completion) if error is None else f"(the episode failed: {error})"


@torch.no_grad()
def _kl(
    policy: Role,
    reference: Role,
    prompts: Sequence[EncodedPrompt],
    answers: Answers,
    temperature: float,
) -> list[list[float | None]]:
    """[prompts][samples] log(policy / reference) summed over what the policy wrote of each answer,
    in nats; None for an episode that failed."""
    groups = [
        TokenGroup(str(i), p.ids, tuple(as_response(c) for c in own if not failed(c)))
        for i, (p, own) in enumerate(zip(prompts, answers, strict=True))
    ]
    sums: list[float] = []
    for part in microbatches([group for group in groups if group.responses], TOKENS):
        batch = pack(part).to(policy.trunk.model.device)
        own = policy.logprobs(batch, temperature=temperature).logprobs
        theirs = reference.logprobs(batch, temperature=temperature).logprobs
        sums += per_response_sum((own - theirs) * batch.response_mask, batch).tolist()
    values = iter(sums)
    return _each(answers, lambda _: next(values))


def _text(prompt: EncodedPrompt) -> str:
    if prompt.prompt.text is not None:
        return prompt.prompt.text
    return "\n".join(m.content for m in prompt.prompt.messages)
