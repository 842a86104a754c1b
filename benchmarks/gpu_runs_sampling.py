"""Sampling in several ways, and weights sent to who samples."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import socket
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from gnomon.models import load
from gnomon.models.roles import Role, Trunk
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import Completion, Host, Request, SamplingParams
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.torch_engine import CacheOptions, TorchEngine
from gnomon.rollout.torch_host import TorchHost
from gpu_runs_bench import (
    EPISODES,
    ITEMS,
    Bench,
    Item,
    SkippedError,
    check,
    differs,
    item,
    rate,
    spawned,
    tail,
)


def _engine(bench: Bench, dtype: str, **cache: Any) -> tuple[TorchEngine, Any]:
    found = load.load_causal_lm(bench.start, dtype=dtype, device=bench.device)
    engine = TorchEngine(
        found.model, found.tokenizer, max_rows=bench.size(64, 4), eos_token_ids=(),
        cache=CacheOptions(**cache),
    )  # fmt: skip
    return engine, found.tokenizer


def _requests(bench: Bench, tokenizer: Any) -> list[Request]:
    texts = ["two plus three is", "the tunnel", "a red door opens and"]
    count = bench.size(24, 3)
    return [
        Request(str(i), [3, *tokenizer(texts[i % 3])["input_ids"]], n=bench.size(4, 2), seed=i)
        for i in range(count)
    ]


def _agree(one: Sequence[Any], other: Sequence[Any]) -> str:
    """How many responses are the same, and how far the log-probs of those are apart."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    same = [(a, b) for a, b in pairs if a.ids == b.ids]
    gap = max((float((a.logprobs - b.logprobs).abs().max()) for a, b in same), default=0.0)
    return f"{len(same)}/{len(pairs)} same (log-probs {gap:.0e} apart)"


def _all_same(said: str) -> bool:
    found = re.match(r"(\d+)/(\d+)", said)
    return found is not None and found[1] == found[2]


def _sampling(dtype: str) -> Item:
    def work(bench: Bench) -> str:
        new = bench.size(160, 40)
        params = SamplingParams(max_new_tokens=new)
        ways: dict[str, dict[str, Any]] = {
            "pages": {"paged": True, "cuda_graphs": False, "page": 64},
            "graphs": {"paged": True, "page": 64},
            "whole rows": {"paged": True},
            "without graphs": {"paged": True, "cuda_graphs": False},
            "few pages": {"paged": True, "page": 16},
            "rows": {"paged": False},
        }
        first: list[list[Completion]] | None = None
        said, odd = [], []
        for way, cache in ways.items():
            engine, tokenizer = _engine(bench, dtype, **cache)
            requests = _requests(bench, tokenizer)
            if way == "few pages":
                engine.generate(requests[:1], SamplingParams(max_new_tokens=2))
                length = max(len(r.prompt_ids) for r in requests) + new
                pages = bench.size(16, 2) * math.ceil(length / 16)
                size = (16 * pages * engine._token_bytes + 1) / 2**30
                engine, _ = _engine(bench, dtype, **cache, gib=size)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                engine.generate(requests, SamplingParams(max_new_tokens=min(new, 20)))
                began = time.perf_counter()
                found = engine.generate(requests, params)
                seconds = time.perf_counter() - began
            for w in warned:
                print(f"  {way}: {w.message}", file=bench.log)
            tokens = sum(len(c.ids) for row in found for c in row)
            attention = "" if way == "rows" else f" {engine.reading}"
            more = f" preempted {engine.preempted}" if way == "few pages" else ""
            more += " NOT CAPTURED" * any("captured" in str(w.message) for w in warned)
            agrees = "" if first is None else f", {_agree(first, found)}"
            if first is not None and not _all_same(agrees.removeprefix(", ")):
                odd.append(way)
            first = first or found
            said.append(f"{way}{attention}{more}: {tokens / seconds:,.0f} tokens/s{agrees}")
        text = "; ".join(said)
        exact = odd if dtype == "float32" else [way for way in odd if way == "graphs"]
        check(not exact, f"{exact} drew other tokens: {text}")
        return text

    return work


for _dtype in ("float32", "bfloat16"):
    ITEMS[f"sampling {_dtype}"] = _sampling(_dtype)


