"""Prompts of reasoning-gym's generators (Stojanovski et al. 2025, arXiv 2505.24760).

A prompt keeps how it was made, so that the reward ``reasoning_gym`` can grade it later.
"""

from __future__ import annotations

import json
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.reasoning_gym import FIELD, open_dataset
from gnomon.records import Group, Message, Prompt

TAGS = "Put your final answer between <answer> and </answer>."


def reasoning_gym_groups(
    name: str, n: int, seed: int = 0, *, tags: bool = True, **config: Any
) -> list[Group]:
    """``n`` prompts of a generator.

    Args:
        name: of the dataset, as reasoning-gym registers it.
        seed: fixes them; two seeds give two draws, which may share entries where there are few.
        tags: ask for the answer between <answer> and </answer>.
        config: the generator's own settings.

    Raises:
        ConfigError: not installed, no such dataset, or settings that it does not take.
    """
    if n < 1:
        raise ConfigError(f"reasoning-gym:{name}: n must be at least 1, got {n}")
    settings = {**config, "size": n, "seed": seed}
    dataset = open_dataset(name, settings)
    groups = []
    for i in range(n):
        entry = dataset[i]
        question = str(entry["question"])
        kept = {
            "dataset": name,
            "config": json.loads(json.dumps(settings)),
            "index": i,
            "question": question,
        }
        text = f"{question}\n{TAGS}" if tags else question
        meta = {FIELD: kept, "answer": entry.get("answer")}
        identity = f"reasoning-gym-{name}-{seed}-{i}"
        prompt = Prompt(identity, (Message("user", text),), category=name, meta=meta)
        groups.append(Group(prompt))
    return groups
