"""Numbers, names and units as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gnomon.stats.intervals import Interval

# Metric -> (title, unit). The order is the order of panels; metrics not listed follow by name.
METRICS: dict[str, tuple[str, str]] = {
    "loss": ("Loss", ""),
    "accuracy": ("Ranking accuracy", "share of pairs"),
    "margin": ("Margin, better - worse", "reward"),
    "reward": ("Trained reward", "reward"),
    "gold": ("Gold reward (simulated truth)", "reward"),
    "kl": ("KL from the reference", "nats per response"),
    "length": ("Response length", "tokens"),
    "entropy": ("Policy entropy", "nats per token"),
    "finished": ("Responses that end by themselves", "share"),
    "ece": ("Calibration error (ECE)", "probability"),
    "clip_fraction": ("Ratios clipped", "share of tokens"),
    "value_loss": ("Value loss", "reward²"),
    "explained_variance": ("Explained variance of returns", "share"),
    "beta": ("KL coefficient β", "reward per nat"),
    "kl_price": ("Price of KL", "spreads of the reward per nat"),
    "mismatch": ("Sampler-trainer mismatch", "nats per token"),
    "ref_logprob": ("Likelihood under the reference", "nats per token"),
    "disagreement": ("Disagreement of the ensemble", "reward"),
    "length_reward_corr": ("Length against reward, within prompts", "correlation"),
    "reward_p05": ("Worst rewards", "5th percentile"),
    "reward_p95": ("Best rewards", "95th percentile"),
    "advantage_std": ("Spread of the advantages", "reward"),
    "distinct_within": ("Variety of a prompt's answers", "distinct 2-grams, share"),
    "distinct_across": ("Variety over prompts", "distinct 2-grams, share"),
    "self_similarity": ("Sameness of answers to different prompts", "overlap of 2-grams"),
    "opening_share": ("Commonest opening", "share of responses"),
    "repetition": ("Repetition within a response", "share of 3-grams"),
    "language_share": ("Commonest script", "share of responses"),
    "refusals": ("Refusals", "share of responses"),
    "truncated": ("Responses cut off", "share"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "lr": ("Learning rate", ""),
    "tokens_per_second": ("Throughput", "tokens / s"),
    "peak_rss_gb": ("Peak memory", "GB"),
    "peak_gpu_gb": ("Peak GPU memory", "GB"),
}

LOWER_IS_BETTER = ("loss", "ece", "error", "errors", "repetition", "mismatch")
NEUTRAL = ("kl", "length", "tokens", "seconds", "memory", "entropy")


def better_sign(column: str) -> int:
    """+1 where a higher value of a compared column is better, -1 where a lower one is, else 0."""
    words = set(re.findall(r"[^\W_]+", column.lower()))
    if words & set(NEUTRAL):
        return 0
    return -1 if words & set(LOWER_IS_BETTER) else 1


def metric_label(name: str) -> tuple[str, str]:
    """(title, unit) of a metric column; an unknown one is titled by its own name."""
    return METRICS.get(name, (name.replace("_", " ").replace("/", ": "), ""))


def number(x: float | None) -> str:
    """About three significant digits: 0.714, 12.3, 1 240, 2.1e-06; "n/a" without a value."""
    return "n/a" if x is None or not math.isfinite(x) else _number(x, _decimals([x]))


def value(m: Interval) -> str:
    """The value, to as many decimals as its interval's ends are shown with; "n/a" for none."""
    if not math.isfinite(m.value):
        return "n/a"
    return _number(m.value, _decimals(_ends(m)))


def interval(m: Interval) -> str:
    """ "[low, high] n=20", without what was not given."""
    parts = []
    if m.known:
        decimals = _decimals(_ends(m))
        parts.append(f"[{_number(m.low, decimals)}, {_number(m.high, decimals)}]")
    if m.n:
        parts.append(f"n={count(m.n)}")
    return " ".join(parts)


def count(n: float) -> str:
    """How many observations: whole, or to a decimal where weights made it a small fraction."""
    return f"{n:.1f}" if n < 10 and not float(n).is_integer() else f"{n:,.0f}".replace(",", " ")


def measured(m: Interval | None) -> str:
    """The value with its interval and number behind it."""
    return "n/a" if m is None else f"{value(m)} {interval(m)}".rstrip()


def _ends(m: Interval) -> list[float]:
    return [x for x in (m.value, m.low, m.high) if math.isfinite(x)]


def _decimals(values: list[float]) -> int:
    size = max(abs(x) for x in values)
    if size >= 1000 or all(float(x).is_integer() for x in values):
        return 0
    return 3 if size < 10 else 1


def _number(x: float, decimals: int) -> str:
    if x != 0 and not 1e-3 <= abs(x) < 1e7:
        return f"{x:.2g}"
    return f"{x + 0.0:,.{decimals}f}".replace(",", " ")


def duration(seconds: float | None) -> str:
    """48 s, 12 min 05 s, 3 h 20 min."""
    if seconds is None or not math.isfinite(seconds):
        return "n/a"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def flatten(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of a nested mapping, for tables of settings and versions."""
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(str(v) for v in value)
        elif isinstance(value, float):
            yield name, number(value)
        else:
            yield name, "n/a" if value is None else str(value)
