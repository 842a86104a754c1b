"""The tunnel part of ``believe.py``: crowds of simulated labellers, and reward models on what they
say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.feedback.consensus import Consensus, consensus, majority
from gnomon.feedback.records import Vote
from gnomon.records import Group, Message, Prompt, Response
from gnomon.tasks.tunnel import ORDINARY, Labeller, generate_prompts, gold_score
from gnomon.tasks.tunnel.demonstrations import write_response
from gnomon.tasks.tunnel.world import seeded

LABELS = 3
"""Labellers a pair."""


@dataclass(frozen=True)
class Pair:
    """Two answers; ``truth`` is 1 where the first has the higher gold reward, else 0."""

    prompt: Prompt
    texts: tuple[str, str]
    truth: float


@dataclass(frozen=True)
class Person:
    """A labeller; one who is contrary says the opposite of what they see."""

    labeller: Labeller
    contrary: bool = False

    def vote(self, item: str, pair: Pair) -> Vote:
        ranks = self.labeller.label_group(pair.prompt, pair.texts)
        won = 0.5 if ranks[0] == ranks[1] else float(ranks[0] < ranks[1])
        return Vote(item, self.labeller.name, 0, 1, 1.0 - won if self.contrary else won)


def make_pairs(n: int, seed: int, split: str = "train", beliefs: float = 0.1) -> list[Pair]:
    """Prompts with two answers of different gold reward, as people write them."""
    out: list[Pair] = []
    for prompt in generate_prompts(n, seed=seed, split=split, belief_rate=beliefs):
        rng = seeded("believe", seed, prompt.id)
        texts = [write_response(prompt, rng) for _ in range(12)]
        value = {text: gold_score(prompt, text).total for text in dict.fromkeys(texts)}
        first = texts[0]
        second = next((t for t in texts if value[t] != value[first]), None)
        if second is not None:
            out.append(Pair(prompt, (first, second), float(value[first] > value[second])))
    return out


def even_crowd(seed: int) -> list[Person]:
    """12 labellers of accuracy evenly .55 to .95: exact, but careless in 2 (1 - accuracy)."""
    return [
        Person(Labeller(f"p{k:02d}", noise=0.0, careless=2.0 * (1.0 - a), seed=seed))
        for k, a in enumerate(np.linspace(0.55, 0.95, 12))
    ]


def careless_crowd(seed: int, contrary: bool) -> list[Person]:
    """10 labellers: 3 who look at nothing, the others ordinary; one of those may be contrary."""
    ordinary = [Person(replace(ORDINARY, name=f"ordinary-{i}", seed=seed)) for i in range(7)]
    if contrary:
        ordinary[0] = replace(ordinary[0], contrary=True)
    return ordinary + [Person(Labeller(f"careless-{i}", careless=1.0, seed=seed)) for i in range(3)]


def label(pairs: Sequence[Pair], crowd: Sequence[Person], seed: int) -> list[Vote]:
    """Each pair by LABELS of the crowd, everybody as often as the others (within one)."""
    rng = np.random.default_rng(seed)
    given = np.zeros(len(crowd))
    out = []
    for i, pair in enumerate(pairs):
        chosen = np.lexsort((rng.random(len(crowd)), given))[:LABELS]
        given[chosen] += 1
        out += [crowd[k].vote(str(i), pair) for k in chosen]
    return out


# -- reward models --------------------------------------------------------------------------------

Judged = Sequence[Mapping[str, Any]]


def _said(won: float, **more: float) -> dict[str, Any]:
    better, worse = ("a", "b") if won >= 0.5 else ("b", "a")
    return {"better": better, "worse": worse, "tie": won == 0.5, **more}


def routes(pairs: Sequence[Pair], votes: Sequence[Vote]) -> dict[str, Callable[[int], Judged]]:
    """How the votes on pair i become comparisons, by the route's name."""
    most, weighed = majority(votes), consensus(votes)
    by_pair: dict[str, list[Vote]] = {}
    for vote in votes:
        by_pair.setdefault(vote.item, []).append(vote)

    def p(found: Consensus, i: int) -> float:
        return found.beliefs[str(i), 0, 1].probability

    def calibrated(i: int) -> Judged:
        chance = p(weighed, i)
        return [_said(chance, probability=max(chance, 1.0 - chance))]

    def soft(i: int) -> Judged:
        chance = p(weighed, i)
        return [_said(1.0, weight=max(chance, 1e-6)), _said(0.0, weight=max(1.0 - chance, 1e-6))]

    return {
        "majority": lambda i: [_said(p(most, i))],
        "calibrated": calibrated,
        "each": lambda i: [_said(v.won) for v in by_pair[str(i)]],
        "hard": lambda i: [_said(float(p(weighed, i) > 0.5))],
        "soft": soft,
        "truth": lambda i: [_said(pairs[i].truth)],
    }


