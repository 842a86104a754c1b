"""sweep.json: what a sweep tries, and which runs of it were begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gnomon.runs.comparison import only_mappings
from gnomon.runs.records import Record

SWEEP = "sweep.json"


class SweptRun(Record):
    """A run of a sweep.

    Attributes:
        name: of its folder, in the sweep's.
        settings: the values of the sweep's keys.
        problem: why it did not get to its end; empty where it did, or goes on.
        shared: stages that were taken over from another run, by that run's name.
    """

    name: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    problem: str = ""
    shared: dict[str, str] = Field(default_factory=dict)


class Sweep(Record):
    """sweep.json.

    Attributes:
        recipe: the recipe's name.
        recipe_sha256: of the recipe without what its runs differ in.
        keys: what is varied, as on the command line.
        log: those of them that lie on a log scale.
        search: ``grid`` or ``optuna``.
        objective: the figure that settings are ranked by; ``sign`` is 1 where higher is better.
        why: why this objective, where nobody named it.
        settings: how many there are to try.
        runs: those that were begun, in order.
        stopped: why it ended before all were tried; empty where they were, or it goes on.
    """

    recipe: str = ""
    recipe_sha256: str = ""
    keys: list[str] = Field(default_factory=list)
    log: list[str] = Field(default_factory=list)
    search: str = "grid"
    seeds: list[int] = Field(default_factory=list)
    objective: str = ""
    sign: int = 1
    why: str = ""
    settings: int | None = None
    runs: Annotated[list[SweptRun], BeforeValidator(only_mappings)] = Field(default_factory=list)
    stopped: str = ""

    def name_of(self, settings: Mapping[str, Any], seed: int) -> str | None:
        """The name of the run of a setting and a seed; None where it was not begun."""
        same = (run for run in self.runs if run.settings == settings and run.seed == seed)
        return next((run.name for run in same), None)

    def run(self, name: str) -> SweptRun | None:
        """The run of a name; None where it was not begun."""
        return next((run for run in self.runs if run.name == name), None)
