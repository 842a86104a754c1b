"""How many steps another trainer's run was to have, by what lies beside its logs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gnomon.runs.foreign import Trainer, is_number, metrics_file


@dataclass(frozen=True)
class Length:
    """How long a run was to be, and how far it came.

    Attributes:
        planned: steps of the optimizer that it was to have.
        reached: those that it is known to have had, beside what is logged.
        every: steps from one logged one to the next.
        ended: whether it says itself that it is over, as after an early stop.
    """

    planned: int
    reached: int = 0
    every: int = 1
    ended: bool = False

    def lacks(self, last: int) -> str:
        """In words, that the logs end before the run was to; empty where they need not.

        Args:
            last: the last step that is logged.
        """
        last = max(last, self.reached)
        if self.ended or last + self.every > self.planned:
            return ""
        return f"its logs end at step {last} of {self.planned}"


def length_of(source: Path, metrics: Path | None, trainer: Trainer) -> Length | None:
    """How long a run was to be, by its ``trainer_state.json`` (TRL) or ``.hydra/config.yaml``
    (verl); None where neither is there or says it.

    Args:
        metrics: the file of metrics, where one was given.
    """
    given = [metrics] if metrics is not None else []
    if trainer == "verl":
        return _of_verl(_beside(source, given))
    found = metrics_file(source, trainer)
    states = [file for file in (*given, found) if file is not None and file.suffix == ".json"]
    return next(filter(None, map(_of_trl, states)), None)


def _of_trl(file: Path) -> Length | None:
    state = _read(file)
    planned = _whole(state.get("max_steps"))
    if not planned:
        return None
    history = state.get("log_history")
    rows = [row for row in history if isinstance(row, Mapping)] if isinstance(history, list) else []
    return Length(
        planned,
        reached=_whole(state.get("global_step")),
        every=max(1, _whole(state.get("logging_steps"))),
        ended=any("train_runtime" in row for row in rows[-1:]),  # the summary at the end
    )


def _of_verl(folders: Iterable[Path]) -> Length | None:
    for folder in folders:
        trainer = _read(folder / ".hydra" / "config.yaml").get("trainer")
        planned = trainer.get("total_training_steps") if isinstance(trainer, Mapping) else None
        if _whole(planned):
            return Length(_whole(planned))
    return None


def _beside(source: Path, given: Iterable[Path]) -> Iterator[Path]:
    yield from (source, source.parent)
    yield from (file.parent for file in given)


def _read(file: Path) -> Mapping[str, Any]:
    """What a file holds; nothing where it is not there or cannot be read (which is said where the
    metrics are read)."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _whole(value: object) -> int:
    """A number of steps; 0 for what is none."""
    return int(value) if is_number(value) and isinstance(value, int | float) and value > 0 else 0
