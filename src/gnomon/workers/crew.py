"""Work that is split among workers which may die: every share is done once, whoever does it.

What a share is never depends on the workers, so neither do the results: not on how many there are,
not on which of them answers, not on how fast. A worker takes the next share when it has done one;
one that fails gives its share back to the others and is made anew. A slow share is waited for.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from gnomon.errors import EngineError

W = TypeVar("W")
S = TypeVar("S")
R = TypeVar("R")
Tell = Callable[[int, int], None]
"""Called with (finished, all) of a share now and then; it raises once nobody waits any more."""
RETRIES = 8
"""How often a worker that cannot be made is tried again; the pauses double from 1 s to 30 s."""
_LONGEST_PAUSE = 30.0
_TICK = 0.1  # seconds between two looks whether the caller still waits
_FAILURES = 2  # shares in a row that a worker may fail before it is left out of the work at hand


class OverError(Exception):
    """The work has ended, or nobody waits for it."""


class Crew(Generic[W]):
    """Workers by name.

    Args:
        make: makes each of them, and makes it anew when it has failed; raises EngineError where
            that is not possible now.
        close: lets go of one.
        retries: how often a worker is tried again while the others work.

    Attributes:
        workers: those that there are now.
    """

    def __init__(
        self,
        make: Mapping[str, Callable[[], W]],
        close: Callable[[W], None],
        retries: int = RETRIES,
    ) -> None:
        self._make = dict(make)
        self._close = close
        self._retries = retries
        self.workers: dict[str, W] = {}

    def start(self) -> None:
        """Make all of them.

        Raises:
            GnomonError: what making one of them raised; the others are let go again.
        """
        try:
            with ThreadPoolExecutor(len(self._make)) as pool:
                list(pool.map(self._worker, self._make))
        except BaseException:
            self.close()
            raise

    def each(
        self, work: Callable[[str, W, Callable[[], None]], Any], wanted: Callable[[], None] | None
    ) -> None:
        """Do ``work`` with every worker; those that fail are left out until the next time.

        Raises:
            EngineError: no worker was left.
        """
        names = list(self._make)
        run: _Run[str, None] = _Run(names, names)

        def once(name: str) -> None:
            try:
                work(name, self._worker(name), run.check)
            except EngineError as error:
                self._drop(name)
                run.lost[name] = error
            except OverError:
                return
            except BaseException as error:
                run.fail(error)
                return
            run.done(names.index(name), None)

        self._run(run, once, None if wanted is None else lambda done, total: wanted())
        if not self.workers:
            raise run.nobody()
        _warn(run, "It is tried again when there is work.")

    def share(
        self,
        shares: Sequence[S],
        work: Callable[[str, W, S, Tell], R],
        sizes: Sequence[int],
        progress: Tell | None = None,
    ) -> list[R]:
        """Results of ``work`` on each share, in the order of the shares; they are begun in it too.

        Args:
            shares: what there is to do.
            work: does one; an EngineError means that the worker failed, not the share.
            sizes: how much each share counts in what ``progress`` is told.
            progress: called ten times a second; by raising it ends the work.

        Raises:
            EngineError: no worker was left, or could be made again.
        """
        run: _Run[S, R] = _Run(shares, list(self._make), sizes)
        self._run(run, partial(self._serve, run, work), progress)
        _warn(run, "The others did its share.")
        return run.found()

    def close(self) -> None:
        """Let go of all workers."""
        for name in list(self.workers):
            self._drop(name)

    def _run(
        self, run: _Run[Any, Any], serve: Callable[[str], None], progress: Tell | None
    ) -> None:
        with ThreadPoolExecutor(len(self._make), thread_name_prefix="worker") as pool:
            try:
                waiting = [pool.submit(serve, name) for name in self._make]
                while not run.wait(_TICK):
                    if progress is not None:
                        progress(*run.progress())
                for future in waiting:
                    future.result()
            finally:
                run.end()
        if run.error is not None:
            raise run.error
        if progress is not None:
            progress(*run.progress())

    def _serve(self, run: _Run[S, R], work: Callable[[str, W, S, Tell], R], name: str) -> None:
        """One worker's part: shares, one after the other, until there are none."""
        failures = 0
        try:
            while failures < _FAILURES:
                worker = self._made_again(run, name)
                place = run.take()
                try:
                    found = work(name, worker, run.shares[place], partial(run.tell, place))
                except EngineError as error:
                    run.give_back(place, name, error)
                    self._drop(name)
                    failures += 1
                except BaseException:
                    run.give_back(place)
                    raise
                else:
                    run.done(place, found)
                    failures = 0
        except OverError:
            return
        except EngineError as error:
            run.left(name, error)
        except BaseException as error:
            run.fail(error)
        else:
            run.left(name, run.lost[name])

    def _made_again(self, run: _Run[Any, Any], name: str) -> W:
        pause = 1.0
        for left in range(self._retries, -1, -1):
            run.check()
            try:
                return self._worker(name)
            except EngineError:
                if not left:
                    raise
            run.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError

    def _worker(self, name: str) -> W:
        if name not in self.workers:
            self.workers[name] = self._make[name]()
        return self.workers[name]

    def _drop(self, name: str) -> None:
        worker = self.workers.pop(name, None)
        if worker is not None:
            self._close(worker)


