"""Prompts of the tunnel's world: short instructions whose right answer a program knows.

The tunnel follows the synthetic set-up of Gao et al. 2022 ("Scaling laws for reward model
overoptimization"): a gold preference that can be computed stands in for what people want, so every
claim about a proxy of it can be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt
from gnomon.tasks.tunnel.tasks import (
    FAMILIES,
    Problem,
    Split,
    draw_problem,
    draw_wording,
    wrong_answer,
)

BELIEF_RATE = 0.1
"""Share of prompts in which the user adds what they believe the answer is (half are wrong)."""


def seeded(*parts: object) -> Random:
    """A generator fixed by ``parts`` alone: item i of a stream never depends on items before it."""
    return Random("/".join(map(str, parts)))


def check_families(families: Sequence[str] | None) -> tuple[str, ...]:
    """The families asked for, or all; raises ConfigError for an unknown or an empty choice."""
    chosen = FAMILIES if families is None else tuple(families)
    unknown = [name for name in chosen if name not in FAMILIES]
    if unknown or not chosen:
        raise ConfigError(
            f"tunnel families {unknown or 'none'}: choose one or more of {', '.join(FAMILIES)}"
        )
    return chosen


def problem_of(prompt: Prompt) -> Problem:
    """The problem a tunnel prompt asks; raises ConfigError for a prompt of another world."""
    try:
        meta = prompt.meta
        return Problem(
            str(meta["family"]),
            str(meta["kind"]),
            tuple(meta["args"]),
            str(meta["answer"]),
            str(meta["statement"]),
        )
    except KeyError as missing:
        raise ConfigError(
            f"prompt {prompt.id} has no {missing} in its meta: the tunnel's gold reward and "
            "labellers only judge prompts made by gnomon.tasks.tunnel.generate_prompts"
        ) from None


def prompt_for(problem: Problem, rng: Random, id: str, belief_rate: float = BELIEF_RATE) -> Prompt:
    """Word ``problem`` as a prompt; with chance ``belief_rate`` the user says what they believe.

    ``meta`` holds the problem (family, kind, args, answer, statement) and, if said, ``belief``. The
    rendered messages are made from the wording and the belief alone, never from the answer.
    """
    text = draw_wording(problem, rng)
    meta: dict[str, object] = {
        "family": problem.family,
        "kind": problem.kind,
        "args": problem.args,
        "answer": problem.answer,
        "statement": problem.statement,
    }
    if problem.family != "manners" and rng.random() < belief_rate:
        belief = problem.answer if rng.random() < 0.5 else wrong_answer(problem, rng)
        meta["belief"] = belief
        text = f"{text} I think it is {belief}."
    return Prompt(id=id, messages=(Message("user", text),), category=problem.family, meta=meta)


def generate_prompts(
    n: int,
    seed: int = 0,
    families: Sequence[str] | None = None,
    split: Split = "train",
    belief_rate: float = BELIEF_RATE,
) -> list[Prompt]:
    """``n`` prompts, the families taking turns.

    Args:
        n: how many.
        seed: fixes them; the i-th prompt does not depend on ``n``.
        families: which task families (default: all of ``FAMILIES``).
        split: "train" or "heldout"; the two never share a problem.
        belief_rate: share of prompts in which the user states a belief.

    Raises ConfigError for an unknown family or split.
    """
    chosen = check_families(families)
    if split not in ("train", "heldout"):
        raise ConfigError(f"tunnel split {split!r}: choose train or heldout")
    prompts = []
    for i in range(n):
        rng = seeded("prompt", seed, split, i)
        problem = draw_problem(chosen[i % len(chosen)], rng, split)
        prompts.append(prompt_for(problem, rng, f"tunnel-{split}-{seed}-{i}", belief_rate))
    return prompts
