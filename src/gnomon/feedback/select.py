"""Which items to ask people about next.

An item is worth a label where the answer is not known yet, and where it tells something about the
others too. What is known comes from a reward model, best an ensemble: how likely each member holds
response a to be better than b, p_m = sigmoid(score_a - score_b), and the trunk's last hidden states
as the items' places in space.

- ``uncertainty``: the entropy of the mean, H(mean_m p_m), in bits: 1 where the model cannot tell.
- ``disagreement``: the entropy that is there because members differ, H(mean p_m) - mean H(p_m)
  (BALD; Houlsby et al. 2011, "Bayesian active learning for classification and preference
  learning"). A pair that every member calls a toss-up is uncertain, and no label settles that.
- ``diversity``: k-means++ seeding on the difference of the two responses' hidden states, whose
  direction is that of the gradient of the head (Ash et al. 2020, "Deep batch active learning by
  diverse, uncertain gradient lower bounds").
- ``both``: the same seeding with each item weighted by its disagreement.
- ``posterior``: needs no model: the entropy of what the labels so far say of an item. It finds the
  items to ask about once more.

Whether these beat asking at random is measured in docs/label-plan.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.feedback.records import Item
from gnomon.stats.intervals import Floats

if TYPE_CHECKING:
    from gnomon.models.save import LoadedReward

Method = Literal["both", "disagreement", "uncertainty", "diversity", "random"]
METHODS: tuple[str, ...] = get_args(Method)
CHUNK = 256
"""Items scored between two calls of ``done``."""


@dataclass(frozen=True)
class Candidates:
    """What a model makes of items that could be asked about.

    Attributes:
        ids: of the I items.
        margins: [C, M] reward of response a less that of b, by each of M members, for all C pairs
            a < b of all items, item by item.
        item_of: [C] which item (0..I-1) a pair belongs to.
        features: [I, H] hidden state of the response that the model likes best less that of the one
            it likes least.
    """

    ids: tuple[str, ...]
    margins: Floats
    item_of: NDArray[np.int64]
    features: Floats


def entropy(p: Floats) -> Floats:
    """Entropy of a coin of probability p, in bits."""
    return np.asarray((entr(p) + entr(1.0 - p)) / np.log(2.0))


def uncertainty(found: Candidates) -> Floats:
    """[I] how far the model cannot tell an item's pairs apart, in bits, the mean over them."""
    return _by_item(entropy(expit(found.margins).mean(1)), found)


def disagreement(found: Candidates) -> Floats:
    """[I] how much a label would tell about which member is right, in bits, the mean over pairs.

    Raises:
        ConfigError: a single member, which cannot disagree.
    """
    if found.margins.shape[1] < 2:
        raise ConfigError(
            "the reward model has one member, and disagreement needs several: train it with "
            "settings: {members: 4, share_trunk: false}, or choose by uncertainty or diversity"
        )
    p = expit(found.margins)
    return _by_item(np.maximum(0.0, entropy(p.mean(1)) - entropy(p).mean(1)), found)


def _by_item(values: Floats, found: Candidates) -> Floats:
    """The mean over each item's pairs."""
    count = np.bincount(found.item_of, minlength=len(found.ids))
    sums = np.bincount(found.item_of, weights=values, minlength=len(found.ids))
    return np.asarray(sums / np.maximum(count, 1))


def choose(found: Candidates, n: int, by: Method = "both", seed: int = 0) -> list[int]:
    """The n items to ask about, the most wanted first (indices into ``found.ids``).

    Raises:
        ConfigError: no such method, or one that the model cannot serve.
    """
    if by not in METHODS:
        raise ConfigError(f"items are chosen by {', '.join(METHODS)}; not by {by!r}")
    n = min(n, len(found.ids))
    if n <= 0:
        return []
    shuffled = np.array(random_order(len(found.ids), seed))  # so that equals come in no order
    if by == "random":
        return random_order(len(found.ids), seed)[:n]
    if by in ("uncertainty", "disagreement"):
        score = uncertainty(found) if by == "uncertainty" else disagreement(found)
        order = shuffled[np.argsort(-score[shuffled], kind="stable")]
        return [int(i) for i in order[:n]]
    weight = disagreement(found) if by == "both" else np.ones(len(found.ids))
    return _spread(found.features, weight, n, seed)


def random_order(n: int, seed: int = 0) -> list[int]:
    """0 to n - 1, shuffled."""
    return [int(i) for i in np.random.default_rng(seed).permutation(n)]


