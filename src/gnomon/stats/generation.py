"""What sampled text looks like: diversity, repetition, length, and whether it ends.

Mode collapse and reward hacking show here before they show in a reward: samples of one prompt grow
alike, phrases repeat, answers lengthen or stop ending. Words are split at white space, so figures
compare across tokenizers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.stats.intervals import (
    Interval,
    bounded_mean,
    finite_or_none,
    mean_interval,
    mean_of_shares,
    mean_samples,
)

NGram = tuple[str, ...]


@dataclass(frozen=True)
class LengthStats:
    """Lengths over all samples (``mean`` with an interval over prompts)."""

    mean: Interval
    std: float
    minimum: float
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True)
class GenerationReport:
    """Figures of P prompts with K samples each.

    Attributes:
        prompts, samples: how many.
        distinct: n -> distinct n-grams / all n-grams over the whole sample (n = 1, 2, 3).
        self_bleu: how alike the samples of one prompt are, 0 to 1, mean over prompts; None when no
            prompt has two samples.
        unique: distinct texts / samples within a prompt, mean over prompts; None likewise.
        repetition: share of 4-grams that repeat an earlier one of the same text, mean over prompts.
        length: in tokens when they were given, else in words (``length_unit``).
        eos: share of samples that ended by themselves, mean over prompts; None when unknown.
        empty: samples without a word.
    """

    prompts: int
    samples: int
    distinct: dict[int, float]
    self_bleu: Interval | None
    unique: Interval | None
    repetition: Interval
    length: LengthStats
    length_unit: str
    eos: Interval | None
    empty: int

    def to_dict(self) -> dict[str, Any]:
        """Nested plain numbers for ``evals.json``."""
        out: dict[str, Any] = {
            "prompts": self.prompts,
            "samples": self.samples,
            **{f"distinct_{n}": finite_or_none(x) for n, x in self.distinct.items()},
            "repetition": self.repetition.to_dict(),
            f"length_{self.length_unit}": {
                **self.length.mean.to_dict(),
                "std": finite_or_none(self.length.std),
                "min": finite_or_none(self.length.minimum),
                "median": finite_or_none(self.length.median),
                "p95": finite_or_none(self.length.p95),
                "max": finite_or_none(self.length.maximum),
            },
            "empty": self.empty,
        }
        optional = {"self_bleu": self.self_bleu, "unique": self.unique, "eos": self.eos}
        return out | {name: i.to_dict() for name, i in optional.items() if i is not None}


def evaluate_generations(
    texts: Sequence[Sequence[str]],
    *,
    finished: Sequence[Sequence[bool]] | None = None,
    lengths: Sequence[Sequence[int]] | None = None,
) -> GenerationReport:
    """Describe ``texts[p][k]``, the k-th sample of prompt p.

    Args:
        finished: the same shape, True where the sample ended with EOS.
        lengths: the same shape, tokens of each sample; words are counted without it.

    Raises:
        ValueError: no samples, or shapes that differ.
    """
    if not texts or any(not samples for samples in texts):
        raise ValueError("every prompt needs at least one sample")
    for name, other in (("finished", finished), ("lengths", lengths)):
        if other is not None and [len(x) for x in other] != [len(x) for x in texts]:
            raise ValueError(f"{name} must hold one entry for each sample of each prompt")
    words = [[text.split() for text in samples] for samples in texts]
    flat = [sample for samples in words for sample in samples]
    sizes = lengths if lengths is not None else [[len(w) for w in samples] for samples in words]
    several = [i for i, samples in enumerate(texts) if len(samples) > 1]
    return GenerationReport(
        prompts=len(texts),
        samples=len(flat),
        distinct={n: distinct_n(flat, n) for n in (1, 2, 3)},
        self_bleu=bounded_mean([self_bleu(words[i]) for i in several]) if several else None,
        unique=(
            bounded_mean([len(set(texts[i])) / len(texts[i]) for i in several]) if several else None
        ),
        repetition=bounded_mean([_mean(repetition_rate(w) for w in s) for s in words]),
        length=_length_stats(sizes),
        length_unit="tokens" if lengths is not None else "words",
        eos=None if finished is None else _share_over_prompts(finished),
        empty=sum(not w for w in flat),
    )


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams / all n-grams of tokenised texts (Li et al. 2016, arXiv 1510.03055).

    It falls as more text is pooled, so compare samples of the same number and length. NaN without
    any n-gram.
    """
    counts = Counter(gram for text in texts for gram in _ngrams(text, n))
    return len(counts) / counts.total() if counts else math.nan


def repetition_rate(words: Sequence[str], n: int = 4) -> float:
    """Share of a text's n-grams that occurred before in it: Welleck et al. 2020's seq-rep-n.

    0 for a text too short to have two n-grams.
    """
    grams = list(_ngrams(words, n))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(samples: Sequence[Sequence[str]], max_n: int = 3) -> float:
    """Mean over samples of BLEU against the prompt's other samples (Zhu et al. 2018, Texygen).

    n-grams up to ``max_n`` that the text is long enough for; clipped precisions with add-one
    smoothing above unigrams (Lin & Och 2004), geometric mean, brevity penalty against the closest
    length. 1 when all samples are the same, 0 when they share no word.
    """
    if len(samples) < 2:
        raise ValueError("self-BLEU needs at least two samples of a prompt")
    return _mean(
        _bleu(sample, [*samples[:i], *samples[i + 1 :]], max_n) for i, sample in enumerate(samples)
    )


def _bleu(words: Sequence[str], references: Sequence[Sequence[str]], max_n: int) -> float:
    if not words:
        return float(any(not r for r in references))
    log_precisions = []
    for n in range(1, min(max_n, len(words)) + 1):
        counts = Counter(_ngrams(words, n))
        allowed: Counter[NGram] = Counter()
        for reference in references:
            allowed |= Counter(_ngrams(reference, n))
        matched, total = (counts & allowed).total(), counts.total()
        if n == 1 and matched == 0:
            return 0.0
        smooth = 0 if n == 1 else 1
        log_precisions.append(math.log((matched + smooth) / (total + smooth)))
    closest = min((len(r) for r in references), key=lambda size: (abs(size - len(words)), size))
    brevity = min(0.0, 1.0 - closest / len(words))
    return math.exp(_mean(log_precisions) + brevity)


def _ngrams(words: Sequence[str], n: int) -> Iterable[NGram]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _share_over_prompts(finished: Sequence[Sequence[bool]]) -> Interval:
    samples = mean_samples([len(row) for row in finished])
    return mean_of_shares([_mean(row) for row in finished], samples)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([float(v) for v in values]))


def _length_stats(sizes: Sequence[Sequence[int]]) -> LengthStats:
    flat = np.array([size for row in sizes for size in row], dtype=np.float64)
    return LengthStats(
        mean=mean_interval([_mean(row) for row in sizes], method="t"),
        std=float(flat.std()),
        minimum=float(flat.min()),
        median=float(np.median(flat)),
        p95=float(np.quantile(flat, 0.95)),
        maximum=float(flat.max()),
    )
