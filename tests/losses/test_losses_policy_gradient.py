"""PPO and its successors: worked values, which tokens get a gradient, and naive loops."""

import math

import pytest
import torch

from gnomon.losses.policy_gradient import (
    importance_ratio,
    importance_weights,
    is_clipped,
    ppo_clip,
    reinforce,
)
from gnomon.losses.policy_variants import (
    cispo,
    gmpo,
    gspo,
    sequence_ratio,
    soft_overlong_penalty,
)
from gnomon.losses.reduce import aggregate


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ratio, advantage, expected loss, whether a gradient flows (eps 0.2)
CASES = [
    (1.1, 2.0, -2.2, True),
    (1.5, 2.0, -2.4, False),  # clipped above
    (0.5, 2.0, -1.0, True),  # below, but the min keeps it
    (1.5, -2.0, 3.0, True),
    (0.5, -2.0, 1.6, False),  # clipped below
    (0.9, -2.0, 1.8, True),
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "flows"), CASES)
def test_ppo_clip_by_cases(ratio, advantage, expected, flows):
    logprobs = t(math.log(ratio)).requires_grad_()
    loss = ppo_clip(logprobs, t(0), t(advantage), eps_low=0.2)
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected)
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if flows else 0.0)
    assert is_clipped(t(ratio), t(advantage)).item() is (not flows)


def test_clip_higher_moves_only_the_upper_clip():
    args = (t(math.log(1.25)), t(0), t(1))
    assert ppo_clip(*args, eps_low=0.2).item() == pytest.approx(-1.2)
    assert ppo_clip(*args, eps_low=0.2, eps_high=0.28).item() == pytest.approx(-1.25)
    low = (t(math.log(0.5)), t(0), t(-1))
    assert ppo_clip(*low, eps_low=0.2, eps_high=0.28).item() == pytest.approx(0.8)


def test_dual_clip_bounds_exploded_ratios_of_bad_tokens_only():
    ratio, bad, good = t(math.log(50)).requires_grad_(), t(-1), t(1)
    assert ppo_clip(ratio, t(0), bad).item() == pytest.approx(50)
    bounded = ppo_clip(ratio, t(0), bad, dual_clip=3.0)
    assert bounded.item() == pytest.approx(3)
    assert torch.autograd.grad(bounded.sum(), ratio)[0].item() == 0
    assert ppo_clip(ratio, t(0), good, dual_clip=3.0).item() == pytest.approx(-1.2)
    with pytest.raises(ValueError, match="dual_clip"):
        ppo_clip(ratio, t(0), bad, dual_clip=1.0)


def test_on_policy_all_have_the_policy_gradient():
    """At ratio 1 every method's gradient is that of REINFORCE: -A grad log pi (mean per response
    for the sequence-level ones). Fails on a wrong sign."""
    advantages = t(1.0, 1.0, -0.5, -0.5, -0.5)
    of, lengths, mask = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3]), torch.ones(5).bool()
    old = t(-1, -2, -0.3, -0.7, -1.1)

    def grad(loss_of):
        x = old.clone().requires_grad_()
        loss = aggregate(loss_of(x), mask, of, lengths, mode="sequence", denominator=2)
        return torch.autograd.grad(loss, x)[0]

    expected = grad(lambda x: reinforce(x, advantages))
    assert (expected[:2] < 0).all()
    rest = (mask, of, lengths)
    for loss_of in (
        lambda x: ppo_clip(x, old, advantages),
        lambda x: cispo(x, old, advantages, eps_high=0.2),
        lambda x: gspo(x, old, advantages, *rest),
        lambda x: gmpo(x, old, advantages, *rest),
    ):
        torch.testing.assert_close(grad(loss_of), expected)


def ragged():
    generator = torch.Generator().manual_seed(0)
    of = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    mask = torch.tensor([1, 1, 1, 1, 0, 1, 1, 0]).bool()
    old = -torch.rand(8, generator=generator, dtype=torch.float64)
    new = old + 0.5 * torch.randn(8, generator=generator, dtype=torch.float64)
    return new, old, mask, of, torch.tensor([3, 3, 0])


