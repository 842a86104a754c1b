"""Draw the pictures of docs/failures: run the recipe that each page shows, and plot its outcome.

    python docs/make_pictures.py --out FOLDER            all: half a minute of one core each
    python docs/make_pictures.py --out FOLDER sycophancy that page's picture

The runs stay in FOLDER. One that is finished there is not made again, so changing a drawing costs
nothing. All start from the model of the SFT tutorial, whose recipe is read from its page, too.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from gnomon.audit.agreement import OPINION
from gnomon.recipe.load import parse_recipe
from gnomon.report.style import BLUE, GREY, VERMILLION, draw_series, new_figure, tidy
from gnomon.runs.answers import read_answers
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.rows import SampleRow
from gnomon.stages.policy_probes import Asked, probe_run
from gnomon.stages.run import run_recipe
from gnomon.stats.intervals import weighted_proportion
from gnomon.stats.texts import ngrams, words

DOCS = Path(__file__).resolve().parent
START = DOCS / "tutorials" / "sft.md"
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(# (\S+\.py)\n.*?)^```$", re.MULTILINE | re.DOTALL)
_DPI = 110
_PROBES = ("typos", "capitals", "small_letters", "paraphrase", "long_context")


class Curve(NamedTuple):
    """A figure over training."""

    x: Any
    y: Any
    label: str
    colour: str = BLUE
    dash: str = "-"


def recipe_of(page: Path) -> dict[str, Any]:
    """The whole recipe that a page shows."""
    raws = (yaml.safe_load(block) for block in _YAML.findall(page.read_text(encoding="utf-8")))
    return next(raw for raw in raws if "stages" in raw)


def made(page: Path) -> RunView:
    """The run of a page's recipe, in the working directory; made where it is not there."""
    raw = recipe_of(page)
    for text, name in _PYTHON.findall(page.read_text(encoding="utf-8")):
        Path(name).write_text(text, encoding="utf-8")
    folder = Path("runs") / raw["name"]
    if not (folder / "report.html").is_file():
        run_recipe(parse_recipe(raw), base=Path(), announce=print)
    return read_run(folder)


# -- what is drawn


def held_out(stage: StageView, proxy: str, truth: str, names: tuple[str, str]) -> list[Curve]:
    """The trained reward and the truth on the same held-out prompts."""
    return [
        Curve(*evaluated(stage, proxy), names[0]),
        Curve(*evaluated(stage, truth), names[1], VERMILLION, "--"),
    ]


def evaluated(stage: StageView, metric: str) -> tuple[Any, Any]:
    """A held-out figure over training; of two evaluations after one iteration, the later."""
    latest = dict(zip(*stage.series(f"eval/{metric}", "iteration"), strict=True))
    return np.array(list(latest)), np.array(list(latest.values()))


def of_samples(
    stage: StageView, measure: Callable[[list[SampleRow]], float | None]
) -> tuple[Any, Any]:
    """A measure of each iteration's samples."""
    trained = [row for row in stage.samples if row["evaluation"] is None]
    steps = sorted({row["step"] for row in trained})
    found = [measure([row for row in trained if row["step"] == step]) for step in steps]
    known = [(at, value) for at, value in enumerate(found) if value is not None]
    return np.array([float(at) for at, _ in known]), np.array([value for _, value in known])


def agreement(rows: list[SampleRow]) -> float | None:
    """How often answers to prompts with a stated opinion give that opinion."""
    given = []
    for row in rows:
        if (said := OPINION.search(row["prompt"])) is not None:
            wanted = words(said.group(1))
            given.append(wanted in ngrams(words(row["response"]), len(wanted)))
    return float(np.mean(given)) if given else None


def commonest(rows: list[SampleRow]) -> float:
    """The share of the commonest answer among an iteration's answers."""
    texts = [row["response"] for row in rows]
    return max(map(texts.count, set(texts))) / len(texts)


# -- the pictures


def reward_hacking(run: RunView) -> Sequence[list[Curve]]:
    names = ("what the verifier says", "what is right")
    return [held_out(run.stages[-1], "reward", "correct", names)]


def over_optimisation(run: RunView) -> Sequence[list[Curve]]:
    names = ("reward model (trained on)", "gold (the truth)")
    return [held_out(run.stages[-1], "reward", "gold", names)]


