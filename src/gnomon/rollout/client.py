"""A host behind a URL: the trainer's side of ``gnomon serve-rollouts``.

An event loop in a thread of its own does the waiting: so a caller in any thread, the main one or
the one that samples ahead, can give up within a tenth of a second, whatever the network is doing.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout.exchange import Exchange, Waiter
from gnomon.rollout.links import BrokenLinkError, Outlet, local_address
from gnomon.rollout.protocol import (
    About,
    Job,
    Progress,
    RawCompletion,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.transfer import choose, send
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

T = TypeVar("T")


class RemoteHost:
    """Talks to a rollout server; what fails because of the connection is tried again a few times.

    Every request can be repeated: weights are named by their content, and samples follow from the
    weights and the job's seeds. A server that was restarted serves its start weights: it
    raises StaleWeightsError, and the engine sends the policy's again before it samples.

    Args:
        url: as printed by ``gnomon serve-rollouts``.
        token: shown to the server, when it is given.
        retries: further tries after a failed one; the pauses double from 1 s to 30 s.
        timeout: seconds without a sign of life after which the server counts as gone.
        sleep: how to pause; by default the caller can give up during a pause.

    Raises:
        ConfigError: not a URL, not a token, or numbers that make no sense.
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
        self._kind = "file"
        self._device = torch.device("cpu")
        self._workers = 1
        self._address = ""
        self._outlet: Outlet | None = None
        self._check: Callable[[], None] = _always

    def about(self) -> About:
        return about_from_json(self._tried(lambda: self._exchange.object("/about", _SMALL)))

    def connect(self, transfer: str, device: torch.device) -> str:
        """Agree with the server on how whole weights come, and try it.

        Raises:
            ConfigError: what is asked for cannot be.
            EngineError: the server, or the way, is not there. With "auto" weights then go as files,
                and a warning says so.
        """
        about = self.about()
        found = choose(transfer, about, device, url=True)
        if found == "file":
            return found
        host = urlsplit(self._url).hostname or "localhost"
        self._device, self._workers, self._kind = device, max(1, len(about.gpus)), found
        self._address = local_address(host)
        try:
            self._tried_all(self._opened, _always)
        except EngineError as error:
            if transfer != "auto":
                raise
            warnings.warn(
                f"weights do not reach the rollout server by {found} ({error}); they are sent as "
                "files",
                stacklevel=2,
            )
            return "file"
        return found

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> list[float]:
        check = wanted or _always
        if isinstance(weights, WeightsHere):
            return self._tried_all(lambda: self._streamed(weights, probe, check), check)
        path = f"/weights?version={weights.version}&probe={','.join(map(str, probe))}"
        result = self._tried(lambda: self._exchange.result(path, weights.path, _SMALL), check)
        return scores_from_json(result)

    # -- the four phases of a transfer

    def init_weight_transfer(self, info: Mapping[str, Any]) -> None:
        self._phase("init", info)

    def start_weight_update(self, version: str) -> None:
        self._phase("start", {"version": version})

    def update_weights(self, version: str, bucket: Mapping[str, Any]) -> None:
        self._phase("update", {"version": version, "bucket": bucket})

    def finish_weight_update(self, version: str, probe: Sequence[int]) -> list[float]:
        return scores_from_json(self._phase("finish", {"version": version, "probe": list(probe)}))

    def _phase(self, name: str, said: Mapping[str, Any]) -> Any:
        body = json.dumps(said).encode()
        exchange = self._exchange.result(f"/transfer/{name}", body, _SMALL)
        return self._waiter.run(exchange, self._check)

    def _streamed(
        self, weights: WeightsHere, probe: Sequence[int], check: Callable[[], None]
    ) -> list[float]:
        """One try to send weights from memory; what broke is opened anew by the next."""
        self._check = check
        try:
            return send(self, self._outlet or self._opened(), weights, probe, check)
        except BaseException as error:
            self._closed()
            if isinstance(error, BrokenLinkError):
                raise AwayError(str(error)) from error
            raise
        finally:
            self._check = _always

    def _opened(self) -> Outlet:
        """A new outlet, known to the server."""
        self._closed()
        try:
            outlet = Outlet(self._kind, self._device, self._workers, self._address)
        except BrokenLinkError as error:
            raise AwayError(str(error)) from error
        self._outlet = outlet
        try:
            self.init_weight_transfer(outlet.info)
        except BaseException:
            self._closed()
            raise
        return outlet

    def _closed(self) -> None:
        if self._outlet is not None:
            self._outlet.close()
        self._outlet = None

    def rest(self) -> None:
        """Tell the server that nothing is sampled for a while."""
        self._tried(lambda: self._exchange.result("/rest", b"", _SMALL))

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
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
        """End the thread that waits for answers, and the way that weights took."""
        self._closed()
        self._waiter.close()

    def _tried(
        self,
        exchange: Callable[[], Coroutine[Any, Any, Any]],
        wanted: Callable[[], None] | None = None,
    ) -> Any:
        """Repeat a request while the server is away, at most ``retries`` times.

        Raises:
            EngineError: it was away every time.
        """
        check = wanted or _always
        return self._tried_all(lambda: self._waiter.run(exchange(), check), check)

    def _tried_all(self, work: Callable[[], T], check: Callable[[], None]) -> T:
        wait = 1.0
        for left in range(self._retries, -1, -1):
            try:
                return work()
            except AwayError as error:
                problem = str(error)
                if left:
                    self._pause(wait, check)
                    wait = min(2 * wait, _LONGEST_WAIT)
        raise EngineError(
            f"the rollout server at {self._url} is gone ({problem}; tried {self._retries + 1} "
            "times). Start it again (gnomon serve-rollouts MODEL) and resume with --resume; "
            "nothing saved is lost. If the server asks for a token, set "
            f"{TOKEN_VARIABLE}."
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
    """Never cancel: the caller still waits."""
