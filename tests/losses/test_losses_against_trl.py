"""The same numbers through TRL's own loss code (the bench extra).

TRL keeps its losses inside trainers, so the trainers' methods are called on a stand-in that carries
only the settings and log-probs they read; no model, tokenizer or data set is involved.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from gnomon.losses.advantages import token_advantages
from gnomon.losses.dpo import (
    dpo,
    hinge,
    ipo,
    length_desensitised_logprobs,
    robust_dpo,
)
from gnomon.losses.kl import kl_estimate
from gnomon.losses.kto import kto, kto_baseline
from gnomon.losses.policy_gradient import importance_weights, ppo_clip
from gnomon.losses.policy_variants import cispo, gmpo, gspo, soft_overlong_penalty
from gnomon.losses.reduce import Totals, aggregate, response_logprobs
from gnomon.losses.reference_free import cpo, orpo, simpo
from gnomon.records import TokenGroup, TokenResponse

pytest.importorskip("trl")

# Four responses: two chosen, two rejected, in TRL's order; lengths differ within both pairs.
LENGTHS = torch.tensor([3, 6, 5, 2])
WIDTH = 6
PADDED = torch.arange(WIDTH) < LENGTHS[:, None]
OF = torch.repeat_interleave(torch.arange(4), LENGTHS)
MASK = torch.ones(int(LENGTHS.sum())).bool()
PAIRS = torch.tensor([[0, 2], [1, 3]])
W_LEN, L_LEN = LENGTHS[:2], LENGTHS[2:]


class Accelerator:
    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = False

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x


class Scored(torch.nn.Module):
    """A "model" whose log-probs are given."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs):
        super().__init__()
        self.given = logprobs
        self.eval()

    def forward(self, **_):
        shape = self.given.shape
        return SimpleNamespace(
            log_probs=self.given,
            entropy=torch.zeros(shape),
            mean_logits=torch.zeros(shape),
            is_top1=torch.zeros(shape).bool(),
        )


def draw(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    dense = -scale * torch.rand(4, WIDTH, generator=generator)
    return dense * PADDED


def flat(dense):
    return dense[PADDED]


POLICY, REF = draw(0, 3.0), draw(1, 3.0)


def summed(dense):
    sums = response_logprobs(flat(dense), MASK, OF, 4)
    return sums[:2], sums[2:]


def trl_dpo(policy, loss_type, **settings):
    from trl.trainer.dpo_trainer import DPOTrainer

    model, reference = Scored(policy), Scored(REF)
    defaults = {
        "beta": 0.3,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
    }
    trainer = SimpleNamespace(
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        model=model,
        ref_model=reference,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        use_weighting=False,
        loss_types=[loss_type],
        loss_weights=[1.0],
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **(defaults | settings),
    )
    mask = torch.cat([torch.zeros(4, 1).bool(), PADDED], dim=1).long()  # one prompt token
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }
    return DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)


