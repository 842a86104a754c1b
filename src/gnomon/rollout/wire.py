"""What crosses between trainer and rollout server: JSON lines and safetensors, nothing else.

    GET  /about                      About
    POST /weights?version=&probe=    a safetensors file    -> {"result": T - 1 log-probs}
    POST /sample                     Job                   -> {"result": responses}

A POST is answered by lines of JSON: any number of ``{"alive": true}`` (so that a silent server is a
dead one) and ``{"progress": [finished, all]}``, then one ``{"result": ...}`` or
``{"error": message, "kind": kind}``. An answer without such a last line was cut off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from gnomon.errors import ConfigError, DataError, EngineError, GnomonError, ModelError, RunError
from gnomon.rollout.host import About, Job, Sampled
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.replica import StaleWeightsError

TOKEN_VARIABLE = "GNOMON_ROLLOUT_TOKEN"
MAX_JOB_BYTES = 1 << 28
ALIVE_SECONDS = 5.0
_KINDS: Mapping[str, type[Exception]] = {
    "stale": StaleWeightsError,
    "config": ConfigError,
    "data": DataError,
    "model": ModelError,
    "engine": EngineError,
    "run": RunError,
}


def error_line(error: Exception) -> dict[str, str]:
    """An exception as the last line of an answer; one that is a bug says only its type and text."""
    for kind, of in _KINDS.items():
        if isinstance(error, of):
            return {"error": str(error), "kind": kind}
    if isinstance(error, GnomonError):
        return {"error": str(error), "kind": "run"}
    return {"error": f"the server failed: {type(error).__name__}: {error}", "kind": "engine"}


def raise_line(line: Mapping[str, Any]) -> None:
    """Raise what :func:`error_line` wrote."""
    kind, message = _KINDS.get(str(line.get("kind")), EngineError), str(line["error"])
    if issubclass(kind, RunError):
        message = f"on the rollout server: {message}"
    raise kind(message)


def job_to_json(job: Job) -> dict[str, Any]:
    return {
        "version": job.version,
        "eos": list(job.eos),
        "params": asdict(job.params) | {"stop": list(job.params.stop)},
        "requests": [
            {"id": r.id, "prompt_ids": [int(i) for i in r.prompt_ids], "n": r.n, "seed": r.seed}
            for r in job.requests
        ],
    }


def job_from_json(value: Any) -> Job:
    """The inverse; raises DataError for anything else."""
    try:
        params = dict(value["params"])
        known = {f.name for f in fields(SamplingParams)}
        if set(params) != known:
            raise ValueError(f"sampling parameters {sorted(set(params) ^ known)}")
        numbers = [v for k, v in params.items() if k != "stop"]
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
            raise ValueError("a sampling parameter is no number")
        params["stop"] = tuple(map(str, params["stop"]))
        requests = [
            Request(str(r["id"]), [int(i) for i in r["prompt_ids"]], int(r["n"]), int(r["seed"]))
            for r in value["requests"]
        ]
        eos = [int(i) for i in value["eos"]]
        return Job(str(value["version"]), requests, SamplingParams(**params), eos)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a job that this server understands: {error!r}") from error


def rows_to_json(rows: Sequence[Sequence[Sampled]]) -> list[list[list[Any]]]:
    return [
        [[list(s.ids), list(s.logprobs), s.finish_reason, s.version] for s in row] for row in rows
    ]


def rows_from_json(value: Any) -> list[list[Sampled]]:
    """The inverse; raises EngineError for anything else."""
    try:
        return [[_sampled(*item) for item in row] for row in value]
    except (TypeError, ValueError) as error:
        raise EngineError(f"the server's answer is not understood: {error!r}") from error


def _sampled(ids: Any, logprobs: Any, reason: Any, version: Any) -> Sampled:
    if reason not in ("eos", "stop", "length"):
        raise ValueError(f"finish reason {reason!r}")
    return Sampled([int(i) for i in ids], [float(x) for x in logprobs], reason, str(version))


def about_from_json(value: Any) -> About:
    """Raises EngineError where the server is another program, or another version of this one."""
    names = {f.name for f in fields(About)}
    if not isinstance(value, dict) or set(value) != names:
        raise EngineError("what answers there is not a rollout server of this version of gnomon")
    return About(**value)
