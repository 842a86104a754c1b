"""What the benchmarks of labels share: pairs of answers in the tunnel, and reward models of them.

The answers are a fine-tuned tunnel model's own; gold says which of two is better, and labellers see
it through noise. A reward model's figure is its gold accuracy: the share of held-out pairs of
answers, to prompts that nobody labelled, that it orders as gold does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.data.readers import read_groups
from gnomon.feedback.records import Item
from gnomon.feedback.select import Candidates, candidates
from gnomon.files import write_text
from gnomon.records import Group
from gnomon.stats.intervals import Interval, weighted_proportion
from gnomon.tasks.tunnel.gold import gold_score
from planted_runs import add_row, read_rows, run_plain

STEPS = {"steps": 64, "batch_size": 16, "lr": 1e-3, "checkpoint_every": 1000}


SFT = {
    "name": "sft",
    "algorithm": "sft",
    "data": {"path": "tunnel:demonstrations", "options": {"n": 4000, "seed": 1}},
    "train": {"steps": 200, "batch_size": 32, "lr": 1e-3, "checkpoint_every": 400},
}
"""The policy's stage."""


def policy(out: Path) -> Path:
    """The policy alone, trained once; its folder."""
    model = out / "policy" / "stages" / "01-sft" / "model"
    if not model.is_dir():
        run_plain(
            {
                "name": "policy",
                "model": "tunnel",
                "max_length": 160,
                "output": str(out),
                "stages": [SFT],
            }
        )
    return model


def prepare(out: Path, pool: int, heldout: int) -> Path:
    """Make the policy, its pairs of answers to ``pool`` prompts and four answers to each of
    ``heldout`` others, once; the run's folder."""
    name = f"pool-{pool}-{heldout}"
    answers = {"max_new_tokens": 40, "temperature": 1.0}
    plain = {
        "name": name,
        "model": "tunnel",
        "max_length": 160,
        "output": str(out),
        "stages": [
            SFT,
            {
                "name": "pool",
                "algorithm": "collect",
                "data": {"path": "tunnel:prompts", "options": {"n": pool, "seed": 2}},
                "rollout": {"samples": 2, **answers},
                "reward": "gold",
            },
            {
                "name": "heldout",
                "algorithm": "collect",
                "from": "sft",
                "data": {
                    "path": "tunnel:prompts",
                    "options": {"n": heldout, "seed": 3, "split": "heldout"},
                },
                "rollout": {"samples": 4, **answers},
                "reward": "gold",
            },
        ],
    }
    done = out / f"{name}.done"
    if not done.is_file():
        run_plain(plain)
        done.touch()
    return out / name


def pairs(run: Path, stage: str) -> list[Group]:
    """The groups that a collect stage of the pool's run left."""
    return read_groups(run / "stages" / stage / "groups.jsonl", kind="rankings").groups


def as_items(groups: Sequence[Group]) -> list[Item]:
    """Groups as items; what was said of them stays behind."""
    return [Item(group.prompt.id, group.prompt, group.responses) for group in groups]


class Answers:
    """Prompts with different answers: their gold scores, and the policy's hidden states at their
    ends.

    Attributes:
        groups: [I].  gold, states: of each group [K] and [K, H].
    """

    def __init__(self, groups: Sequence[Group], states: np.ndarray) -> None:
        self.groups = groups
        self.gold = [np.array(gold_scores(group)) for group in groups]
        ends = np.cumsum([len(g) for g in self.gold])[:-1]
        self.states = np.split(states, ends)

    def differences(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all C pairs that gold decides: [C, H] states, better less worse; [C] the prompt."""
        found, prompts = [], []
        for i, (gold, states) in enumerate(zip(self.gold, self.states, strict=True)):
            for a, b in combinations(range(len(gold)), 2):
                if abs(gold[a] - gold[b]) > 1e-9:
                    better, worse = (a, b) if gold[a] > gold[b] else (b, a)
                    found.append(states[better] - states[worse])
                    prompts.append(i)
        return np.array(found), np.array(prompts)

    def first_two(self) -> np.ndarray:
        """[I, H] states of each group's first answer less its second."""
        return np.array([states[0] - states[1] for states in self.states])


def gold_scores(group: Group) -> list[float]:
    return [gold_score(group.prompt, r.text).total for r in group.responses]


def answers(out: Path, pool: int, heldout: int) -> tuple[Answers, Answers]:
    """The pool and the held-out answers, with the states that the policy has at their ends."""
    run = prepare(out, pool, heldout)
    files = {stage: run / f"{stage}.npy" for stage in ("02-pool", "03-heldout")}
    for stage, file in files.items():
        if not file.is_file():
            np.save(file, end_states(run / "stages" / "01-sft" / "model", pairs(run, stage)))
    states = {stage: np.load(file, allow_pickle=False) for stage, file in files.items()}
    mean, scale = states["02-pool"].mean(0), states["02-pool"].std(0) + 1e-6
    made = [Answers(pairs(run, stage), (x - mean) / scale) for stage, x in states.items()]
    return made[0], made[1]


def end_states(policy: Path, groups: Sequence[Group]) -> np.ndarray:
    """[S, H] the policy's last hidden state of every answer of the groups."""
    import torch

    from gnomon.data.batch import microbatches, pack
    from gnomon.judges.learned import text_encoding
    from gnomon.judges.protocol import samples_of
    from gnomon.models.load import load_causal_lm
    from gnomon.models.roles import Role, Trunk
    from gnomon.records import TokenGroup, TokenResponse

    trunk = Trunk.from_loaded(load_causal_lm(str(policy)))
    role, encode = Role("policy", trunk), text_encoding(trunk)
    tokens = []
    for group in groups:
        for prompt_ids, ids in map(encode, samples_of(group)):
            tokens.append(
                TokenGroup(group.prompt.id, prompt_ids, (TokenResponse(ids, [True] * len(ids)),))
            )
    found = []
    with torch.no_grad():
        for part in microbatches(tokens, 8192):
            batch = pack(part)
            found.append(role.hidden(batch)[batch.last_index].float())
    return torch.cat(found).numpy()


STRENGTH = 0.01
"""Of the penalty on a head's weights, the same everywhere: 1 / (2 STRENGTH) is its variance."""


def fit_heads(
    states: np.ndarray, won: np.ndarray, seed: int, members: int = 1, weight: Any = None
) -> np.ndarray:
    """[M, H] Bradley-Terry reward heads on frozen states: logistic regression of what a won on the
    difference of the two states; each of several members sees its own 80% of the pairs.

    Args:
        states: [n, H] a less b.  won: [n] P(a is better).  weight: [n].
    """
    from sklearn.linear_model import LogisticRegression

    weight = np.ones(len(won)) if weight is None else np.asarray(weight)
    rng = np.random.default_rng(seed)
    heads = []
    for _ in range(members):
        chosen = rng.random(len(won)) < (0.8 if members > 1 else 1.0)
        x, p, w = states[chosen], won[chosen], weight[chosen]
        both = np.vstack([x, -x, x, -x])
        said = np.repeat([1, 0, 0, 1], len(x))
        share = np.concatenate([w * p, w * p, w * (1 - p), w * (1 - p)]) / 2.0
        kept = share > 0
        model = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=500)
        model.fit(both[kept], said[kept], sample_weight=share[kept])
        heads.append(model.coef_[0])
    return np.array(heads)


