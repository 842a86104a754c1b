"""Every policy of a run on the same held-out prompts: rewards, KL and length with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnomon.algorithms.base import EncodedPrompt
from gnomon.algorithms.on_policy import per_response_sum
from gnomon.atomic import write_json
from gnomon.data.pack import microbatches, pack
from gnomon.data.records import TokenGroup, TokenResponse
from gnomon.errors import ConfigError, RunError
from gnomon.evals.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    wilson_interval,
)
from gnomon.models.load import fetch, load_causal_lm, load_tokenizer, read_config
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import load_reward_model
from gnomon.pipeline.resolve import pick_device, policy_stages, reward_folder, sampling
from gnomon.pipeline.rewards import one_reward
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.sources import (
    DataReport,
    context_of,
    encode_prompts,
    read_specs,
    recipe_encoder,
)
from gnomon.recipe.schema import CompareSpec, Recipe
from gnomon.rewards.guard import score_safely
from gnomon.rewards.protocol import Reward, Sample
from gnomon.rollout.protocol import Completion, Request
from gnomon.rollout.torch_engine import TorchEngine

BASE = "base"
TOKENS = 8192


@dataclass(frozen=True)
class Policy:
    """One policy to compare: its name in the recipe and where its weights are."""

    name: str
    source: str


def compare(recipe: Recipe, run: RunFolder, base: Path) -> dict[str, Any]:
    """Sample the base model and every trained policy, score them, write ``comparison.json``.

    A row's ``gains`` are its rewards less the reference's, prompt by prompt (paired intervals).

    One policy is in memory at a time, beside the reference and the reward models.
    """
    spec = recipe.compare
    if spec is None:
        raise ConfigError("the recipe has no compare section")
    prompts = _prompts(spec, recipe, run, base)
    policies = [Policy(BASE, recipe.model)] + [
        Policy(stage.name, str(run.stage(stage.name).model)) for stage in policy_stages(recipe)
    ]
    reference = _reference(spec, policies)
    reference_role = _load(reference, recipe)
    rewards = [
        one_reward(
            reward,
            base=base,
            load=lambda name: load_reward_model(
                reward_folder(recipe, run, base, name),
                dtype=recipe.dtype,
                device=pick_device(recipe.device),
            ),
            tokenizer=reference_role.trunk.tokenizer,
        )
        for reward in spec.rewards
    ]
    rows: list[dict[str, Any]] = []
    by_policy: dict[str, list[dict[int, float]]] = {}
    shown: list[dict[str, str]] = [{"prompt": _text(p)} for p in prompts[: spec.show]]
    for policy in policies:
        role = reference_role if policy == reference else _load(policy, recipe)
        completions = _answer(role, prompts, recipe, spec)
        for sample, completion in zip(shown, completions, strict=False):
            sample[policy.name] = completion.text
        scored = _scores(prompts, completions, rewards)
        by_policy[policy.name] = scored
        values = [mean_interval(list(column.values())) for column in scored]
        kl = _kl(role, reference_role, prompts, completions, spec.rollout.temperature)
        values.append(mean_interval(kl.tolist()))
        values.append(mean_interval([float(len(c.ids)) for c in completions]))
        values.append(wilson_interval(sum(c.finished for c in completions), len(completions)))
        rows.append({"model": policy.name, "values": [v.to_dict() for v in values]})
    columns = [reward.name for reward in rewards] + [
        f"KL from {reference.name} (nats)",
        "length (tokens)",
        "finished",
    ]
    for row in rows:
        gains = _gains(by_policy[row["model"]], by_policy[reference.name])
        row["gains"] = [gain.to_dict() for gain in gains]
    result = {
        "columns": columns,
        "reference": reference.name,
        "rows": rows,
        "samples": shown,
    }
    write_json(run.path / "comparison.json", result)
    return result


def _prompts(spec: CompareSpec, recipe: Recipe, run: RunFolder, base: Path) -> list[EncodedPrompt]:
    report = DataReport()
    groups = read_specs(
        spec.prompts,
        base=base,
        stage_groups=lambda name: run.stage(name).groups,
        kind="prompts",
        report=report,
    )
    folder = fetch(recipe.model)
    encoder = recipe_encoder(
        recipe,
        load_tokenizer(folder),
        context=context_of(read_config(folder)),
        new_tokens=spec.rollout.max_new_tokens,
    )
    return encode_prompts(encoder, groups, report)[: spec.size]


def _reference(spec: CompareSpec, policies: Sequence[Policy]) -> Policy:
    """The policy that KL is measured against: the one asked for, else the last but one."""
    if spec.reference is None:
        return policies[-2] if len(policies) > 1 else policies[0]
    by_name = {policy.name: policy for policy in policies}
    if spec.reference not in by_name:
        raise ConfigError(
            f"compare.reference {spec.reference!r} is no policy; there are {', '.join(by_name)}"
        )
    return by_name[spec.reference]


def _load(policy: Policy, recipe: Recipe) -> Role:
    loaded = load_causal_lm(policy.source, dtype=recipe.dtype, device=pick_device(recipe.device))
    return Role(policy.name, Trunk.from_loaded(loaded))


def _answer(
    role: Role, prompts: Sequence[EncodedPrompt], recipe: Recipe, spec: CompareSpec
) -> list[Completion]:
    encoder = recipe_encoder(recipe, role.trunk.tokenizer)
    engine = TorchEngine(
        role.trunk.model,
        role.trunk.tokenizer,
        max_rows=spec.rollout.max_rows,
        eos_token_ids=encoder.stop_ids,
    )
    requests = [Request(p.prompt.id, p.ids, 1, seed=i) for i, p in enumerate(prompts)]
    return [row[0] for row in engine.generate(requests, sampling(spec.rollout).params)]


def _scores(
    prompts: Sequence[EncodedPrompt],
    completions: Sequence[Completion],
    rewards: Sequence[Reward],
) -> list[dict[int, float]]:
    """Each reward's scores by the prompt's place; those that failed are left out."""
    samples = [
        Sample(p.prompt, c.text, p.ids, c.ids, c.finished)
        for p, c in zip(prompts, completions, strict=True)
    ]
    columns: list[dict[int, float]] = []
    for reward in rewards:
        scores = score_safely(reward, samples)
        values = {i: s.value for i, s in enumerate(scores) if s.value is not None}
        if not values:
            raise RunError(
                f"compare: reward {reward.name!r} failed on all {len(scores)} samples. The first: "
                f"{scores[0].error}\nMend it and go on with --resume; the trained stages are kept."
            )
        columns.append(values)
    return columns


def _gains(
    own: Sequence[dict[int, float]], reference: Sequence[dict[int, float]]
) -> list[Interval]:
    """What each reward gained on the reference, prompt by prompt."""
    gains: list[Interval] = []
    for mine, theirs in zip(own, reference, strict=True):
        both = sorted(mine.keys() & theirs.keys())
        gains.append(paired_difference([mine[i] for i in both], [theirs[i] for i in both]))
    return gains


@torch.no_grad()
def _kl(
    policy: Role,
    reference: Role,
    prompts: Sequence[EncodedPrompt],
    completions: Sequence[Completion],
    temperature: float,
) -> Tensor:
    """[prompts] log(policy / reference) summed over each response the policy wrote, in nats."""
    groups = [
        TokenGroup(str(i), p.ids, (TokenResponse(c.ids, [True] * len(c.ids)),))
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    parts: list[Tensor] = []
    for part in microbatches(groups, TOKENS):
        batch = pack(part).to(policy.trunk.model.device)
        own = policy.logprobs(batch, temperature=temperature).logprobs
        theirs = reference.logprobs(batch, temperature=temperature).logprobs
        parts.append(per_response_sum(own - theirs, batch))
    return torch.cat(parts)


def _text(prompt: EncodedPrompt) -> str:
    if prompt.prompt.text is not None:
        return prompt.prompt.text
    return "\n".join(m.content for m in prompt.prompt.messages)
