"""Rewards of one's own: plain functions, a function of whole groups, and how to try them first.

    python examples/own_reward.py

Try a reward on a few answers before anything is trained on it; that is what ``main`` does. In a
recipe the same functions are named by their file:

    reward:
      - {function: "own_reward.py:brief", options: {limit: 8}}
      - {function: "own_reward.py:Unlike", weight: 0.2}

A reward that raises, or gives None or NaN, is the error of its sample and never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import gnomon
from gnomon.judges.protocol import Sample
from gnomon.records import Group


def brief(samples: Sequence[Sample], limit: int = 8) -> list[tuple[float, dict[str, float]]]:
    """1 within ``limit`` words, 0.1 less for each word beyond; an answer that was cut off gets -1.

    A number is enough for each sample. Named parts beside it are logged, each as reward/NAME.
    """
    scores = []
    for sample in samples:
        words = len(sample.text.split())
        value = 1.0 - 0.1 * max(0, words - limit) if sample.finished else -1.0
        scores.append((value, {"words": float(words)}))
    return scores


def right(samples: Sequence[Sample]) -> list[float]:
    """1 where the row's answer is among the words: a row's other fields are in ``meta``."""
    return [float(str(s.prompt.meta["answer"]) in s.text.rstrip(".").split()) for s in samples]


class Unlike:
    """More for an answer whose words the other answers to its prompt do not use: it sees groups."""

    def judge(self, groups: Sequence[Group]) -> list[list[float]]:
        return [self._group([set(r.text.lower().split()) for r in g.responses]) for g in groups]

    def _group(self, words: Sequence[set[str]]) -> list[float]:
        rewards = []
        for i, own in enumerate(words):
            others = set().union(*(other for j, other in enumerate(words) if j != i))
            rewards.append(len(own - others) / max(1, len(own)))
        return rewards


def main(samples: int = 4) -> list[Group]:
    """Show what each reward says of some answers of the built-in model."""
    model = gnomon.load("tunnel", max_length=128)
    prompts = gnomon.read("tunnel:prompts", n=3, seed=0, families=["arithmetic"])
    groups = gnomon.sample(model, prompts, samples=samples, max_new_tokens=16)
    judged = [gnomon.judge(by, groups) for by in (brief, right, Unlike())]
    for rows in zip(*judged, strict=True):
        group = rows[0]
        print(f"\n{group.prompt.messages[-1].content}   (answer: {group.prompt.meta['answer']})")
        print("   brief  right unlike")
        for i, response in enumerate(group.responses):
            shown = "  ".join(f"{row.rewards[i]:+.2f}" for row in rows)
            print(f"   {shown}  {response.text}")
    return judged[0]


if __name__ == "__main__":
    main()