def _spread(features: Floats, weight: Floats, n: int, seed: int) -> list[int]:
    """k-means++ seeding: each next item with a chance of weight x squared distance to the nearest
    one that was chosen already."""
    try:
        from sklearn.cluster import kmeans_plusplus  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "choosing by diversity needs scikit-learn: pip install 'gnomon-rlhf[label]'"
        ) from error

    weight = weight / weight.max() + 1e-6 if weight.max() > 0 else np.ones_like(weight)
    distinct = len(np.unique(features, axis=0))
    if distinct < n:  # no distance is left then: the rest by weight
        rest = np.argsort(-weight, kind="stable")
        first = _spread(features, weight, distinct, seed) if distinct > 1 else []
        return [*first, *(int(i) for i in rest if int(i) not in set(first))][:n]
    chosen = kmeans_plusplus(features, n, sample_weight=weight, random_state=seed)[1]
    return [int(i) for i in chosen]


def posterior_entropy(
    pairs: Iterable[tuple[str, float]], ids: Sequence[str]
) -> tuple[list[str], Floats]:
    """The items with labels, the least sure first, and the entropy of each in bits: the mean over
    its pairs. Items without labels are left out.

    Args:
        pairs: (item, P(a is the better one)) of every comparison.
        ids: the items to choose from.
    """
    known = set(ids)
    sums: dict[str, list[float]] = {}
    for item, p in pairs:
        if item in known:
            sums.setdefault(item, []).append(p)
    values = {i: float(entropy(np.array(p)).mean()) for i, p in sums.items()}
    order = sorted(values, key=lambda i: (-values[i], i))
    return order, np.array([values[i] for i in order])


# -- reading a model -------------------------------------------------------------------------------


def candidates(
    model: Path | str, items: Sequence[Item], done: Callable[[int], None] = lambda _: None
) -> Candidates:
    """What a reward model makes of items.

    Args:
        model: a folder of gnomon's or any sequence classification model of transformers.
        items: with two responses or more; those with fewer have nothing to compare.
        done: called with the number of items scored so far.

    Raises:
        ModelError: it cannot be loaded.
    """
    from gnomon.models.save import load_reward_model

    loaded = load_reward_model(model)
    items = [item for item in items if len(item.responses) > 1]
    margins: list[Floats] = []
    features: list[Floats] = []
    item_of: list[int] = []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        scores, states = read_model(loaded, chunk)
        ends = np.cumsum([len(item.responses) for item in chunk])[:-1]
        parts = zip(np.split(scores, ends), np.split(states, ends), strict=True)
        for place, (own, hidden) in enumerate(parts, start=start):
            order = np.argsort(own.mean(1), kind="stable")
            features.append(hidden[order[-1]] - hidden[order[0]])
            a, b = np.triu_indices(len(own), 1)
            margins.append(own[a] - own[b])
            item_of += [place] * len(a)
        done(start + len(chunk))
    ids = tuple(item.id for item in items)
    if not ids:
        return Candidates(ids, np.zeros((0, 1)), np.zeros(0, np.int64), np.zeros((0, 1)))
    return Candidates(ids, np.concatenate(margins), np.array(item_of), np.array(features))


def read_model(loaded: LoadedReward, items: Sequence[Item]) -> tuple[Floats, Floats]:
    """[S, M] rewards and [S, H] the first member's last hidden states, of all items' responses."""
    import torch

    from gnomon.data.batch import microbatches, pack
    from gnomon.judges.learned import text_encoding
    from gnomon.judges.protocol import Sample
    from gnomon.records import TokenGroup, TokenResponse

    members = loaded.members
    encode = text_encoding(members[0].trunk)
    groups = []
    for item in items:
        for response in item.responses:
            sample = Sample(item.prompt, response.text, finished=response.finished)
            prompt_ids, ids = encode(sample)
            groups.append(TokenGroup(item.id, prompt_ids, (TokenResponse(ids, [True] * len(ids)),)))
    scores, states = [], []
    with torch.no_grad():
        for part in microbatches(groups, 8192):
            batch = pack(part)
            hidden = [role.hidden(batch) for role in members]
            columns = [
                role.scores(batch, hidden=h) for role, h in zip(members, hidden, strict=True)
            ]
            raw = torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)
            scores.append(loaded.normaliser.apply(raw, batch.lengths).double())
            states.append(hidden[0][batch.last_index].double())
    return torch.cat(scores).numpy(), torch.cat(states).numpy()
