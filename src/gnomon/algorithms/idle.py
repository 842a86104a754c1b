"""Why an iteration trained nothing, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping


def why_idle(metrics: Mapping[str, float]) -> str | None:
    """The reason with its cure, judged by the iteration's row of metrics; None where it did."""
    if metrics["grad_norm"]:
        return None
    if metrics.get("zero_spread") == 1.0:
        return (
            f"all responses to each prompt have the same reward (its mean is "
            f"{metrics.get('reward', 0.0):g}), so none is better than another; look at the "
            "reward, raise rollout.samples, or take prompts that are neither too easy nor too "
            "hard"
        )
    if metrics.get("groups_trained") == 0.0 and metrics.get("finished", 1.0) < 1.0:
        return (
            f"only {metrics['finished']:.0%} of the responses ended by themselves, and those that "
            "settings.truncated leaves in have the same reward; raise rollout.max_new_tokens, or "
            "take truncated: keep"
        )
    if metrics.get("prompts_used") == 0.0:
        return "no response was good enough to learn from (check the threshold and the cut-offs)"
    return "its gradient is 0: look whether all its rows weigh 0, or have no token to learn from"