@item("sampling episodes")
def episodes(bench: Bench) -> str:
    """Turns that keep their cache, against turns computed anew; then GRPO over episodes."""
    params = SamplingParams(max_new_tokens=bench.size(24, 5))
    found, prefilled = [], []
    for keeps in (False, True):
        engine, tokenizer = _engine(bench, "float32", paged=True)
        requests = [Request(r.id, r.prompt_ids, seed=r.seed) for r in _requests(bench, tokenizer)]
        with engine.keeping() if keeps else contextlib.nullcontext():
            for turn in range(3):
                rows = engine.generate(requests, params)
                requests = [
                    Request(r.id, [*r.prompt_ids, *row[0].ids, 5, 6, 7], seed=r.seed + turn + 1)
                    for r, row in zip(requests, rows, strict=True)
                ]
        found.append(rows)
        prefilled.append(engine.prefilled)
    agrees = _agree(*found)
    check(_all_same(agrees), f"kept and computed anew: {agrees}")
    check(prefilled[1] < prefilled[0], f"prompt tokens computed: {prefilled}")
    data = {"path": "agents:rooms", "options": {"n": 16, "seed": 2, "rooms": 2}}
    place = {**EPISODES, "max_episode_tokens": 80}
    stage = bench.stage("grpo", 2, data=data, environment=place, settings={"zero_spread": "keep"})
    stage.pop("reward")
    stage["rollout"]["max_new_tokens"] = 10
    made = bench.run(bench.recipe([stage]))
    return f"{agrees}, prompt tokens {prefilled[0]} anew, {prefilled[1]} kept; grpo {rate(made)}"


@item("sampling ahead")
def ahead(bench: Bench) -> str:
    """``max_staleness: 1``: sampling in a thread while the policy trains, twice the same bytes."""
    stage = bench.stage("grpo", bench.size(5, 2))
    stage["rollout"]["max_staleness"] = 1
    raw = bench.recipe([stage])
    one = bench.run(raw)
    other = bench.run({**raw, "name": f"{raw['name']}-again"})
    odd = differs(one.checkpoints(), other.checkpoints())
    check(not odd, odd)
    return f"mismatch {max(one.column('mismatch')):.1e}, the same bytes twice, {rate(one)}"


def _policy(bench: Bench) -> Role:
    found = load.load_causal_lm(bench.start, device=bench.device)
    return Role("policy", Trunk(found.model, found.tokenizer), trainable=True)


def _sent(bench: Bench, policy: Role, host: Host, kind: str) -> str:
    """Send weights twice, the second time others; the server's answers are the policy's own."""
    trunk = policy.trunk
    ids = [1]
    replica = HostReplica(
        policy, host, trunk.tokenizer, ids, bench.folder / f"sent-{kind}", transfer=kind
    )
    engine = ReplicaEngine(replica)
    seconds = 0.0
    for _ in range(2):
        with torch.no_grad():
            for parameter in trunk.model.parameters():
                parameter.mul_(1.02)
        began = time.perf_counter()
        engine.sync_weights()
        seconds = time.perf_counter() - began
    requests = [Request(str(i), [3, 7 + i, 11], n=2, seed=i) for i in range(4)]
    params = SamplingParams(max_new_tokens=bench.size(24, 5))
    cache = CacheOptions()
    mine = TorchEngine(trunk.model, trunk.tokenizer, eos_token_ids=ids, cache=cache)
    agrees = _agree(mine.generate(requests, params), engine.generate(requests, params))
    check(_all_same(agrees), f"{kind}: {agrees}")
    size = sum(t.numel() * 4 for t in trunk.model.state_dict().values())
    return f"{kind}: {size / 2**20:.1f} MiB in {1e3 * seconds:.0f} ms, {agrees}"


@item("transfer in process")
def in_process(bench: Bench) -> str:
    said = []
    for kind in ("memory", "file"):
        folder = load.fetch(bench.start)
        host = TorchHost(folder, device=bench.device)
        said.append(_sent(bench, _policy(bench), host, kind))
    return "; ".join(said)


@item("transfer to a server")
def to_server(bench: Bench) -> str:
    """Another process on the same GPU: by ipc, by file, and a GRPO run with ``transfer: auto``."""
    from gnomon.rollout.client import RemoteHost

    if importlib.util.find_spec("uvicorn") is None:
        raise SkippedError("uvicorn is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = bench.folder / "server.txt"
    words = [str(load.fetch(bench.start)), "--engine", "torch", "--port", str(port)]
    words += ["--option", f"device={bench.device}"]
    with spawned(said, "-m", "gnomon.rollout.serve", *words) as child:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while "serving" not in said.read_text():
                check(child.poll() is None, f"the server ended: {tail(bench, said)}")
                check(time.monotonic() < until, "the server does not start")
                time.sleep(0.05)
            kinds = ("ipc", "file") if bench.cuda else ("gloo", "file")
            out = [_sent(bench, _policy(bench), RemoteHost(url), kind) for kind in kinds]
            stage = bench.stage("grpo", 2)
            stage["rollout"]["url"] = url
            made = bench.run(bench.recipe([stage], precision="float32"))
        except Exception:
            tail(bench, said)
            raise
    mismatch = max(made.column("mismatch"))
    check(mismatch < 1e-3, f"a GRPO run's mismatch is {mismatch}")
    return "; ".join([*out, f"grpo by auto: mismatch {mismatch:.0e}"])