def end_states_of(pairs: Sequence[Pair], policy: Path) -> np.ndarray:
    """[I, H] a policy's hidden states at the end of each pair's first answer less its second's."""
    from label_world import end_states

    groups = [
        Group(p.prompt, tuple(Response((Message("assistant", t),)) for t in p.texts)) for p in pairs
    ]
    ends = end_states(policy, groups)
    return ends[0::2] - ends[1::2]


def head_accuracy(
    states: np.ndarray, judged: Callable[[int], Judged], held: np.ndarray, truth: np.ndarray
) -> float:
    """Fit a Bradley-Terry reward head on frozen states to comparisons; its accuracy on others."""
    from label_world import fit_heads

    said = [(i, c) for i in range(len(states)) for c in judged(i)]
    won = np.array([0.5 if c["tie"] else float(c["better"] == "a") for _, c in said])
    strength = [c.get("weight", 1.0) * (2.0 * c.get("probability", 1.0) - 1.0) for _, c in said]
    (head,) = fit_heads(states[[i for i, _ in said]], won, 0, weight=np.array(strength))
    margin = held @ head
    return float(np.where(margin == 0, 0.5, (margin > 0) == truth).mean())


def write_rows(path: Path, pairs: Sequence[Pair], judged: Callable[[int], Judged]) -> None:
    """The pairs as rows that a recipe reads."""
    rows = [
        {
            "id": f"{i}",
            "messages": [{"role": m.role, "content": m.content} for m in pair.prompt.messages],
            "responses": [
                {"id": name, "text": text} for name, text in zip("ab", pair.texts, strict=True)
            ],
            "comparisons": list(judged(i)),
        }
        for i, pair in enumerate(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reward_model_accuracy(
    folder: Path, seed: int, rows: Path, held_out: Path, epochs: int, model: str
) -> dict[str, Any]:
    """Train a reward model on rows; its accuracy on held-out pairs whose truth is known.

    Args:
        model: what it starts from: "tunnel" (drawn anew) or a folder.
    """
    from gnomon.recipe.load import load_recipe
    from gnomon.stages.run import run_recipe

    name = f"rm-{rows.stem}"
    plain = {
        "name": name, "model": model, "seed": seed, "max_length": 160, "output": str(folder),
        "stages": [{
            "name": "rm", "algorithm": "reward_model", "data": str(rows),
            "eval_data": str(held_out),
            "train": {"epochs": epochs, "batch_size": 16, "lr": 5e-4, "eval_every": 0,
                      "eval_size": 5000, "checkpoint_every": 100000},
        }],
    }  # fmt: skip
    recipe = folder / f"{name}.yaml"
    recipe.write_text(json.dumps(plain))  # JSON is YAML
    begun = (folder / name / "manifest.json").is_file()
    run_recipe(load_recipe(recipe, []), base=folder, resume=begun, announce=lambda line: None)
    found = json.loads((folder / name / "stages" / "01-rm" / "evals.json").read_text())
    (report,) = found.values()
    return {"accuracy": report["accuracy"]["value"], "ece": report["ece"]}
