"""What crosses between trainer and rollout server: JSON and safetensors, nothing else.

    GET  /about                      -> About
    POST /weights?version=&probe=    a safetensors file    -> {"result": T - 1 log-probs}
    POST /transfer/init              how tensors cross     -> {"result": null}
    POST /transfer/start             {"version"}           -> {"result": null}
    POST /transfer/update            {"version", "bucket"} -> {"result": null}
    POST /transfer/finish            {"version", "probe"}  -> {"result": T - 1 log-probs}
    POST /rest                                             -> {"result": null}
    POST /sample                     Job                   -> {"result": responses}

The four phases of a transfer are those of :mod:`gnomon.rollout.transfer`; the tensors themselves
cross beside this exchange.

A POST is answered by lines of JSON: any number of ``{"alive": true}`` (so that a silent server is a
dead one) and ``{"progress": [finished, all]}``, then one ``{"result": ...}`` or
``{"error": message, "kind": kind}``. An answer without such a last line was cut off. What is
refused before it reaches the host has a status of 400 or more, and the error as its only line.

Both sides send the version of this exchange in the header ``Gnomon-Rollouts``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from gnomon.errors import ConfigError, DataError, EngineError, GnomonError, ModelError, RunError
from gnomon.rollout.protocol import (
    About,
    Job,
    RawCompletion,
    Request,
    SamplingParams,
    StaleWeightsError,
)

PROTOCOL = 3
VERSION_HEADER = "Gnomon-Rollouts"
TOKEN_VARIABLE = "GNOMON_ROLLOUT_TOKEN"
MAX_RESPONSES = 1 << 17
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
_KINDS: Mapping[str, type[Exception]] = {
    "stale": StaleWeightsError,
    "config": ConfigError,
    "data": DataError,
    "model": ModelError,
    "engine": EngineError,
    "run": RunError,
}


class AwayError(Exception):
    """The server cannot answer now, but may in a while: it is busy, stopping, or not there."""


# -- errors ---------------------------------------------------------------------------------------


def refusal(message: str, kind: str) -> bytes:
    """An error as a line of an answer. ``kind`` "busy" says that it is worth another try."""
    return json.dumps({"error": message, "kind": kind}).encode() + b"\n"


def kind_of(error: Exception) -> str:
    """What an exception is called in an answer."""
    named = (kind for kind, of in _KINDS.items() if isinstance(error, of))
    return next(named, "run" if isinstance(error, GnomonError) else "engine")


def result_line(result: Any) -> bytes:
    """The result of a task as the last line of an answer."""
    try:
        return json.dumps({"result": result}, allow_nan=False).encode() + b"\n"
    except ValueError as error:
        raise EngineError(
            "the sampler's log-probs are not finite numbers: the weights it was given are broken"
        ) from error


def error_line(error: Exception) -> bytes:
    """An exception as the last line of an answer; one that is a bug says only its type and text."""
    known = isinstance(error, GnomonError | StaleWeightsError)
    message = str(error) if known else f"the server failed: {type(error).__name__}: {error}"
    return refusal(message, kind_of(error))


def raise_line(line: Mapping[str, Any]) -> None:
    """Raise what :func:`error_line` or :func:`refusal` wrote."""
    name, message = str(line.get("kind")), str(line["error"])
    if name == "busy":
        raise AwayError(message)
    kind = _KINDS.get(name, EngineError)
    if issubclass(kind, RunError):
        message = f"on the rollout server: {message}"
    raise kind(message)


# -- who talks to whom ----------------------------------------------------------------------------


def check_token(token: str | None) -> str | None:
    """The secret, or None.

    Raises:
        ConfigError: it cannot be sent in a header.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"{TOKEN_VARIABLE} must be letters, digits and signs of ASCII without spaces or line "
            "breaks, such as `openssl rand -hex 32` prints"
        )
    return token or None


def check_url(url: str) -> str:
    """The address of a server, without a slash at its end.

    Raises:
        ConfigError: it is not an address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # of the port, or of brackets
        parts, port = urlsplit(""), None
    plain = url.isascii() and url.isprintable() and " " not in url
    odd = parts.query or parts.fragment or parts.username or port == 0
    if parts.scheme not in ("http", "https") or not parts.hostname or odd or not plain:
        raise ConfigError(f"{url!r} is not the address of a rollout server: write http://HOST:PORT")
    return url.rstrip("/")


def host_name(host: str) -> str:
    """The name in a ``Host`` header, lower case, without port and brackets.

    Raises:
        ConfigError: it holds none.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        raise ConfigError(f"{host!r} is not the name of a host")
    return match.group(1).strip("[]").lower().rstrip(".")


# -- jobs -----------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _RequestIn(_Strict):
    id: str = Field(max_length=10_000)
    prompt_ids: Annotated[list[_TokenId], FailFast()] = Field(min_length=1)
    n: int = Field(ge=1, le=MAX_RESPONSES)
    seed: int = Field(ge=0, lt=2**64)
    first: int = Field(0, ge=0, le=MAX_RESPONSES)


class _ParamsIn(_Strict):
    max_new_tokens: int = Field(lt=2**31)
    temperature: float
    top_p: float
    top_k: int = Field(lt=2**31)
    min_p: float
    stop: Annotated[list[Annotated[str, Field(max_length=10_000)]], FailFast()] = Field(
        max_length=256
    )


class _JobIn(_Strict):
    version: str = Field(min_length=1, max_length=100)
    eos: Annotated[list[_TokenId], FailFast()] = Field(max_length=4096)
    params: _ParamsIn
    requests: Annotated[list[_RequestIn], FailFast()] = Field(max_length=MAX_RESPONSES)


