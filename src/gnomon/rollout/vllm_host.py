"""vLLM in this process: takes the policy's weights in place and samples from token ids.

vLLM is imported when a host is made, never before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gnomon.errors import ConfigError, EngineError
from gnomon.models import load
from gnomon.rollout.links import Outlet
from gnomon.rollout.protocol import (
    About,
    FinishReason,
    Job,
    Progress,
    RawCompletion,
    SamplingParams,
    StaleWeightsError,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.sampling import StopText, check_params, check_probe, check_request, stream_keys
from gnomon.rollout.sums import Sums
from gnomon.rollout.transfer import Receiving, choose, send
from gnomon.rollout.vllm_installed import TRANSFERS, import_vllm, version_of
from gnomon.rollout.vllm_worker import ENGINE, QUALNAME, register
from gnomon.rollout.weights import (
    check_adapter,
    check_weights,
    shapes_in,
    start_version,
    write_adapter_folder,
)

OURS = (
    *("model", "tokenizer", "logprobs_mode", "worker_extension_cls", "generation_config"),
    *("weight_transfer_config", "enable_sleep_mode", "max_loras"),
)
"""Settings of vLLM that gnomon makes itself."""
_COLDEST = 0.01  # vLLM raises lower temperatures to it


class VLLMHost:
    """A model in vLLM.

    Scheduling runs in this process, so that a job with the same seeds is batched the same way and
    gives the same tokens again. What a request gets is its own up to the rounding of batched
    products; the numbers drawn differ from the torch engine's.

    Args:
        folder: the model, as a folder of safetensors with its tokenizer.
        options: passed to ``vllm.LLM`` (``dtype``, ``max_model_len``, ``enforce_eager``,
            ``gpu_memory_utilization``, ``tensor_parallel_size``, ``enable_lora``, ...), but for
            ``sleep``: whether :meth:`rest` gives its GPU memory back. With ``enable_lora`` it takes
            adapters instead of whole weights.

    Raises:
        ConfigError: vLLM is missing or too old, or options that it or gnomon refuses.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any] | None = None) -> None:
        options = dict(options or {})
        self._sleeps = check_sleep(options.pop("sleep", False))
        taken = sorted(set(options) & set(OURS))
        if taken:
            raise ConfigError(f"vLLM's {', '.join(taken)} is set by gnomon: remove it from options")
        for name, value in {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the process has other work to do
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }.items():
            os.environ.setdefault(name, value)
        self._vllm = import_vllm()
        files = load.weight_files(folder)
        self._shapes = shapes_in(files)
        self._config = load.read_config(folder).to_dict()
        self._version = "the start weights"
        self._count = 0
        self._asleep = 0
        self._receiving = Receiving()
        self._adapter: Any = None  # vLLM's request for it
        self._adapters = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="gnomon-adapters-")
        self._native = version_of(self._vllm.__version__) >= TRANSFERS and not options.get(
            "enable_lora"
        )
        try:
            self._llm = self._vllm.LLM(
                model=str(folder),
                logprobs_mode="processed_logprobs",
                worker_extension_cls=QUALNAME,
                generation_config="vllm",
                **self._more(options),
                **options,
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"vLLM does not start with this model: {error}") from error
        self._tokenizer = load.load_tokenizer(folder)
        vllm_config = self._llm.llm_engine.vllm_config
        self._workers = int(vllm_config.parallel_config.world_size)
        lora = vllm_config.lora_config
        self._max_lora_rank = int(lora.max_lora_rank) if lora is not None else 0
        dtype = self._llm.llm_engine.model_config.dtype
        self._base = start_version(files, dtype) if self._max_lora_rank else ""

    def _more(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that follow from those that were given."""
        more: dict[str, Any] = {}
        if self._sleeps:
            more["enable_sleep_mode"] = True
        if options.get("enable_lora"):
            more["max_loras"] = 1
        if self._native:
            register()
            more["weight_transfer_config"] = {"backend": ENGINE}
        return more

    def about(self) -> About:
        config = self._llm.llm_engine.model_config
        gpus = self._gpus()
        ways = ["file"]
        if self._native:
            ways += ["memory"] if self._workers == 1 else []
            ways += ["ipc", "nccl", "gloo"] if gpus else ["gloo"] if self._workers == 1 else []
        return About(
            kind="vllm",
            program=f"vLLM {self._vllm.__version__}",
            dtype=str(config.dtype).removeprefix("torch."),
            version=self._version,
            window=int(config.max_model_len),
            vocabulary=int(config.get_vocab_size()),
            config=self._config,
            shapes=self._shapes,
            transfers=ways,
            gpus=gpus,
            max_lora_rank=self._max_lora_rank,
            base=self._base,
        )

    def _gpus(self) -> list[str]:
        if not torch.cuda.is_available():
            return []
        found = self._llm.collective_rpc("gnomon_gpu")
        return [str(uuid) for uuid in found if uuid]

    def connect(self, transfer: str, device: torch.device) -> str:
        found = choose(transfer, self.about(), device, url=False)
        if found == "memory":
            self.init_weight_transfer({"kind": found})
        return found

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> list[float]:
        about = self.about()
        check_probe(probe, about.vocabulary, about.window)
        if isinstance(weights, WeightsHere):
            return send(self, Outlet("memory", torch.device("cpu")), weights, probe, wanted)
        whole = not self._max_lora_rank
        dtype = load.dtype_of(about.dtype)
        sums = check_weights(weights, self._shapes if whole else None, dtype)
        if not whole:
            check_adapter(sums, about)
        self._wake("weights")
        self._version = "half loaded"
        if whole:
            counts = self._told("gnomon_load", str(weights.path))
            if any(count != counts[0] for count in counts):
                raise EngineError(f"vLLM's workers took {counts} tensors, not all the same")
        else:
            self._take_adapter(weights, sums)
        return self._serve(weights.version, probe)

    # -- the four phases of a transfer

    def init_weight_transfer(self, info: Mapping[str, Any]) -> None:
        self._check_native()
        try:
            self._llm.init_weight_transfer_engine({"init_info": {"info": dict(info)}})
        except ValueError as error:
            raise EngineError(f"vLLM does not take weights so: {error}") from error

    def start_weight_update(self, version: str) -> None:
        self._check_native()
        self._receiving.start(version)
        self._version = "half loaded"
        self._wake("weights")
        self._told("gnomon_abandon")  # what a trainer that was killed had begun
        self._told("start_weight_update")

    def update_weights(self, version: str, bucket: Mapping[str, Any]) -> None:
        self._receiving.check(version)
        unknown = [name for name in bucket["names"] if name not in self._shapes]
        if unknown:
            raise EngineError(f"{unknown[0]} is unknown there: the sampler has another model")
        self._told("update_weights", {"bucket": dict(bucket)})
        self._receiving.take(bucket, self._told("gnomon_received"))

    def finish_weight_update(self, version: str, probe: Sequence[int]) -> list[float]:
        about = self.about()
        check_probe(probe, about.vocabulary, about.window)
        self._receiving.finish(version)
        self._told("finish_weight_update")
        return self._serve(version, probe)

    def _check_native(self) -> None:
        if not self._native:
            raise EngineError(
                "this vLLM takes files only: it is older than "
                f"{TRANSFERS[0]}.{TRANSFERS[1]}, or was started with enable_lora"
            )

    # -- what both ways have in common

    def _told(self, method: str, *args: Any) -> list[Any]:
        """The workers' answers; whatever one of them raises, the weights are not whole."""
        try:
            return list(self._llm.collective_rpc(method, args=args))
        except Exception as error:
            raise EngineError(f"vLLM did not take the weights: {error}") from error

    def _take_adapter(self, weights: WeightsFile, sums: Sums) -> None:
        """Have vLLM put an adapter on its weights, under a number of its own."""
        self._adapters += 1
        folder = Path(self._scratch.name) / str(self._adapters)
        folder.mkdir()
        write_adapter_folder(weights, sums, folder)
        request = self._vllm.lora.request.LoRARequest(
            weights.version[:16], self._adapters, str(folder)
        )
        try:
            self._llm.llm_engine.add_lora(request)
            if self._adapter is not None:
                self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
                shutil.rmtree(self._adapter.lora_path, ignore_errors=True)
        except Exception as error:  # whatever a worker raises
            raise EngineError(f"vLLM did not take the adapter: {error}") from error
        self._adapter = request

    def _serve(self, version: str, probe: Sequence[int]) -> list[float]:
        """Sample from what was loaded from now on; gives its scores of ``probe``."""
        self._wake("kv_cache")
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM still holds results of the old weights (its prefix cache could not be "
                "emptied): restart it and resume with --resume"
            )
        self._version = version
        return self._score(probe)

    # -- sleeping

    def rest(self) -> None:
        """Give GPU memory back: the cache, and the weights, which are kept in main memory (level 1)
        where the next load brings an adapter only, and dropped (level 2) where it brings them."""
        if self._sleeps and not self._asleep:
            self._asleep = 1 if self._max_lora_rank else 2
            self._llm.sleep(level=self._asleep)
            if self._asleep == 2:
                self._version = "asleep"  # its weights are gone

    def _wake(self, *tags: str) -> None:
        """Take memory again: "weights" before they are loaded, "kv_cache" when they are there."""
        if self._asleep:
            self._llm.wake_up(list(tags))
            if "kv_cache" in tags:
                self._asleep = 0

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
        if job.version != self._version:
            raise StaleWeightsError(f"vLLM serves {self._version[:12]}, not {job.version[:12]}")
        self._wake("weights", "kv_cache")  # after level 1, with the same weights
        self._check(job)
        self._score_before_truncation(job.params)
        names = [[f"{self._count}-{i}-{k}" for k in range(r.n)] for i, r in enumerate(job.requests)]
        self._count += 1
        stop = StopText(self._tokenizer, job.params.stop, frozenset(job.eos))
        requests: dict[str, tuple[Sequence[int], Any]] = {}
        for row, request in zip(names, job.requests, strict=True):
            for name, key in zip(row, stream_keys(request), strict=True):
                requests[name] = (request.prompt_ids, self._params(job, key, stop.spells))
        done = self._run(requests, progress)
        return [[_sampled(done[name], self._version) for name in row] for row in names]

    def close(self) -> None:
        """Free what vLLM holds of memory."""
        shutdown = getattr(self._llm.llm_engine.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()
        self._scratch.cleanup()

    # -- driving vLLM -----------------------------------------------------------------------------

    def _run(
        self,
        requests: Mapping[str, tuple[Sequence[int], Any]],
        progress: Progress | None,
    ) -> dict[str, Any]:
        """Every request's final output. All are queued before the first step is taken."""
        engine = self._llm.llm_engine
        done: dict[str, Any] = {}
        try:
            for name, (ids, params) in requests.items():
                engine.add_request(
                    name, {"prompt_token_ids": list(ids)}, params, lora_request=self._adapter
                )
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        done[output.request_id] = output
                        if progress is not None:
                            progress(len(done), len(requests))
        except Exception as error:
            if type(error).__name__ in ("EngineDeadError", "EngineGenerateError"):
                raise EngineError(f"vLLM's engine died: {error}") from error
            raise
        finally:
            left = [name for name in requests if name not in done]
            if left:
                engine.abort_request(left)
        if len(done) != len(requests):
            raise EngineError(f"vLLM finished {len(done)} of {len(requests)} requests")
        return done

    def _params(self, job: Job, key: int, spell: bool) -> Any:
        p = job.params
        return self._vllm.SamplingParams(
            temperature=p.temperature,
            top_p=p.top_p,
            top_k=p.top_k,
            min_p=p.min_p,
            max_tokens=p.max_new_tokens,
            seed=key % 2**63,
            logprobs=0,
            stop=list(p.stop) or None,
            stop_token_ids=list(job.eos),
            ignore_eos=True,  # the model's own: job.eos says what ends a response
            detokenize=bool(p.stop),
            skip_special_tokens=not spell,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _score(self, probe: Sequence[int]) -> list[float]:
        """Log-probs at temperature 1 of ``probe``'s tokens after the first."""
        self._score_before_truncation(SamplingParams())
        params = self._vllm.SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False
        )
        self._count += 1
        name = f"{self._count}-probe"
        rows = self._run({name: (probe, params)}, None)[name].prompt_logprobs
        return [float(row[i].logprob) for row, i in zip(rows[1:], probe[1:], strict=True)]

    def _score_before_truncation(self, p: SamplingParams) -> None:
        """Have vLLM report log-probs as the protocol defines them: untruncated, tempered."""
        cut = p.temperature > 0 and bool(p.top_k or p.top_p < 1 or p.min_p)
        if cut and p.min_p and p.top_p < 1:
            raise ConfigError(
                "vLLM cuts by min_p before top_p and gnomon after it: set one of them, not both"
            )
        for problem in self._llm.collective_rpc(
            "gnomon_score_at", args=(p.temperature if cut else None,)
        ):
            if problem is not None and cut:
                raise ConfigError(
                    "this vLLM gives log-probs only after truncation, where they are not the "
                    f"policy's ({problem}): set top_p to 1, top_k and min_p to 0"
                )

    def _check(self, job: Job) -> None:
        check_params(job.params)
        if 0 < job.params.temperature < _COLDEST:
            raise ConfigError(
                f"temperature is {job.params.temperature}, and vLLM would silently take {_COLDEST} "
                f"for it: use 0 (greedy), or {_COLDEST} or more"
            )
        about = self.about()
        for request in job.requests:
            check_request(request, job.params, about.vocabulary, about.window)


def check_sleep(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"rollout.options.sleep is {value!r}: use true or false")
    return value


def _sampled(output: Any, version: str) -> RawCompletion:
    out = output.outputs[0]
    ids = [int(i) for i in out.token_ids]
    reasons: dict[str, FinishReason] = {"length": "length", "stop": "eos"}
    reason = reasons.get(str(out.finish_reason))
    if reason is None:
        raise EngineError(f"vLLM ended a request with {out.finish_reason!r}")
    if isinstance(out.stop_reason, str):
        reason = "stop"
    logprobs = [float(row[i].logprob) for row, i in zip(out.logprobs, ids, strict=False)]
    return RawCompletion(ids, logprobs, reason, version)
