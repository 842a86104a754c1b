"""What a spot check by simulated people shows of runs whose truth is known.

    python benchmarks/spotchecks.py --seeds 0,1,2 --folder FOLDER

For each seed it runs the preset ``hackable`` (GRPO against a verifier with a loophole), and the
same against the sound verifier; three simulated labellers then judge 90 pairs of each run's
samples, 3 labels a pair, and the audit reads what they said. Runs in FOLDER already are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from gnomon.audit.detectors import audit_run, load_detectors
from gnomon.feedback.records import Item, Label
from gnomon.feedback.spotchecking import ask, look, place
from gnomon.feedback.store import Store
from gnomon.recipe.presets import load_preset
from gnomon.records import Cost, Prompt
from gnomon.report.format import measured
from gnomon.stages.run import run_recipe
from gnomon.tasks.tunnel.labellers import ORDINARY
from gnomon.tasks.tunnel.world import generate_prompts

PEOPLE = [replace(ORDINARY, name=name, seed=i) for i, name in enumerate(("ann", "bob", "cid"))]


def main() -> None:
    """Run, ask, judge, audit, and print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("spotcheck-runs"))
    parser.add_argument("--pairs", type=int, default=90)
    given = parser.parse_args()
    for seed in map(int, given.seeds.split(",")):
        for reward in ("leaky", "correct"):
            run = trained(given.folder, reward, seed)
            print(checked(run, given.pairs), flush=True)


def trained(folder: Path, reward: str, seed: int) -> Path:
    """The run's folder; it is run where it is not there."""
    name = f"{reward}-{seed}"
    run = folder / name
    if (run / "report.html").exists():
        return run
    changes = [f"name={name}", f"output={folder}", f"seed={seed}", f"grpo.reward={reward}"]
    changes += ["grpo.observe=[gold]", "grpo.train.sample_every=4"]
    recipe = load_preset("hackable", changes)
    return run_recipe(recipe, base=Path.cwd(), resume=run.exists(), announce=lambda text: None)


def checked(run: Path, pairs: int) -> str:
    """What simulated people and then the audit say of a run, in a line."""
    check = ask(run, "grpo", n=pairs, overlap=len(PEOPLE))
    families = ("arithmetic", "lists")
    prompts = {p.id: p for p in generate_prompts(4000, seed=4, families=families)}
    with Store.open(place(run, check)) as store:
        said = {(label.item, label.labeller) for label in store.labels(check.campaign)}
        labels = [
            label
            for item in store.items(check.campaign)
            for label in judged(item, prompts[item.prompt.id])
            if (label.item, label.labeller) not in said
        ]
        store.add_labels(labels, add_labellers="simulated")
    found = look(run, check)
    audit = audit_run(run, detectors=load_detectors(["spotcheck"]))
    figures = {
        "agreement": found.agreement,
        **found.phases,
        "drift": found.drift,
        "two people": found.people,
        "without noise": found.without_noise,
    }
    shown = "; ".join(f"{name} {measured(figure)}" for name, figure in figures.items() if figure)
    status = ", ".join(f"{f.detector}: {f.status}" for f in audit.findings if f.stage == "grpo")
    return f"{run.name}: {len(found.pairs)} pairs; {shown}; {status}"


def judged(item: Item, prompt: Prompt) -> list[Label]:
    """Every labeller's ranking of an item."""
    texts = [response.text for response in item.responses]
    return [
        Label(
            id=f"{item.id}-{who.name}",
            item=item.id,
            labeller=who.name,
            kind="ranking",
            ranks=tuple(who.label_group(prompt, texts)),
            cost=Cost(seconds=15.0),
        )
        for who in PEOPLE
    ]


if __name__ == "__main__":
    main()
