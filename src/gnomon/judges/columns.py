"""A reward that is a function of columns, as TRL calls it: ``f(prompts, completions, **columns)``.

It is called with keywords: ``prompts``, ``completions``, ``completion_ids``, and each column of the
data, every one a list with an item for each response: None where its row has none. What was a
conversation in the data is a list of messages, and what was a text is a text. Of ``trainer_state``
only ``global_step`` is known; ``log_metric`` and ``log_extra`` put figures among the reward's
parts, and texts among its reasons. A function that does not take one of these is called without it.

None says that the reward does not apply: of several, the others decide; where none is left, the
response has no reward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Judge, Score, as_score
from gnomon.plugins import did_you_mean
from gnomon.records import Group, Judgement, Message, Prompt, Response
from gnomon.usercode import FailedError, settled

ABSTAINS = "does not apply (None)"
_GIVEN = ("prompts", "completions", "completion_ids")
_MORE = ("trainer_state", "log_extra", "log_metric")
_Rows = Sequence[tuple[Prompt, Response]]


def takes_columns(found: Any) -> bool:
    """Whether a function is of columns rather than of samples: it names ``completions``, or takes
    whatever has a name and nothing else."""
    if isinstance(found, type):
        return False
    parameters = parameters_of(found)
    return bool(parameters.keys() & {"completions", "completion_ids"}) or (
        [parameter.kind for parameter in parameters.values()] == [inspect.Parameter.VAR_KEYWORD]
    )


def parameters_of(found: Any) -> Mapping[str, inspect.Parameter]:
    """What a function takes; nothing where it does not say (a builtin)."""
    try:
        return inspect.signature(found).parameters
    except (TypeError, ValueError):
        return {}


def missing_columns(found: Any, columns: Sequence[str]) -> list[str]:
    """The columns that a function cannot do without and that are not there."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [
        name
        for name, parameter in parameters_of(found).items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in kinds
    ]
    return [name for name in needed if name not in (*_GIVEN, *_MORE, *columns)]


def lacking(name: str, missing: Sequence[str], columns: Sequence[str]) -> str:
    """In words, that a reward's columns are not in the data."""
    near = did_you_mean(missing[0], columns, "it has the columns")
    return f"reward {name!r} needs the column {missing[0]!r}, and the data has none; {near}"


class ColumnReward(Judge):
    """Wraps such a function.

    Args:
        options: more keyword arguments, the same in every call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: Mapping[str, Any],
        version: str = "",
    ) -> None:
        self.function = function
        self.name = name
        self.options = options
        self.version = version
        self.round = 1
        parameters = parameters_of(function)
        self._takes = set(parameters)
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        names = dict.fromkeys(name for prompt in prompts for name in _columns(prompt))
        missing = missing_columns(self.function, [*names, *self.options])
        if missing:
            raise ConfigError(f"{lacking(self.name, missing, list(names))} (map it with columns)")

    def begin(self, round: int) -> None:
        self.round = round

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        rows = [(group.prompt, response) for group in groups for response in group.responses]
        notes = _Notes(len(rows))
        result = settled(self.function(**self._arguments(rows, notes)))
        items = result.tolist() if hasattr(result, "tolist") else result
        if not isinstance(items, Sequence) or isinstance(items, str):
            raise TypeError(f"returned {type(result).__name__}, expected a list of rewards")
        if len(items) != len(rows):
            problem = f"returned {len(items)} rewards for {len(rows)} completions"
            items = [FailedError(problem)] * len(rows)
        scores = iter([notes.with_parts(i, _score(item)) for i, item in enumerate(items)])
        reasons = iter(notes.reasons)
        return [
            Judgement(
                self.name,
                tuple(next(scores) for _ in group.responses),
                version=self.version,
                reason="; ".join(filter(None, [next(reasons) for _ in group.responses])) or None,
            )
            for group in groups
        ]

    def _arguments(self, rows: _Rows, notes: _Notes) -> dict[str, Any]:
        own = [_columns(prompt) for prompt, _ in rows]
        names = dict.fromkeys(name for columns in own for name in columns)
        names |= dict.fromkeys(missing_columns(self.function, [*names, *self.options]))
        given: dict[str, Any] = {name: [columns.get(name) for columns in own] for name in names}
        given |= {
            "prompts": [_prompt(prompt) for prompt, _ in rows],
            "completions": [
                _messages(response.messages) if prompt.conversational else response.text
                for prompt, response in rows
            ],
            "completion_ids": [list(response.ids) for _, response in rows],
            "log_extra": notes.log_extra,
            "log_metric": notes.log_metric,
            **self.options,
        }
        if "trainer_state" in self._takes:
            from transformers import TrainerState  # heavy, and seldom asked for

            given["trainer_state"] = TrainerState(global_step=self.round - 1)
        return {k: v for k, v in given.items() if self._takes_all or k in self._takes}


class _Notes:
    """What a function logs while it is called."""

    def __init__(self, rows: int) -> None:
        self.parts: list[dict[str, float]] = [{} for _ in range(rows)]
        self.reasons = [""] * rows

    def log_metric(self, name: str, value: float) -> None:
        """A number of the whole batch."""
        for parts in self.parts:
            parts[str(name)] = value

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """A value for each completion."""
        for i, value in enumerate(list(values)[: len(self.parts)]):
            if isinstance(value, int | float):
                self.parts[i][str(column)] = float(value)
            elif value is not None:
                said = f"{column}: {value}"
                self.reasons[i] = f"{self.reasons[i]}, {said}" if self.reasons[i] else said

    def with_parts(self, place: int, score: Score) -> Score:
        return Score(score.value, {**self.parts[place], **score.parts}, score.error)


def _score(item: Any) -> Score:
    if item is None:
        return Score(None, error=ABSTAINS)
    return Score(None, error=str(item)) if isinstance(item, FailedError) else as_score(item)


def _columns(prompt: Prompt) -> dict[str, Any]:
    known = {"id": prompt.id, "category": prompt.category, **prompt.meta, **prompt.row}
    return {str(k): value for k, value in known.items() if k not in ("prompt", "completion")}


def _prompt(prompt: Prompt) -> Any:
    """As it was in the data: messages, or the text (which a system prompt may stand before)."""
    if prompt.conversational:
        return _messages(prompt.messages)
    return prompt.messages[-1].content if prompt.text is None else prompt.text


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
