"""The policy-gradient family on a tiny model, and its objectives written again, paper by paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ppo_zoo import Padded
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Experience, Learner
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress
from gnomon.training.sampled import Played, Sampling

ENDS = (tw.EOS, *range(8, 60))
"""Tokens that end a response, so that some finish and some are cut off."""
PRESETS = (
    *("grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo", "gmpo", "reinforce"),
    *("dppo", "maxrl"),
)
NEW_TOKENS = 6
TIGHT = 5e-4
"""A trust region that some tokens of a small move are outside of."""


class Spread(SampleJudge):
    """A reward that differs between samples; that of the prompts in ``flat`` is always 1."""

    name = "spread"

    def __init__(self, flat: Sequence[str] = ()) -> None:
        self.flat = set(flat)
        self.asked: list[str] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        self.asked += [s.prompt.id for s in samples]
        return [
            Score(1.0 if s.prompt.id in self.flat else sum(i % 7 for i in s.response_ids) / 10)
            for s in samples
        ]


class Even(SampleJudge):
    """The behaviour to learn: the share of even tokens."""

    name = "even"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(sum(i % 2 == 0 for i in s.response_ids) / NEW_TOKENS) for s in samples]


class Listed(SampleJudge):
    """Rewards in the order of the samples, the same in every call (in one of fewer samples, the
    first of them); None fails."""

    name = "listed"

    def __init__(self, *values: float | None) -> None:
        self.values = values

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        values = self.values[: len(samples)]
        return [
            Score(v, error="failed" if v is None else None)
            for v, _ in zip(values, samples, strict=True)
        ]


def make(
    name: str = "grpo",
    *,
    lora: bool = False,
    reward: Judge | None = None,
    observers: Sequence[Judge] = (),
    prompts: int = 4,
    batch_size: int = 4,
    samples: int = 4,
    iterations: int = 4,
    temperature: float = 1.0,
    moved: bool = False,
    seed: int = 0,
    eos: Sequence[int] = ENDS,
    max_reward_errors: float = 0.5,
    **settings: Any,
) -> Learner:
    """A member of the family, ready to go; ``moved``: the policy has left its reference."""
    trunk = tw.trunk(seed)
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    policy = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    roles = {"policy": policy}
    if "reference" in tw.role_names(name, **settings):
        if lora and tw.moves(name, "reference", **settings):
            trunk.add_adapter("reference", init_from="policy")
            roles["reference"] = Role("reference", trunk, adapter="reference")
        else:
            roles["reference"] = Role("reference", trunk if lora else tw.trunk(seed))
    if moved:
        tw.shake(policy, 0.05)
    engine = TorchEngine(
        trunk.model,
        tw.tokenizer(),
        activate=lambda: trunk.active(policy.adapter),
        eos_token_ids=eos,
    )
    played = Played(
        engine,
        reward or Spread(),
        observers=observers,
        sampling=Sampling(
            SamplingParams(max_new_tokens=NEW_TOKENS, temperature=temperature), samples
        ),
        max_reward_errors=max_reward_errors,
    )
    bench = Workbench(
        roles,
        seed=seed + 11,
        batch_size=batch_size,
        iterations=iterations,
        tokens_per_microbatch=100_000,
    )
    return tw.on_prompts(
        name,
        bench,
        played,
        settings,
        prompts=tw.prompts(prompts),
        held_out=tw.prompts(2, seed=33),
    )


def loop(algorithm: Learner, folder: Path, lr: float = 1e-2, every: int = 1000) -> Loop:
    n = algorithm.bench.iterations
    options = LoopOptions(n, lr, schedule="constant", warmup=0, checkpoint_every=every, seed=3)
    return Loop(algorithm, options, folder, Progress("test", n, False))


def weights(algorithm: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in algorithm.named_parameters()}


def trained(experience: Experience) -> list[TokenGroup]:
    """The groups of an iteration's first step that are trained on."""
    assert len(experience.minibatches) >= 1
    return experience.minibatches[0].trained


def counted(experience: Experience) -> list[TokenGroup]:
    """All groups of an iteration's first step, those that only count in its normaliser too."""
    return list(experience.minibatches[0].groups)


