"""Who can be believed: what consensus recovers, and what it is worth to a reward model.

    python benchmarks/believe.py abilities          12 labellers of .55 to .95, by each method
    python benchmarks/believe.py tunnel --out DIR   reward models: majority against calibrated
    python benchmarks/believe.py heads --out DIR    the same with heads on a frozen policy
    python benchmarks/believe.py real --data DIR    held-out labels of public data
    python benchmarks/believe.py flags              how often honest labellers are flagged
    python benchmarks/believe.py speed              a million votes, and crowd-kit on them

``tunnel`` and ``heads`` keep a row for each reward model in DIR/rows.jsonl; the same command goes
on after a stop. docs/believe.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from believe_tunnel import (
    Pair,
    careless_crowd,
    end_states_of,
    even_crowd,
    head_accuracy,
    label,
    make_pairs,
    reward_model_accuracy,
    routes,
    write_rows,
)
from gnomon.feedback.consensus import consensus, majority
from gnomon.feedback.records import Vote
from gnomon.stats.intervals import mean_interval

METHODS = ("dawid_skene", "bradley_terry", "majority")


# -- abilities ------------------------------------------------------------------------------------


def abilities(args: argparse.Namespace) -> None:
    """Rank correlation, coverage and calibration over seeds."""
    from scipy.stats import spearmanr

    rows: dict[str, list[list[float]]] = {m: [] for m in METHODS}
    for seed in range(args.seeds):
        pairs, crowd = make_pairs(800, 300 + seed)[:800], even_crowd(seed)
        votes = label(pairs, crowd, seed)
        truth = {
            p.labeller.name: 1.0 - p.labeller.careless / 2.0 for p in crowd
        }  # a careless guess is right half the time
        for method in METHODS:
            found = consensus(votes, method)
            known = [(found.labellers[name].accuracy, a) for name, a in truth.items()]
            rho = spearmanr([k.value for k, _ in known], [a for _, a in known])[0]
            inside = float(np.mean([k.low <= a <= k.high for k, a in known]))
            right, sure = _scored(pairs, found.beliefs)
            rows[method].append([rho, inside, float(right.mean()), _ece(right, sure)])
    for method, figures in rows.items():
        table = np.array(figures)
        print(f"{method}: {len(table)} seeds, 12 labellers, 200 labels each, 3 a pair")
        for name, column in zip(("rank correlation", "95% intervals that hold the truth",
                                 "pairs right", "ECE"), table.T, strict=True):  # fmt: skip
            print(f"  {name}: {mean_interval(column, method='t')} lowest {column.min():.3f}")


def _scored(pairs: Sequence[Pair], beliefs: Any) -> tuple[Any, Any]:
    p = np.array([beliefs[str(i), 0, 1].probability for i in range(len(pairs))])
    truth = np.array([pair.truth for pair in pairs])
    return np.where(p == 0.5, 0.5, (p > 0.5) == truth), np.maximum(p, 1.0 - p)


def _ece(right: Any, sure: Any) -> float:
    from gnomon.stats.reward_model import expected_calibration_error

    return float(expected_calibration_error(sure, right, lower=0.5).ece)


# -- reward models --------------------------------------------------------------------------------


def tunnel(args: argparse.Namespace) -> None:
    """Train what is missing, then print the table."""
    rows = _read(args.out / "rows.jsonl")
    for seed in range(args.first, args.first + args.seeds):
        for crowd in args.crowds:
            for route in args.routes:
                key = {"seed": seed, "crowd": crowd, "route": route, "n": args.n,
                       "epochs": args.epochs, "start": args.start}  # fmt: skip
                if not any(key.items() <= row.items() for row in rows):
                    began = time.monotonic()
                    row = {**key, **_train(args, seed, crowd, route)}
                    row["seconds"] = round(time.monotonic() - began, 1)
                    with (args.out / "rows.jsonl").open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    shown = {"n": args.n, "epochs": args.epochs, "start": args.start}
    seeds = range(args.first, args.first + args.seeds)
    _table([r for r in rows if shown.items() <= r.items() and r["seed"] in seeds])


def _train(args: argparse.Namespace, seed: int, crowd: str, route: str) -> dict[str, Any]:
    from label_world import policy

    folder = args.out / f"{crowd}-{seed}-{args.n}-{args.epochs}-{args.start}"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, held_out = make_pairs(args.n, 100 + seed), make_pairs(1200, 900 + seed, "heldout")
    votes = label(pairs, careless_crowd(seed, crowd == "contrary"), seed)
    start = str(policy(args.out)) if args.start == "policy" else "tunnel"
    how = routes(pairs, votes)
    write_rows(folder / "truth-held-out.jsonl", held_out, routes_of_truth(held_out))
    write_rows(folder / f"{route}.jsonl", pairs, how[route])
    found = majority(votes) if route == "majority" else consensus(votes)
    right, sure = _scored(pairs, found.beliefs)
    measured = reward_model_accuracy(
        folder, seed, folder / f"{route}.jsonl", folder / "truth-held-out.jsonl", args.epochs, start
    )  # fmt: skip
    return {**measured, "labels_right": float(right.mean()), "labels_ece": _ece(right, sure)}


def heads(args: argparse.Namespace) -> None:
    """Reward heads on a frozen policy's states, which no draw of weights or order disturbs."""
    from label_world import policy

    model = policy(args.out)
    file = args.out / "heads.jsonl"
    rows = _read(file)
    for seed in range(args.first, args.first + args.seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        everything = make_pairs(max(args.n), 100 + seed)
        held_out = make_pairs(args.heldout, 900 + seed, "heldout")
        x, held = end_states_of(everything, model), end_states_of(held_out, model)
        held, x = held / x.std(0), x / x.std(0)
        truth = np.array([pair.truth for pair in held_out])
        for crowd in args.crowds:
            for n in args.n:
                pairs = everything[:n]
                votes = label(pairs, careless_crowd(seed, crowd == "contrary"), seed)
                how = routes(pairs, votes)
                for route in args.routes:
                    found = majority(votes) if route == "majority" else consensus(votes)
                    right, _ = _scored(pairs, found.beliefs)
                    value = head_accuracy(x[:n], how[route], held, truth)
                    key = {"seed": seed, "crowd": crowd, "route": route, "n": n}
                    figures = {"accuracy": value, "labels_right": float(right.mean())}
                    rows.append({**key, **figures})
        with file.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows if row["seed"] == seed)
        print(f"seed {seed} is done", flush=True)
    seeds = range(args.first, args.first + args.seeds)
    for n in args.n:
        print(f"{n} pairs")
        _table([r for r in rows if r["n"] == n and r["seed"] in seeds])


