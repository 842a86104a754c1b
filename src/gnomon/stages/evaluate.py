"""The ``eval`` stage: measure the policy before it with suites of questions. It trains nothing, and
later stages start from the policy that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from gnomon.errors import ConfigError
from gnomon.evals.evaluate import evaluate
from gnomon.evals.subject import Model
from gnomon.evals.table import make_suite
from gnomon.models.load import LoadedModel
from gnomon.plugins import is_own
from gnomon.recipe.schema import Recipe
from gnomon.recipe.training import EvalSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import resolve_start
from gnomon.stages.untrained import Untrained

BASE, START = "base", "start"
"""What suites may call the recipe's model, and the model that the measured policy was trained
from: ``against: start`` asks whether a stage helped."""


class Evaluate(Untrained):
    """Measures a policy with suites; see :class:`~gnomon.algorithms.eval_settings.EvalSettings`."""

    reads: ClassVar[str] = "an eval stage reads its suites' files"
    cure: ClassVar[str] = "; what a suite needs is in settings.suites, as options"

    def iterations(self, rows: int) -> int:
        return len(self.settings.suites)

    def check(self) -> None:
        super().check()
        check_suites(self.settings.suites, self.base)
        self._trained_from(self.start_model())

    def _trained_from(self, policy: str) -> str | None:
        """What the policy in a folder was trained from, where a suite compares it with that.

        Raises:
            ConfigError: it was trained from nothing: it is what the recipe starts from.
        """
        names = [stage.name for stage in self.recipe.stages]
        if START in names or all(s.options.get("against") != START for s in self.settings.suites):
            return None
        for stage in self.recipe.stages[: names.index(self.name)]:
            if str(self.run.stage(stage.name).model) == policy:
                return resolve_start(self.recipe, stage, self.run, self.base)
        raise ConfigError(
            f"against: {START} compares a policy with what it was trained from, and this stage "
            f"measures {policy}, which no stage before it trained; name a model instead"
        )

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        places = model_places(self.recipe, self.run)
        name = next((n for n, place in places.items() if place == loaded.source), loaded.source)
        before = self._trained_from(loaded.source)
        if before is not None:
            places[START] = before
        subject = Model(
            loaded.source,
            name,
            device=str(self.device),
            dtype=self.dtype,
            template=self.recipe.template,
            siblings=places,
            loaded=loaded,
        )
        suites = [make_suite(s.suite, s.options, self.base) for s in self.settings.suites]
        summary: dict[str, float] = {}
        with self.progress(len(suites)) as progress:
            for done, suite in enumerate(suites, start=1):
                result = evaluate(
                    suite,
                    subject,
                    self.run.path,
                    watch=self.watched(progress, suite.name),
                    tell=progress.note,
                )
                main = result.scores.get(result.main)
                if main is not None:
                    summary[f"{suite.name} {result.main}"] = main.value
                progress.update(done, {})
        return {"iterations": len(suites), "summary": summary}


def check_suites(specs: Sequence[EvalSpec], base: Path) -> None:
    """Check the suites' names, options and files; code of the recipe's own is not imported.

    Raises:
        ConfigError, DataError: one cannot be used, or two would be kept under one name.
    """
    names = []
    for spec in specs:
        if not is_own(spec.suite):
            names.append(make_suite(spec.suite, spec.options, base).name)
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two suites are called {name!r}: give one of them another, options: {{name: ...}}"
            )


def model_places(recipe: Recipe, run: RunFolder) -> dict[str, str]:
    """The model folder of each stage by the stage's name, and the start model as ``base``."""
    places = {stage.name: str(run.stage(stage.name).model) for stage in recipe.stages}
    return {**places, BASE: recipe.model}
