"""Whether two sets of texts come from the same source: a two-sample test by a classifier.

A classifier that tells texts of the two sets apart on texts that it has not seen shows that they
differ (Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests"). Its accuracy there, as
the area under the ROC curve (AUC), is 0.5 where nothing tells them apart.

The classifier is regularised least squares over words, pairs of words and length (Rifkin, Yeo &
Poggio 2003, "Regularized least-squares classification"), which finds a difference of topic,
wording, language, length or format, and none that only a reader would. Its held-out scores are in
closed form, so that hundreds of random divisions cost little more than one.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from gnomon.errors import DataError
from gnomon.stats.intervals import Floats, Interval, t_quantile
from gnomon.stats.texts import words

BUCKETS = 2**12
"""Hashed words and pairs of words."""
FOLDS = 5
LEAST = 20
"""Texts of a set below which nothing is said."""
MOST = 500
"""Texts of a set beyond which a sample is taken."""
PENALTY = 0.5
"""What the weights' squared length counts against the sum of squared errors."""


@dataclass(frozen=True)
class TwoSample:
    """Whether two sets of texts can be told apart.

    Attributes:
        auc: area under the ROC curve on texts that the classifier had not seen: how often a text of
            the second set looks more like it than one of the first does; with its interval.
        p: share of the random divisions of all texts into two such sets, this one among them, whose
            area is as far above 0.5; small where they differ.
        detectable: the smallest area that so many texts show with a chance of 80%.
        foreign: places in the second set of the texts that are least like the first, the most
            foreign first.
        n: texts compared of each set.
    """

    auc: Interval
    p: float
    detectable: float
    foreign: list[int]
    n: tuple[int, int]


def two_sample(
    first: Sequence[str], second: Sequence[str], *, seed: int = 0, permutations: int = 199
) -> TwoSample:
    """Compare two sets of texts; the same call gives the same figures.

    Texts that both sets hold speak against a difference, as they should; the same text twice in one
    set counts once.

    Raises:
        DataError: fewer than 20 different texts in a set.
    """
    a, b = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    for name, texts in (("first", a), ("second", b)):
        if len(texts) < LEAST:
            raise DataError(
                f"the {name} set has {len(texts)} different texts; {LEAST} are needed to compare"
            )
    rng = random.Random(seed)
    a = rng.sample(a, min(len(a), MOST))
    places = rng.sample(range(len(b)), min(len(b), MOST))
    texts = [*a, *(b[i] for i in places)]
    # a text in both sets must not teach the classifier what it is then asked
    folds = [zlib.crc32(f"{seed}/{text}".encode()) % FOLDS for text in texts]
    labels = np.array([0.0] * len(a) + [1.0] * len(places))
    machine = _Classifier(hashed(texts), np.array(folds))
    scores = machine.held_out(labels)
    area = auc(scores, labels)
    shuffled = (np.random.default_rng([seed, i]).permutation(labels) for i in range(permutations))
    chance = [auc(machine.held_out(other), other) for other in shuffled]
    p = (1 + sum(other >= area - 1e-12 for other in chance)) / (1 + permutations)
    interval = auc_interval(area, len(a), len(places))
    spread = float(np.std(chance)) if permutations > 1 else _error(0.5, len(a), len(places))
    order = np.argsort(-scores[len(a) :], kind="stable")
    return TwoSample(
        interval,
        p,
        min(1.0, 0.5 + (1.6449 + 0.8416) * spread),
        [places[i] for i in order.tolist()],
        (len(a), len(places)),
    )


def hashed(texts: Sequence[str]) -> csr_matrix:
    """[n, BUCKETS + 2] sparse: which words and pairs of neighbouring words a text has, each row of
    length 1; then the logarithm of its words and a constant."""
    rows, columns, values = [], [], []
    for i, text in enumerate(texts):
        found = words(text)
        grams = {*found, *map(" ".join, pairwise(found))}
        places = {zlib.crc32(g.encode()) % BUCKETS for g in grams}
        share = 1.0 / math.sqrt(max(1, len(places)))
        rows += [i] * (len(places) + 2)
        columns += [*sorted(places), BUCKETS, BUCKETS + 1]
        values += [share] * len(places) + [0.2 * math.log1p(len(found)), 1.0]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), BUCKETS + 2))


class _Classifier:
    """Regularised least squares, fitted without one fold at a time.

    With K the texts' inner products and H = K (K + penalty)^-1, labels y have the fitted values
    H y, and those of a fit without the fold o are y_o - (I - H_oo)^-1 (y - H y)_o.
    """

    def __init__(self, features: csr_matrix, folds: NDArray[np.int64]) -> None:
        kernel = np.asarray((features @ features.T).todense())
        size = kernel.shape[0]
        self.hat = np.linalg.solve(kernel + PENALTY * np.eye(size), kernel)
        self.folds = [np.flatnonzero(folds == f) for f in range(FOLDS)]
        self.left_out = [np.linalg.inv(np.eye(o.size) - self.hat[np.ix_(o, o)]) for o in self.folds]

    def held_out(self, labels: Floats) -> Floats:
        """[n] how much each text looks like one of the second set, as ranks within its fold:
        fits without different folds are not on one scale."""
        y = labels - labels.mean()
        errors = y - self.hat @ y
        scores = np.zeros(y.size)
        for out, inverse in zip(self.folds, self.left_out, strict=True):
            if out.size:
                scores[out] = rankdata(y[out] - inverse @ errors[out]) / (out.size + 1.0)
        return scores


def auc(scores: Floats, labels: Floats) -> float:
    """Area under the ROC curve: Mann and Whitney's U over the number of pairs, ties half."""
    positive = labels > 0.5
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def auc_interval(area: float, n: int, m: int, level: float = 0.95) -> Interval:
    """The interval of an area by Hanley & McNeil's standard error (1982, Radiology 143), on the
    scale of log-odds, so that it stays within 0 and 1."""
    error = _error(area, n, m)
    inside = min(max(area, 1e-3), 1 - 1e-3)
    centre, half = math.log(inside / (1 - inside)), error / (inside * (1 - inside))
    half *= t_quantile(level, n + m - 2)
    low, high = float(expit(centre - half)), float(expit(centre + half))
    return Interval(area, min(low, area), max(high, area), float(min(n, m)), level)


def _error(area: float, n: int, m: int) -> float:
    area = min(max(area, 1e-3), 1 - 1e-3)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    square = area * (1 - area) + (n - 1) * (one - area**2) + (m - 1) * (two - area**2)
    return math.sqrt(max(square, 0.0) / (n * m))