def _warn(run: _Run[Any, Any], then: str) -> None:
    for name, error in run.lost.items():
        warnings.warn(f"{name} failed: {error} {then}", stacklevel=3)


class _Run(Generic[S, R]):
    """Shares on their way, seen from several threads."""

    def __init__(
        self, shares: Sequence[S], names: Sequence[str], sizes: Sequence[int] | None = None
    ) -> None:
        self.shares = shares
        self.lost: dict[str, EngineError] = {}
        self.error: BaseException | None = None
        self._sizes = sizes or [1] * len(shares)
        self._waiting = deque(range(len(shares)))
        self._news = [0] * len(shares)
        self._found: dict[int, R] = {}
        self._there = set(names)
        self._ended = False
        self._changed = threading.Condition()

    def take(self) -> int:
        """The next share; waits where one that another worker has may come back."""
        with self._changed:
            while True:
                if self._over():
                    raise OverError
                if self._waiting:
                    return self._waiting.popleft()
                self._changed.wait()

    def done(self, place: int, found: R) -> None:
        with self._changed:
            self._found[place] = found
            self._news[place] = self._sizes[place]
            self._changed.notify_all()

    def give_back(self, place: int, name: str = "", error: EngineError | None = None) -> None:
        """It was not done: whoever is free next does it."""
        with self._changed:
            self._news[place] = 0
            self._waiting.appendleft(place)
            if error is not None:
                self.lost[name] = error
            self._changed.notify_all()

    def left(self, name: str, error: EngineError) -> None:
        """A worker takes no more shares."""
        with self._changed:
            self.lost[name] = error
            self._there.discard(name)
            if not self._there and not self._over():
                self.error = self.nobody()
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """It can be done by nobody."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is over; whether it is."""
        with self._changed:
            return self._changed.wait_for(self._over, seconds)

    def check(self) -> None:
        """Raise where it is over."""
        with self._changed:
            if self._over():
                raise OverError

    def tell(self, place: int, done: int, total: int) -> None:
        """Note how far a share is."""
        self.check()
        self._news[place] = done

    def progress(self) -> tuple[int, int]:
        return sum(self._news), sum(self._sizes)

    def found(self) -> list[R]:
        return [self._found[i] for i in range(len(self.shares))]

    def nobody(self) -> EngineError:
        """No worker is left; in one's own words where all say the same."""
        said = {str(error) for error in self.lost.values()}
        if len(said) == 1:
            return EngineError(said.pop())
        each = "\n".join(f"  {name}: {error}" for name, error in self.lost.items())
        return EngineError(
            f"all {len(self.lost)} workers failed, and could not be had again:\n{each}\nSee to "
            "them, and resume with --resume; nothing saved is lost."
        )

    def _over(self) -> bool:
        done = len(self._found) == len(self.shares)
        return self._ended or done or self.error is not None
