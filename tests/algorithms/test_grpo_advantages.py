"""Advantages against loops over groups, and what must hold whatever the settings."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings
from gnomon.algorithms.rollouts import Rollout, group_metrics, right_answers
from gnomon.data.batch import Batch, pack
from gnomon.losses.advantages import EPS, kl_before, token_advantages
from gnomon.records import Judgement, Score, TokenGroup, TokenResponse
from gnomon.rollout.protocol import Completion

LENGTHS = [[3, 1, 4], [2, 2, 5], [1, 6, 2]]
REWARDS = torch.tensor([1.0, 0.0, 0.5, 2.0, 2.0, 2.0, -1.0, 0.25, 0.0])


def groups() -> list[TokenGroup]:
    """Three groups of three; one token in the middle of the longest response does not count."""
    out = []
    for g, lengths in enumerate(LENGTHS):
        responses = []
        for n in lengths:
            mask = [True] * n
            if n == 6:
                mask[2] = False
            responses.append(TokenResponse(list(range(n)), mask))
        out.append(TokenGroup(str(g), [1], tuple(responses)))
    return out


LAYOUT = pack(groups())
KL = torch.rand(len(LAYOUT.response_of), generator=torch.Generator().manual_seed(0)) - 0.3


def settings(**given: object) -> PolicyGradientSettings:
    return PolicyGradientSettings(**given)  # type: ignore[arg-type]


def advantages(
    rewards: Tensor,
    layout: Batch,
    s: PolicyGradientSettings,
    *,
    kl: Tensor | None = None,
    ema: float | None = None,
) -> Tensor:
    """The function that trains, with what the settings say."""
    return token_advantages(
        rewards,
        layout.response_mask,
        layout.response_of,
        layout.group_of,
        baseline=s.baseline,
        scale=s.advantage_scale,
        ema=ema,
        kl=kl,
        beta=s.beta,
        to_go=s.kl_in == "reward_to_go",
    )


def naive(s: PolicyGradientSettings, ema: float | None, with_kl: bool) -> Tensor:
    """Token by token, with statistics written out."""
    tokens = [
        (i, t, bool(LAYOUT.response_mask[row]), float(KL[row]))
        for row, (i, t) in enumerate(
            (i, t) for i, n in enumerate(itertools.chain(*LENGTHS)) for t in range(n)
        )
    ]
    to_go = s.kl_in == "reward_to_go"

    def penalty(i: int, since: int) -> float:
        if not with_kl:
            return 0.0
        return s.beta * sum(k for j, t, m, k in tokens if j == i and t >= since and m)

    R = [float(REWARDS[i]) - penalty(i, 0) for i in range(9)]
    G = [float(REWARDS[i]) - penalty(i, t if to_go else 0) for i, t, _, _ in tokens]
    counted = [g for g, (_, _, m, _) in zip(G, tokens, strict=True) if m]
    everything = counted if to_go else R
    out = []
    for g, (i, _, _, _) in zip(G, tokens, strict=True):
        mine = R[i // 3 * 3 : i // 3 * 3 + 3]
        others = [x for j, x in enumerate(mine) if j != i % 3]
        base = {
            "none": 0.0,
            "group": sum(mine) / 3,
            "leave_one_out": sum(others) / 2,
            "batch": sum(everything) / len(everything),
            "ema": ema if ema is not None else sum(R) / 9,
        }[s.baseline]
        A = g - base
        std = {
            "none": 1.0,
            "group": float(torch.tensor(mine, dtype=torch.float64).std()) + EPS,
            "batch": float(torch.tensor(everything, dtype=torch.float64).std()) + EPS,
        }[s.advantage_scale]
        flat = s.advantage_scale == "group" and max(mine) == min(mine)
        out.append(A / (1.0 if flat else std))
    return torch.tensor(out)


BASELINES = ("none", "group", "leave_one_out", "batch", "ema")
CASES = [
    (b, scale, place)
    for b in BASELINES
    for scale in ("none", "group", "batch")
    for place in ("none", "reward", "reward_to_go")
    if scale != "group" or b in ("group", "leave_one_out")
]


@pytest.mark.parametrize(("baseline", "scale", "place"), CASES)
def test_every_baseline_scale_and_place_of_the_kl(baseline: str, scale: str, place: str) -> None:
    s = settings(baseline=baseline, advantage_scale=scale, kl_in=place)
    s = s.model_copy(update={"beta": 0.3})
    kl = None if place == "none" else KL
    for ema in (None, 0.7):
        found = advantages(REWARDS, LAYOUT, s, kl=kl, ema=ema)
        expected = naive(s, ema, with_kl=kl is not None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_kl_before_a_token_leaves_out_its_own_and_uncounted_ones() -> None:
    found = kl_before(KL, LAYOUT.response_mask, LAYOUT.response_of, 9)
    starts = [0, 3, 4, 8, 10, 12, 17, 18, 24]
    assert found[starts].abs().max() < 1e-6
    masked = 18 + 2
    assert not LAYOUT.response_mask[masked]
    assert found[masked + 1] == pytest.approx(float(KL[18] + KL[19]), abs=1e-6)


@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_a_group_without_spread_has_no_advantage_at_all(baseline: str, scale: str) -> None:
    s = settings(baseline=baseline, advantage_scale=scale)
    rewards = REWARDS.clone()
    rewards[3:6] = 0.1 + 0.2  # its mean need not be itself in floating point
    found = advantages(rewards, LAYOUT, s)
    second = (LAYOUT.response_of >= 3) & (LAYOUT.response_of < 6)
    assert torch.equal(found[second], torch.zeros(int(second.sum())))
    assert found[~second].abs().max() > 0


@pytest.mark.parametrize("baseline", ["none", "batch", "ema"])
def test_a_step_without_spread_is_not_blown_up(baseline: str) -> None:
    s = settings(baseline=baseline, advantage_scale="batch")
    found = advantages(torch.full((9,), 0.1), LAYOUT, s, ema=0.0)
    assert found.abs().max() <= 0.1 + 1e-6


def test_a_group_of_one_has_no_advantage_and_no_nan() -> None:
    one = [TokenGroup("0", [1], (TokenResponse([1, 2], [True, True]),))]
    for baseline in ("group", "leave_one_out"):
        for scale in ("none", "group", "batch"):
            s = settings(baseline=baseline, advantage_scale=scale)
            found = advantages(torch.tensor([3.0]), pack(one), s)
            assert torch.equal(found, torch.zeros(2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"advantage_scale": "group", "baseline": "batch"}, "boundless"),
        ({"ratio": "none", "epochs": 2}, "first step only"),
        ({"ratio": "sequence", "dual_clip": 3.0}, "dual_clip goes with ratio token"),
        ({"beta": 0.1, "kl_in": "none"}, "no effect"),
        ({"beta": 0.0, "sync_reference_every": 5}, "nothing uses a reference"),
        ({"constant_length": 5}, "no effect"),
        ({"clip_low": 1.5}, "below 1"),
        ({"ema_decay": 0.5}, "no effect without baseline: ema"),
        ({"ratio": "none", "clip_high": 0.3}, "no effect without a ratio"),
        ({"truncated_penalty": 2.0}, "no effect without truncated: penalise"),
        ({"overlong_penalty": 2.0}, "no effect without overlong_buffer"),
        ({"max_resamples": 5}, "no effect without zero_spread: resample"),
        ({"importance_correction": "off", "importance_cap": 3.0}, "no effect without importance"),
        ({"dual_clip": 0.5}, "greater than 1"),
        ({"clip_hihg": 0.28}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**given)


# -- metrics --------------------------------------------------------------------------------------


def rollout(values: list[float | None], lengths: list[int], observed: list[float] | None = None):
    completions = [Completion(tuple(range(n)), torch.zeros(n), "eos", "") for n in lengths]
    scores = tuple(Score(v, error="failed" if v is None else None) for v in values)
    seen = {}
    if observed is not None:
        seen["correct"] = Judgement("correct", tuple(Score(v) for v in observed))
    return Rollout(None, completions, Judgement("judge", scores), seen)  # type: ignore[arg-type]


def test_metrics_of_groups_by_hand() -> None:
    rollouts = [rollout([1, 0, 0, 1], [2, 8, 8, 4]), rollout([0, 0, 0, 0], [9, 9, 9, 9])]
    found = group_metrics(rollouts)
    assert found["pass@1"] == pytest.approx(0.25)
    assert found["pass@4"] == pytest.approx(0.5)
    assert found["solved"] == 0
    assert found["unsolved"] == 0.5
    assert found["length_correct"] == 3
    assert found["length_incorrect"] == pytest.approx((16 + 36) / 6)
    assert found["reward_std_in_group"] == pytest.approx((1 / 3) ** 0.5 / 2)


def test_an_observer_called_correct_says_what_is_right() -> None:
    rollouts = [rollout([0.3, 0.7], [1, 5], observed=[1.0, 0.0])]
    assert right_answers(rollouts) == [[True, False]]
    assert group_metrics(rollouts)["length_correct"] == 1
    graded = [rollout([0.3, 0.7], [1, 5])]
    assert right_answers(graded) is None
    assert set(group_metrics(graded)) == {"reward_std_in_group"}


def test_an_observer_may_have_been_asked_about_the_first_prompts_alone() -> None:
    rollouts = [rollout([0.3, 0.7], [1, 5], observed=[1.0, 0.0]), rollout([0.2, 0.9], [3, 4])]
    assert right_answers(rollouts) == [[True, False], [None, None]]
    found = group_metrics(rollouts)
    assert found["pass@1"] == 0.5
    assert (found["length_correct"], found["length_incorrect"]) == (1, 5)


def test_a_reward_of_0_and_1_does_not_stand_in_for_an_observer_that_is_asked_now_and_then() -> None:
    form = rollout([1, 0], [1, 5])  # of a reward that reads form, say
    assert right_answers([form], by_reward=False) is None
    assert "pass@1" in group_metrics([form])
    assert set(group_metrics([form], by_reward=False)) == {"reward_std_in_group"}


def test_a_failed_reward_is_neither_right_nor_wrong() -> None:
    rollouts = [rollout([1, None, 0], [1, 50, 3]), rollout([None, None, None], [1, 1, 1])]
    found = group_metrics(rollouts)
    assert found["pass@1"] == 0.5
    assert "pass@3" not in found  # no group has three judged answers
    assert found["length_incorrect"] == 3
