"""Which settings a sweep tries next: all of a grid, or what Optuna draws."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from gnomon.errors import ConfigError
from gnomon.recipe.sweep import MOST, Axis, Range

Setting = tuple[tuple[str, Any], ...]
"""(key, value) of everything that is varied."""
STUDY = "optuna.db"


class Search(Protocol):
    """Proposes settings, one after the other."""

    def next(self) -> Setting | None:
        """The next setting to try; None once there is none."""

    def tell(self, value: float | None, held: bool) -> None:
        """What became of the last setting.

        Args:
            value: the objective; None where it was not measured.
            held: whether an alarm or a closed gate speaks against it.
        """


def grid(axes: Sequence[Axis]) -> list[Setting]:
    """Every combination of the values, the last key varying fastest.

    Raises:
        ConfigError: a range without a number of values, or too many combinations.
    """
    for axis in axes:
        if not axis.values:
            raise ConfigError(
                f"{axis.key}: {axis.range} does not say how many values: write "
                f"{_example(axis.range)}, or have them drawn (--search optuna --trials N)"
            )
    total = 1
    for axis in axes:
        total *= len(axis.values)
    if total > MOST:
        raise ConfigError(f"the grid has {total:,} settings; at most {MOST:,} can be tried")
    lines = ([(axis.key, value) for value in axis.values] for axis in axes)
    return list(itertools.product(*lines))


def _example(span: Range | None) -> str:
    return "" if span is None else f"{span.scale}({span.low:g},{span.high:g},5)"


class Grid:
    """Every setting once."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._left: Iterator[Setting] = iter(settings)

    def next(self) -> Setting | None:
        return next(self._left, None)

    def tell(self, value: float | None, held: bool) -> None:
        pass


def load_optuna() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("search optuna needs Optuna: pip install 'gnomon-rlhf[sweep]'") from error
    return optuna


class OptunaSearch:
    """Draws settings by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    The study is a file, and the sampler's seed is made from the number of the trial: a search that
    was killed goes on as it would have. A trial that was being tried then is tried again first.
    Settings that something speaks against count as worse than all others (they are told as pruned),
    so that the search does not go where the loopholes are.

    Args:
        file: the study's.
        trials: how many settings to try, those of earlier calls included.
        objective: its name; a study keeps to one.

    Raises:
        ConfigError: Optuna is not installed; or the study is of other keys, or another objective.
    """

    def __init__(
        self, axes: Sequence[Axis], file: Path, *, trials: int, seed: int, objective: str, sign: int
    ) -> None:
        optuna = load_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._axes, self._trials, self._seed = optuna, axes, trials, seed
        self._space = {axis.key: _distribution(optuna.distributions, axis) for axis in axes}
        file.parent.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{file}",
            direction="maximize" if sign > 0 else "minimize",
            load_if_exists=True,
        )
        self._same("objective", f"{objective} ({'max' if sign > 0 else 'min'})", file)
        self._same("keys", {key: str(space) for key, space in self._space.items()}, file)
        self._trial: Any = None

    def _same(self, what: str, now: Any, file: Path) -> None:
        known = self._study.user_attrs.get(what)
        if known is None:
            self._study.set_user_attr(what, now)
        elif known != now:
            raise ConfigError(
                f"{file} is a study of other {what}: {json.dumps(known)}, and now "
                f"{json.dumps(now)}. Give the same again, or choose another name (name=...)"
            )

    def next(self) -> Setting | None:
        states = self._optuna.trial.TrialState
        running = self._study.get_trials(states=[states.RUNNING])
        if running:
            self._trial = running[0].number
            return self._setting(running[0].params)
        known = len(self._study.get_trials(deepcopy=False))
        if known >= self._trials:
            return None
        seed = (self._seed * 1_000_003 + known) % 2**32
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        trial = self._study.ask(self._space)
        self._trial = trial.number
        return self._setting(trial.params)

    def _setting(self, drawn: dict[str, Any]) -> Setting:
        return tuple((axis.key, _value(axis, drawn[axis.key])) for axis in self._axes)

    def tell(self, value: float | None, held: bool) -> None:
        states = self._optuna.trial.TrialState
        if value is None:
            self._study.tell(self._trial, state=states.FAIL)
        elif held:
            self._study.tell(self._trial, state=states.PRUNED)
        else:
            self._study.tell(self._trial, value)


def _distribution(kinds: Any, axis: Axis) -> Any:
    """How Optuna draws a key's value; values of a list are drawn by their text."""
    if axis.values or axis.range is None:
        return kinds.CategoricalDistribution([json.dumps(value) for value in axis.values])
    span, log = axis.range, axis.range.scale == "log"
    if span.whole:
        return kinds.IntDistribution(int(span.low), int(span.high), log=log)
    return kinds.FloatDistribution(span.low, span.high, log=log)


def _value(axis: Axis, drawn: Any) -> Any:
    if axis.values or axis.range is None:
        return json.loads(drawn)
    return int(drawn) if axis.range.whole else axis.range.rounded(drawn)
