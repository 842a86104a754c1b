"""A host behind a URL: the trainer's side of ``gnomon serve-rollouts``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout.exchange import Exchange, Waiter
from gnomon.rollout.host import About, Job, Sampled
from gnomon.rollout.weights import WeightsFile
from gnomon.rollout.wire import (
    TOKEN_VARIABLE,
    AwayError,
    about_from_json,
    check_token,
    check_url,
    job_to_json,
    rows_from_json,
    scores_from_json,
)

_LONGEST_WAIT = 30.0
_TICK = 0.1  # seconds between two looks whether the caller still wants an answer
_SMALL = 64 << 20  # bytes: more than any answer that holds no samples
_PER_TOKEN = 64  # bytes of an answer, for its id and its log-prob


class RemoteHost:
    """Talks to a rollout server; what fails for want of a connection is tried again a few times.

    All that is asked can be asked twice: weights are named by their content, and samples follow
    from the weights and the job's seeds. A server that was started anew serves its start weights:
    it then says so (StaleWeightsError), and the engine sends the policy's again before it samples.

    Args:
        url: as printed by ``gnomon serve-rollouts``.
        token: shown to the server, when it is given.
        retries: further tries after a failed one; the pauses double from 1 s to 30 s.
        timeout: seconds without a sign of life after which the server counts as gone.
        sleep: how to pause; by default so that the caller can give up meanwhile.

    Raises:
        ConfigError: a URL or a token that is none, or numbers that make no sense.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: int = 8,
        timeout: float = 60.0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if retries < 0 or not 0 < timeout < math.inf:
            raise ConfigError(
                f"{retries} retries and a timeout of {timeout} s: use 0 or more, and a number of "
                "seconds above 0"
            )
        self._url = check_url(url)
        token = check_token(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._exchange = Exchange(self._url, headers, timeout)
        self._waiter = Waiter()
        self._retries = retries
        self._sleep = sleep

    def about(self) -> About:
        return about_from_json(self._tried(lambda: self._exchange.object("/about", _SMALL)))

    def load(
        self, weights: WeightsFile, probe: Sequence[int], wanted: Callable[[], None] | None = None
    ) -> list[float]:
        path = f"/weights?version={weights.version}&probe={','.join(map(str, probe))}"
        result = self._tried(
            lambda: self._exchange.result(path, weights.path, _SMALL), wanted or _always
        )
        return scores_from_json(result)

    def sample(self, job: Job, progress: Callable[[int, int], None] | None) -> list[list[Sampled]]:
        """``progress`` is called before each try, ten times a second while the server works, and
        at the end; by raising it says that nobody waits any more."""
        body = job_to_json(job)
        total = sum(request.n for request in job.requests)
        most = _SMALL + total * (200 + _PER_TOKEN * job.params.max_new_tokens)
        seen = (0, total)

        def news(done: int, of: int) -> None:
            nonlocal seen
            seen = (done, of)

        def tell() -> None:
            if progress is not None:
                progress(*seen)

        def ask() -> Coroutine[Any, Any, Any]:
            nonlocal seen
            seen = (0, total)
            tell()
            return self._exchange.result("/sample", body, most, news)

        rows = rows_from_json(self._tried(ask, tell))
        if seen == (total, total):
            tell()
        return rows

    def close(self) -> None:
        """End the thread that waits for answers; no connection is kept open between calls."""
        self._waiter.close()

    def _tried(
        self,
        exchange: Callable[[], Coroutine[Any, Any, Any]],
        wanted: Callable[[], None] | None = None,
    ) -> Any:
        """Do it again while the server is away, at most ``retries`` times.

        Raises:
            EngineError: it was away every time.
        """
        check = wanted or _always
        wait = 1.0
        for left in range(self._retries, -1, -1):
            try:
                return self._waiter.run(exchange(), check)
            except AwayError as error:
                problem = str(error)
                if left:
                    self._pause(wait, check)
                    wait = min(2 * wait, _LONGEST_WAIT)
        raise EngineError(
            f"the rollout server at {self._url} is gone ({problem}; tried {self._retries + 1} "
            "times). Start it again (gnomon serve-rollouts MODEL) and go on with --resume; nothing "
            f"saved is lost. If it wants a token, set {TOKEN_VARIABLE}."
        )

    def _pause(self, seconds: float, check: Callable[[], None]) -> None:
        if self._sleep is not None:
            self._sleep(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            check()
            time.sleep(min(left, _TICK))


def _always() -> None:
    """Whoever asked goes on waiting."""
