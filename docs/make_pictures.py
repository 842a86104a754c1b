"""Draw the pictures of docs/failures: run the recipe that each page shows, and plot what became of it.

    python docs/make_pictures.py --out FOLDER            all of them: about a minute each on one core
    python docs/make_pictures.py --out FOLDER sycophancy the picture of one page

The runs stay in FOLDER. A run that is finished there is not made again, so a change to a drawing costs
nothing. The start of all is the model of the SFT tutorial, whose recipe is read from its page.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from gnomon.audit.drift import OPINION
from gnomon.recipe.load import parse_recipe
from gnomon.report.style import BLUE, GREY, VERMILLION, figure, save
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.rows import SampleRow
from gnomon.stages.run import run_recipe
from gnomon.stats.texts import ngrams, words

DOCS = Path(__file__).parent
PICTURES = DOCS / "images"
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WINDOW = 5
"""Iterations that a curve of training samples is averaged over."""


def recipe_of(page: Path) -> dict[str, Any]:
    """The first whole recipe of a page."""
    raws = (yaml.safe_load(block) for block in _YAML.findall(page.read_text(encoding="utf-8")))
    return next(raw for raw in raws if "stages" in raw)


def made(page: Path) -> RunView:
    """The run of a page's recipe, in the working directory; made where it is not there."""
    raw = recipe_of(page)
    folder = Path("runs") / raw["name"]
    if not (folder / "report.html").is_file():
        run_recipe(parse_recipe(raw), base=Path(), announce=print)
    return read_run(folder)


# -- drawings


def curves(run: RunView, trained: str, truth: str, names: tuple[str, str]) -> Figure:
    """The trained reward and the truth on the same held-out prompts, over training."""
    stage = run.stages[-1]
    drawing, axes = figure(5.6, 3.0)
    for metric, name, colour, dash in zip(
        (trained, truth), names, (BLUE, VERMILLION), ("-", "--"), strict=True
    ):
        x, y = stage.series(f"eval/{metric}")
        axes.plot(x, y, dash, color=colour, label=name, marker="o", markersize=3)
    axes.set_xlabel("iteration")
    axes.set_ylabel("held-out prompts, mean")
    axes.legend()
    return drawing


def two_panels(
    left: tuple[Any, Any, str], right: tuple[Any, Any, str], truth: tuple[Any, Any, str] | None
) -> Figure:
    """Two figures over training, side by side; beside the right one the truth, where given."""
    drawing, (a, b) = figure(7.2, 2.8, columns=2)
    for axes, (x, y, name), colour in ((a, left, BLUE), (b, right, BLUE)):
        axes.plot(x, y, color=colour, label=name)
        axes.set_title(name)
        axes.set_xlabel("iteration")
    if truth is not None:
        b.plot(truth[0], truth[1], "--", color=VERMILLION, label=truth[2])
        b.set_title("")
        b.legend()
    return drawing


def by_step(
    stage: StageView, measure: Callable[[list[SampleRow]], float | None]
) -> tuple[Any, Any]:
    """A measure of each iteration's samples, as a running mean over a few iterations."""
    steps = sorted({row.step for row in stage.samples if row.evaluation is None})
    found = [(s, measure([r for r in stage.samples if r.step == s])) for s in steps]
    known = [(s, value) for s, value in found if value is not None]
    x, y = np.array([s for s, _ in known]), np.array([v for _, v in known], dtype=float)
    smooth = [y[max(0, i - _WINDOW + 1) : i + 1].mean() for i in range(y.size)]
    return x, np.array(smooth)


def smooth(stage: StageView, metric: str) -> tuple[Any, Any]:
    """A training metric as a running mean."""
    x, y = stage.series(metric)
    return x, np.array([y[max(0, i - _WINDOW + 1) : i + 1].mean() for i in range(y.size)])


def agreement(rows: list[SampleRow]) -> float | None:
    """How often answers to prompts with a stated opinion give that opinion."""
    given = []
    for row in rows:
        if (said := OPINION.search(row.prompt)) is not None:
            wanted = words(said.group(1))
            given.append(wanted in ngrams(words(row.response), len(wanted)))
    return float(np.mean(given)) if given else None


def commonest(rows: list[SampleRow]) -> float | None:
    """The share of the commonest answer among an iteration's answers."""
    texts = [row.response for row in rows]
    return max(texts.count(text) for text in set(texts)) / len(texts) if texts else None
