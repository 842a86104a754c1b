"""Which item comes when: a pure function of the seed and the step, so a run resumes anywhere.

Nothing is drawn from a generator that must be wound forward; the order of an epoch comes from
hashing (seed, epoch, index), and a batch from its step alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gnomon.records import Group


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: 64 bits in, 64 well-mixed bits out (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def epoch_order(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of 0..n-1 that depends on (n, seed, epoch) only, on any machine."""
    golden = 0x9E3779B97F4A7C15
    words = np.array([(seed * golden + 1) % 2**64, (epoch * golden + 2) % 2**64], dtype=np.uint64)
    a, b = _mix(words)
    keys = _mix(_mix(np.arange(n, dtype=np.uint64) * np.uint64(golden) + a) ^ b)
    return [int(i) for i in np.argsort(keys, kind="stable")]


_cached_order = lru_cache(maxsize=4)(epoch_order)


class Sampler:
    """Batches of item indices without state: any step's batch, without the steps before it.

    Positions run on across epochs, so a batch may hold the end of one epoch and the start of the
    next, and every epoch visits every item once.

    Raises:
        ValueError: no items, or an empty batch.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"a sampler needs items and a batch size, got {n} and {batch_size}")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int) -> list[int]:
        """The indices of step 0, 1, 2, ... (``batch_size`` of them)."""
        first = step * self.batch_size
        places = range(first, first + self.batch_size)
        return [_cached_order(self.n, self.seed, p // self.n)[p % self.n] for p in places]

    def epoch(self, step: int) -> float:
        """Epochs completed before this step."""
        return step * self.batch_size / self.n

    def steps(self, epochs: float) -> int:
        """Steps that visit the items this many times (the last batch may run into the next)."""
        return int(-(-self.n * epochs // self.batch_size))


def prompt_key(group: Group) -> str:
    """What makes two prompts the same: their turns, whatever the case and spacing.

    A document (empty prompt, text as the response) is known by its text.
    """
    prompt = group.prompt
    turns = [(m.role, m.content) for m in prompt.messages] or [("text", prompt.text or "")]
    if turns == [("text", "")]:
        turns = [("text", r.text) for r in group.responses]
    plain = [(role, " ".join(content.split()).casefold()) for role, content in turns]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def split(
    groups: Sequence[Group], holdout: float | int, seed: int
) -> tuple[list[Group], list[Group]]:
    """(train, held out), with all groups of one prompt on the same side.

    Args:
        holdout: a share of the groups (0 <= float < 1) or a number of groups (int). Prompts are
            held out whole, in an order hashed from the seed, for as long as they fit; so the number
            held out is at most what was asked, save that a positive request holds out one prompt.
        seed: a prompt's side does not change when other prompts are added after it in hash order.

    Raises:
        ValueError: a holdout that is negative or leaves nothing to train on.
    """
    wanted = round(holdout * len(groups)) if isinstance(holdout, float) else holdout
    if (
        holdout < 0
        or (isinstance(holdout, float) and holdout >= 1)
        or wanted >= max(1, len(groups))
    ):
        raise ValueError(f"cannot hold out {holdout} of {len(groups)} groups")
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(prompt_key(group), []).append(i)
    order = sorted(members, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    held: set[int] = set()
    for key in order:
        if len(held) + len(members[key]) <= wanted:
            held.update(members[key])
    if wanted > 0 and not held and len(order) > 1:
        held.update(members[min(order, key=lambda k: len(members[k]))])
    train = [g for i, g in enumerate(groups) if i not in held]
    return train, [g for i, g in enumerate(groups) if i in held]


def fingerprint(groups: Sequence[Group]) -> str:
    """sha256 of what the groups say, in order: prompts, responses, ranks, labels, comparisons.

    Changes with anything that changes training or scoring; ``meta`` other than labels does not
    count, nor does the file's place.
    """
    digest = hashlib.sha256()
    for g in groups:
        p = g.prompt
        said = [
            [p.id, p.text, [[m.role, m.content] for m in p.messages]],
            [
                [
                    [[m.role, m.content] for m in r.messages],
                    r.rank,
                    r.meta.get("label"),
                    r.meta.get("train"),
                ]
                for r in g.responses
            ],
            [[c.better, c.worse, c.weight, c.margin, c.tie] for c in g.comparisons],
            g.weight,
        ]
        digest.update(json.dumps(said, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
