"""What a rollout server answers: what it is, new weights, samples."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from gnomon.errors import DataError, EngineError, GnomonError, RunError
from gnomon.rollout.door import Budget, Lease, Refusal, RefusedError, ServerLimits, body_of
from gnomon.rollout.protocol import Host, Job, Progress, WeightsFile
from gnomon.rollout.sampling import check_params, check_probe, check_request
from gnomon.rollout.tasks import Task, TaskResponse, Tasks
from gnomon.rollout.transfer import Phases
from gnomon.rollout.wire import (
    PHASES,
    WeightsQuery,
    job_from_json,
    kind_of,
    phase_from_json,
    rows_to_json,
)

T = TypeVar("T")
_BLOCK = 4 << 20  # bytes written to disk at a time


class _Service:
    """The endpoints, around one host."""

    def __init__(
        self,
        host: Host,
        tasks: Tasks,
        scratch: Path,
        limits: ServerLimits,
        log: Callable[[str], None],
    ) -> None:
        self._host = host
        self._about = host.about()
        self._tasks = tasks
        self._scratch = scratch
        self._limits = limits
        self._log = log
        numbers = sum(prod(shape) for shape in self._about.shapes.values())
        self._most = limits.weights_bytes or 8 * numbers + (16 << 20)
        self._jobs = Budget(limits.jobs_bytes)
        self._disk = Budget(limits.uploads * self._most)
        self._count = itertools.count()
        self._began = 0.0

    async def about(self) -> Response:
        about = json.dumps(asdict(self._host.about()))  # a configuration may hold an infinity
        return Response(about + "\n", media_type="application/json")

    async def sample(self, request: Request) -> Response:
        return await self._asked(request, self._job, self._sampled)

    async def phase(self, request: Request, name: str) -> Response:
        """One of the four phases of a transfer."""
        if name not in PHASES:
            raise HTTPException(404)

        def understood(body: bytes) -> dict[str, Any]:
            return phase_from_json(name, body)

        def work(said: dict[str, Any], progress: Progress) -> Any:
            return self._phase(name, said)

        return await self._asked(request, understood, work)

    async def rest(self) -> Response:
        return self._started(lambda progress: self._host.rest(), lambda: None)

    async def _asked(
        self,
        request: Request,
        understood: Callable[[bytes], T],
        work: Callable[[T, Progress], Any],
    ) -> Response:
        """Read a body of JSON within its bounds, and queue what it asks for."""
        lease = Lease(self._jobs)
        try:
            body = bytearray()
            async for piece in body_of(request, self._limits.job_bytes, lease, self._limits):
                body += piece
            asked = await asyncio.to_thread(understood, bytes(body))
            del body
            return self._started(lambda progress: work(asked, progress), lease.end)
        except BaseException:
            lease.end()
            raise

    async def weights(self, request: Request, query: Annotated[WeightsQuery, Query()]) -> Response:
        probe = query.probe_ids
        check_probe(probe, self._about.vocabulary, self._about.window)
        lease = Lease(self._disk)
        path = self._scratch / f"{next(self._count)}.safetensors"

        def over() -> None:
            path.unlink(missing_ok=True)
            lease.end()

        try:
            await self._store(body_of(request, self._most, lease, self._limits), path)
            file = WeightsFile(path, query.version)
            return self._started(lambda progress: self._loaded(file, probe), over)
        except BaseException:
            over()
            raise

    def _started(self, work: Callable[[Progress], Any], after: Callable[[], None]) -> Response:
        task = Task(work, after)
        if not self._tasks.add(task):
            raise RefusedError(503, "it has too much to do, or is being stopped", "busy")
        return TaskResponse(task, self._limits.alive_seconds)

    def _job(self, body: bytes) -> Job:
        job = job_from_json(body)
        check_params(job.params)
        for request in job.requests:
            check_request(request, job.params, self._about.vocabulary, self._about.window)
        if job.eos and max(job.eos) >= self._about.vocabulary:
            raise DataError(f"eos ids must be in 0..{self._about.vocabulary - 1}")
        return job

    async def _store(self, pieces: AsyncIterator[bytes], path: Path) -> None:
        """Write a body to disk, never holding more than a block of it."""

        def write(block: list[bytes], out: BinaryIO) -> None:
            for piece in block:
                out.write(piece)

        try:
            with path.open("wb") as out:
                block: list[bytes] = []
                async for piece in pieces:
                    block.append(piece)
                    if sum(map(len, block)) >= _BLOCK:
                        await asyncio.to_thread(write, block, out)
                        block = []
                await asyncio.to_thread(write, block, out)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self._scratch).free
                raise RunError(
                    f"the disk is full: {self._scratch} has {free / 1e6:.0f} MB left for weights "
                    "on their way. Free some, or start the server with TMPDIR on another disk"
                ) from error
            raise RunError(f"the weights cannot be written there: {error}") from error

    # -- in the host's thread

    def _sampled(self, job: Job, progress: Progress) -> Any:
        began = time.perf_counter()
        rows = self._host.sample(job, progress)
        seconds = time.perf_counter() - began
        tokens = sum(len(s.ids) for row in rows for s in row)
        self._log(
            f"sampled {sum(map(len, rows))} responses to {len(rows)} prompts: {tokens} tokens in "
            f"{seconds:.1f} s, from weights {job.version[:12]}"
        )
        return rows_to_json(rows)

    def _phase(self, name: str, said: dict[str, Any]) -> Any:
        host = self._host
        if not isinstance(host, Phases):
            raise EngineError("this server takes weights as files only")
        match name:
            case "init":
                host.init_weight_transfer(said)
                self._log(f"takes weights by {said['kind']}")
            case "start":
                self._began = time.perf_counter()
                host.start_weight_update(said["version"])
            case "update":
                host.update_weights(said["version"], said["bucket"])
            case "finish":
                scores = list(host.finish_weight_update(said["version"], said["probe"]))
                seconds = time.perf_counter() - self._began
                self._log(f"took over weights {said['version'][:12]} in {seconds:.1f} s")
                return scores
        return None

    def _loaded(self, file: WeightsFile, probe: list[int]) -> Any:
        began = time.perf_counter()
        size = file.path.stat().st_size / 1e6
        scores = list(self._host.load(file, probe))
        seconds = time.perf_counter() - began
        self._log(f"took over weights {file.version[:12]} ({size:.0f} MB) in {seconds:.1f} s")
        return scores


def make_app(
    host: Host,
    tasks: Tasks,
    scratch: Path,
    limits: ServerLimits,
    log: Callable[[str], None],
    note: Callable[[str], None],
) -> FastAPI:
    """The application around a host.

    Args:
        host: what samples; called by the thread that works on ``tasks``.
        tasks: where work is queued.
        scratch: a folder for weights on their way.
        limits: of bodies and answers.
        log: called with what was done.
        note: called with what was refused.
    """
    service = _Service(host, tasks, scratch, limits, log)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/about")(service.about)
    app.post("/sample")(service.sample)
    app.post("/weights")(service.weights)
    app.post("/transfer/{name}")(service.phase)
    app.post("/rest")(service.rest)
    _explain(app, limits.linger_seconds, note)
    return app


def _explain(app: FastAPI, linger_seconds: float, note: Callable[[str], None]) -> None:
    """Answer every refusal in words, as the client reads them."""

    def answer(status: int, message: str, kind: str) -> Response:
        return Refusal(RefusedError(status, message, kind), linger_seconds)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        note(f"{request.url.path}: {error}")
        return Refusal(error, linger_seconds)

    async def unusable(request: Request, error: Exception) -> Response:
        note(f"{request.url.path}: {error}")
        return answer(500 if isinstance(error, RunError) else 422, str(error), kind_of(error))

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return answer(422, f"not understood: {place}: {first['msg']}", "data")

    async def not_found(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path[:200]}"
        return answer(error.status_code, f"there is nothing at {where}", "engine")

    async def client_left(request: Request, error: Exception) -> Response:
        note(f"{request.url.path}: the client went away in the middle of it")
        return answer(499, "gone", "busy")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(GnomonError, unusable)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, not_found)
    app.add_exception_handler(ClientDisconnect, client_left)
