"""Constitutional AI where the truth is known, with real models, and beside what was published.

    python benchmarks/constitutional.py tunnel [--seeds 0,1,2] [--errors 0.1,0.25] [--workers 2]
    python benchmarks/constitutional.py mixed [--seeds 0,1,2]        after tunnel
    python benchmarks/constitutional.py smollm2 [--prompts 24] [--bare] [--url URL]
    python benchmarks/constitutional.py published

``tunnel`` runs recipes/constitutional-tunnel.yaml for each seed and rate of error, of the critic
and of the judge alike, and prints how many forbidden requests each policy refuses (harmlessness)
and how many look-alikes it answers (helpfulness). About 2 minutes of one core a run; stop it at any
time, the same command goes on. ``mixed`` takes its runs at 10% and trains anew with more or less
helpfulness mixed in: no helpful demonstrations among the revisions, or more of them, and among the
preferences a labeller's comparisons of answers to harmless requests. ``smollm2`` has SmolLM2-135M
revise its own answers to requests half of which ought to be refused. ``published`` compares our
constitution with that of Bai et al. 2022.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
RECIPE = HERE.parent / "recipes" / "constitutional-tunnel.yaml"
POLICIES = ("helpful", "sl-cai", "ppo", "dpo")

from common import show  # noqa: E402
from rows import DEFAULT_DATA  # noqa: E402

# -- the tunnel -----------------------------------------------------------------------------------


def chain(seed: int, errors: Sequence[float], out: str, skip: Sequence[str]) -> None:
    """Make the helpful policy of a seed, and from it a run at each rate of error."""
    import torch

    torch.set_num_threads(1)
    helpful = Path(out, f"helpful-{seed}", "stages", "01-helpful", "model")
    plain = _plain(seed, out)
    stages = plain["stages"]
    if not helpful.is_dir():
        _run({**plain, "name": f"helpful-{seed}", "stages": stages[:1], "compare": None})
    for error in errors:
        rest = json.loads(json.dumps([s for s in stages[1:] if s["name"] not in skip]))
        for stage in rest:
            if stage.get("from") in (None, "helpful") and stage["name"] in ("revised", "sl-cai"):
                stage["from"] = str(helpful)
            if stage["name"] == "revised":
                stage["settings"]["critic"]["options"]["error"] = error
            if stage["name"] == "compared":
                stage["reward"]["options"]["error"] = error
        compared = {**plain["compare"], "reference": "sl-cai"}
        one = {**plain, "name": run_name(seed, error), "model": str(helpful)}
        _run({**one, "stages": rest, "compare": compared})


MIXES = ("sl-cai", "sl-alone", "sl-helpful", "dpo", "dpo-helpful")
PERSON = {"name": "person", "noise": 0.2, "careless": 0.05}
"""Who compares answers to harmless requests."""


def mixed(args: argparse.Namespace) -> None:
    """Helpfulness mixed in, in other measures: train what is not there yet, then the table."""
    found = []
    for seed in args.seeds:
        plain, run = _plain(seed, str(args.out)), args.out / run_name(seed, 0.1)
        helpful = str(args.out / f"helpful-{seed}" / "stages" / "01-helpful" / "model")
        folder = {path.name[3:]: path.resolve() for path in (run / "stages").iterdir()}
        revised, compared = (str(folder[x] / "groups.jsonl") for x in ("revised", "compared"))
        of = {stage["name"]: stage for stage in plain["stages"]}
        more = {"path": "tunnel:request-demonstrations"}
        more |= {"options": {"n": 300, "seed": 3, "benign": 1.0}}
        sl = {**of["sl-cai"], "from": helpful}
        harmless = {"path": "tunnel:benign", "options": {"n": 600, "seed": 7}}
        helped = {**of["compared"], "name": "helped", "data": harmless, "reward": []}
        over = {"from": str(folder["sl-cai"] / "model")}
        stages = [
            {**sl, "name": "sl-alone", "data": revised},
            {**sl, "name": "sl-helpful", "data": [revised, *of["sl-cai"]["data"][1:], more]},
            {**helped, **over, "settings": {"labellers": [PERSON]}},
            {**of["dpo"], **over, "name": "dpo-helpful", "data": [compared, "stage:helped"]},
        ]
        compare = {**plain["compare"], "reference": "sl-alone"}
        name = f"mixed-seed-{seed}"
        _run({**plain, "name": name, "model": helpful, "stages": stages, "compare": compare})
        found.append(shares(run) | shares(args.out / name))
    lines: list[list[Any]] = []
    for policy in MIXES:
        line: list[Any] = [policy]
        base = "dpo" if policy == "dpo-helpful" else "sl-cai"
        for part in ("forbidden", "benign"):
            gains = [one[policy][part] - one[base][part] for one in found]
            line += [_over_seeds([one[policy][part] for one in found])]
            line += ["" if policy == base else _over_seeds(gains)]
        lines.append(line)
    gain = "less sl-cai (dpo)"
    show("helpfulness mixed in", ["", "refused", gain, "answered", gain], lines)


def run_name(seed: int, error: float) -> str:
    return f"error-{error:g}-seed-{seed}"


def _plain(seed: int, out: str) -> dict[str, Any]:
    import yaml

    plain: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    return plain | {"seed": seed, "output": out}


def _run(plain: dict[str, Any]) -> None:
    from gnomon.recipe.load import parse_recipe
    from gnomon.stages.run import run_recipe

    recipe = parse_recipe(plain)
    resume = Path(recipe.output, recipe.name).is_dir()
    run_recipe(
        recipe, base=Path.cwd(), resume=resume, announce=lambda line: print(line, flush=True)
    )


def tunnel(args: argparse.Namespace) -> None:
    """Run what is not there yet, then print the table."""
    jobs = [(seed, args.errors, str(args.out), args.skip) for seed in args.seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
        for future in [pool.submit(chain, *job) for job in jobs]:
            future.result()
    table(args)


def table(args: argparse.Namespace) -> None:
    """Harmlessness and helpfulness by policy: the mean over seeds, its 95% interval, each seed."""
    lines = []
    for error in args.errors:
        found = [shares(args.out / run_name(seed, error)) for seed in args.seeds]
        for policy in POLICIES:
            if all(policy in one for one in found):
                line: list[Any] = [f"{error:.0%}", policy]
                for part in ("forbidden", "benign"):
                    values = [one[policy][part] for one in found]
                    line += [_over_seeds(values), " ".join(f"{v:.2f}" for v in values)]
                for part in ("forbidden", "benign"):
                    gains = [one[policy][part] - one["helpful"][part] for one in found]
                    line.append("" if policy == "helpful" else _over_seeds(gains))
                lines.append(line)
    columns = ("error", "policy", "refused (harmless)", "seeds", "answered (helpful)", "seeds")
    gained = ("gain in refused", "gain in answered")
    show("shares of right answers to held-out requests", [*columns, *gained], lines)
    flags = [
        f"{run_name(seed, error)}: {warning}"
        for error in args.errors
        for seed in args.seeds
        for warning in _warnings(args.out / run_name(seed, error))
    ]
    print("\n".join(flags))


def _over_seeds(values: Sequence[float]) -> str:
    """The mean and its 95% interval by Student's t over seeds."""
    from gnomon.stats.intervals import t_quantile

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = t_quantile(0.95, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def shares(run: Path) -> dict[str, dict[str, float]]:
    """By policy the share of right answers to forbidden and to benign requests."""
    from gnomon.runs.comparison import Comparison

    comparison = Comparison.read(run / "comparison.json")
    out = {}
    for row in comparison.rows:
        right = comparison.scores(row.model)["right"]
        own = {
            part: statistics.fmean(
                float(v[0] or 0) for id, v in right.items() if id.startswith(part)
            )
            for part in ("forbidden", "benign")
        }
        out["helpful" if row.model == "base" else row.model] = own
    return out


def _warnings(run: Path) -> list[str]:
    file = next(run.glob("stages/*-revised/stage.json"))
    found: list[str] = json.loads(file.read_text())["summary"].get("warnings", [])
    return found


# -- a real model ---------------------------------------------------------------------------------


BARE = {
    "critique_prompt": "Question: {{question}}\n\nAnswer: {{answer}}\n\n{{request}}",
    "revision_prompt": "Question: {{question}}\n\nAnswer: {{answer}}\n\nWhat is wrong with it: "
    "{{critique}}\n\n{{request}} Write the new answer and nothing else.",
    "examples": [],
    "fences": False,
}
"""Prompts without marks, for a model too small for them."""


def smollm2(args: argparse.Namespace) -> None:
    """Revise SmolLM2's answers by our constitution and measure what came of it."""
    name = f"smollm2{'-served' if args.url else ''}{'-bare' if args.bare else ''}"
    run = args.out / name
    data = args.out / "redteam.jsonl"
    if not data.is_file():
        args.out.mkdir(parents=True, exist_ok=True)
        data.write_text(
            "".join(json.dumps(row) + "\n" for row in _requests(args.data, args.prompts))
        )
    stage = {
        "name": "revised",
        "algorithm": "revise",
        "data": {"path": str(data)},
        "rollout": {"max_new_tokens": args.tokens, "temperature": 0.7, "top_p": 0.95},
        "settings": {"critique_tokens": args.tokens, "chunk": 8, "examples": args.examples}
        | {"revision_tokens": 2 * args.tokens},
    }
    if args.url:
        options = {"url": args.url, "temperature": 0.7, "timeout_s": 900, "concurrency": 1}
        stage["settings"]["critic"] = {"model": args.served, "options": options}
    if args.bare:
        stage["settings"] |= {"constitution": str(_bare(args.out / "bare.yaml")), "examples": 0}
    plain = {"name": name, "model": args.model, "output": str(args.out), "max_length": 2048}
    _run({**plain, "stages": [stage]})
    report_smollm2(run / "stages" / "01-revised")


def _bare(file: Path) -> Path:
    """Our constitution with prompts that have no marks."""
    import yaml

    from gnomon.feedback.constitution import read_constitution

    content = read_constitution("gnomon").content.model_dump(exclude_defaults=True)
    file.write_text(yaml.safe_dump(content | BARE, sort_keys=False))
    return file


def _requests(data: Path, n: int) -> list[dict[str, str]]:
    """Half requests that ought to be refused, half harmless ones that look alike (XSTest)."""
    from gnomon.data.rows import iter_rows
    from gnomon.data.values import RawRow

    file = next(iter(sorted((data / "xstest").glob("*prompts*"))))
    rows = [row.data for row in iter_rows(file) if isinstance(row, RawRow)]
    kinds: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for row in rows:
        unsafe = str(row.get("label", row.get("type", ""))).startswith(("unsafe", "contrast"))
        prompt = {"id": str(row.get("id", len(kinds[unsafe]))), "prompt": str(row["prompt"])}
        kinds[unsafe].append(prompt | {"category": "unsafe" if unsafe else "safe"})
    step = {k: max(1, len(v) // (n // 2)) for k, v in kinds.items()}
    return [row for k, v in kinds.items() for row in v[:: step[k]][: n // 2]]


def report_smollm2(folder: Path) -> None:
    """What the revisions are worth, by counts: is a critique about its answer, does a revision
    change it, and are the texts still different from each other?"""
    from gnomon.stats.intervals import exact_interval
    from gnomon.stats.revisions import revision_figures

    parts = sorted((folder / "parts").glob("*.jsonl"))
    rows = [json.loads(line) for p in parts for line in p.read_text().splitlines()]
    rows = [row for row in rows if "revisions" in row]
    info = json.loads((folder / "stage.json").read_text())
    why = Counter(str(row.get("skipped", "kept")).split(": ")[-1] for row in rows)
    print(f"{len(rows)} answers: {dict(why)}")
    steps = [(row["revisions"]["answer"], row["revisions"]["steps"]) for row in rows]
    whole = [(answer, s[0]["critique"], s[0]["revision"]) for answer, s in steps if _whole(s)]
    answers, critiques, revisions = (list(texts) for texts in zip(*whole, strict=True))
    n = len(whole)
    near = about_their_answer(critiques, answers)
    print(f"critiques nearer to their own answer than to another: {near} (chance is 0.5)")
    marked = sum("<<<" in text for text in revisions)
    print(f"revisions with a mark of the question in them: {exact_interval(marked, n)}")
    echoed = sum(_echoes(r, a) for r, a in zip(revisions, answers, strict=True))
    print(f"revisions that begin as the answer did: {exact_interval(echoed, n)}")
    print("of all revisions, those left out among them:")
    for key, value in revision_figures(answers, revisions).items():
        print(f"  {key}: {value:.3f}")
    tokens = info["judges"]["critic"]["tokens"]
    print(f"tokens of the critic: {tokens}; seconds: {info['seconds']:.0f}")
    for row in rows[:: max(1, len(rows) // 6)]:
        print(json.dumps({k: row.get(k) for k in ("id", "skipped", "revisions")}, indent=1)[:3000])


def _whole(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether there is a critique and a revision, used or not."""
    return bool(steps and steps[0].get("critique") and steps[0].get("revision"))


def about_their_answer(critiques: Sequence[str], answers: Sequence[str]) -> Any:
    """How often a critique shares more words of content with its own answer than with another one
    (ties are half), with an interval over critiques."""
    from gnomon.stats.intervals import mean_of_shares

    bags = [_content(answer) for answer in answers]
    wins = []
    for i, critique in enumerate(critiques):
        own = _content(critique)
        near = [len(own & bag) / max(1, len(bag)) for bag in bags]
        others = [(near[i] > x) + 0.5 * (near[i] == x) for j, x in enumerate(near) if j != i]
        wins.append(statistics.fmean(others))
    return mean_of_shares(wins)


def _content(text: str) -> set[str]:
    from gnomon.stats.texts import words

    return {word for word in words(text) if len(word) > 4}


def _echoes(revision: str, answer: str) -> bool:
    from gnomon.stats.texts import opening

    return opening(revision, 6) == opening(answer, 6)


# -- beside what was published --------------------------------------------------------------------


def published(args: argparse.Namespace) -> None:
    """The structure of Bai et al.'s prompts beside ours; no word of theirs is kept."""
    from gnomon.feedback.constitution import read_constitution
    from gnomon.stats.texts import ngrams, words

    folder = args.data / "constitutional"
    pairs = json.loads((folder / "CritiqueRevisionInstructions.json").read_text())
    few = json.loads((folder / "CritiqueRevisionFewShotPrompts.json").read_text())
    asks = json.loads((folder / "RLMadisonInstructions.json").read_text())
    ours = read_constitution("gnomon")

    def length(texts: Sequence[str]) -> float:
        """Mean words, without the labels that the published requests begin and end with."""
        bare = [re.sub(r"\b(Critique|Revision)(Request)?:|Options:", "", t) for t in texts]
        return statistics.fmean(len(words(t)) for t in bare)

    own = ours.chosen
    critiques = [p["prompt"][0] for p in pairs.values()]
    revisions = [p["edit_request"] for p in pairs.values()]
    lines = [
        ["critique requests", len(pairs), len(own)],
        ["preference questions", len(asks), len(own)],
        ["principles with both", 0, len(own)],
        ["categories", 1, len({p.category for p in own})],
        ["examples", len(few), len(ours.content.examples)],
        [
            "words of a critique request",
            length(critiques),
            length([p.critique_request for p in own]),
        ],
        ["of a revision request", length(revisions), length([p.revision_request for p in own])],
        ["of a preference question", length(asks), length([p.preference_question for p in own])],
    ]
    show("constitutions", ["", "Bai et al. 2022", ours.version], lines)
    known = set(ngrams(words(json.dumps([pairs, few, asks]).replace("\\n", " ")), 6))
    said = ngrams(words(ours.content.model_dump_json().replace("\\n", " ")), 6)
    print(f"runs of six words that both have: {len(known & set(said))} of {len(set(said))}")


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("what", choices=("tunnel", "table", "mixed", "smollm2", "published"))
    made.add_argument("--out", type=Path, default=Path("constitutional-runs"), help="the runs")
    made.add_argument("--seeds", type=lambda t: [int(x) for x in t.split(",")], default=[0, 1, 2])
    made.add_argument(
        "--errors", type=lambda t: [float(x) for x in t.split(",")], default=[0.1, 0.25]
    )
    made.add_argument("--skip", nargs="*", default=[], help="stages to leave out, as in: rm ppo")
    made.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    made.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the real data")
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--url", help="an endpoint whose model is the critic")
    made.add_argument("--served", default="smollm2-135m", help="what the endpoint calls its model")
    made.add_argument("--bare", action="store_true", help="a critic's prompts without marks")
    made.add_argument("--prompts", type=int, default=24)
    made.add_argument("--tokens", type=int, default=48, help="of an answer and of a critique")
    made.add_argument("--examples", type=int, default=1, help="shown to the critic")
    args = made.parse_args()
    todo = {"tunnel": tunnel, "table": table, "mixed": mixed}
    (todo | {"smollm2": smollm2, "published": published})[args.what](args)


if __name__ == "__main__":
    main()
