"""What judging may cost, and how fast it may ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from gnomon.records import Cost


class Budget:
    """Money and tokens that judging may take, however many ask at the same time.

    A question sets aside the most that it can take before it is sent, and gives back what it did
    not need, so that the cap holds with many in flight.

    Args:
        money: euros; None for no cap.
        tokens: read and written together; None for no cap.
    """

    def __init__(self, money: float | None = None, tokens: int | None = None) -> None:
        self.money, self.tokens = money, tokens
        self.spent = Cost()
        self._held = Cost()
        self._started = False
        self._change = threading.Condition()

    def start(self, spent: Cost) -> None:
        """What an earlier process spent; counts once."""
        with self._change:
            if not self._started:
                self.spent = _sum(self.spent, spent)
                self._started = True

    def reserve(self, most: Cost) -> bool:
        """Set aside what a question takes at most; waits for others' change where that decides.
        False where it does not fit."""
        with self._change:
            while not self._fits(_sum(self.spent, self._held, most)):
                if not (self._held.tokens or self._held.money):
                    return False
                self._change.wait()
            self._held = _sum(self._held, most)
            return True

    def settle(self, most: Cost, took: Cost) -> None:
        """The question is answered, or failed: what it set aside becomes what it took."""
        with self._change:
            self._held = _sum(self._held, Cost(0.0, -most.tokens, -most.money))
            if not self._held.tokens:  # what rounding leaves of sums of money is not held
                self._held = Cost()
            self.spent = _sum(self.spent, took)
            self._change.notify_all()

    def _fits(self, cost: Cost) -> bool:
        money = self.money is None or cost.money <= self.money * (1 + 1e-9)
        return money and (self.tokens is None or cost.tokens <= self.tokens)

    def __str__(self) -> str:
        caps = [] if self.money is None else [f"{self.spent.money:.4f} of {self.money:g} euros"]
        caps += [] if self.tokens is None else [f"{self.spent.tokens} of {self.tokens} tokens"]
        return " and ".join(caps)


class Pace:
    """At most so many requests, and tokens, a minute, evenly spread: the next one waits for its
    turn.

    Args:
        requests, tokens: a minute; None for no limit.
        clock, sleep: seconds.
    """

    def __init__(
        self,
        requests: float | None = None,
        tokens: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._request_s = 60.0 / requests if requests else 0.0
        self._token_s = 60.0 / tokens if tokens else 0.0
        self._clock, self._sleep = clock, sleep
        self._next_request = self._next_token = 0.0
        self._lock = threading.Lock()

    def request(self) -> None:
        """Wait for a request's turn."""
        if self._request_s:
            with self._lock:
                now = self._clock()
                at = max(now, self._next_request)
                self._next_request = at + self._request_s
            self._wait(at - now)

    def read(self, tokens: int) -> None:
        """Wait for the turn of a question of about so many tokens."""
        if self._token_s:
            with self._lock:
                now = self._clock()
                at = max(now, self._next_token)
                self._next_token = at + tokens * self._token_s
            self._wait(at - now)

    def settle(self, guessed: int, took: int) -> None:
        """A question took another number of tokens than :meth:`read` was told."""
        if self._token_s:
            with self._lock:
                self._next_token += (took - guessed) * self._token_s

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)


def _sum(*costs: Cost) -> Cost:
    return replace(
        costs[0],
        tokens=sum(c.tokens for c in costs),
        money=sum(c.money for c in costs),
    )