def test_gspo_and_gmpo_match_loops():
    new, old, mask, of, lengths = ragged()
    per_response = t(1.5, -0.8, 2.0)
    s = sequence_ratio(new, old, mask, of, lengths)
    got_gspo = gspo(new, old, per_response[of], mask, of, lengths, eps_low=0.05, eps_high=0.1)
    got_gmpo = gmpo(new, old, per_response[of], mask, of, lengths, eps_low=0.3, eps_high=0.2)
    for i in range(2):
        rows = ((of == i) & mask).nonzero().flatten().tolist()
        gaps = [(new[r] - old[r]).item() for r in rows]
        ratio, a = math.exp(sum(gaps) / len(gaps)), per_response[i].item()
        assert s[i].item() == pytest.approx(ratio)
        clipped = min(max(ratio, 0.95), 1.1)
        cut = [min(g, 0.2) if a > 0 else max(g, -0.3) for g in gaps]
        geometric = math.exp(sum(cut) / len(cut))
        for r in rows:
            assert got_gspo[r].item() == pytest.approx(-min(ratio * a, clipped * a))
            assert got_gmpo[r].item() == pytest.approx(-geometric * a)
    assert s[2] == 1  # nothing counted


def test_masked_tokens_do_not_touch_a_sequence_ratio():
    new, old, mask, of, lengths = ragged()
    changed = torch.where(mask, new, torch.tensor(-1e3, dtype=new.dtype))
    torch.testing.assert_close(
        sequence_ratio(changed, old, mask, of, lengths),
        sequence_ratio(new, old, mask, of, lengths),
    )
    # and without the mask it would
    assert not torch.allclose(
        sequence_ratio(changed, old, torch.ones_like(mask), of, torch.tensor([3, 4, 1])),
        sequence_ratio(new, old, mask, of, lengths),
    )


def test_cispo_keeps_a_gradient_where_ppo_has_none():
    logprobs = t(math.log(3)).requires_grad_()
    clipped = cispo(logprobs, t(0), t(2), eps_high=0.5)
    assert torch.autograd.grad(clipped.sum(), logprobs)[0].item() == pytest.approx(-1.5 * 2)
    ppo = ppo_clip(logprobs, t(0), t(2))
    assert torch.autograd.grad(ppo.sum(), logprobs)[0].item() == 0


def test_gradcheck():
    new, old, mask, of, lengths = ragged()
    x = new.clone().requires_grad_()
    a = t(1.5, -0.8, 2.0)[of]
    rest = (mask, of, lengths)
    for loss_of in (
        lambda v: ppo_clip(v, old, a, eps_low=0.2, eps_high=0.3, dual_clip=3.0),
        lambda v: gspo(v, old, a, *rest, eps_low=0.5, eps_high=0.5),
        lambda v: gmpo(v, old, a, *rest),
        lambda v: reinforce(v, a),
    ):
        assert torch.autograd.gradcheck(loss_of, (x,))


def test_an_exploded_ratio_leaves_no_nan_behind():
    logprobs = torch.zeros(2, requires_grad=True)
    old, advantages = torch.tensor([-1000.0, 0.0]), torch.ones(2)
    loss = ppo_clip(logprobs, old, advantages).masked_fill(torch.tensor([True, False]), 0).sum()
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert grad.tolist() == [0, -1]
    assert torch.isfinite(importance_ratio(logprobs, old)).all()


def test_importance_weights_against_the_sampler():
    old, sampler = t(math.log(0.6), math.log(0.1), math.log(0.5)), t(*[math.log(0.2)] * 3)
    weights = importance_weights(old.requires_grad_(), sampler, correction="truncate", cap=2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.5, 2.0])
    assert not weights.requires_grad
    kept = importance_weights(old, sampler, correction="mask", cap=2.6)
    assert kept.tolist() == pytest.approx([0.0, 0.5, 2.5])
    fewer = importance_weights(old, sampler, correction="mask", cap=1.9)
    assert fewer.tolist() == [0.0, 0.0, 0.0]
    assert importance_weights(old, sampler, correction="off", cap=2.0).tolist() == [1.0] * 3
    with pytest.raises(ValueError, match="cap must be above 0"):
        importance_weights(old, sampler, correction="truncate", cap=0.0)
    with pytest.raises(ValueError, match="cap must be above 1"):
        importance_weights(old, sampler, correction="mask", cap=1.0)


def test_soft_overlong_penalty_by_cases():
    lengths = torch.tensor([10, 80, 90, 100, 130])
    got = soft_overlong_penalty(lengths, max_length=100, buffer=20)
    assert got.tolist() == [0, 0, -0.5, -1, -1]
    assert soft_overlong_penalty(lengths, max_length=100, buffer=0).tolist() == [0, 0, 0, 0, -1]
    with pytest.raises(ValueError, match="buffer"):
        soft_overlong_penalty(lengths, max_length=10, buffer=20)
