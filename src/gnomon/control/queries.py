"""Which clips are compared, and what is said of them: through a store, whoever says it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gnomon.algorithms.control_settings import ClipLabellerSpec, ControlSettings
from gnomon.control.clips import Clip
from gnomon.control.episodes import Experience
from gnomon.control.reward_nets import RewardNets, clip_returns
from gnomon.errors import Pending
from gnomon.feedback.clips import videos_beside
from gnomon.feedback.identity import digest, make_item
from gnomon.feedback.opening import open_store
from gnomon.feedback.records import Item, Label
from gnomon.feedback.store import Campaign, Store
from gnomon.feedback.verdicts import lacking, verdicts
from gnomon.records import Cost, Message, Prompt, Response
from gnomon.runs.manifest import resume_command

SIMULATED = "simulated"
Pair = tuple[int, int]
"""Two clips, by the steps of the experience that they begin with."""


def schedule(comparisons: int, rounds: int, first: float) -> list[int]:
    """How many comparisons each round asks for: a share ``first`` about random play, the rest at a
    rate that falls as T / (T + t), T being half of training (Christiano et al. 2017, appendix A,
    let it fall likewise)."""
    if rounds == 1:
        return [comparisons]
    opening = max(1, round(comparisons * first))  # the first fit needs something
    rates = np.array([1 / (1 + 2 * t / rounds) for t in range(1, rounds)])
    ends = np.rint(np.cumsum(rates) / rates.sum() * (comparisons - opening)).astype(int)
    return [opening, *(int(n) for n in np.diff(ends, prepend=0))]


def choose(
    nets: RewardNets, inputs: torch.Tensor, kept: Experience, new: int, count: int,
    steps: int, candidates: int, rng: np.random.Generator, asked: Collection[Pair] = (),
) -> list[Pair]:  # fmt: skip
    """The pairs of clips to ask about: of ``candidates`` times as many, those whose comparison the
    nets disagree about most (the variance of the probability that each predicts).

    One clip of a pair is from the ``new`` newest episodes, the other from any. Before the first fit
    they are drawn at random. No pair comes twice, nor one that was ``asked`` before; so there are
    fewer where the experience has no more.
    """
    drawn = count * (candidates if nets.fitted else 1) * 2
    places = kept.length - steps + 1
    newest = rng.integers(kept.episodes - new, kept.episodes, drawn)
    episodes = (newest, rng.integers(0, kept.episodes, drawn))
    a, b = (e * kept.length + rng.integers(0, places, drawn) for e in episodes)
    seen = {frozenset(pair) for pair in asked}
    pairs: list[Pair] = []
    for pair in zip(a.tolist(), b.tolist(), strict=True):
        if pair[0] != pair[1] and frozenset(pair) not in seen:
            seen.add(frozenset(pair))
            pairs.append(pair)
    pairs = pairs[: drawn // 2]
    if not nets.fitted or not pairs:
        return pairs
    rewards, starts = nets.chunked(inputs), torch.tensor(pairs)
    first, second = (clip_returns(rewards, starts[:, i], steps) for i in (0, 1))
    doubt = (first - second).sigmoid().var(0, unbiased=False)
    best = doubt.argsort(descending=True, stable=True)[:count].sort().values
    return [pairs[i] for i in best.tolist()]


def simulated_choice(
    first: float, second: float, spec: ClipLabellerSpec, rng: np.random.Generator
) -> bool | None:
    """Whether a simulated labeller prefers the first of two clips with these true returns.

    Boltzmann's choice (Bradley-Terry on the returns), and a coin's with probability ``error``. None
    (about equal, as people may say) where the returns are the same.
    """
    toss, coin, drawn = rng.random(3)
    if toss < spec.error:
        return bool(coin < 0.5)
    if first == second:
        return None
    gap = spec.rationality * (first - second)
    return bool(drawn < 1 / (1 + math.exp(-gap)) if gap > -700 else False)


@dataclass(frozen=True)
class Desk:
    """Where a stage's clips are compared.

    Args:
        where: the store.
        campaign: its name there.
        settings: of the stage.
        seed: of the simulated labeller.
    """

    where: str
    campaign: str
    settings: ControlSettings
    seed: int

    def ask(self, kept: Experience, pairs: Sequence[Pair], round: int) -> list[float | None]:
        """The probability with which the first clip of each pair is the better one; None where
        whoever was asked skipped it.

        Raises:
            Pending: people have not answered yet.
            RunError: the store has not got what was asked.
        """
        items = [self._item(kept, pair, round) for pair in pairs]
        with open_store(self.where, create=True) as store:
            self._set_up(store)
            store.add_items(items)
            if self.settings.labeller.kind == "simulated":
                rng = np.random.default_rng([self.seed, round])
                labels = [self._label(kept, pair, item, rng)
                          for pair, item in zip(pairs, items, strict=True)]  # fmt: skip
                store.add_labels(labels, add_labellers="simulated")
            return self._answers(store, kept, pairs, items, round)

    def _clips(self, kept: Experience, pair: Pair) -> list[str]:
        s = self.settings
        return [Clip.at(kept, i, s.clip_steps, s.environment, s.options).text() for i in pair]

    def _item(self, kept: Experience, pair: Pair, round: int) -> Item:
        prompt = Prompt(self.campaign, (Message("user", self.settings.task),))
        shown = [Response((Message("assistant", text),)) for text in self._clips(kept, pair)]
        origin = {"campaign": self.campaign, "round": round}
        return make_item(prompt, shown, campaign=self.campaign, origin=origin)

    def _set_up(self, store: Store) -> None:
        if self.campaign not in {campaign.name for campaign in store.campaigns()}:
            asked = {"ask": "ranking", "question": "Which clip is better?"}
            store.set_campaign(Campaign(self.campaign, settings=asked))

    def _label(self, kept: Experience, pair: Pair, item: Item, rng: np.random.Generator) -> Label:
        """What the simulated labeller says."""
        spec, steps = self.settings.labeller, self.settings.clip_steps
        first, second = (float(kept.rewards[i : i + steps].sum(dtype=np.float64)) for i in pair)
        won = simulated_choice(first, second, spec, rng)
        texts = self._clips(kept, pair)
        best = texts if won is None else [texts[0] if won else texts[1]]
        ranks = tuple(1.0 if response.text in best else 2.0 for response in item.responses)
        return Label(digest(SIMULATED, item.id), item.id, SIMULATED, "ranking",
                     ranks=ranks, cost=Cost(seconds=spec.seconds))  # fmt: skip

    def _answers(
        self, store: Store, kept: Experience, pairs: Sequence[Pair], items: Sequence[Item],
        round: int,
    ) -> list[float | None]:  # fmt: skip
        asked = {item.id: item for item in items}
        labels = [label for label in store.labels(self.campaign) if label.item in asked]
        missing = lacking(list(asked), labels, 1)
        if missing:
            raise Pending(self._request(len(missing), len(asked), round), lambda: self._left(asked))
        found = verdicts(list(asked.values()), labels, "ranking", "majority")
        out: list[float | None] = []
        for pair, item in zip(pairs, items, strict=True):
            first = [r.text for r in item.responses].index(self._clips(kept, pair)[0])
            said = found[item.id].comparisons
            if not said:
                out.append(None)
                continue
            better, _, tie, _, probability = said[0]
            out.append(0.5 if tie else probability if better == first else 1 - probability)
        return out

    def _request(self, missing: int, of: int, round: int) -> str:
        where = self.where
        if "://" in where:
            from sqlalchemy.engine import make_url  # it is there: the store was opened

            where = make_url(where).render_as_string(hide_password=True)
        beside = videos_beside(self.where)
        folder = "" if beside is not None else " --to FOLDER"
        return (
            f"round {round}: {missing} of {of} pairs of clips wait for people, in campaign "
            f"{self.campaign!r} of {where}. Render the clips and let people in with\n"
            f"  gnomon label clips {where}{folder}\n  gnomon label serve {where}\n"
            f"and when they are done resume with\n  {resume_command()}\n"
            "or have a run wait by itself: gnomon run ... --wait"
        )

    def _left(self, asked: dict[str, Item]) -> str:
        """What is still missing, for who waits; empty once all of it is there."""
        with open_store(self.where) as store:
            labels = [label for label in store.labels(self.campaign) if label.item in asked]
        missing = lacking(list(asked), labels, 1)
        return f"{len(missing)} comparisons to give" if missing else ""