DPO_CASES = {
    "sigmoid": (lambda *a: dpo(*a, beta=0.3), {}),
    "hinge": (lambda *a: hinge(*a, beta=0.3), {}),
    "ipo": (lambda *a: ipo(*a, beta=0.3, chosen_length=W_LEN, rejected_length=L_LEN), {}),
    "robust": (
        lambda *a: robust_dpo(*a, beta=0.3, label_smoothing=0.2),
        {"label_smoothing": 0.2},
    ),
    "sigmoid/js": (
        lambda *a: dpo(*a, beta=0.3, divergence="js"),
        {"f_divergence_type": "js_divergence"},
    ),
    "sigmoid/forward_kl": (
        lambda *a: dpo(*a, beta=0.3, divergence="forward_kl"),
        {"f_divergence_type": "forward_kl"},
    ),
    # TRL's alpha is 1 minus the paper's
    "sigmoid/alpha": (
        lambda *a: dpo(*a, beta=0.3, divergence="alpha", alpha=0.3),
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
}


def same_loss_and_gradient(ours, theirs, start):
    """Both as functions of the padded log-probs."""
    x, y = start.clone().requires_grad_(), start.clone().requires_grad_()
    a, b = ours(x), theirs(y)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    (grad_a,) = torch.autograd.grad(a, x)
    (grad_b,) = torch.autograd.grad(b, y)
    torch.testing.assert_close(grad_a * PADDED, grad_b * PADDED, rtol=1e-4, atol=1e-6)
    assert grad_a.abs().sum() > 0


@pytest.mark.parametrize("case", DPO_CASES)
def test_dpo_family(case):
    function, settings = DPO_CASES[case]

    def ours(x):
        (c, r), (rc, rr) = summed(x), summed(REF)
        return function(c, r, rc, rr).mean()

    same_loss_and_gradient(ours, lambda y: trl_dpo(y, case.split("/")[0], **settings), POLICY)


def test_the_comparison_would_notice_a_swap():
    (c, r), (rc, rr) = summed(POLICY), summed(REF)
    swapped = dpo(r, c, rr, rc, beta=0.3).mean()
    assert not torch.allclose(swapped, trl_dpo(POLICY, "sigmoid"))


def test_length_desensitised_dpo():
    def ours(x):
        c, r = length_desensitised_logprobs(flat(x), MASK, OF, LENGTHS, PAIRS, alpha=0.4)
        rc, rr = length_desensitised_logprobs(flat(REF), MASK, OF, LENGTHS, PAIRS, alpha=0.4)
        return dpo(c, r, rc, rr, beta=0.3).mean()

    same_loss_and_gradient(ours, lambda y: trl_dpo(y, "sigmoid", ld_alpha=0.4), POLICY)


def test_kto():
    from trl.trainer.kto_trainer import KTOTrainer

    # A reference below the policy on the mismatched answers, so that the clamp is not what is seen.
    kl_policy, kl_ref = draw(2).sum(1), draw(3).sum(1) - 2.0
    desirable = torch.tensor([True, False, False, True])

    def theirs(policy):
        model, reference = Scored(policy), Scored(REF)
        trainer = SimpleNamespace(
            accelerator=Accelerator(),
            aux_loss_enabled=False,
            precompute_ref_logps=False,
            calculate_KL=True,
            model=model,
            ref_model=reference,
            args=SimpleNamespace(gradient_checkpointing_kwargs=None),
            loss_type="kto",
            beta=0.3,
            desirable_weight=1.2,
            undesirable_weight=0.7,
            _metrics={"eval": defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
            _compute_kl_logps=lambda m, _: kl_policy if m is model else kl_ref,
        )
        mask = torch.cat([torch.zeros(4, 1).bool(), PADDED], dim=1).long()
        inputs = {
            "input_ids": torch.ones_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": desirable,
        }
        return KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)

    def ours(x):
        logprob = response_logprobs(flat(x), MASK, OF, 4)
        ref = response_logprobs(flat(REF), MASK, OF, 4)
        z0 = kto_baseline(kl_policy, kl_ref)
        assert z0 > 0
        args = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
        return kto(logprob, ref, desirable, z0, **args).mean()

    same_loss_and_gradient(ours, theirs, POLICY)


def test_reference_free():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    c, r = summed(POLICY)
    trainer = SimpleNamespace(
        accelerator=Accelerator(), alpha=0.0, beta=0.3, label_smoothing=0.1, loss_type="sigmoid"
    )
    theirs, *_ = CPOTrainer.cpo_loss(trainer, c, r)
    got = cpo(c, r, W_LEN, beta=0.3, nll_weight=0.0, label_smoothing=0.1)
    torch.testing.assert_close(got, theirs)

    trainer.loss_type, trainer.simpo_gamma, trainer.label_smoothing = "simpo", 0.5, 0.0
    theirs, *_ = CPOTrainer.cpo_loss(trainer, c / W_LEN, r / L_LEN)
    torch.testing.assert_close(simpo(c, r, W_LEN, L_LEN, beta=0.3, gamma=0.5), theirs)

    ratio, *_ = ORPOTrainer.odds_ratio_loss(trainer, c / W_LEN, r / L_LEN)
    got = orpo(c, r, W_LEN, L_LEN, beta=0.3)
    torch.testing.assert_close(got, -c / W_LEN - ratio)


# Policy-gradient losses: one more response than groups of two would need, to be ragged.
OLD = POLICY + 0.4 * torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(5)) * PADDED
PER_RESPONSE = torch.tensor([1.3, -0.7, -1.1, 0.6])
TOKEN_ADVANTAGES = PER_RESPONSE[OF]
IS_RATIO = torch.rand(4, WIDTH, generator=torch.Generator().manual_seed(6)) + 0.5


