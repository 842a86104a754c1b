"""The rollout engine that a recipe asks for."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.models.roles import Role
from gnomon.models.save import save_policy
from gnomon.plugins import did_you_mean
from gnomon.recipe.placement import RaySpec
from gnomon.recipe.rollout import RolloutSpec
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.pool import PoolHost
from gnomon.rollout.protocol import Engine, Host
from gnomon.rollout.replica import ReplicaEngine, TorchReplica
from gnomon.rollout.torch_engine import CacheOptions, TorchEngine
from gnomon.rollout.wire import TOKEN_VARIABLE, check_token, check_url
from gnomon.stages.sampler import (
    RANK,
    TRANSFER,
    adapters_alone,
    check_sampler,
    fitting_rank,
    theirs,
    transfer_of,
    vllm_options,
)
from gnomon.workers.crew import RETRIES
from gnomon.workers.process import threads

_REMOTE = {"retries": int, "timeout": float}
_WORKERS = ("device", RANK)
"""Of servers of engine torch."""
_TORCH = {"cache_gib": "gib", "kept_gib": "kept_gib", "cuda_graphs": "cuda_graphs"}


def make_engine(
    spec: RolloutSpec,
    policy: Role,
    encoder: Encoder,
    folder: Path,
    closing: ExitStack,
    share: float | None = None,
    ray: RaySpec | None = None,
) -> Engine:
    """Build the engine of a stage; what it holds is given back by ``closing``.

    Args:
        spec: the stage's rollout section.
        policy: whose weights it samples from.
        encoder: brings the tokenizer and the tokens that end a response.
        folder: for weights on their way to the sampler.
        share: of the GPU that vLLM in this process is given, where the recipe does not say.
        ray: places the workers that the section asks for; None for processes on this machine.

    Raises:
        ConfigError: see :func:`check_engine`; or a server with another model.
        EngineError: a server that cannot be reached.
    """
    check_engine(spec)

    def torch_engine(
        model: PreTrainedModel, activate: Callable[[], AbstractContextManager[Any]]
    ) -> TorchEngine:
        return TorchEngine(
            model,
            encoder.tokenizer,
            activate=activate,
            max_rows=spec.max_rows,
            eos_token_ids=encoder.stop_ids,
            cache=_cache(spec),
        )

    trunk = policy.trunk
    if spec.engine == "torch" and spec.url is None and not spec.workers:
        if not spec.max_staleness:
            return torch_engine(trunk.model, lambda: trunk.active(policy.adapter))
        engine = ReplicaEngine(TorchReplica(policy, torch_engine))
    else:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        host = _host(spec, policy, folder / "start", share, ray)
        engine = ReplicaEngine(
            HostReplica(
                policy,
                host,
                encoder.tokenizer,
                tuple(encoder.stop_ids),
                folder / "versions",
                transfer_of(spec),
            )
        )
    closing.callback(engine.close)
    return engine


def check_engine(spec: RolloutSpec, lora_rank: int | None = None) -> None:
    """Refuse an engine that is not available, before anything is loaded.

    Args:
        spec: the stage's rollout section.
        lora_rank: of the policy's adapter, 0 for none; None where it is not known yet.

    Raises:
        ConfigError: vLLM is missing, or options that nothing would read.
    """
    if lora_rank is not None:
        check_sampler(spec, lora_rank)
    if spec.share is not None and not (spec.workers or isinstance(spec.url, list)):
        raise ConfigError(
            "rollout.share is how several servers split the work: give workers or url"
        )
    if spec.url is not None and spec.workers:
        raise ConfigError(
            "rollout.url names servers that run, workers starts some: give one of them"
        )
    if spec.url is not None:
        for key, value in theirs(spec.options).items():
            if key not in _REMOTE or isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(
                    f"rollout.options.{key}: with url, use transfer, retries, timeout (numbers); "
                    "options of the engine itself are given to gnomon serve-rollouts"
                )
            if not 0 <= value < math.inf or (key == "timeout" and value == 0):
                raise ConfigError(f"rollout.options.{key} is {value}; use a number above 0")
        urls = [check_url(url) for url in _urls(spec)]
        if not urls or len(set(urls)) < len(urls):
            raise ConfigError(f"rollout.url: {spec.url}: give each server's address once")
        check_token(os.environ.get(TOKEN_VARIABLE))
        return
    if spec.engine == "torch" and spec.workers:
        _check_workers(spec)
    elif spec.engine == "torch":
        _cache(spec)
    if spec.engine == "vllm" and find_spec("vllm") is None:
        from gnomon.rollout.vllm_installed import import_vllm

        import_vllm()


def _check_workers(spec: RolloutSpec) -> None:
    for key in theirs(spec.options):
        if key not in _WORKERS:
            near = did_you_mean(key, (*_WORKERS, TRANSFER), "workers of engine torch take")
            raise ConfigError(f"rollout.options.{key}: {near}")


def _cache(spec: RolloutSpec) -> CacheOptions:
    """What rollout.options say of the torch engine's cache.

    Raises:
        ConfigError: an option it does not have, or a value that is none.
    """
    for key, value in spec.options.items():
        if key not in _TORCH:
            raise ConfigError(
                f"rollout.options.{key}: engine torch takes {', '.join(_TORCH)}; other options are "
                "of engine vllm"
            )
        kind = bool if key == "cuda_graphs" else int | float
        if not isinstance(value, kind) or (isinstance(value, bool) != (kind is bool)):
            what = "true or false" if kind is bool else "a number of GiB"
            raise ConfigError(f"rollout.options.{key} is {value!r}; use {what}")
    return CacheOptions(**{_TORCH[key]: value for key, value in spec.options.items()})


def _urls(spec: RolloutSpec) -> list[str]:
    return spec.url if isinstance(spec.url, list) else [str(spec.url)]


def _host(
    spec: RolloutSpec, policy: Role, folder: Path, share: float | None, ray: RaySpec | None
) -> Host:
    """One host, or a pool of them."""
    if isinstance(spec.url, list):
        for url in spec.url:  # which may be loading yet
            _remote(spec, url).close()
        retries = int(spec.options.get("retries", RETRIES))
        each = {url: partial(_remote, spec, url, retries=0) for url in spec.url}
        return PoolHost(each, share=spec.share, retries=retries)
    if spec.url is not None:
        return _remote(spec, spec.url)
    save_policy(folder, Role("base", policy.trunk) if adapters_alone(spec) else policy)
    if not spec.workers:
        return _vllm(spec, policy, folder, share)
    names = [f"worker {i + 1}" for i in range(spec.workers)]
    options = _options(spec, policy)
    if ray is not None:
        from gnomon.rollout.ray_workers import RayFleet

        if spec.engine == "torch" and ray.gpus_per_worker:
            options["device"] = "cuda"
        fleet = RayFleet(ray, folder, spec.engine, options)
        return PoolHost(dict.fromkeys(names, fleet.host), share=spec.share)
    from gnomon.rollout.local import LocalHost

    start = partial(LocalHost, folder, spec.engine, options, threads(spec.workers))
    return PoolHost(dict.fromkeys(names, start), share=spec.share)


def _options(spec: RolloutSpec, policy: Role) -> dict[str, Any]:
    """Of the engine, as the policy and the recipe have them."""
    options: dict[str, Any] = {"dtype": str(policy.trunk.compute).removeprefix("torch.")}
    if spec.engine == "torch":
        return options | {"max_rows": spec.max_rows} | theirs(spec.options)
    if adapters_alone(spec):
        options[RANK] = fitting_rank(_rank(policy))
    return options | {"max_num_seqs": spec.max_rows} | theirs(spec.options)


def _rank(policy: Role) -> int:
    """Of the policy's adapter; 0 where it has none."""
    if policy.adapter is None:
        return 0
    return int(policy.trunk.model.peft_config[policy.adapter].r)


def _remote(spec: RolloutSpec, url: str, **more: Any) -> Host:
    """A server that runs; ``more`` goes before what the recipe says of the connection."""
    from gnomon.rollout.client import RemoteHost  # httpx takes a while to import

    given = {key: _REMOTE[key](value) for key, value in theirs(spec.options).items()}
    host = RemoteHost(url, os.environ.get(TOKEN_VARIABLE), **(given | more))
    try:
        about = host.about()
    except BaseException:
        host.close()
        raise
    if about.kind != spec.engine:
        host.close()
        raise ConfigError(
            f"rollout.engine is {spec.engine}, but {about.program} serves at {url}: set "
            f"engine: {about.kind}"
        )
    return host


def _vllm(spec: RolloutSpec, policy: Role, folder: Path, share: float | None) -> Host:
    """vLLM in this process, started from the model in ``folder``."""
    from gnomon.rollout.vllm_host import VLLMHost

    trunk = policy.trunk
    dtype = str(trunk.compute).removeprefix("torch.")
    options = vllm_options(spec, trunk.model.device, share, _rank(policy))
    return VLLMHost(folder, {"dtype": dtype, **options})
