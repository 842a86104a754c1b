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
MOST = 400
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
        foreign: texts of the second set, those least like the first set's first.
        n: texts compared of each set.
    """

    auc: Interval
    p: float
    detectable: float
    foreign: list[str]
    n: tuple[int, int]


def two_sample(
    first: Sequence[str], second: Sequence[str], *, seed: int = 0, permutations: int = 199
) -> TwoSample:
    """Compare two sets of texts; the same call gives the same figures.

    At most 400 texts of each are drawn. Texts that both sets hold speak against a difference, as
    they should; the same text twice in one set counts once.

    Raises:
        DataError: fewer than 20 different texts in a set.
    """
    rng = random.Random(seed)
    a = _some(first, "first", rng)
    b = _some(second, "second", rng)
    texts = [*a, *b]
    # a text in both sets must not teach the classifier what it is then asked
    folds = [zlib.crc32(f"{seed}/{text}".encode()) % FOLDS for text in texts]
    labels = np.array([0.0] * len(a) + [1.0] * len(b))
    draw = np.random.default_rng(seed)
    every = np.stack([labels, *(draw.permutation(labels) for _ in range(permutations))], axis=1)
    scores = _held_out(hashed(texts), np.array(folds), every)
    area, *chance = auc(scores, every).tolist()
    p = (1 + sum(other >= area - 1e-12 for other in chance)) / (1 + permutations)
    spread = float(np.std(chance)) if permutations > 1 else _error(0.5, len(a), len(b))
    order = np.argsort(-scores[len(a) :, 0], kind="stable")
    return TwoSample(
        auc_interval(area, len(a), len(b)),
        p,
        min(1.0, 0.5 + (1.6449 + 0.8416) * spread),
        [b[i] for i in order.tolist()],
        (len(a), len(b)),
    )


def _some(texts: Sequence[str], name: str, rng: random.Random) -> list[str]:
    """A sample of the texts, each once. It is drawn before repeats are left out: of a large set
    more of the rare texts would remain than of a small one."""
    drawn = texts if len(texts) <= MOST else rng.sample(list(texts), MOST)
    found = list(dict.fromkeys(drawn))
    if len(found) < LEAST:
        raise DataError(
            f"the {name} set has {len(found)} different texts; {LEAST} are needed to compare"
        )
    return found


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


def _held_out(features: csr_matrix, folds: NDArray[np.int64], labels: Floats) -> Floats:
    """[n, P] how much each text looks like one of the second set, to a classifier that has not
    seen its fold, for P labellings [n, P]; as ranks within the fold, since fits without different
    folds are not on one scale.

    With K the texts' inner products and H = K (K + penalty)^-1, labels y have the fitted values
    H y, and those of a fit without the fold o are y_o - (I - H_oo)^-1 (y - H y)_o.
    """
    kernel = np.asarray((features @ features.T).todense())
    hat = np.linalg.solve(kernel + PENALTY * np.eye(len(kernel)), kernel)
    y = labels - labels.mean(0)
    errors = y - hat @ y
    scores = np.zeros_like(y)
    for fold in range(FOLDS):
        out = np.flatnonzero(folds == fold)
        if out.size:
            inner = np.eye(out.size) - hat[np.ix_(out, out)]
            found = y[out] - np.linalg.solve(inner, errors[out])
            scores[out] = rankdata(found, axis=0) / (out.size + 1.0)
    return np.asarray(scores, dtype=np.float64)


def auc(scores: Floats, labels: Floats) -> Floats:
    """[P] areas under the ROC curves of scores [n, P]: Mann and Whitney's U over the number of
    pairs, ties half."""
    positive = labels > 0.5
    n, m = positive.sum(0), (~positive).sum(0)
    ranks = rankdata(scores, axis=0)
    return np.asarray(((ranks * positive).sum(0) - n * (n + 1) / 2) / (n * m))


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
