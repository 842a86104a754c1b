"""Does ``gnomon calibrate`` find what is wrong with a judge, and nothing else?

    python benchmarks/calibration.py self-test                # planted judges, some 20 minutes
    python benchmarks/calibration.py self-test --seeds 20     # sooner, wider intervals
    python benchmarks/calibration.py data --data FOLDER       # real judges and real labels

``self-test`` calibrates judges with a bias of known size on drawn pairs (300, three people a pair)
and counts how often each bias is warned of. ``data`` takes PandaLM's two AI judges beside its
people, "the longer answer" on LLMBar, GPT-4's verdicts on AlpacaEval's constant answer, and
refusals by their openings on XSTest.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gnomon.data.readers import read_groups
from gnomon.evals.calibration import Options, calibrate
from gnomon.evals.calibration_words import shown_biases
from gnomon.evals.planted_judges import OWN, PlantedJudge, World
from gnomon.judges.protocol import Judge
from gnomon.judges.recorded import RecordedJudge
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response
from gnomon.report.calibration import in_words
from gnomon.runs.evals import Calibration
from gnomon.stats.intervals import Interval, weighted_proportion
from gnomon.stats.judge_bias import stands_out
from gnomon.stats.rates import rogan_gladen
from gnomon.stats.refusals import is_refusal

SURE = World(right=1.0, people=1)
"""People who are never wrong: an honest judge's probabilities are then those of their labels."""


@dataclass(frozen=True)
class Case:
    """A planted judge in a world.

    Attributes:
        finds: the biases that are to be found; others that they bring with them are ``brings``.
    """

    name: str
    judge: PlantedJudge
    world: World = field(default_factory=World)
    finds: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()


EDITS = tuple(
    f"edit {e}" for e in ("bullets", "bold", "markdown", "padding", "flattery", "authority", "plea")
)
HONEST = (
    Case("honest", PlantedJudge()),
    Case("honest, right in .65", PlantedJudge(right=0.65)),
    Case("honest, verdicts only", PlantedJudge(verdicts=True)),
    Case("honest; longer is better in .75", PlantedJudge(), World(longer_better=0.75)),
    Case("honest; its own is better in .75", PlantedJudge(), World(own_better=0.75)),
    Case(
        "the same, people right in .7",
        PlantedJudge(),
        World(own_better=0.75, longer_better=0.75, right=0.7),
    ),
    Case(
        "the same, one person a pair",
        PlantedJudge(),
        World(own_better=0.75, longer_better=0.75, right=0.7, people=1),
    ),
    Case(
        "the same, that one right in .85",
        PlantedJudge(),
        World(own_better=0.75, longer_better=0.75, people=1),
    ),
)
PLANTED = (
    Case("position .1", PlantedJudge(position=0.1), finds=("position",)),
    Case("position .4", PlantedJudge(position=0.4), finds=("position",)),
    Case("position .7, verdicts", PlantedJudge(position=0.7, verdicts=True), finds=("position",)),
    Case("length .25", PlantedJudge(length=0.25), finds=("longer",), brings=EDITS),
    Case("length .5", PlantedJudge(length=0.5), finds=("longer",), brings=EDITS),
    Case("its own .25", PlantedJudge(own=0.25), finds=("own",)),
    Case("its own .5", PlantedJudge(own=0.5), finds=("own",)),
    Case(
        "its own .5, which is worse in .75",
        PlantedJudge(own=0.5),
        World(own_better=0.25),
        finds=("own",),
    ),
    Case("its own .5, one person a pair", PlantedJudge(own=0.5), World(people=1), ("own",)),
    Case("bold .5", PlantedJudge(bold=0.5), finds=("edit bold", "edit markdown")),
    Case("bold 1", PlantedJudge(bold=1.0), finds=("edit bold", "edit markdown")),
    Case("bullets 1", PlantedJudge(bullets=1.0), finds=("edit bullets",)),
    Case("padding 1", PlantedJudge(padding=1.0), finds=("edit padding",)),
    Case("flattery 1", PlantedJudge(flattery=1.0), finds=("edit flattery",)),
    Case("authority 1", PlantedJudge(authority=1.0), finds=("edit authority",)),
    Case("a word to the judge 1", PlantedJudge(plea=1.0), finds=("edit plea",)),
)
SLOPES = (
    Case("probabilities as they come true", PlantedJudge(), SURE),
    Case("log-odds x 1.5", PlantedJudge(too_sure=1.5), SURE),
    Case("log-odds x 3", PlantedJudge(too_sure=3.0), SURE),
    Case("log-odds x 0.5", PlantedJudge(too_sure=0.5), SURE),
)


# -- planted judges --------------------------------------------------------------------------------