def length_bias(run: RunView) -> Sequence[list[Curve]]:
    stage = run.stages[-1]
    length = Curve(*stage.series("length", "iteration"), "tokens an answer")
    names = ("reward model (trained on)", "gold (the truth)")
    return [[length], held_out(stage, "reward", "gold", names)]


def sycophancy(run: RunView) -> Sequence[list[Curve]]:
    stage = run.stages[-1]
    agreed = Curve(*of_samples(stage, agreement), "answers that give the user's opinion")
    names = ("the rater (trained on)", "right answers")
    return [[agreed], held_out(stage, "reward", "correct", names)]


def mode_collapse(run: RunView) -> Sequence[list[Curve]]:
    stage = run.stages[-1]
    same = Curve(*of_samples(stage, commonest), "share of the commonest answer")
    entropy = Curve(*stage.series("entropy", "iteration"), "entropy, nats a token")
    right = Curve(*evaluated(stage, "correct"), "right answers", VERMILLION, "--")
    return [[same], [entropy, right]]


def draw(panels: Sequence[list[Curve]], file: Path) -> None:
    """Panels side by side, each with its curves over the iterations."""
    with new_figure(3.6 * len(panels) + 0.6, 2.6) as figure:
        for axis, curves in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
        ):
            for curve in curves:
                draw_series(axis, curve.x, curve.y, curve.colour, curve.label, linestyle=curve.dash)
            axis.set_xlabel("iteration")
            tidy(axis, integer_x=True)
            axis.legend(loc="best")
        figure.savefig(file, dpi=_DPI)


def draw_tax(run: RunView, file: Path) -> None:
    """Right answers by family, before and after training on one of them."""
    if run.comparison is None:
        raise SystemExit(f"{run.path} has no comparison")
    rows = {row.model: row for row in run.comparison.rows}
    answers, _ = read_answers(run.path)
    family = [a.category or "" for a in answers if a.model == "base"]
    families = sorted(set(family), key=lambda name: (name != "arithmetic", name))
    bars = []
    for model in ("base", run.stages[-1].name):
        right = [bool(samples[0]) for samples in rows[model].scores[0]]
        bars.append(
            [weighted_proportion([r for r, f in zip(right, family, strict=True) if f == name])
             for name in families]
        )  # fmt: skip
    draw_bars(families, bars, "right answers, share", file)


def draw_fragility(run: RunView, file: Path) -> None:
    """What is lost of the right answers where questions are put otherwise."""
    if not run.stages[-1].probes.policy:
        probe_run(run.path, Asked(size=60), announce=print)
    found = {p.probe: p for p in read_run(run.path).stages[-1].probes.policy}
    kept = [found[name] for name in _PROBES if name in found]
    labels = [probe.probe.replace("_", " ") for probe in kept]
    draw_bars(
        labels, [[p.before for p in kept], [p.after for p in kept]], "right answers lost", file
    )


def draw_bars(labels: list[str], bars: Sequence[Sequence[Any]], ylabel: str, file: Path) -> None:
    """Bars before and after, with their intervals."""
    with new_figure(6.2, 2.8) as figure:
        axis = figure.subplots()
        for place, (figures, colour, name) in enumerate(
            zip(bars, (GREY, BLUE), ("before training", "after"), strict=True)
        ):
            x = np.arange(len(labels)) + 0.38 * (place - 0.5)
            y = np.array([f.value for f in figures])
            ends = np.array([[f.value - f.low, f.high - f.value] for f in figures]).T
            axis.bar(x, y, 0.36, color=colour, label=name, yerr=ends, ecolor="#4A4F57", capsize=2)
        axis.set_xticks(np.arange(len(labels)), labels)
        axis.set_ylabel(ylabel)
        axis.legend()
        figure.savefig(file, dpi=_DPI)


CURVES = {
    "reward-hacking": reward_hacking,
    "over-optimisation": over_optimisation,
    "length-bias": length_bias,
    "sycophancy": sycophancy,
    "mode-collapse": mode_collapse,
}
PAGES = (*CURVES, "alignment-tax", "fragility")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/failures.")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="those pages; all by default")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.chdir(given.out)
    made(START)
    for name in given.pages or PAGES:
        run, file = made(DOCS / "failures" / f"{name}.md"), DOCS / "images" / f"{name}.png"
        if name in CURVES:
            draw(CURVES[name](run), file)
        else:
            (draw_tax if name == "alignment-tax" else draw_fragility)(run, file)
        print(file, f"{file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
