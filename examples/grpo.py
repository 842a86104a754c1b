"""GRPO from gnomon's parts: a whole training loop on a verifier, to read and to change.

    python examples/grpo.py                       # the built-in world, about a minute of one core
    python examples/grpo.py --seed 1 --steps 40 --lr 2e-4

Four verbs, one after the other, again and again:

    sample   the policy answers each of P prompts K times
    judge    a verifier says which answers are right: a reward for each
    credit   A = (reward - mean of its group) / std of its group, for each token of an answer
    learn    PPO's clipped objective on these advantages, a step of AdamW

(Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3; the KL penalty is off by default.)

The last letter of a tensor's name is its shape: R response tokens of a batch, S its responses. So
``advantage_R`` has a value for each token, ``reward_S`` one for each response, and
``reward_S[batch.response_of]`` turns the second shape into the first.

The built-in model knows the words of its little world, but hardly any arithmetic. So it first
imitates some answers, right and wrong ones (``imitate``), and GRPO starts from there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

import gnomon
from gnomon.api.parts import Model
from gnomon.data.batch import Batch, Sampler, epoch_order
from gnomon.losses.advantages import token_advantages, zero_spread
from gnomon.losses.kl import kl_estimate
from gnomon.losses.policy_gradient import importance_weights, ppo_clip
from gnomon.losses.reduce import aggregate, masked_sum
from gnomon.records import Group


@dataclass(frozen=True)
class Settings:
    """What can be set; each is an option of the command too."""

    model: str = "tunnel"
    seed: int = 0
    imitate: int = 100  # steps on demonstrations before GRPO begins
    steps: int = 40
    prompts: int = 48  # P, in each step
    samples: int = 8  # K, answers to each prompt
    minibatches: int = 2  # optimizer steps that an iteration's answers are split into
    lr: float = 4e-4
    clip_low: float = 0.2
    clip_high: float = 0.28  # above clip_low, it keeps exploration alive (DAPO)
    beta: float = 0.0  # of the KL penalty; above 0 a reference is kept
    temperature: float = 1.0
    max_new_tokens: int = 32
    held_out: int = 100  # prompts that are only evaluated on


# -- the four verbs --------------------------------------------------------------------------------


def sample(model: Model, prompts: Sequence[Group], s: Settings, seed: int, k: int) -> list[Group]:
    """K answers to each prompt, with the log-probs that they were sampled at."""
    return gnomon.sample(
        model,
        prompts,
        samples=k,
        temperature=s.temperature,
        max_new_tokens=s.max_new_tokens,
        seed=seed,
    )


def judge(groups: Sequence[Group]) -> list[Group]:
    """1 for an answer that is right and finished, else 0: a program checks it, not a model."""
    return gnomon.judge("correct", groups)


@torch.no_grad()
def credit(model: Model, batch: Batch, s: Settings) -> Batch:
    """The batch with what each of its tokens is worth; all of it is constant.

    Answers better than the others to their prompt get a positive advantage, worse ones a negative
    one, and all tokens of an answer share it. Where all K answers are equally good it is 0: there
    is nothing to be learned.
    """
    reward_S = batch.scalar["reward"]
    advantage_R = token_advantages(reward_S, batch.response_mask, batch.response_of, batch.group_of)
    old_R = model.policy.logprobs(batch, temperature=s.temperature).logprobs
    sampler_R = batch.token["sampler_logprobs"]  # it rounds in another way than the trainer
    weight_R = importance_weights(old_R, sampler_R, correction="truncate", cap=2.0)
    known = {"advantages": advantage_R, "old_logprobs": old_R, "weights": weight_R}
    if s.beta:
        reference = model.reference.logprobs(batch, temperature=s.temperature)
        known["ref_logprobs"] = reference.logprobs
    return replace(batch, token={**batch.token, **known})


def learn(
    model: Model, optimizer: torch.optim.Optimizer, minibatch: Sequence[Batch], s: Settings
) -> float:
    """One optimizer step; returns its loss.

    The loss is a mean over all responses of the *step*. So each batch is divided by their number in
    the whole step, not by its own: the gradient is then the same however the step is cut up.
    """
    model.policy.train()
    responses = sum(int((batch.lengths > 0).sum()) for batch in minibatch)
    total = 0.0
    for batch in minibatch:
        logprob_R = model.policy.logprobs(batch, temperature=s.temperature).logprobs
        old_R, advantage_R = batch.token["old_logprobs"], batch.token["advantages"]
        loss_R = batch.token["weights"] * ppo_clip(
            logprob_R, old_R, advantage_R, eps_low=s.clip_low, eps_high=s.clip_high
        )
        if s.beta:
            loss_R = loss_R + s.beta * kl_estimate(logprob_R, batch.token["ref_logprobs"], "k3")
        loss = aggregate(
            loss_R,
            batch.response_mask,
            batch.response_of,
            batch.lengths,
            mode="sequence",  # a mean over each response's tokens, then over responses
            denominator=responses,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    step(model, optimizer)
    return total


def step(model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Clip the gradient's norm to 1 and move the weights."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.policy.eval()


# -- before and after ------------------------------------------------------------------------------


def imitate(model: Model, s: Settings) -> None:
    """Supervised fine-tuning from the same parts: the tokens of 32 demonstrations a step."""
    groups = gnomon.read("tunnel:demonstrations", n=2000, seed=1)
    order = Sampler(len(groups), 32, s.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0)
    for i in range(s.imitate):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * i / s.imitate))
        batches = gnomon.pack([groups[k] for k in order.batch(i)], model)
        tokens = sum(int(batch.lengths.sum()) for batch in batches)
        model.policy.train()
        for batch in batches:
            logprob_R = model.policy.logprobs(batch).logprobs
            nll = -masked_sum(logprob_R, batch.response_mask) / tokens
            nll.backward()  # type: ignore[no-untyped-call]
        step(model, optimizer)


def right(groups: Sequence[Group]) -> float:
    """The share of right answers; one that could not be judged is left out, not taken as wrong."""
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    return sum(rewards) / len(rewards)


def evaluate(model: Model, s: Settings) -> float:
    """The share of right answers to prompts that are never trained on, with the same seeds."""
    prompts = gnomon.read(
        "tunnel:prompts", n=s.held_out, seed=5, families=["arithmetic"], split="heldout"
    )
    return right(judge(sample(model, prompts, s, seed=2**30, k=1)))


# -- the loop --------------------------------------------------------------------------------------


def train(s: Settings) -> list[dict[str, float]]:
    """Train, and return a row of figures for each iteration."""
    torch.manual_seed(s.seed)
    model = gnomon.load(s.model, max_length=128)
    imitate(model, s)
    if s.beta:  # the reference is the policy as GRPO begins
        model = model.with_reference()
    prompts = gnomon.read("tunnel:prompts", n=4000, seed=4, families=["arithmetic"])
    order = Sampler(len(prompts), s.prompts, s.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, betas=(0.9, 0.95), weight_decay=0)
    rows = [{"held_out": evaluate(model, s)}]
    print(f"before GRPO: {rows[0]['held_out']:.3f} of held-out answers are right", flush=True)
    for i in range(s.steps):
        asked = [prompts[k] for k in order.batch(i)]
        groups = judge(sample(model, asked, s, seed=s.seed * 1_000_003 + i, k=s.samples))
        places = epoch_order(len(groups), s.seed * 7_919 + i, 0)  # in random order
        parts = [[groups[k] for k in places[m :: s.minibatches]] for m in range(s.minibatches)]
        # all is credited before the first step, so that old_R is of one policy
        credited = [[credit(model, b, s) for b in gnomon.pack(part, model)] for part in parts]
        losses = [learn(model, optimizer, minibatch, s) for minibatch in credited]
        spread_G = [zero_spread(b.scalar["reward"], b.group_of) for part in credited for b in part]
        row = {"reward": right(groups), "loss": sum(losses) / len(losses)}
        row["no_signal"] = float(torch.cat(spread_G).float().mean())  # groups that teach nothing
        rows.append(row)
        print(f"step {i + 1:3}  " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    rows.append({"held_out": evaluate(model, s)})
    print(f"after GRPO: {rows[-1]['held_out']:.3f} of held-out answers are right", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Read the command's options and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return train(Settings(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
