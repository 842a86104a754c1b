"""Errors a user can act on: each message says what is wrong, where, and what to do about it.

The command line prints these without a traceback; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class GnomonError(Exception):
    """Base of every error whose cure is in the user's hands."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the message, which says what to do."""
        return [f"{type(self).__name__}: {self}"]


class DataError(GnomonError):
    """A data file, row or tokenizer template that cannot be used."""


class ConfigError(GnomonError):
    """A recipe that cannot be run as written."""


class ModelError(GnomonError):
    """A model folder that cannot be loaded, or would have to be unpickled."""


class RunError(GnomonError):
    """A run that had to stop: NaN loss, failing rewards, a full disk. Nothing saved is lost."""


class Pending(RunError):  # noqa: N818 - nothing went wrong
    """A judge that has not answered yet: the message says who has to answer, and how to resume.

    ``left`` says what is still missing, and nothing ("") once all of it is there; None where nobody
    can tell.
    """

    def __init__(self, message: str, left: Callable[[], str] | None = None) -> None:
        super().__init__(message)
        self.left = left


class RunStopped(RunError):  # noqa: N818 - nothing went wrong
    """A run that was asked to stop (Ctrl-C, SIGTERM): the message says what is saved and how to
    resume; ``signal`` is the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class GateClosed(RunError):  # noqa: N818 - it works as asked
    """A gate that did not open: the message says which figure decided. Everything is kept.

    ``code`` is the command's exit code.
    """

    code = 4


class BudgetSpent(RunError):  # noqa: N818 - it works as asked
    """What judging may cost is spent: the message says how much, and how to go on. All answers so
    far are kept.

    ``code`` is the command's exit code.
    """

    code = 5

    @classmethod
    def of(cls, budget: object) -> BudgetSpent:
        """While a run judges; ``budget`` says in words how much is spent."""
        return cls(
            f"the AI judge's budget is spent ({budget}). Its answers so far are kept: raise budget "
            "or budget_tokens, and the same command with --resume goes on from them"
        )


class EngineError(RunError):
    """The sampler is gone, or does not serve the policy's weights. Nothing saved is lost."""


class MemoryExhaustedError(RunError):
    """A device that ran out of memory. What was saved before is whole.

    Attributes:
        instant: what was being done.
        wanted: bytes that were asked for and not given; 0 where nobody says.
        used, free: bytes of the device that this process had when that happened, and that nobody
            had.
        saved: which checkpoint is intact, in words.
    """

    def __init__(self, instant: str, wanted: int, used: int, free: int, place: str) -> None:
        more = f"{_gib(wanted)} more were asked for, with " if wanted else ""
        super().__init__(
            f"out of memory in {instant}: {more}{_gib(free)} free on {place} and {_gib(used)} in "
            "use by this process"
        )
        self.instant, self.wanted, self.used, self.free = instant, wanted, used, free
        self.saved = ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


class RewardsFailedError(RunError):
    """Too many rewards of one iteration failed; ``samples`` are its rows of samples.parquet."""

    def __init__(self, message: str, samples: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message)
        self.samples = samples
