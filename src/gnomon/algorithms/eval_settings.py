"""The settings of the ``eval`` stage."""

from __future__ import annotations

from pydantic import Field

from gnomon.algorithms.offline_settings import Settings
from gnomon.recipe.training import EvalSpecs

EVAL = "eval"
EVAL_SUMMARY = "measure a policy with suites of questions; it stays as it is"


class EvalSettings(Settings):
    """Settings of an eval stage."""

    suites: EvalSpecs = Field(
        min_length=1, description="what to measure: a list of `suite` and `options`, or names"
    )
