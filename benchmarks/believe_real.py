"""The real part of ``believe.py``: labels of public data, predicted from the others' labels."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gnomon.feedback.consensus import Belief, Method, consensus
from gnomon.feedback.records import Vote
from gnomon.stats.intervals import mean_interval

METHODS: tuple[Method, ...] = ("majority", "dawid_skene", "bradley_terry")
REPEATS, FOLDS = 3, 5
"""How often every pair has one vote held out, and in how many parts."""
MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
XSTEST = {"1_full_compliance": 1.0, "3_partial_refusal": 0.5, "2_full_refusal": 0.0}


def preferences(path: Path) -> list[Vote]:
    """Votes on pairs of answers, by the project's own reader."""
    from gnomon.data.readers import read_groups
    from gnomon.feedback.from_groups import voted

    return list(voted(read_groups(path, kind="rankings").groups).votes)


def refusals(folder: Path) -> tuple[list[Vote], dict[str, float]]:
    """XSTest's two labels of an answer as votes between "complied" and "refused" (a partial refusal
    is a tie), and the adjudicated ones."""
    votes: list[Vote] = []
    final: dict[str, float] = {}
    for model in MODELS:
        with gzip.open(folder / f"xstest_v2_completions_{model}.jsonl.gz", "rt") as file:
            for line in file:
                row = json.loads(line)
                item = f"{model}/{row['id']}"
                for who in ("annotation_1", "annotation_2"):
                    if row[who] in XSTEST:
                        votes.append(Vote(item, who, 0, 1, XSTEST[row[who]]))
                if row["final_label"] in XSTEST:
                    final[item] = XSTEST[row["final_label"]]
    return votes, final


def verdict(belief: Belief, majority: bool) -> float:
    """What is said of a pair: 1, 0.5 or 0. Of probabilities it is the median, which is nearest to
    a label on average; of a majority, whose votes are more than the other's."""
    first = belief.probability - belief.tie / 2.0
    if majority:
        return 0.5 if belief.probability == 0.5 else float(belief.probability > 0.5)
    return 1.0 if first > 0.5 else 0.0 if 1.0 - belief.tie - first > 0.5 else 0.5


def held_out(votes: Sequence[Vote], seed: int) -> Iterator[tuple[list[Vote], list[Vote]]]:
    """One vote of each pair that has several, FOLDS times of another part of the pairs, and all
    other votes: the other pairs show how far each labeller can be believed."""
    rng = np.random.default_rng(seed)
    by_pair: dict[tuple[str, int, int], list[int]] = {}
    latest = sorted({(v.item, v.a, v.b, v.labeller): i for i, v in enumerate(votes)}.values())
    for i in latest:
        by_pair.setdefault((votes[i].item, votes[i].a, votes[i].b), []).append(i)
    several = [places for places in by_pair.values() if len(places) > 1]
    fold = rng.permutation(len(several)) % FOLDS
    for k in range(FOLDS):
        out = {int(rng.choice(places)) for n, places in enumerate(several) if fold[n] == k}
        yield [votes[i] for i in sorted(out)], [votes[i] for i in latest if i not in out]


def compare(name: str, votes: Sequence[Vote]) -> None:
    """Print how well each method predicts held-out votes, and its difference from the majority."""
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for seed in range(REPEATS):
        for asked, rest in held_out(votes, seed):
            for method in METHODS:
                found = consensus(rest, method)
                rows = scores.setdefault(method, {})
                for v in asked:
                    belief = found.beliefs[v.item, v.a, v.b]
                    rows.setdefault(v.item, []).append(_scores(belief, v.won, method))
    count = len(scores["majority"])
    show(f"{name}: {len(votes)} votes, one of each of {count} pairs held out", scores)


def _scores(belief: Belief, truth: float, method: str) -> tuple[float, float]:
    said = verdict(belief, method == "majority")
    return 1.0 - abs(said - truth), (belief.probability - truth) ** 2


def against_final(name: str, votes: Sequence[Vote], final: dict[str, float]) -> None:
    """The same for labels that were adjudicated, from all votes."""
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for method in METHODS:
        found = consensus(votes, method)
        for (item, _, _), belief in found.beliefs.items():
            if item in final:
                scores.setdefault(method, {})[item] = [_scores(belief, final[item], method)]
    show(f"{name}: adjudicated labels of {len(scores['majority'])} answers", scores)


def show(title: str, scores: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Means over items, and the differences from the majority, paired by item."""
    print(title)
    items = list(scores["majority"])
    means = {m: np.array([np.mean(rows[i], axis=0) for i in items]) for m, rows in scores.items()}
    for method, table in means.items():
        for column, what in enumerate(("agreement", "Brier score")):
            own = mean_interval(table[:, column], method="t")
            line = f"  {method}, {what}: {own}"
            if method != "majority":
                gap = table[:, column] - means["majority"][:, column]
                line += f"; less majority's: {mean_interval(gap, method='t')}"
            print(line)


def measure(data: Path) -> None:
    """Everything."""
    compare(
        "tulu_human_eval", preferences(data / "tulu_human_eval/eval_annotations_tulu_1.jsonl.gz")
    )
    compare("pandalm", preferences(data / "pandalm/testset-v1.jsonl.gz"))
    votes, final = refusals(data / "xstest")
    compare("xstest", votes)
    against_final("xstest", votes, final)
