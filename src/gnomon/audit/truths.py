"""What of a run's records a simulation's true reward has touched, and the records without it.

Gold is for judging detectors, never for their use: a run that nobody simulates has none. A reward
that knows the truth is stripped where it is observed or compared; where it is what the stage is
trained on, it is the trained reward, and is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from gnomon.recipe.schema import KNOWING, TRUTHS, RewardSpec
from gnomon.runs.comparison import Comparison, ComparisonRow
from gnomon.runs.records import StageInfo

T = TypeVar("T")

RIGHT_ANSWERS = ("solved", "unsolved", "length_correct", "length_incorrect", "pass@")
"""Metrics of right answers, which are those of an observer ``correct`` where there is one."""
MACHINE = (
    "seconds",
    "monitor_seconds",
    "tokens_per_second",
    "peak_rss_gb",
    "peak_gpu_gb",
    "rollout_wait",
)
"""Metrics of the machine, which say nothing of the policy and differ from call to call."""


def reward_entries(raw: Any) -> list[Mapping[str, Any]]:
    """The entries of a recipe's ``reward``, ``observe`` or ``rewards``, however they are written;
    what is no entry is passed over."""
    items = raw if isinstance(raw, list) else [raw]
    entries = [{"builtin": item} if isinstance(item, str) else item for item in items]
    return [entry for entry in entries if isinstance(entry, Mapping)]


def label(entry: Mapping[str, Any]) -> str:
    """The name under which a reward's figures are logged."""
    spec = _spec(entry)
    if spec is not None:
        return spec.label
    named = (entry.get(key) for key in ("name", "builtin", "model", "function"))
    return next((str(name) for name in named if name), "")


def is_truth(entry: Mapping[str, Any]) -> bool:
    """Whether a reward knows the true preference."""
    spec = _spec(entry)
    if spec is not None:
        return spec.is_truth
    return bool(entry.get("truth")) or entry.get("builtin") in KNOWING


def _spec(entry: Mapping[str, Any]) -> RewardSpec | None:
    try:
        return RewardSpec.model_validate(dict(entry))
    except ValidationError:  # of another version
        return None


def same_reward(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two entries ask the same judge, under whichever names and weights."""
    named = {"name", "weight", "truth"}
    first, second = _spec(a), _spec(b)
    if first is None or second is None:
        return dict(a) == dict(b)
    return first.model_dump(exclude=named) == second.model_dump(exclude=named)


class Truths:
    """The names of the rewards that know the truth, of one stage of a run.

    Args:
        trained: the entries that the stage is trained on.
        others: every entry that is observed in the stage, or compared.
    """

    def __init__(
        self, trained: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
    ) -> None:
        hidden = [entry for entry in others if is_truth(entry)]
        known = {*TRUTHS} if not trained and not others else set()  # no recipe tells: by their name
        self.names = known | {label(entry) for entry in hidden}
        self.parts = self.names - {label(entry) for entry in trained}
        self.compared = known | {
            label(entry) for entry in hidden if not any(same_reward(entry, own) for own in trained)
        }

    def hides(self, metric: str) -> bool:
        """Whether a metric says what a truth said, or when the machine said it."""
        name = metric.removeprefix("eval/")
        if name in MACHINE or name.startswith(RIGHT_ANSWERS):
            return True
        return any(
            name in (truth, f"{truth}_errors") or name.startswith(f"{truth}/")
            for truth in self.names
        )

    def without(self, figures: Mapping[str, T]) -> dict[str, T]:
        """Metrics, or a stage's last figures, that no truth has touched."""
        return {name: value for name, value in figures.items() if not self.hides(name)}

    def tree(self, raw: Any) -> Any:
        """Nested held-out figures without those of a truth."""
        if not isinstance(raw, Mapping):
            return raw
        return {key: self.tree(value) for key, value in raw.items() if not self.hides(str(key))}

    def part(self, name: str) -> bool:
        """Whether a part of a sample's reward is a truth's."""
        return any(name == truth or name.startswith(f"{truth}/") for truth in self.parts)

    def comparison(self, comparison: Comparison) -> Comparison:
        """A comparison without the columns and tables of a truth."""
        hidden = {name.replace("_", " ") for name in self.compared}
        kept = [i for i, name in enumerate(comparison.columns) if name not in hidden]
        if not comparison.rows:
            return Comparison()
        return comparison.model_copy(
            update={
                "columns": [comparison.columns[i] for i in kept],
                "rows": [_columns(row, kept) for row in comparison.rows],
                "judges": {},
                "tables": [
                    table
                    for table in comparison.tables
                    if not any(table.title.startswith(f"{name}:") for name in hidden)
                ],
            }
        )


def _columns(row: ComparisonRow, kept: Sequence[int]) -> ComparisonRow:
    def of(values: Sequence[T]) -> list[T]:
        return [values[i] for i in kept if i < len(values)]

    update = {"values": of(row.values), "gains": of(row.gains), "scores": of(row.scores)}
    return row.model_copy(update=update)


def stripped_info(info: StageInfo, truths: Truths) -> StageInfo:
    """What a stage did, without what it measured of a truth, and without times and places."""
    return StageInfo(
        name=info.name,
        algorithm=info.algorithm,
        status=info.status,
        start={key: value for key, value in info.start.items() if key != "from"},
        planned_iterations=info.planned_iterations,
        iterations=info.iterations,
        idle_iterations=info.idle_iterations,
        summary=truths.without(info.summary),
        held_out=truths.without(info.held_out),
        error=info.error,
        skipped=info.skipped,
    )


def stripped_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain data, no truth in what it observes and compares."""
    out = dict(recipe)
    stages = recipe.get("stages")
    if isinstance(stages, list):
        out["stages"] = list(_stripped_stages(stages))
    if isinstance(compare := recipe.get("compare"), Mapping):
        out["compare"] = {**compare, "rewards": untold(compare.get("rewards"))}
    return out


def _stripped_stages(stages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for stage in stages:
        if isinstance(stage, Mapping):
            yield {**stage, "observe": untold(stage.get("observe"))}


def untold(raw: Any) -> list[Mapping[str, Any]]:
    """A recipe's entries of rewards without those that know the truth."""
    return [entry for entry in reward_entries(raw) if not is_truth(entry)]