def column(groups: Sequence[TokenGroup], name: str) -> Tensor:
    return torch.cat([r.token[name] for g in groups for r in g.responses])


def advantages(experience: Experience) -> list[list[float]]:
    """Of each trained group in the order they were sampled, the advantage of each response."""
    groups = {g.id: g for m in experience.minibatches for g in m.trained}
    order = sorted(groups, key=lambda k: int(k.split(":")[1]))
    return [[float(r.token["advantages"][0]) for r in groups[k].responses] for k in order]


# -- the family again, from the papers, on [S, T] tensors padded on the right ----------------------


def naive_advantages(name: str, rewards: Tensor, kl: Tensor | None, mask: Tensor) -> Tensor:
    """[S, T] from rewards [G, K], and k1 [S, T] where the penalty is in the reward."""
    K, T = rewards.shape[1], mask.shape[1]
    mean = rewards.mean(1, keepdim=True)
    if name == "maxrl":
        per = (rewards - mean) / (mean + 1e-4)
    elif name in ("grpo", "dapo", "gspo", "cispo", "gmpo", "dppo"):
        per = (rewards - mean) / (rewards.std(1, keepdim=True) + 1e-4)
    elif name == "dr_grpo":
        per = rewards - mean
    elif name == "reinforce":  # no earlier iteration: this one's mean
        per = rewards - rewards.mean()
    elif name == "rloo":
        assert kl is not None
        total = rewards - 0.05 * (kl * mask).sum(1).reshape(rewards.shape)
        others = [
            [total[g, torch.arange(K) != i].mean() for i in range(K)] for g in range(len(total))
        ]
        per = total - torch.tensor(others)
    else:
        assert name == "reinforce_pp"
        assert kl is not None
        flat = rewards.flatten()
        out = torch.zeros(len(flat), T)
        for i in range(len(flat)):
            for t in range(T):
                out[i, t] = flat[i] - 0.01 * (kl[i, t:] * mask[i, t:]).sum()
        seen = out[mask]
        return (out - seen.mean()) / seen.std()
    return per.flatten()[:, None].expand(-1, T)


def naive_token_loss(name: str, new: Tensor, old: Tensor, A: Tensor, mask: Tensor) -> Tensor:
    """[S, T] the losses of the papers, with the settings of the presets."""
    ratio = torch.exp(new - old)
    n = mask.sum(1, keepdim=True)
    if name == "reinforce":
        return -A * new
    if name == "dppo":  # with TIGHT, so that some are left out
        moved = new.exp() - old.exp()
        return -torch.where(A.sign() * moved > TIGHT, 0.0, ratio * A)
    if name == "cispo":
        return -(ratio.clamp(0, 5).detach() * A * new)
    if name == "gspo":
        s = torch.exp(((new - old) * mask).sum(1, keepdim=True) / n).expand_as(A)
        return -torch.minimum(s * A, s.clamp(1 - 3e-4, 1 + 4e-4) * A)
    if name == "gmpo":
        clipped = torch.minimum(A.sign() * (new - old), A.sign() * (new - old).clamp(-0.4, 0.4))
        product = torch.exp((A.sign() * clipped * mask).sum(1, keepdim=True) / n)
        return -(product * A)
    high = 0.28 if name == "dapo" else 0.2
    return -torch.minimum(ratio * A, ratio.clamp(0.8, 1 + high) * A)


def naive_loss(name: str, per_token: Tensor, mask: Tensor) -> Tensor:
    """The aggregation of each paper; ``per_token`` [S, T]."""
    S = len(per_token)
    if name in ("dapo", "cispo", "reinforce_pp", "dppo", "maxrl"):
        return per_token[mask].sum() / mask.sum()
    if name in ("dr_grpo", "rloo", "reinforce"):
        return per_token[mask].sum() / (S * NEW_TOKENS)
    return sum((per_token[i][mask[i]].mean() for i in range(S)), torch.zeros(())) / S


def padded(groups: Sequence[TokenGroup]) -> tuple[Padded, Callable[[Role], Tensor]]:
    """The groups as padded rows, and a role's log-probs of them [S, T]."""
    p = Padded.of(groups)
    return p, lambda role: p.logprobs(role, 1.0)


def finite(metrics: Any) -> bool:
    return all(math.isfinite(v) for v in metrics.values())
