"""The reward model's step against a naive loop over single sequences and single comparisons."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.algorithms.offline_settings import RewardModelSettings
from gnomon.algorithms.reward_model import RewardModel
from gnomon.models.heads import ScalarHead
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner

SEED = 3


def learner(groups: list[TokenGroup] | None = None, **settings: object) -> Learner:
    s = RewardModelSettings(**settings)
    roles = {}
    if s.members == 1 or s.share_trunk:
        head = tw.head(1, outputs=s.members)
        roles["reward_model"] = Role("reward_model", tw.trunk(), head=head, trainable=True)
    else:
        for m in range(s.members):
            name = f"reward_model_{m}"
            roles[name] = Role(name, tw.trunk(m), head=tw.head(1 + m), trainable=True)
    bench = Workbench(
        roles,
        seed=SEED,
        batch_size=3,
        tokens_per_microbatch=100_000,
        normalise_on=tw.demonstrations(5)[:5],
    )
    given = tw.rankings() if groups is None else groups
    return tw.on_groups("reward_model", bench, given, settings, held_out=tw.rankings(7))


def reward_model(groups: list[TokenGroup] | None = None, **settings: object) -> RewardModel:
    """The method alone."""
    algorithm = learner(groups, **settings).algorithm
    assert isinstance(algorithm, RewardModel)
    return algorithm


class Naive:
    """Scores of one sequence at a time, and the loss written out."""

    def __init__(self, members: int = 1, **settings: object) -> None:
        self.model = tw.tiny_model()
        self.head: ScalarHead = tw.head(1, outputs=members)
        self.members = members
        self.settings = settings

    def scores(self, group: TokenGroup) -> list[Tensor]:
        out = []
        for r in group.responses:
            ids = torch.tensor([[*group.prompt_ids, *r.ids]])
            hidden = self.model.model(input_ids=ids).last_hidden_state[0, -1]
            out.append(self.head(hidden))
        return out

    def pair(self, better: Tensor, worse: Tensor, margin: float, tie: bool) -> Tensor:
        if tie:
            return -0.5 * logsigmoid(better - worse) - 0.5 * logsigmoid(worse - better)
        smoothing = self.settings.get("label_smoothing", 0.0)
        z = better - worse - margin
        return -(1 - smoothing) * logsigmoid(z) - smoothing * logsigmoid(-z)

    def bradley_terry(self, group: TokenGroup, member: int, offset: float = 0.0) -> Tensor:
        s = self.scores(group)
        s = [x[member] + offset * sum(r.mask) for x, r in zip(s, group.responses, strict=True)]
        total = torch.zeros(())
        for c in group.comparisons:
            total = total + c.weight * self.pair(s[c.better], s[c.worse], c.margin, c.tie)
        return total / len(group.comparisons)

    def plackett_luce(self, group: TokenGroup, member: int) -> Tensor:
        """One choice after another; each of m tied responses chooses among all not yet better."""
        s = [x[member] for x in self.scores(group)]
        ranks = [r.scalar["rank"] for r in group.responses]
        total, worst = torch.zeros(()), max(ranks)
        for i, rank in enumerate(ranks):
            left = torch.stack([s[j] for j in range(len(s)) if ranks[j] >= rank])
            share = 1.0
            if rank == worst:
                tied = ranks.count(worst)
                share = (tied - 1) / tied
            total = total + share * (left.logsumexp(0) - s[i])
        weights = [c.weight for c in group.comparisons]
        return total * sum(weights) / len(weights)

    def step(self, groups: list[TokenGroup], loss: str = "bradley_terry", **kw: float) -> Tensor:
        fraction = float(self.settings.get("member_fraction", 0.8)) if self.members > 1 else 1.0
        total = torch.zeros(())
        for group in groups:
            for member in range(self.members):
                text = f"{SEED}/{member}/{group.id}".encode()
                place = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
                if self.members == 1 or place < fraction:
                    total = total + group.weight * getattr(self, loss)(group, member, **kw)
        share = 1.0 if self.members == 1 else self.members * fraction
        return total / (sum(g.weight for g in groups) * share)

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        loss.backward()
        named = {f"reward_model.trunk.{n}": p.grad for n, p in self.model.named_parameters()}
        named |= {f"reward_model.head.{n}": p.grad for n, p in self.head.named_parameters()}
        return {n: g for n, g in named.items() if g is not None}


CASES = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "rankings": {"loss": "plackett_luce"},
    "ensemble": {"members": 3, "member_fraction": 0.6},
    "ensemble on rankings": {"members": 2, "loss": "plackett_luce"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_step_is_the_naive_loss(case: str) -> None:
    settings = CASES[case]
    loss, gradient = tw.step_gradient(learner(**settings), tw.rankings())
    naive = Naive(**settings)
    expected = naive.step(tw.rankings(), settings.get("loss", "bradley_terry"))
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert tw.distance(naive.gradient(expected), gradient) < 1e-4


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize(
    "settings",
    [
        *CASES.values(),
        {"members": 2, "share_trunk": False},
        {"length_debias": "offset", "score_penalty": 0.1},
    ],
)
def test_any_split_gives_the_same_gradient(settings: dict, tokens: int) -> None:
    algorithm = learner(**settings)
    loss, whole = tw.step_gradient(algorithm, tw.rankings())
    split_loss, split = tw.step_gradient(algorithm, tw.rankings(), tokens=tokens)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    assert tw.distance(whole, split) < 1e-5


def test_swapped_comparisons_a_lost_margin_and_a_lost_tie_would_be_noticed() -> None:
    right, gradient = tw.step_gradient(learner(), tw.rankings())

    def changed(**change: object) -> list[TokenGroup]:
        return [
            replace(g, comparisons=tuple(replace(c, **change) for c in g.comparisons))
            for g in tw.rankings()
        ]

    swapped = [
        replace(
            g,
            comparisons=tuple(replace(c, better=c.worse, worse=c.better) for c in g.comparisons),
        )
        for g in tw.rankings()
    ]
    for wrong in (swapped, changed(margin=0.0), changed(tie=False), changed(weight=1.0)):
        loss, other = tw.step_gradient(learner(wrong), wrong)
        assert abs(loss - right) > 1e-3
        assert tw.distance(gradient, other) > 1e-2


def test_the_score_is_read_at_the_last_real_token_of_each_response() -> None:
    algorithm = reward_model()
    naive = Naive()
    expected = torch.cat([s for g in tw.rankings() for s in naive.scores(g)])
    for tokens in (1, 100_000):
        algorithm.bench.tokens_per_microbatch = tokens
        found = torch.cat(
            [algorithm.scores(b)[:, 0] for b in algorithm.bench.batches(tw.rankings())]
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_length_offset_explains_labels_while_training_only() -> None:
    """Longer always wins: the fitted term is positive, in the loss, and not in the scores."""
    d = tw.Draw(4)
    groups = [
        TokenGroup(
            f"g{i}",
            d.ids(4),
            (d.response(12 + i, rank=1.0), d.response(4, rank=2.0)),
            tw.rankings()[0].comparisons,
        )
        for i in range(4)
    ]
    groups.append(
        TokenGroup("not", d.ids(4), (d.response(5, rank=1.0), d.response(9, rank=2.0)),
                   tw.rankings()[0].comparisons)
    )  # fmt: skip
    trained = learner(groups, length_debias="offset")
    algorithm = trained.algorithm
    assert isinstance(algorithm, RewardModel)
    assert algorithm.length_offset > 0
    loss, gradient = tw.step_gradient(trained, groups)
    naive = Naive()
    offset = algorithm.length_offset / 100
    expected = naive.step(groups, offset=offset)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert tw.distance(naive.gradient(expected), gradient) < 1e-4
    # the coefficient is where the length-only likelihood with its unit prior is flat
    slope = 0.0
    for g in groups:
        gap = sum(g.responses[0].mask) - sum(g.responses[1].mask)
        slope += gap / 100 * (1 - 1 / (1 + math.exp(-offset * gap)))
    assert slope == pytest.approx(algorithm.length_offset, rel=1e-6)


def test_the_normaliser_puts_demonstrations_at_zero_for_each_member() -> None:
    algorithm = reward_model(members=2)
    normaliser = algorithm.normaliser()
    batches = list(algorithm.bench.batches(tw.demonstrations(5)[:5]))
    rewards = torch.cat(
        [normaliser.apply(algorithm.scores(b), b.lengths) for b in batches]
    ).detach()
    torch.testing.assert_close(rewards.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    raw = torch.cat([algorithm.scores(b) for b in batches]).detach()
    assert raw.mean(0).abs().min() > 1e-3  # it was not zero anyway
    assert reward_model(normalise=False).normaliser().mean == 0.0


def test_the_slope_that_is_taken_off_leaves_no_length_trend_within_prompts() -> None:
    algorithm = reward_model(length_debias="slope")
    normaliser = algorithm.normaliser()
    up, down = 0.0, 0.0
    with torch.no_grad():
        for batch in algorithm.bench.batches(tw.rankings(7)):
            rewards = normaliser.apply(algorithm.scores(batch), batch.lengths)[:, 0]
            for g in range(batch.num_groups):
                own = batch.group_of == g
                length = batch.lengths[own].float()
                centred = length - length.mean()
                up += float((centred * (rewards[own] - rewards[own].mean())).sum())
                down += float(centred.square().sum())
    assert abs(up / down) < 1e-5
    assert abs(normaliser.length_coef[0]) > 1e-4


def test_held_out_accuracy_counts_by_hand() -> None:
    algorithm = learner()
    naive = Naive()
    right = decided = 0
    for group in tw.rankings(7):
        scores = [float(s.detach()) for s in naive.scores(group)]
        for c in group.comparisons:
            if not c.tie:
                weight = c.weight * group.weight
                decided += weight
                right += weight * (scores[c.better] > scores[c.worse])
    found = algorithm.evaluate()
    assert found.metrics["eval/accuracy"] == pytest.approx(right / decided, rel=1e-6)
    assert found.metrics["eval/accuracy_low"] <= found.metrics["eval/accuracy"]


def test_members_of_an_ensemble_see_different_prompts() -> None:
    groups = [replace(g, id=f"{g.id}/{i}") for i in range(20) for g in tw.rankings()]
    algorithm = reward_model(groups, members=3, member_fraction=0.5)
    seen = torch.cat([algorithm._drawn(b, 3) for b in algorithm.bench.batches(groups)])
    assert seen.mean().item() == pytest.approx(0.5, abs=0.1)
    for a in range(3):
        for b in range(a):
            assert (seen[:, a] != seen[:, b]).float().mean() > 0.3


def test_settings_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        RewardModelSettings(loss="plackett_luce", label_smoothing=0.1)
