"""PPO on a tiny model, and the whole of PPO written again on padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.sampled import Played, Sampling


class Spread(SampleJudge):
    """A reward that differs between samples: counts of low token ids, over ten."""

    name = "spread"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(sum(i % 7 for i in s.response_ids) / 10) for s in samples]


def roles(lora: bool = False) -> dict[str, Role]:
    """Policy, reference (= where the policy started) and a value model that is not zero."""
    shared = tw.trunk()
    if lora:
        shared.add_adapter("policy", tw.LORA, seed=1)
        shared.add_adapter("value_model", tw.LORA, seed=2)
        policy = Role("policy", shared, adapter="policy", trainable=True)
        reference = Role("reference", shared)
        value = Role("value_model", shared, adapter="value_model", head=_head(), trainable=True)
    else:
        policy = Role("policy", shared, trainable=True)
        reference = Role("reference", tw.trunk())
        value = Role("value_model", tw.trunk(4), head=_head(), trainable=True)
    return {"policy": policy, "reference": reference, "value_model": value}


def _head():
    return tw.head(8, bias=True)


def make_ppo(
    *,
    lora: bool = False,
    reward: Judge | None = None,
    observers: Sequence[Judge] = (),
    samples: int = 2,
    temperature: float = 1.0,
    final_temperature: float | None = None,
    new_tokens: int = 6,
    iterations: int = 4,
    prompts: int = 4,
    text: bool = False,
    max_reward_errors: float = 0.05,
    seed: int = 11,
    moved: bool = True,
    top_p: float = 1.0,
    eos: Sequence[int] = (tw.EOS, *range(8, 200)),
    **settings: object,
) -> Learner:
    """A PPO that is ready to go.

    Args:
        moved: the policy has already left its reference.
        eos: many tokens end a response, so that some finish and some are cut off.
    """
    made = roles(lora)
    if moved:
        tw.shake(made["policy"], 0.03)
    engine = TorchEngine(
        made["policy"].trunk.model,
        tw.tokenizer(),
        activate=lambda: made["policy"].trunk.active(made["policy"].adapter),
        eos_token_ids=eos,
    )
    played = Played(
        engine,
        reward or Spread(),
        observers=observers,
        sampling=Sampling(
            SamplingParams(max_new_tokens=new_tokens, temperature=temperature, top_p=top_p),
            samples,
            final_temperature,
        ),
        max_reward_errors=max_reward_errors,
    )
    bench = Workbench(
        made,
        seed=seed,
        batch_size=prompts,
        iterations=iterations,
        tokens_per_microbatch=100_000,
    )
    return tw.on_prompts(
        "ppo",
        bench,
        played,
        {"epochs": 1, "minibatches": 1, **settings},
        prompts=tw.prompts(prompts),
        held_out=tw.prompts(2, seed=33),
        text=tw.documents() if text else (),
    )


# -- PPO again, from the papers, on [S, T] tensors padded on the right -----------------------------


@dataclass
class Padded:
    """One row for each response; ``mask`` [S, T] marks its tokens."""

    rows: list[list[int]]
    starts: list[int]
    mask: Tensor
    reward: Tensor
    finished: Tensor

    @classmethod
    def of(cls, groups: Sequence[TokenGroup]) -> Padded:
        pairs = [(g, r) for g in groups for r in g.responses]
        width = max(len(r.ids) for _, r in pairs)
        mask = torch.zeros(len(pairs), width, dtype=torch.bool)
        for i, (_, r) in enumerate(pairs):
            mask[i, : len(r.ids)] = True
        return cls(
            rows=[[*g.prompt_ids, *r.ids] for g, r in pairs],
            starts=[len(g.prompt_ids) for g, _ in pairs],
            mask=mask,
            reward=torch.tensor([r.scalar["reward"] for _, r in pairs]),
            finished=torch.tensor([r.scalar["finished"] for _, r in pairs]),
        )

    def spread(self, per_row: Callable[[int], Tensor]) -> Tensor:
        """[S, T] from each row's own values, zero beyond its end."""
        rows = [per_row(i) for i in range(len(self.rows))]
        width = self.mask.shape[1]
        return torch.stack([torch.nn.functional.pad(r, (0, width - r.numel())) for r in rows])

    def flat(self, values: Tensor) -> Tensor:
        return values[self.mask]

    def logits(self, role: Role, i: int) -> Tensor:
        """[T, V] that predict row i's response tokens, by transformers' own forward pass."""
        with role.trunk.active(role.adapter):
            out = role.trunk.model(input_ids=torch.tensor([self.rows[i]])).logits[0]
        return out[self.starts[i] - 1 : -1]

    def logprobs(self, role: Role, temperature: float) -> Tensor:
        def row(i: int) -> Tensor:
            logp = (self.logits(role, i) / temperature).log_softmax(-1)
            ids = torch.tensor(self.rows[i][self.starts[i] :])
            return logp.gather(1, ids[:, None])[:, 0]

        return self.spread(row)

    def entropy(self, role: Role, temperature: float) -> Tensor:
        def row(i: int) -> Tensor:
            logp = (self.logits(role, i) / temperature).log_softmax(-1)
            return -(logp.exp() * logp).sum(-1)

        return self.spread(row)

    def values(self, role: Role) -> tuple[Tensor, Tensor]:
        """V before each response token [S, T], and V after the last one [S]."""
        after: list[Tensor] = []

        def row(i: int) -> Tensor:
            with role.trunk.active(role.adapter):
                out = role.trunk.model.model(input_ids=torch.tensor([self.rows[i]]))
            value = role.head(out.last_hidden_state[0])[:, 0]
            after.append(value[-1])
            return value[self.starts[i] - 1 : -1]

        return self.spread(row), torch.stack(after)

    def token_rewards(self, score: Tensor, old: Tensor, reference: Tensor, beta: float) -> Tensor:
        """-beta log(pi / pi_ref) everywhere, and the score on the last real token."""
        rewards = -beta * (old - reference) * self.mask
        for i in range(len(self.rows)):
            rewards[i, int(self.mask[i].sum()) - 1] += score[i]
        return rewards

    def gae(
        self, rewards: Tensor, values: Tensor, after: Tensor, gamma: float, lam: float
    ) -> tuple[Tensor, Tensor]:
        """Backwards over time, row by row; ``after`` [S] is V beyond the last token."""
        advantages = torch.zeros_like(rewards)
        for i in range(len(self.rows)):
            running, next_value = 0.0, float(after[i])
            for t in reversed(range(int(self.mask[i].sum()))):
                delta = float(rewards[i, t]) + gamma * next_value - float(values[i, t])
                running = delta + gamma * lam * running
                advantages[i, t] = running
                next_value = float(values[i, t])
        return advantages, advantages + values

    def whiten(self, x: Tensor) -> Tensor:
        mean = x[self.mask].mean()
        std = x[self.mask].std(correction=0)
        return (x - mean) / (std + 1e-8) * self.mask
