"""On-line preference methods on a tiny model, and pairs worked out without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.algorithms.rollouts import Rollout
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score
from gnomon.models.roles import Role
from gnomon.records import Judgement, TokenGroup
from gnomon.rollout.protocol import Completion, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress
from gnomon.training.sampled import Played, Sampling

ENDS = (tw.EOS, *range(8, 40))
"""Tokens that end a response, so that some finish and some are cut off."""


class Even(SampleJudge):
    """The marker to learn: the share of even tokens."""

    name = "even"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(sum(i % 2 == 0 for i in s.response_ids) / 8) for s in samples]


def make(
    name: str,
    *,
    seed: int = 0,
    lora: bool = False,
    reward: Judge | None = None,
    prompts: int = 6,
    batch_size: int = 4,
    samples: int = 4,
    iterations: int = 8,
    text: bool = False,
    **settings: Any,
) -> Learner:
    """An on-line method that is ready to go."""
    trunk = tw.trunk(seed)
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    policy = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    roles = {"policy": policy}
    if "reference" in tw.role_names(name, **settings):
        moves = lora and tw.moves(name, "reference", **settings)
        if moves:
            trunk.add_adapter("reference", init_from="policy")
        adapter = "reference" if moves else None
        roles["reference"] = Role("reference", trunk if lora else tw.trunk(seed), adapter=adapter)
    engine = TorchEngine(
        trunk.model,
        tw.tokenizer(),
        activate=lambda: trunk.active(policy.adapter),
        eos_token_ids=ENDS,
    )
    bench = Workbench(
        roles,
        seed=seed + 11,
        batch_size=batch_size,
        iterations=iterations,
        tokens_per_microbatch=100_000,
    )
    sampling = Sampling(SamplingParams(max_new_tokens=8), samples)
    return tw.on_prompts(
        name,
        bench,
        Played(engine, reward or Even(), sampling=sampling),
        settings,
        prompts=tw.prompts(prompts),
        held_out=tw.prompts(2, seed=33),
        text=tw.documents() if text else (),
    )


def loop(algorithm: Learner, folder: Path, lr: float = 1e-2, every: int = 1) -> Loop:
    iterations = algorithm.bench.iterations
    options = LoopOptions(
        iterations, lr, schedule="constant", warmup=0, checkpoint_every=every, sample_every=1
    )
    return Loop(algorithm, options, folder, Progress("test", iterations, False))


def weights(algorithm: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in algorithm.named_parameters()}


def rollout(
    rewards: Sequence[float | None],
    ids: Sequence[Sequence[int]] | None = None,
    finish: Sequence[str] | None = None,
) -> Rollout:
    """One prompt's responses, [9, 9, k] unless ``ids`` says otherwise, with these rewards."""
    ids = ids or [(9, 9, k + 20) for k in range(len(rewards))]
    finish = finish or ["eos"] * len(rewards)
    completions = [
        Completion(tuple(i), torch.zeros(len(i)), f, f"text {list(i)}")  # type: ignore[arg-type]
        for i, f in zip(ids, finish, strict=True)
    ]
    scores = tuple(Score(r, error="failed" if r is None else None) for r in rewards)
    return Rollout(tw.prompts(1)[0], completions, Judgement("judge", scores), {})


def sides(group: TokenGroup | None) -> set[tuple[int, int]]:
    """(better, worse) by the last token of each response, less 20: its place in the rollout."""
    assert group is not None
    place = [r.ids[-1] - 20 for r in group.responses]
    return {(place[c.better], place[c.worse]) for c in group.comparisons}


@torch.no_grad()
def sum_logprob(role: Role, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """log pi(response | prompt) by transformers' own forward."""
    with role.trunk.active(role.adapter):
        logits = role.trunk.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
    logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(logp.gather(1, torch.tensor(list(ids))[:, None]).sum())


def all_groups(algorithm: Learner, iteration: int) -> list[TokenGroup]:
    """The groups of an iteration, in the order of their ids."""
    groups = {g.id: g for m in algorithm.experience(iteration).minibatches for g in m.groups}
    return [groups[k] for k in sorted(groups)]


def split_steps(algorithm: Learner, groups: Sequence[TokenGroup]) -> None:
    """The step's loss and gradient hang not on how it is cut into micro-batches."""
    whole_loss, whole = tw.step_gradient(algorithm, groups)
    for tokens in (1, 60):
        loss, cut = tw.step_gradient(algorithm, groups, tokens=tokens)
        assert abs(loss - whole_loss) < 1e-5 * max(1.0, abs(whole_loss))
        assert tw.distance(whole, cut) < 1e-4


def trained(run: Loop) -> list[Mapping[str, Any]]:
    """The rows of metrics.parquet that iterations wrote, without the final evaluation's."""
    return [row for row in run.kept.metrics.rows if not row.get("final")]