def gold_accuracy(heads: np.ndarray, heldout: Answers) -> Interval:
    """The share of held-out pairs that the heads' mean reward orders as gold does, with its
    interval over prompts."""
    states, prompt = heldout.differences()
    margin = (states @ heads.T).mean(1)
    right = np.where(margin == 0, 0.5, margin > 0).astype(float)
    return weighted_proportion(right, clusters=prompt.tolist())


# -- whole reward models, by a recipe --------------------------------------------------------------


def row_of(group: Group, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A group of K responses with comparisons as a row that the readers take; ``better`` and
    ``worse`` are indices."""
    return {
        "id": group.prompt.id,
        "messages": [{"role": m.role, "content": m.content} for m in group.prompt.messages],
        "responses": [{"id": str(i), "text": r.text} for i, r in enumerate(group.responses)],
        "comparisons": [
            {**c, "better": str(c["better"]), "worse": str(c["worse"])} for c in comparisons
        ],
    }


def train(
    name: str, rows: Sequence[Mapping[str, Any]], run: Path, out: Path, seed: int, **settings: Any
) -> Path:
    """Train a reward model on rows of comparisons, unless it is there already; its folder."""
    folder = out / "models" / name
    model = folder / "stages" / "01-rm" / "model"
    if model.is_dir():
        return model
    data = out / "data" / f"{name}.jsonl"
    write_text(data, "".join(json.dumps(row) + "\n" for row in rows))
    run_plain(
        {
            "name": name,
            "model": str(run / "stages" / "01-sft" / "model"),
            "seed": seed,
            "max_length": 160,
            "output": str(out / "models"),
            "stages": [
                {
                    "name": "rm",
                    "algorithm": "reward_model",
                    "data": str(data),
                    "train": STEPS,
                    "settings": settings,
                }
            ],
        }
    )
    return model


class Heldout:
    """Pairs of answers that gold decides, to prompts that nobody labelled."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.items = as_items(groups)
        gold = []
        for group in groups:
            values = [gold_score(group.prompt, r.text).total for r in group.responses]
            gold += [x - y for x, y in combinations(values, 2)]
        self.gold = np.array(gold)

    def right(self, model: Path) -> tuple[np.ndarray, np.ndarray]:
        """[C] rights (0, 1, a half where it does not decide) of a reward model on the pairs that
        gold decides, and [C] their prompts."""
        found: Candidates = candidates(model, self.items)
        margin = found.margins.mean(1)
        decided = np.abs(self.gold) > 1e-9
        right = np.where(margin == 0, 0.5, (margin > 0) == (self.gold > 0))[decided]
        return right.astype(float), found.item_of[decided]


def accuracy(right: np.ndarray, prompts: np.ndarray) -> Interval:
    """The share right, with its interval over prompts."""
    return weighted_proportion(right, clusters=list(prompts))


class Rows:
    """Figures of the runs that are done, kept in a file; the same command goes on from it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def get(self, name: str) -> dict[str, Any] | None:
        return read_rows(self.file).get(name)

    def add(self, name: str, **figures: Any) -> dict[str, Any]:
        add_row(self.file, {"id": name, **figures})
        print(
            {k: v for k, v in figures.items() if not isinstance(v, list)} | {"id": name}, flush=True
        )
        return {"id": name, **figures}


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds with Student's interval."""
    from gnomon.stats.intervals import mean_interval

    return mean_interval(values, method="t")