class WeightsQuery(BaseModel):
    """What comes with a file of weights: its name, and the token ids to score."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(pattern=r"^[0-9a-f]{64}$")
    probe: str = Field(pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){1,4095}$")

    @property
    def probe_ids(self) -> list[int]:
        return [int(i) for i in self.probe.split(",")]


_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Version = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Shape = Annotated[list[Annotated[int, Field(ge=0, lt=2**40)]], Field(max_length=8)]


class _HandleIn(_Strict):
    numel: int = Field(ge=0, lt=2**40)
    handle: Annotated[str, Field(max_length=1000)]
    bytes: int = Field(ge=0, lt=2**50)
    offset: int = Field(ge=0, lt=2**50)
    counter: Annotated[str, Field(max_length=1000)]
    counter_offset: int = Field(ge=0, lt=2**50)
    event: Annotated[str, Field(max_length=1000)] | None = None
    event_needed: bool


class _BucketIn(_Strict):
    names: Annotated[list[_Name], FailFast()] = Field(max_length=1_000_000)
    entries: Annotated[
        list[tuple[Annotated[str, Field(max_length=20)], _Shape, _Int64]], FailFast()
    ] = Field(max_length=1_000_000)
    handle: _HandleIn | None = None


class InitIn(_Strict):
    """The first phase of a transfer: how tensors cross."""

    kind: Literal["ipc", "nccl", "gloo"]
    address: str = Field("", pattern=r"^[0-9a-fA-F.:]{0,45}$")
    port: int = Field(0, ge=0, le=65535)
    size: int = Field(0, ge=0, le=4096)
    nccl: list[int] = Field(default_factory=list, max_length=4)


class StartIn(_Strict):
    """The second phase: which weights are to come."""

    version: _Version


class UpdateIn(StartIn):
    """The third phase: a bucket of them."""

    bucket: _BucketIn


class FinishIn(StartIn):
    """The fourth phase: all have come; the token ids to score."""

    probe: list[_TokenId] = Field(min_length=2, max_length=4096)


PHASES: Mapping[str, type[BaseModel]] = {
    "init": InitIn,
    "start": StartIn,
    "update": UpdateIn,
    "finish": FinishIn,
}


def phase_from_json(name: str, body: bytes) -> dict[str, Any]:
    """What a phase of a transfer says; raises DataError for anything that does not belong."""
    try:
        return PHASES[name].model_validate_json(body).model_dump(exclude_none=True)
    except ValidationError as error:
        raise DataError(f"not a transfer's {name}: {first_problem(error)}") from None


def job_to_json(job: Job) -> bytes:
    word = (1 << 64) - 1  # all that a seed's stream depends on
    return json.dumps(
        {
            "version": job.version,
            "eos": [int(i) for i in job.eos],
            "params": asdict(job.params) | {"stop": list(job.params.stop)},
            "requests": [
                {
                    "id": r.id,
                    "prompt_ids": [int(i) for i in r.prompt_ids],
                    "n": r.n,
                    "seed": r.seed & word,
                    "first": r.first,
                }
                for r in job.requests
            ],
        }
    ).encode()


def job_from_json(body: bytes) -> Job:
    """The inverse.

    Raises:
        DataError: anything else: no JSON, JSON nested too deep, other fields, values that are not
            numbers or out of bounds, more responses than ``MAX_RESPONSES``.
    """
    try:
        job = _JobIn.model_validate_json(body)
    except ValidationError as error:
        raise DataError(f"not a job that this server understands: {first_problem(error)}") from None
    total = sum(r.n for r in job.requests)
    if total > MAX_RESPONSES:
        raise DataError(f"{total} responses in one job; ask for at most {MAX_RESPONSES}")
    p = job.params
    params = SamplingParams(
        p.max_new_tokens, p.temperature, p.top_p, p.top_k, p.min_p, tuple(p.stop)
    )
    requests = [Request(r.id, r.prompt_ids, r.n, r.seed, r.first) for r in job.requests]
    return Job(job.version, requests, params, job.eos)


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    details = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in details["loc"])
    return f"{place}: {details['msg']}" if place else str(details["msg"])


# -- answers --------------------------------------------------------------------------------------


def rows_to_json(rows: Sequence[Sequence[RawCompletion]]) -> list[list[list[Any]]]:
    return [
        [[list(s.ids), list(s.logprobs), s.finish_reason, s.version] for s in row] for row in rows
    ]


def rows_from_json(value: Any) -> list[list[RawCompletion]]:
    """The inverse; raises EngineError for anything else."""
    try:
        return [[_sampled(*item) for item in row] for row in value]
    except (TypeError, ValueError) as error:
        raise EngineError(f"the server's answer is not understood: {error!r}") from error


def _sampled(ids: Any, logprobs: Any, reason: Any, version: Any) -> RawCompletion:
    if reason not in ("eos", "stop", "length"):
        raise ValueError(f"finish reason {reason!r}")
    return RawCompletion([int(i) for i in ids], [float(x) for x in logprobs], reason, str(version))


def scores_from_json(value: Any) -> list[float]:
    """Log-probs of a probe; raises EngineError for anything else."""
    try:
        return [float(x) for x in value]
    except (TypeError, ValueError) as error:
        raise EngineError(f"the server's answer is not understood: {error!r}") from error


def about_from_json(value: Any) -> About:
    """Raises EngineError where the server is another program, or another version of this one."""
    names = {f.name for f in fields(About)}
    if not isinstance(value, dict) or set(value) != names:
        raise EngineError("what answers there is not a rollout server of this version of gnomon")
    return About(**value)
