"""Rankings of written answers, as a preference data set has them: several people answered, and one
more ranked the answers. None of them is the policy's own."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.records import Group, Message, Response
from gnomon.tasks.tunnel.demonstrations import write_response
from gnomon.tasks.tunnel.labellers import Labeller
from gnomon.tasks.tunnel.world import BELIEF_RATE, generate_prompts, seeded

_TRIES = 8
"""Draws for each answer that is wanted, before a prompt goes with fewer different ones."""


def rankings(
    n: int,
    seed: int = 0,
    answers: int = 4,
    families: Sequence[str] | None = None,
    belief_rate: float = BELIEF_RATE,
    **labeller: float,
) -> list[Group]:
    """``n`` prompts of the training split with different written answers, best first.

    Args:
        answers: to each prompt, 2 or more; a few prompts have fewer, as people write the same.
        labeller: settings of the one who ranks, see
            :class:`~gnomon.tasks.tunnel.labellers.Labeller`.

    Raises:
        ValueError: fewer than two answers.
        TypeError, ConfigError: the labeller has no such setting, or it is out of range.
    """
    if answers < 2:
        raise ValueError(f"answers is {answers}, and a ranking compares two or more")
    who = Labeller(name="rankings", seed=seed, **labeller)
    groups = []
    for prompt in generate_prompts(n, seed, families, "train", belief_rate):
        rng = seeded("rankings", seed, prompt.id)
        written = (write_response(prompt, rng) for _ in range(answers * _TRIES))
        texts: list[str] = []
        while len(texts) < answers and (text := next(written, None)) is not None:
            texts += [] if text in texts else [text]
        ranks = who.label_group(prompt, texts)
        ordered = sorted(zip(ranks, texts, strict=True))
        responses = (Response((Message("assistant", t),), rank=rank) for rank, t in ordered)
        groups.append(Group(prompt, tuple(responses)))
    return groups
