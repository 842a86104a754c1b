"""A host behind a URL: the trainer's side of ``gnomon serve-rollouts``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout.host import About, Job, Sampled
from gnomon.rollout.weights import WeightsFile
from gnomon.rollout.wire import (
    TOKEN_VARIABLE,
    about_from_json,
    job_to_json,
    raise_line,
    rows_from_json,
)

_LONGEST_WAIT = 30.0
_BLOCK = 1 << 20  # bytes sent at a time; the 8 kB that is usual makes weights crawl


class RemoteHost:
    """Talks to a rollout server; a connection that breaks is tried again a few times.

    A server that was started anew serves its start weights: it then says so (StaleWeightsError),
    and the engine sends the policy's again before it samples.

    Args:
        url: as printed by ``gnomon serve-rollouts``.
        token: shown to the server, when it is given.
        retries: further tries after a failed one; the pauses double from 1 s to 30 s.
        timeout: seconds without a sign of life after which the server counts as gone.
        sleep: how to pause.

    Raises:
        ConfigError: a URL that is none.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: int = 8,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no address of a rollout server: http://HOST:PORT")
        self._url = url
        self._parts = parts
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._retries = retries
        self._timeout = timeout
        self._sleep = sleep

    def about(self) -> About:
        line = self._tried(lambda: next(self._lines("GET", "/about")))
        if "error" in line:
            raise_line(line)
        return about_from_json(line)

    def load(self, weights: WeightsFile, probe: Sequence[int]) -> list[float]:
        query = f"version={weights.version}&probe={','.join(map(str, probe))}"

        def send() -> Any:
            size = str(weights.path.stat().st_size)
            with weights.path.open("rb") as body:
                path = f"/weights?{query}"
                return self._result("POST", path, body, {"Content-Length": size})

        return [float(x) for x in self._tried(send)]

    def sample(self, job: Job, progress: Callable[[int, int], None] | None) -> list[list[Sampled]]:
        body = json.dumps(job_to_json(job)).encode()
        total = sum(request.n for request in job.requests)

        def ask() -> Any:
            return self._result("POST", "/sample", body, {}, progress, total)

        return rows_from_json(self._tried(ask))

    def close(self) -> None:
        """Nothing to do: no connection is kept open between calls."""

    # -- one exchange -----------------------------------------------------------------------------

    def _result(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
        progress: Callable[[int, int], None] | None = None,
        total: int = 0,
    ) -> Any:
        """The result line of an answer; raises what its error line says.

        ``progress`` is called before each try and at each sign of life, news or not: by raising it
        says that nobody waits any more.
        """
        seen = (0, total)
        if progress is not None:
            progress(*seen)
        for line in self._lines(method, path, body, headers):
            if "result" in line:
                return line["result"]
            if "error" in line:
                raise_line(line)
            if "progress" in line:
                done, total = line["progress"]
                seen = (int(done), int(total))
            if progress is not None:
                progress(*seen)
        raise ConnectionError("the answer broke off")

    def _lines(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(
            str(self._parts.hostname),
            self._parts.port,
            timeout=self._timeout,
            blocksize=_BLOCK,
        )
        try:
            path = self._parts.path.rstrip("/") + path
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            yield from _json_lines(connection.getresponse())
        finally:
            connection.close()

    def _tried(self, exchange: Callable[[], Any]) -> Any:
        """Do it again while the connection fails, at most ``retries`` times.

        Raises:
            EngineError: it failed every time.
        """
        wait = 1.0
        for left in range(self._retries, -1, -1):
            try:
                return exchange()
            except (OSError, HTTPException, StopIteration) as error:
                problem = str(error) or type(error).__name__
                if left:
                    self._sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
        raise EngineError(
            f"the rollout server at {self._url} is gone ({problem}; tried {self._retries + 1} "
            "times). Start it again (gnomon serve-rollouts MODEL) and go on with --resume; nothing "
            f"saved is lost. If it wants a token, set {TOKEN_VARIABLE}."
        )


def _json_lines(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The lines of an answer; one that was cut off in the middle counts as a broken connection, and
    so does what a proxy says while the server behind it is away."""
    if response.status in (502, 503, 504):
        raise ConnectionError(f"HTTP {response.status} {response.reason}")
    for raw in response:
        if not raw.endswith(b"\n"):
            raise ConnectionError("the answer broke off")
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise EngineError("what answers there is no rollout server of gnomon") from error
        if not isinstance(line, dict):
            raise EngineError("what answers there is no rollout server of gnomon")
        yield line