def trl_grpo(policy, loss_type, *, trainer_class=None, tis=False, **settings):
    from trl.trainer.grpo_trainer import GRPOTrainer

    model = Scored(policy)
    defaults = {
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
    }
    trainer = SimpleNamespace(
        accelerator=Accelerator(),
        model=model,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        loss_type=loss_type,
        use_vllm=tis,
        vllm_importance_sampling_correction=tis,
        max_completion_length=10,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, torch.zeros(4, WIDTH), None),
        **(defaults | settings),
    )
    inputs = {
        "prompt_ids": torch.ones(4, 1).long(),
        "prompt_mask": torch.ones(4, 1).long(),
        "completion_ids": torch.ones(4, WIDTH).long(),
        "completion_mask": PADDED.long(),
        "advantages": PER_RESPONSE,
        "old_per_token_logps": OLD,
        "ref_per_token_logps": REF,
        "importance_sampling_ratio": IS_RATIO,
        "num_items_in_batch": LENGTHS.sum(),
    }
    return (trainer_class or GRPOTrainer)._compute_loss(trainer, model, inputs)


def reduced(token_loss, mode):
    responses = tuple(TokenResponse([5] * n, [True] * n) for n in LENGTHS.tolist())
    denominator = Totals.of([TokenGroup("g", [1], responses)]).denominator(mode, 10)
    return aggregate(token_loss, MASK, OF, LENGTHS, mode=mode, denominator=denominator)


@pytest.mark.parametrize(
    ("loss_type", "mode"), [("grpo", "sequence"), ("dapo", "token"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_clipped_surrogate_aggregation_and_kl(loss_type, mode, beta):
    def ours(x):
        loss = ppo_clip(flat(x), flat(OLD), TOKEN_ADVANTAGES, eps_low=0.2, eps_high=0.28)
        return reduced(loss + beta * kl_estimate(flat(x), flat(REF), "k3"), mode)

    same_loss_and_gradient(ours, lambda y: trl_grpo(y, loss_type, beta=beta), POLICY)


def test_truncated_importance_sampling_multiplies_the_loss():
    def ours(x):
        loss = ppo_clip(flat(x), flat(OLD), TOKEN_ADVANTAGES, eps_low=0.2, eps_high=0.28)
        sampler = flat(OLD) - flat(IS_RATIO).log()
        weights = importance_weights(flat(OLD), sampler, correction="truncate", cap=2.0)
        return reduced(loss * weights, "token")

    same_loss_and_gradient(ours, lambda y: trl_grpo(y, "dapo", tis=True), POLICY)


def test_gspo():
    rest = (MASK, OF, LENGTHS)

    def ours(x):
        args = {"eps_low": 0.05, "eps_high": 0.08}
        return reduced(gspo(flat(x), flat(OLD), TOKEN_ADVANTAGES, *rest, **args), "sequence")

    settings = {"importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.08}
    same_loss_and_gradient(ours, lambda y: trl_grpo(y, "grpo", **settings), POLICY)


def test_cispo():
    """TRL's epsilon_high is the upper bound itself; ours, as in the paper, is its excess over 1."""

    def ours(x):
        return reduced(cispo(flat(x), flat(OLD), TOKEN_ADVANTAGES, eps_high=0.3), "token")

    same_loss_and_gradient(ours, lambda y: trl_grpo(y, "cispo", epsilon_high=1.3), POLICY)


def test_gmpo():
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    rest = (MASK, OF, LENGTHS)

    def ours(x):
        args = {"eps_low": 0.3, "eps_high": 0.2}
        return reduced(gmpo(flat(x), flat(OLD), TOKEN_ADVANTAGES, *rest, **args), "sequence")

    settings = {"trainer_class": GMPOTrainer, "epsilon_low": 0.3, "epsilon_high": 0.2}
    same_loss_and_gradient(ours, lambda y: trl_grpo(y, "grpo", **settings), POLICY)


def test_soft_overlong_penalty_and_group_std():
    from trl.rewards import get_soft_overlong_punishment
    from trl.trainer.utils import nanstd

    lengths = [1, 79, 80, 81, 95, 100, 101]
    theirs = get_soft_overlong_punishment(100, 20)([[0] * n for n in lengths])
    got = soft_overlong_penalty(torch.tensor(lengths), max_length=100, buffer=20)
    assert got.tolist() == pytest.approx(theirs)

    rewards = torch.rand(3, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (nanstd(rewards, dim=1)[:, None] + 1e-4)
    group = torch.arange(3).repeat_interleave(4)
    of = torch.arange(12).repeat_interleave(2)  # the same for both tokens of each response
    trained = token_advantages(rewards.flatten(), torch.ones(24).bool(), of, group)
    torch.testing.assert_close(trained, expected.flatten()[of])
