"""The DPO family, KTO and the reference-free losses: papers' equations worked in plain Python."""

import math

import pytest
import torch

from gnomon.losses.dpo import (
    dpo,
    f_derivative,
    hinge,
    implicit_reward,
    ipo,
    length_desensitised_logprobs,
    length_regularised_dpo,
    margin,
    nll_term,
    plackett_luce_dpo,
    robust_dpo,
)
from gnomon.losses.kto import kto, kto_baseline
from gnomon.losses.reference_free import cpo, log_odds, orpo, simpo


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# One comparison: log-ratios are 2 - so beta h = 0.5 * (2 - (-1)) = 1.5 at beta 0.5.
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = t(-10), t(-21), t(-12), t(-20)
ARGS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
W_LEN, L_LEN = t(4), t(10)


def test_hand_worked_values():
    plus, minus = log_sigmoid(1.5), log_sigmoid(-1.5)
    worked = {
        "dpo": (dpo(*ARGS, beta=0.5), -plus),
        "cdpo": (dpo(*ARGS, beta=0.5, label_smoothing=0.2), -0.8 * plus - 0.2 * minus),
        "robust": (
            robust_dpo(*ARGS, beta=0.5, label_smoothing=0.2),
            (-0.8 * plus + 0.2 * minus) / 0.6,
        ),
        "ipo": (ipo(*ARGS, beta=0.5), (3 - 1) ** 2),
        "ipo, averaged": (
            ipo(*ARGS, beta=0.5, chosen_length=W_LEN, rejected_length=L_LEN),
            (2 / 4 + 1 / 10 - 1) ** 2,
        ),
        "hinge inside": (hinge(*ARGS, beta=0.1), 1 - 0.3),
        "hinge beyond": (hinge(*ARGS, beta=0.5), 0.0),
        "r-dpo": (
            length_regularised_dpo(*ARGS, W_LEN, L_LEN, beta=0.5, length_coef=0.1),
            -log_sigmoid(1.5 + 0.1 * (4 - 10)),
        ),
        "nll": (nll_term(CHOSEN, W_LEN), 2.5),
        "simpo": (
            simpo(CHOSEN, REJECTED, W_LEN, L_LEN, beta=2.0, gamma=0.5),
            -log_sigmoid(2 * (-2.5 + 2.1) - 0.5),
        ),
        "cpo": (
            cpo(CHOSEN, REJECTED, W_LEN, beta=0.1, nll_weight=0.7),
            -log_sigmoid(0.1 * 11) + 0.7 * 2.5,
        ),
        "orpo": (
            orpo(CHOSEN, REJECTED, W_LEN, L_LEN, beta=0.1),
            2.5
            - 0.1
            * log_sigmoid(
                math.log(math.exp(-2.5) / (1 - math.exp(-2.5)))
                - math.log(math.exp(-2.1) / (1 - math.exp(-2.1)))
            ),
        ),
        "kto, good": (
            kto(CHOSEN, REF_CHOSEN, torch.tensor([True]), 0.4, beta=0.5, desirable_weight=1.3),
            1.3 * (1 - math.exp(log_sigmoid(0.5 * (2 - 0.4)))),
        ),
        "kto, bad": (
            kto(REJECTED, REF_REJECTED, torch.tensor([False]), 0.4, beta=0.5, undesirable_weight=2),
            2 * (1 - math.exp(log_sigmoid(0.5 * (0.4 + 1)))),
        ),
    }
    for name, (got, expected) in worked.items():
        assert got.item() == pytest.approx(expected), name
    assert implicit_reward(CHOSEN, REF_CHOSEN, 0.5).item() == 1.0


def every_loss(c, r, rc, rr, wl, ll):
    yes, no = torch.ones_like(c).bool(), torch.zeros_like(c).bool()
    group, rank = (
        torch.arange(len(c)).repeat(2),
        torch.cat([torch.ones(len(c)), 2 * torch.ones(len(c))]),
    )
    return {
        "dpo": dpo(c, r, rc, rr, beta=0.1),
        "cdpo": dpo(c, r, rc, rr, beta=0.1, label_smoothing=0.1),
        "forward_kl": dpo(c, r, rc, rr, beta=0.1, divergence="forward_kl"),
        "js": dpo(c, r, rc, rr, beta=0.1, divergence="js"),
        "alpha": dpo(c, r, rc, rr, beta=0.1, divergence="alpha", alpha=0.3),
        "robust": robust_dpo(c, r, rc, rr, beta=0.1, label_smoothing=0.1),
        "ipo": ipo(c, r, rc, rr, beta=0.1, chosen_length=wl, rejected_length=ll),
        "hinge": hinge(c, r, rc, rr, beta=0.1),
        "r-dpo": length_regularised_dpo(c, r, rc, rr, wl, ll, beta=0.1, length_coef=0.02),
        "plackett": plackett_luce_dpo(
            torch.cat([c, r]), torch.cat([rc, rr]), rank, group, len(c), beta=0.1
        ),
        "simpo": simpo(c, r, wl, ll, beta=2.0, gamma=1.0),
        "orpo": orpo(c, r, wl, ll, beta=0.1),
        "cpo": cpo(c, r, wl, beta=0.1, label_smoothing=0.1),
        "kto": kto(c, rc, yes, 0.3, beta=0.1) + kto(r, rr, no, 0.3, beta=0.1),
    }


