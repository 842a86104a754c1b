"""Prompts with checkable instructions, made to train and test on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Literal

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.instructions.kinds import KINDS
from gnomon.records import Message, Prompt

TASKS = (
    "Describe {}.",
    "Explain to a child what {} is about.",
    "Write a short note about {}.",
    "Give some advice on {}.",
    "Tell me something interesting about {}.",
    "What should a beginner know about {}?",
)
TOPICS = (
    "baking bread", "the night sky", "riding a bicycle", "growing tomatoes", "learning a language",
    "the water cycle", "keeping bees", "a walk in the woods", "making tea", "old maps",
    "playing chess", "saving money", "the seasons", "a good night's sleep", "writing letters",
    "travelling by train", "caring for a dog", "the ocean", "painting a room", "public libraries",
    "cooking rice", "a healthy breakfast", "mountain weather", "singing in a choir", "recycling",
    "birds in winter", "fixing a leaking tap", "the history of paper", "being on time",
    "planning a party", "volcanoes", "telling jokes", "sailing", "taking photographs",
    "working from home", "street markets", "keeping a diary", "the moon", "swimming",
    "choosing a present",
)  # fmt: skip
_MISSES = 2000
"""After so many repeats in a row there is nothing new to be drawn."""
_TEST_EVERY = 5
"""Every fifth topic is kept for the test split."""


def generate_instruction_prompts(
    n: int,
    seed: int = 0,
    split: Literal["train", "test"] = "train",
    *,
    most: int = 3,
    kinds: Sequence[str] | None = None,
) -> list[Prompt]:
    """``n`` different prompts, each a small writing task with 1 to ``most`` instructions.

    The splits share no topic, so no prompt is in both whatever the seeds. The same arguments
    give the same prompts. ``meta["instructions"]`` is what InstructionReward reads;
    ``category`` is the kind of the first instruction.

    Args:
        kinds: only these kinds; by default all.

    Raises:
        ConfigError: an unknown split or kind, or fewer different prompts than ``n``.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"split is train or test, not {split!r}")
    names = sorted(KINDS) if kinds is None else list(kinds)
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names or most < 1:
        raise ConfigError(f"instruction kinds {unknown or names}: known are {', '.join(KINDS)}")
    topics = [t for i, t in enumerate(TOPICS) if (i % _TEST_EVERY == 0) == (split == "test")]
    rng = random.Random(f"instructions {split} {seed}")
    out: dict[str, Prompt] = {}
    misses = 0
    while len(out) < n and misses < _MISSES:
        prompt = _prompt(rng, rng.choice(topics), names, most, f"{split}-{seed}-{len(out)}")
        kept = out.setdefault(prompt.messages[0].content, prompt)
        misses = 0 if kept is prompt else misses + 1
    if len(out) < n:
        raise ConfigError(f"only {len(out)} different prompts can be made of these, not {n}")
    return list(out.values())


def _prompt(rng: random.Random, topic: str, names: list[str], most: int, identity: str) -> Prompt:
    chosen: list[str] = []
    for name in rng.sample(names, len(names)):
        if len(chosen) == most:
            break
        if not any(KINDS[name].clashes & KINDS[other].clashes for other in chosen):
            chosen.append(name)
    chosen = chosen[: rng.randint(1, most)]
    asked: list[dict[str, Any]] = [
        {"kind": name, "params": KINDS[name].sample(rng)} for name in chosen
    ]
    sentences = [KINDS[a["kind"]].describe(a["params"]) for a in asked]
    text = " ".join([rng.choice(TASKS).format(topic), *sentences])
    meta = {"instructions": json.loads(json.dumps(asked))}
    return Prompt(identity, (Message("user", text),), category=chosen[0], meta=meta)