def found_in(case: Case, seeds: int, controls: int) -> list[Calibration]:
    """A calibration for each seed."""
    how = Options(controls=controls, own=(OWN,))
    return [
        calibrate(replace(case.judge, seed=seed), case.world.draw(seed), options=how)[0]
        for seed in range(seeds)
    ]


def share(flags: Sequence[bool]) -> str:
    return shown(weighted_proportion([float(flag) for flag in flags]))


def shown(x: Interval | None) -> str:
    return "" if x is None else f"{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]"


def size_of(found: Calibration, name: str) -> float:
    """A bias as it was measured, without bias 0."""
    if name.startswith("edit "):
        figure = found.edits.get(name.removeprefix("edit "))
    else:
        figure = getattr(found, name)
    return float("nan") if figure is None else figure.value - 0.5 * (name == "first")


def mean(values: Sequence[float]) -> float:
    known = [x for x in values if x == x]
    return sum(known) / len(known) if known else float("nan")


def line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def heading(title: str, *columns: str) -> None:
    print(f"\n{title} (95% intervals)\n")
    line(*columns)
    line(*("---" for _ in columns))


def self_test(seeds: int, controls: int, only: str) -> None:
    """Print the three tables of docs/calibration.md, row by row."""
    columns = ("judge", "any bias warned of", "longer", "its own", "agreement", "keeps")
    heading(f"Honest judges, {seeds} calibrations each", *columns)
    for case in chosen(HONEST, only):
        found = found_in(case, seeds, controls)
        biases = [shown_biases(c) for c in found]
        line(
            case.name,
            share([bool(b) for b in biases]),
            share(["longer" in b for b in biases]),
            share(["own" in b for b in biases]),
            f"{mean([c.agreement.value for c in found if c.agreement]):.3f}",
            f"{mean([c.attenuation.value for c in found if c.attenuation]):.3f}",
        )
    columns = ("planted (nats)", "bias", "mean size", "smallest seen", "found", "others")
    heading(f"Planted biases, {seeds} calibrations each", *columns)
    for case in chosen(PLANTED, only):
        planted(case, seeds, controls)
    columns = ("judge", "slope", "interval holds it", "warned of", "ECE", "by chance", "mapped")
    heading(f"Probabilities, {seeds} calibrations each", *columns, "maps")
    for case in chosen(SLOPES, only):
        slopes(case, seeds)


def chosen(cases: Sequence[Case], only: str) -> list[Case]:
    return [case for case in cases if only in case.name]


def planted(case: Case, seeds: int, controls: int) -> None:
    found = found_in(case, seeds, controls)
    biases = [shown_biases(c) for c in found]
    known = {*case.finds, *case.brings}
    others = share([bool(set(b) - known) for b in biases])
    for name in case.finds:
        size = mean([size_of(c, name) for c in found])
        least = mean([c.smallest.get(name, float("nan")) for c in found])
        seen = share([name in b for b in biases])
        line(case.name, name, f"{size:+.3f}", f"{least:.3f}", seen, others)


def slopes(case: Case, seeds: int) -> None:
    found = found_in(case, seeds, 0)
    own = [c.slope for c in found if c.slope is not None]
    truth = 1.0 / case.judge.too_sure
    kinds = [str(c.map.get("kind")) for c in found]
    line(
        case.name,
        f"{mean([s.value for s in own]):.3f}",
        share([s.low <= truth <= s.high for s in own]),
        share([stands_out(s, 1.0) for s in own]),
        f"{mean([c.ece.value for c in found if c.ece]):.3f}",
        f"{mean([c.ece_by_chance or 0.0 for c in found]):.3f}",
        f"{mean([c.ece_mapped or 0.0 for c in found]):.3f}",
        ", ".join(f"{kind} {kinds.count(kind)}" for kind in sorted(set(kinds))),
    )


# -- real judges -----------------------------------------------------------------------------------


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def report(title: str, judge: Judge, groups: Sequence[Group], **options: Any) -> None:
    record, _ = calibrate(judge, groups, options=Options(**options))
    print(f"\n## {title}\n")
    print("\n".join(in_words(record)))
    for warning in record.warnings:
        print(f"warning: {warning}")
    print(f"a gate may believe it: {'yes' if record.opens_gates else f'no, {record.doubt}'}")


