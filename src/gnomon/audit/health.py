"""What goes wrong in training itself: rewards that fail, samplers that differ, critics of no use,
likelihood that goes nowhere, a policy far from its start."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gnomon.audit.change import reward_rose
from gnomon.audit.cures import ON_POLICY, override, slower, stay_near
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.hold import kl_price
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Finding
from gnomon.runs.rows import Column
from gnomon.stats.intervals import Interval, mean_interval, weighted_proportion
from gnomon.stats.prompts import independent_difference

FEW = 5
"""Values of a metric below which nothing is said."""
MOST = 0.5
"""The share of pairs from which displacement is not that of a few."""


def _end(values: Column) -> Interval:
    """The mean of the last fifth of a metric, taken as independent values."""
    last = values[-max(FEW, values.size // 5) :]
    found = mean_interval(last, method="t")
    if math.isnan(found.low) and last.size:  # they are all the same
        return Interval(found.value, found.value, found.value, found.n)
    return found


@of_policies
def reward_errors(evidence: Evidence) -> list[Finding]:
    """The share of rewards that failed, over the whole of training."""
    detector = "reward_errors"
    _, errors = evidence.series("reward_errors")
    if not evidence.trained and not errors.size:
        return []
    if not errors.size or not evidence.rollouts:
        return not_looked(evidence, detector, detector, "samples and the metric reward_errors")
    failed = [sample for sample in evidence.rollouts if sample.error is not None]
    figure = weighted_proportion(
        [float(sample.error is not None) for sample in evidence.rollouts],
        clusters=[(sample.step, sample.prompt_id) for sample in evidence.rollouts],
    )
    return [
        decided(
            evidence,
            detector,
            detector,
            figure,
            measure="rewards that failed among the kept samples, share",
            alarm=f"{figure.value:.0%} of the rewards failed, so what they were of is not trained "
            f"on; the first: {failed[0].error if failed else ''}",
            exhibits=shortened([s.exhibit(s.error or "") for s in failed[:40]]),
            curves=["reward_errors"],
            since=float(failed[0].step) if failed else None,
            cures=[override(evidence, "max_reward_errors", 0)],
        )
    ]


@of_policies
def sampler_mismatch(evidence: Evidence) -> list[Finding]:
    """How far the sampler's log-probs are from the trainer's, at the end of training."""
    detector = "sampler_mismatch"
    steps, values = evidence.series("mismatch")
    if not evidence.trained and not values.size:
        return []
    if values.size < FEW:
        return not_looked(evidence, detector, detector, "the metric mismatch of 5 iterations")
    limit = LIMITS[detector].value
    past = steps[values > limit]
    return [
        decided(
            evidence,
            detector,
            detector,
            _end(values),
            measure="sampler's and trainer's log-probs differ, nats per token",
            alarm="the engine that samples is not the model that is trained: its log-probs differ "
            "from the trainer's, and importance weights of them are wrong",
            curves=["mismatch", "importance_max"],
            since=float(past[0]) if past.size else None,
            cures=_corrected(evidence),
        )
    ]


def _corrected(evidence: Evidence) -> list[str]:
    """Importance weights, in the methods that have them."""
    if evidence.algorithm not in ON_POLICY or evidence.algorithm in ("ppo", "dppo"):
        return []
    return [override(evidence, "settings.importance_correction", "truncate")]


@of_policies
def value_function(evidence: Evidence) -> list[Finding]:
    """How much of the returns' variance the critic explains, over the second half of training."""
    detector = "value_function"
    _, values = evidence.series("explained_variance")
    if not values.size and evidence.algorithm != "ppo":
        return []
    if values.size < 10:
        needs = "the metric explained_variance of 10 iterations"
        return not_looked(evidence, detector, detector, needs)
    figure = mean_interval(values[values.size // 2 :], method="t")
    return [
        decided(
            evidence,
            detector,
            detector,
            figure,
            above=False,
            measure="share of the returns' variance that the value function explains",
            alarm="the value function explains nothing of the returns: the advantages are no "
            "better than without it",
            curves=["explained_variance", "value_loss"],
            cures=[override(evidence, "settings.value_init", start) for start in _starts(evidence)],
        )
    ]


def _starts(evidence: Evidence) -> list[str]:
    """What else PPO's value model can start from."""
    settings = evidence.spec.get("settings")
    known = settings.get("value_init") if isinstance(settings, Mapping) else None
    return ["policy"] if evidence.algorithm == "ppo" and known != "policy" else []


@of_policies
def displacement(evidence: Evidence) -> list[Finding]:
    """What a token of the chosen answers lost in likelihood, where in most of the last pairs both
    sides lost (Razin et al. 2024, arXiv 2410.08847). That both lose a little is usual in DPO."""
    detector = "displacement"
    steps, shares = evidence.series("displacement")
    changes, lengths = (evidence.series(n)[1] for n in ("logprobs/chosen_change", "length/chosen"))
    if not shares.size and evidence.algorithm not in ("dpo", "online_dpo"):
        return []
    if shares.size < FEW or not shares.size == changes.size == lengths.size:
        needs = "the metrics displacement, logprobs/chosen_change and length/chosen of 5 iterations"
        return not_looked(evidence, detector, detector, needs)
    lost = -changes / np.maximum(lengths, 1.0)
    past = steps[lost > LIMITS[detector].value]
    share, figure = _end(shares), _end(lost)
    return [
        decided(
            evidence,
            detector,
            detector,
            figure,
            only_if=share.low > MOST,
            measure="likelihood that a token of the chosen answers lost, nats",
            alarm=f"the chosen answers' tokens lost {figure.value:.2f} nats each, and in "
            f"{share.value:.0%} of the pairs both sides lost: probability goes to answers that "
            "nobody wrote",
            curves=["displacement", "logprobs/chosen_change", "logprobs/rejected_change"],
            since=float(past[0]) if past.size else None,
            cures=[
                *([override(evidence, "settings.nll_coef", 0.2)] if _has_nll(evidence) else []),
                *slower(evidence),
            ],
        )
    ]


def _has_nll(evidence: Evidence) -> bool:
    return evidence.algorithm in ("dpo", "online_dpo", "cpo")


@of_policies
def gibberish(evidence: Evidence) -> list[Finding]:
    """How much less likely the policy's samples became under the reference, from the first fifth
    of training to the last, in nats per token.

    It is entropy and KL per token together: answers that the start model would hardly write.
    """
    detector = "gibberish"
    steps, values = evidence.series("ref_logprob")
    if values.size < 2 * FEW:
        needs = f"the metric ref_logprob of {2 * FEW} iterations (a reference in training)"
        return not_looked(evidence, "reward_hacking", detector, needs)
    k = max(FEW, values.size // 5)
    first, last = mean_interval(values[:k], method="t"), _end(values)
    figure = independent_difference(first, last)
    past = steps[values < first.value - LIMITS[detector].value]
    return [
        decided(
            evidence,
            "reward_hacking",
            detector,
            figure,
            only_if=reward_rose(evidence),
            measure="fall of the samples' log-prob under the reference, nats per token",
            alarm=f"the start model finds the answers {math.exp(figure.value):.0f} times less "
            "likely a token than those of the beginning",
            curves=["ref_logprob", "kl", "entropy"],
            since=float(past[0]) if past.size else None,
            cures=[*stay_near(evidence), *slower(evidence)],
        )
    ]


@of_policies
def kl(evidence: Evidence) -> list[Finding]:
    """How far the policy went from its start: KL over length, both over the last samples."""
    figure = kl_per_token(evidence)
    if figure is None:
        needs = "a KL: a reference in training, or a compare section whose reference is the start"
        return not_looked(evidence, "drift", "kl", needs)
    return [
        decided(
            evidence,
            "drift",
            "kl",
            figure,
            measure="KL from the start model, nats per token",
            alarm=f"the policy is {figure.value:.1f} nats per token from its start model, to which "
            f"a token that it writes is {math.exp(figure.value):.1f} times less likely",
            curves=["kl", "ref_logprob", "entropy"],
            since=far_since(evidence, LIMITS["kl"].value),
            cures=[*stay_near(evidence), *slower(evidence)],
        )
    ]


def stays_near(evidence: Evidence) -> str:
    """That the policy is still near its start, in words; empty where it is not, or nothing says.

    What a reward does not mind is the reward's weakness; it has become the policy's where the
    policy has gone somewhere by it.
    """
    (_, nats), (_, tokens) = evidence.series("kl"), evidence.series("length")
    figure = kl_per_token(evidence)
    if figure is None and 0 < nats.size == tokens.size < FEW and np.all(tokens > 0):
        figure = Interval(float(np.mean(nats / tokens)))  # training has only begun
    if figure is None or not nats.size:
        return ""
    token = figure.value if math.isnan(figure.low) else figure.low
    far = token >= LIMITS["near"].value or _end(nats).value >= LIMITS["near.answer"].value
    return "" if far else f"The policy is near its start still, {figure.value:.2f} nats per token"


def held_back(evidence: Evidence) -> str:
    """That the KL penalty holds a policy that optimises a learned reward, which has not gone as far
    as ``kl`` allows, in words; empty where it does not, or nothing says."""
    price, figure = kl_price(evidence), kl_per_token(evidence)
    if price is None or figure is None or not any(e.get("model") for e in evidence.trained):
        return ""
    if price < LIMITS["kl_price"].value or figure.low >= LIMITS["kl"].value:
        return ""
    return (
        f"The KL penalty holds the policy, {figure.value:.2f} nats per token from its start: a nat "
        f"costs it {price:.2g} standard deviations of the reward"
    )


def left_the_start(evidence: Evidence) -> float | None:
    """The first step whose samples were as far from the start as :func:`stays_near` asks; the last
    one where only the end shows it, None where nothing says."""
    steps, nats = evidence.series("kl")
    _, tokens = evidence.series("length")
    if not 0 < nats.size == tokens.size == steps.size:
        return None
    far = (nats >= LIMITS["near"].value * tokens) | (nats >= LIMITS["near.answer"].value)
    return float(steps[far][0] if far.any() else steps[-1])


def kl_per_token(evidence: Evidence) -> Interval | None:
    """The policy's KL from its start at the end, in nats per token; None where nothing says."""
    return _compared_kl(evidence) or _logged_kl(evidence)


def far_since(evidence: Evidence, limit: float) -> float | None:
    """The first step whose samples were so many nats per token from the start; None where none
    were, or nothing says."""
    steps, nats = evidence.series("kl")
    _, tokens = evidence.series("length")
    if not nats.size == tokens.size == steps.size:
        return None
    past = steps[nats > limit * tokens]
    return float(past[0]) if past.size else None


def _compared_kl(evidence: Evidence) -> Interval | None:
    """KL per token from the comparison, where that is measured from the stage's start."""
    compared = evidence.comparison
    if compared.reference != evidence.start or evidence.stage not in compared.models:
        return None
    columns = {name.split(" ")[0]: i for i, name in enumerate(compared.columns)}
    row = compared.row(evidence.stage)
    values = [row.value(columns[name]) for name in ("KL", "length") if name in columns]
    if len(values) < 2 or values[0] is None or values[1] is None or values[1].value <= 0:
        return None
    nats, tokens = values[0], values[1].value
    return Interval(nats.value / tokens, nats.low / tokens, nats.high / tokens, nats.n)


def _logged_kl(evidence: Evidence) -> Interval | None:
    _, nats = evidence.series("kl")
    _, tokens = evidence.series("length")
    n = min(nats.size, tokens.size)
    if n < FEW or not np.all(tokens[-n:] > 0):
        return None
    return _end(nats[-n:] / tokens[-n:])
