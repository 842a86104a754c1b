"""The suites by name, and a suite made from its name and options. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.evals.suite import Options, Suite
from gnomon.plugins import find, is_own
from gnomon.recipe.load import validate_as

SUITES: Mapping[str, str] = {
    "win_rate": "gnomon.evals.win_rate:WinRate",
    "reward_bench": "gnomon.evals.reward_bench:RewardBench",
    "refusal": "gnomon.evals.refusal:Refusal",
    "sycophancy": "gnomon.evals.choices:Sycophancy",
    "behaviour": "gnomon.evals.choices:Behaviour",
    "mt_bench": "gnomon.evals.mt_bench:MTBench",
    "arena_hard": "gnomon.evals.arena_hard:ArenaHard",
    "hhh": "gnomon.evals.choices:HHH",
    "best_of_n": "gnomon.evals.best_of_n:BestOfN",
    "inspect": "gnomon.evals.inspect_suite:Inspect",
    "lm_eval": "gnomon.evals.lm_eval_suite:LMEval",
    "questions": "gnomon.evals.questions:Questions",
    "episodes": "gnomon.evals.episodes:Episodes",
}
"""Names of suites and where each is; only the one that is asked for is imported."""


def suite_class(name: str, base: Path) -> type[Suite]:
    """The class of a suite: one of the table, or the user's own (``file.py:Suite``).

    Args:
        name: a name of the table, followed by a part of the suite's own where it has parts
            (``lm_eval/gsm8k``).
        base: the folder that a user's file is looked up in.

    Raises:
        ConfigError: no such suite (did you mean ...), or what is there is none.
    """
    title = name if is_own(name) else name.partition("/")[0]
    found = find(title, SUITES, base, "suite")
    if not (isinstance(found, type) and callable(getattr(found, "run", None))):
        raise ConfigError(
            f"suite {name!r} is no suite: a class with run(subject, work), which "
            "gnomon.evals.suite.Suite describes"
        )
    return found


def make_suite(name: str, options: Mapping[str, Any], base: Path) -> Suite:
    """A suite with its options, checked; no model is loaded.

    Raises:
        ConfigError: no such suite or option, with the nearest that there is.
        DataError: a file that is missing or cannot be understood.
    """
    kind = suite_class(name, base)
    part = "" if is_own(name) else name.partition("/")[2]
    given = {**options, **({"part": part} if part else {})}
    if part and "part" not in kind.options_class.model_fields:
        raise ConfigError(f"suite {name!r}: {kind.title} has no parts; write {kind.title}")
    checked: Options = validate_as(kind.options_class, given, f"suite {name}")
    suite = kind(checked, base)
    suite.check()
    return suite
