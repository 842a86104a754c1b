"""What a user has to see a tax by: questions of other tasks, before and after, graded by answers.

A run that trains on some families is asked about the others (its start is asked too), as one would
ask MMLU of a model that is trained on instructions. The questions are never of a family that is
trained on, so their answers say nothing about the reward that is judged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gnomon.files import write_text
from gnomon.judges.protocol import Sample
from gnomon.tasks.tunnel.gold import is_correct
from gnomon.tasks.tunnel.world import generate_prompts
from planted_plan import ALL, Planned
from planted_recipes import start_model

QUESTIONS = 120
NAME = "other_tasks"
START, END = "base", "policy"
"""The models' names in the records; the comparison calls them so, too."""


def graded(samples: Sequence[Sample]) -> list[float]:
    """1 for an answer that is that of the question's row."""
    return [float(s.finished and is_correct(s.prompt, s.text)) for s in samples]


def questions(run: Planned, out: Path) -> Path | None:
    """The file of questions of the families that a run does not train on; None without any."""
    rest = [family for family in ALL if family not in run.families]
    if not rest:
        return None
    made = generate_prompts(QUESTIONS, 10_000 + run.world, rest, "heldout", 0.0)
    lines = (
        json.dumps({"prompt": p.messages[0].content, "category": p.category, **p.meta})
        for p in made
    )
    file = out / "shared" / f"questions-{run.world}-{'-'.join(rest)}.jsonl"
    if not file.is_file():
        write_text(file, "".join(f"{line}\n" for line in lines))
    return file


def ask(run: Planned, out: Path) -> None:
    """Ask start and end of a run, and leave the results in its folder; nothing is asked twice."""
    from gnomon.evals.evaluate import evaluate
    from gnomon.evals.questions import Questions
    from gnomon.evals.subject import Model

    file = questions(run, out)
    if file is None:
        return
    folder = out / "runs" / run.id
    options = {
        "name": NAME,
        "data": str(file),
        "judge": {"function": f"{Path(__file__).resolve()}:graded", "name": "answers"},
        "max_new_tokens": 40,
        "temperature": 1.0,
    }
    models = {START: start_model(run.world, out), END: folder / "stages" / "01-policy" / "model"}
    for name, model in models.items():
        suite = Questions(Questions.options_class.model_validate(options), file.parent)
        suite.check()
        evaluate(suite, Model(str(model), name), folder)