NAMES = list(every_loss(*[t(-5.0)] * 4, t(3), t(4)))


def sample(count=5):
    generator = torch.Generator().manual_seed(0)
    draw = -20 * torch.rand(4, count, generator=generator, dtype=torch.float64) - 5
    lengths = torch.randint(3, 20, (2, count), generator=generator).double()
    return [*draw, *lengths]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_their_direction(name):
    """Fails for any loss whose sign is wrong: chosen must rise, rejected must fall."""
    c, r, *rest = sample()
    c, r = c.requires_grad_(), r.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: every_loss(a, b, *rest)[name], (c, r))
    grad_c, grad_r = torch.autograd.grad(every_loss(c, r, *rest)[name].sum(), (c, r))
    assert (grad_c < 0).all()
    assert (grad_r > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_unreduced_and_finite_far_out(name):
    c, r, *rest = (x.float() for x in sample())
    assert every_loss(c, r, *rest)[name].shape == c.shape
    for shift in (-3000.0, 3000.0):
        far = (r + shift).requires_grad_()
        loss = every_loss(c, far.clamp(max=0), *rest)[name]
        (grad,) = torch.autograd.grad(loss.sum(), far)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(grad).all()


def test_no_loss_depends_on_what_both_answers_share():
    """Log-probs that cancel (the prompt's, say) must do so: h is a difference of ratios."""
    shift = 3.7
    moved = (CHOSEN + shift, REJECTED + shift, REF_CHOSEN + shift, REF_REJECTED + shift)
    torch.testing.assert_close(dpo(*moved, beta=0.5), dpo(*ARGS, beta=0.5))


def numeric_f_derivative(f, u, step=1e-6):
    return (f(u + step) - f(u - step)) / (2 * step)


@pytest.mark.parametrize(
    ("divergence", "alpha", "f"),
    [
        ("reverse_kl", 0.5, lambda u: u * math.log(u)),
        ("forward_kl", 0.5, lambda u: -math.log(u)),
        ("js", 0.5, lambda u: u * math.log(u) - (u + 1) * math.log((u + 1) / 2)),
        (
            "alpha",
            0.3,
            lambda u: (u**0.7 - 0.7 * u - 0.3) / (0.3 * (0.3 - 1)),
        ),
    ],
)
def test_f_derivative_is_the_derivative_of_f_up_to_a_constant(divergence, alpha, f):
    """The constant cancels in the margin, so differences between two points are compared."""
    points = (0.2, 0.9, 3.0)
    got = f_derivative(t(*points).log(), divergence, alpha)
    numeric = [numeric_f_derivative(f, u) for u in points]
    for i in (1, 2):
        assert (got[i] - got[0]).item() == pytest.approx(numeric[i] - numeric[0], rel=1e-6)


def test_alpha_divergence_reaches_both_kl_limits():
    u = t(-1.0, 0.5, 2.0)
    torch.testing.assert_close(f_derivative(u, "alpha", 1.0), f_derivative(u, "forward_kl"))
    torch.testing.assert_close(f_derivative(u, "alpha", 1e-7), u, atol=1e-5, rtol=0)
    h = margin(*ARGS, divergence="js")
    expected = math.log(math.exp(2) / (1 + math.exp(2))) - math.log(
        math.exp(-1) / (1 + math.exp(-1))
    )
    assert h.item() == pytest.approx(expected)


def test_robust_dpo_is_unbiased_under_flips():
    """(1 - eps) L(true order) + eps L(flipped) is the clean DPO loss."""
    eps = 0.3
    swapped = (REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN)
    mean = (1 - eps) * robust_dpo(*ARGS, beta=0.5, label_smoothing=eps) + eps * robust_dpo(
        *swapped, beta=0.5, label_smoothing=eps
    )
    torch.testing.assert_close(mean, dpo(*ARGS, beta=0.5))


def test_length_regularisation_learns_less_from_longer_chosen_answers():
    def pull(chosen_length: float) -> float:
        c = CHOSEN.clone().requires_grad_()
        args = (c, REJECTED, REF_CHOSEN, REF_REJECTED, t(chosen_length), t(10))
        length_regularised_dpo(*args, beta=0.5, length_coef=0.1).sum().backward()
        return abs(c.grad.item())

    assert pull(30) < pull(10) < pull(5)


def test_length_desensitised_logprobs_match_a_loop():
    generator = torch.Generator().manual_seed(1)
    sizes = [3, 0, 6, 1, 4]
    of = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    logprobs = -torch.rand(14, generator=generator, dtype=torch.float64)
    mask = torch.ones(14).bool()
    mask[4] = mask[7] = False  # inside response 2, and not at its end
    kept = [logprobs[(of == s) & mask].tolist() for s in range(5)]
    lengths = torch.tensor([len(k) for k in kept])
    pairs = torch.tensor([[0, 2], [2, 3], [4, 0], [1, 4]])  # responses reused, one empty
    chosen, rejected = length_desensitised_logprobs(logprobs, mask, of, lengths, pairs, alpha=0.25)
    for c, (w, l_) in enumerate(pairs.tolist()):
        public = min(len(kept[w]), len(kept[l_]))
        for got, tokens in ((chosen[c], kept[w]), (rejected[c], kept[l_])):
            expected = sum(tokens[:public]) + 0.25 * sum(tokens[public:])
            assert got.item() == pytest.approx(expected)
    whole, _ = length_desensitised_logprobs(logprobs, mask, of, lengths, pairs, alpha=1.0)
    torch.testing.assert_close(whole, t(*[sum(kept[w]) for w in pairs[:, 0].tolist()]))


def test_length_desensitised_gradient_is_alpha_on_the_surplus_and_zero_where_masked():
    logprobs = torch.zeros(5, requires_grad=True)
    mask = torch.tensor([True, True, False, True, True])
    of, lengths = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([3, 1])
    chosen, _ = length_desensitised_logprobs(
        logprobs, mask, of, lengths, torch.tensor([[0, 1]]), alpha=0.5
    )
    chosen.sum().backward()
    assert logprobs.grad.tolist() == [1, 0.5, 0, 0.5, 0]


def test_plackett_luce_dpo_of_two_is_dpo():
    got = plackett_luce_dpo(
        torch.cat([REJECTED, CHOSEN]),
        torch.cat([REF_REJECTED, REF_CHOSEN]),
        t(2, 1),
        torch.zeros(2).long(),
        1,
        beta=0.5,
    )
    torch.testing.assert_close(got, dpo(*ARGS, beta=0.5))


def test_kto_baseline_is_clamped_and_constant():
    policy = t(-3, -5).requires_grad_()
    assert kto_baseline(policy, t(-4, -7)).item() == 1.5
    assert kto_baseline(policy, t(-2, -2)).item() == 0
    baseline = kto_baseline(policy, t(-4, -7))
    assert not baseline.requires_grad
    loss = kto(policy, t(-4, -7), torch.tensor([True, False]), policy.mean(), beta=0.1)
    (grad,) = torch.autograd.grad(loss.sum(), policy)
    fixed = kto(policy, t(-4, -7), torch.tensor([True, False]), -4.0, beta=0.1)
    torch.testing.assert_close(grad, torch.autograd.grad(fixed.sum(), policy)[0])


def test_log_odds_at_both_ends():
    x = t(0.0, -1e-9, -0.6, -0.8, -50.0).requires_grad_()
    got = log_odds(x)
    got.sum().backward()
    assert torch.isfinite(got).all()
    assert torch.isfinite(x.grad).all()
    assert got[1].item() == pytest.approx(math.log(1e9), rel=1e-6)
    for i in (2, 3, 4):
        v = x[i].item()
        assert got[i].item() == pytest.approx(v - math.log(1 - math.exp(v)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="beta must be positive"):
        dpo(*ARGS, beta=0.0)
    with pytest.raises(ValueError, match="label_smoothing"):
        dpo(*ARGS, beta=0.1, label_smoothing=0.7)
    with pytest.raises(ValueError, match="label_smoothing"):
        robust_dpo(*ARGS, beta=0.1, label_smoothing=0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        dpo(CHOSEN, REJECTED[:, None], REF_CHOSEN, REF_REJECTED, beta=0.1)
    with pytest.raises(ValueError, match="both chosen_length"):
        ipo(*ARGS, beta=0.1, chosen_length=W_LEN)
    with pytest.raises(ValueError, match="unknown divergence"):
        dpo(*ARGS, beta=0.1, divergence="kl")
    with pytest.raises(ValueError, match="alpha"):
        dpo(*ARGS, beta=0.1, divergence="alpha", alpha=2.0)
    with pytest.raises(ValueError, match="beta must be positive"):
        kto(CHOSEN, REF_CHOSEN, torch.tensor([True]), 0.0, beta=-1)