def routes_of_truth(pairs: Sequence[Pair]) -> Any:
    """The truth as comparisons."""
    return routes(pairs, [Vote(str(i), "truth", 0, 1, p.truth) for i, p in enumerate(pairs)])[
        "truth"
    ]


def _table(rows: Sequence[dict[str, Any]]) -> None:
    for crowd in dict.fromkeys(r["crowd"] for r in rows):
        here = [r for r in rows if r["crowd"] == crowd]
        base = {r["seed"]: r["accuracy"] for r in here if r["route"] == "majority"}
        print(f"{crowd}: gold accuracy of the reward model")
        for route in dict.fromkeys(r["route"] for r in here):
            own = {r["seed"]: r for r in here if r["route"] == route}
            values = [r["accuracy"] for r in own.values()]
            gains = [own[s]["accuracy"] - base[s] for s in own if s in base]
            gain = mean_interval(gains, method="t")
            print(
                f"  {route}: {np.mean(values):.4f} {[round(v, 4) for v in values]}; labels right "
                f"{np.mean([r['labels_right'] for r in own.values()]):.3f}; less majority's {gain} "
                f"{[round(g, 4) for g in gains]}"
            )


def _read(path: Path) -> list[dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def flag_rates(args: argparse.Namespace) -> None:
    """Honest labellers that are flagged, and planted ways that are found."""
    from believe_flags import measure

    measure(
        [make_pairs(args.n, 700 + seed, beliefs=0.5) for seed in range(args.seeds)], args.people
    )


def real(args: argparse.Namespace) -> None:
    """Labels of public data."""
    from believe_real import measure

    measure(args.data)


def speed(args: argparse.Namespace) -> None:
    """Seconds and memory of N votes of 100 labellers, 3 a pair; each side on the same votes."""
    rng = np.random.default_rng(0)
    pairs, people = args.votes // 3, 100
    skill, truth = rng.uniform(0.55, 0.95, people), rng.integers(0, 2, pairs)
    apart = np.cumsum(rng.integers(1, people // 3, (pairs, 3)), axis=1)  # three different people
    who = (rng.integers(0, people, (pairs, 1)) + apart) % people
    said = np.where(rng.random((pairs, 3)) < skill[who], truth[:, None], 1 - truth[:, None])
    votes = [
        Vote(f"item{i}", f"l{who[i, j]}", 0, 1, float(said[i, j]))
        for i in range(pairs)
        for j in range(3)
    ]
    for method in METHODS:
        wall, cpu = time.monotonic(), time.process_time()
        found = consensus(votes, method)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        p = np.array([found.beliefs[f"item{i}", 0, 1].probability for i in range(pairs)])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        right = float(((p > 0.5) == truth).mean())
        print(f"{method}: {len(votes)} votes, {cpu:.1f} CPU s ({wall:.1f} s), peak {peak:.2f} GB, "
              f"{right:.4f} of pairs right")  # fmt: skip
    _crowd_kit(who, said, truth, skill)


def _crowd_kit(who: Any, said: Any, truth: Any, skill: Any) -> None:
    """crowd-kit's Dawid-Skene on all, and its Noisy Bradley-Terry on the first 9999 votes."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene, NoisyBradleyTerry
    from scipy.stats import spearmanr

    frame = pd.DataFrame(
        {"task": np.repeat(np.arange(len(truth)), 3), "worker": who.ravel(), "label": said.ravel()}
    )
    cpu = time.process_time()
    model = DawidSkene(n_iter=100).fit(frame)
    cpu = time.process_time() - cpu
    right = float((model.labels_.sort_index().to_numpy() == truth).mean())
    print(f"crowd-kit DawidSkene: {cpu:.1f} CPU s, {len(model.loss_history_)} rounds, {right:.4f}")
    few = frame.iloc[:9999]
    pairs = pd.DataFrame({"worker": few.worker, "left": [(t, 1) for t in few.task],
                          "right": [(t, 0) for t in few.task]})  # fmt: skip
    pairs["label"] = list(zip(few.task, few.label, strict=True))
    cpu = time.process_time()
    noisy = NoisyBradleyTerry(n_iter=100).fit(pairs)
    cpu = time.process_time() - cpu
    rho = spearmanr(noisy.skills_.sort_index().to_numpy(), skill)[0]
    print(f"crowd-kit NoisyBradleyTerry: 9999 votes, {cpu:.1f} CPU s; its skills' rank correlation "
          f"with the truth {rho:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    ability = commands.add_parser("abilities")
    ability.add_argument("--seeds", type=int, default=10)
    ability.set_defaults(run=abilities)
    models = commands.add_parser("tunnel")
    models.add_argument("--out", type=Path, required=True)
    models.add_argument("--seeds", type=int, default=3)
    models.add_argument("--n", type=int, default=800, help="pairs to learn from")
    models.add_argument("--epochs", type=int, default=2)
    models.add_argument("--crowds", nargs="+", default=["careless", "contrary"])
    models.add_argument("--routes", nargs="+", default=["majority", "calibrated"])
    models.add_argument("--first", type=int, default=0, help="the first seed")
    models.add_argument(
        "--start",
        choices=("tunnel", "policy"),
        default="tunnel",
        help="weights drawn anew, or a fine-tuned policy's",
    )
    models.set_defaults(run=tunnel)
    frozen = commands.add_parser("heads")
    frozen.add_argument("--out", type=Path, required=True)
    frozen.add_argument("--first", type=int, default=40, help="the first seed")
    frozen.add_argument("--seeds", type=int, default=20)
    frozen.add_argument("--n", type=int, nargs="+", default=[250, 500, 1000])
    frozen.add_argument("--heldout", type=int, default=2000, help="pairs to measure on")
    frozen.add_argument("--crowds", nargs="+", default=["careless", "contrary"])
    frozen.add_argument("--routes", nargs="+", default=["majority", "calibrated", "soft", "truth"])
    frozen.set_defaults(run=heads)
    rates = commands.add_parser("flags")
    rates.add_argument("--seeds", type=int, default=40)
    rates.add_argument("--n", type=int, default=800)
    rates.add_argument("--people", type=int, default=12)
    rates.set_defaults(run=flag_rates)
    public = commands.add_parser("real")
    public.add_argument("--data", type=Path, required=True, help="folder of the public data")
    public.set_defaults(run=real)
    fast = commands.add_parser("speed")
    fast.add_argument("--votes", type=int, default=999_999)
    fast.set_defaults(run=speed)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