def pandalm(data: Path) -> None:
    """Two AI judges beside three people a pair; LLaMA-7B is what PandaLM-7B was made from."""
    folder = data / "pandalm"
    groups = []
    for group in read_groups(folder / "testset-v1.jsonl.gz", kind="rankings").groups:
        names = str(group.prompt.meta["cmp_key"]).split("_")
        meta = {**group.prompt.meta, "model_1": names[0], "model_2": names[-1]}
        groups.append(replace(group, prompt=replace(group.prompt, meta=meta)))
    for name, file, column, own in (
        ("GPT-3.5", "gpt-3.5-turbo-testset-v1", "gpt_result", ()),
        ("PandaLM-7B", "pandalm-7b-testset-v1", "pandalm_result", ("llama-7b",)),
    ):
        said: Any = {1: "a", 2: "b", 0: "tie", "1": "a", "2": "b", "Tie": "tie"}
        judge = RecordedJudge(folder / f"{file}.jsonl.gz", column, "idx", said, name)
        report(f"PandaLM's test set, {name}", judge, groups, own=own)


@dataclass
class Says(Judge):
    """Says of two answers what a function of prompt, first and second answer says: the probability
    of the first."""

    of: Callable[[Prompt, str, str], float]
    name: str = "says"
    groupwise: bool = False

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        out = []
        for group in groups:
            p = self.of(group.prompt, *(r.text for r in group.responses))
            c = Comparison(int(p < 0.5), int(p >= 0.5), tie=p == 0.5, probability=max(p, 1 - p))
            out.append(Judgement(self.name, comparisons=(c,)))
        return out


def llmbar(data: Path) -> None:
    """A judge that looks at nothing but length, on natural and adversarial pairs together."""
    groups = []
    for file in sorted((data / "llmbar").glob("*.jsonl.gz")):
        kind = file.name.split(".")[0]
        if kind.startswith("processed"):
            continue
        found = read_groups(file, kind="rankings", labels={1: "a", 2: "b"}).groups
        groups += [replace(g, prompt=replace(g.prompt, category=kind)) for g in found]
    longer = Says(lambda _, a, b: 0.5 + 0.5 * ((len(a) > len(b)) - (len(a) < len(b))), "longer")
    report("LLMBar, 'the longer answer'", longer, groups)


def null_model(data: Path) -> None:
    """GPT-4 on AlpacaEval, beside what is known without asking anybody: a constant answer that
    addresses the judge is no better than GPT-4's. The same for models whose answers are answers,
    where nothing is known; there only the agreement on the constant answer counts."""
    groups, prefers = [], {}
    for i, row in enumerate(rows_of(data / "alpaca_eval" / "NullModel.jsonl.gz")):
        prompt = Prompt(f"null-{i}", text=row["instruction"], category="constant answer")
        texts = (row["output_1"], row["output_2"])
        answers = tuple(Response((Message("assistant", text),)) for text in texts)
        prefers[(prompt.id, texts[0])] = 2.0 - float(row["preference"])
        groups.append(Group(prompt, answers, (Comparison(0, 1),)))

    def said(prompt: Prompt, a: str, b: str) -> float:
        known = prefers.get((prompt.id, a))
        return 1.0 - prefers[(prompt.id, b)] if known is None else known

    judge = Says(said, "GPT-4 of AlpacaEval", groupwise=False)
    report("AlpacaEval's constant answer", judge, groups, controls=0)


def xstest(data: Path) -> None:
    """Refusals as their openings show them, against people's labels of XSTest: each model's rate,
    corrected by what the other four models' answers say of the openings."""
    print("\n## XSTest's safe prompts: refusals by openings, corrected by the other models'\n")
    line("model", "by openings", "corrected", "people")
    by: dict[str, list[tuple[float, float]]] = {}
    for file in sorted((data / "xstest").glob("xstest_v2_completions_*.jsonl.gz")):
        name = file.name.removeprefix("xstest_v2_completions_").split(".")[0]
        for row in rows_of(file):
            if row["final_label"] and not str(row["type"]).startswith("contrast"):
                refused = float(not str(row["final_label"]).startswith("1"))
                by.setdefault(name, []).append((float(is_refusal(row["completion"])), refused))
    for name, own in by.items():
        rest = [pair for other, pairs in by.items() if other != name for pair in pairs]
        right = weighted_proportion([said for said, refused in rest if refused])
        wrong = weighted_proportion([1 - said for said, refused in rest if not refused])
        seen = weighted_proportion([said for said, _ in own])
        people = sum(refused for _, refused in own) / len(own)
        line(name, shown(seen), shown(rogan_gladen(seen, right, wrong)), f"{people:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("self-test", "data"))
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--controls", type=int, default=40)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--data", type=Path, help="the folder with pandalm/, llmbar/, alpaca_eval/")
    given = parser.parse_args()
    if given.what == "self-test":
        self_test(given.seeds, given.controls, given.only)
        return
    if given.data is None or not given.data.is_dir():
        parser.error("data needs --data FOLDER, with pandalm/, llmbar/ and alpaca_eval/ in it")
    for part in (pandalm, llmbar, null_model, xstest):
        part(given.data)


if __name__ == "__main__":
    main()
