"""A student, its teacher, and a server that scores texts as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import transformers as tf
from grpo_zoo import ENDS, NEW_TOKENS

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.models.roles import Role
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.sampled import Played, Sampling

TEACHER = 3
"""The seed of the teacher's weights."""


def make(
    *,
    lora: bool = False,
    temperature: float = 1.0,
    iterations: int = 4,
    samples: int = 2,
    **settings: Any,
) -> Learner:
    """A student of weights 0, and where no url is given a teacher of other weights beside it."""
    trunk = tw.trunk()
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    policy = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    roles = {"policy": policy}
    if "url" not in settings:
        roles["teacher"] = Role("teacher", tw.trunk(TEACHER))
    if lora:
        tw.shake(policy, 0.05)
    engine = TorchEngine(
        trunk.model,
        tw.tokenizer(),
        activate=lambda: trunk.active(policy.adapter),
        eos_token_ids=ENDS,
    )
    params = SamplingParams(max_new_tokens=NEW_TOKENS, temperature=temperature)
    played = Played(engine, None, sampling=Sampling(params, samples))
    bench = Workbench(
        roles, seed=11, batch_size=4, iterations=iterations, tokens_per_microbatch=100_000
    )
    given = {"teacher": "t", **settings}
    return tw.on_prompts("distill", bench, played, given, prompts=tw.prompts(4))


def row_logprobs(model: tf.PreTrainedModel, ids: list[int]) -> list[float | None]:
    """The log-prob of each token of a text, by transformers' own forward; None for the first."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    chosen = torch.tensor(ids[1:])[:, None]
    return [None, *logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist()]


@dataclass
class TeacherServer:
    """Answers ``/v1/completions`` about texts that exist.

    Attributes:
        style: "vllm" has prompt_logprobs; "echo" only echo and logprobs; "strict" too, and
            it refuses keys that it does not know; "none" neither.
        reads: what a token is called there.
        failures: statuses that the first requests are answered with.
    """

    model: tf.PreTrainedModel
    style: str = "vllm"
    reads: Callable[[int], str] = lambda token: tw.tokenizer().decode([token])
    failures: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["prompt"]
        values = row_logprobs(self.model, ids)
        choice: dict[str, Any] = {"index": 0, "text": "x", "finish_reason": "length"}
        if self.style == "vllm" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None
                if value is None
                else {str(i): {"logprob": value, "rank": 1, "decoded_token": self.reads(i)}}
                for i, value in zip(ids, values, strict=True)
            ]
        if self.style in ("echo", "strict") and body.get("echo"):
            tokens = [self.reads(i) for i in ids]
            choice["logprobs"] = {"token_logprobs": [*values, -1.5], "tokens": [*tokens, "x"]}
        return {"id": "c", "object": "text_completion", "choices": [choice]}

    @contextmanager
    def running(self) -> Iterator[str]:
        server, mine = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with mine:
                    server.asked.append(body)
                    server.keys.add(self.headers.get("Authorization", ""))
                    unknown = server.style == "strict" and "prompt_logprobs" in body
                    status = 422 if unknown else 200
                    status = server.failures.pop(0) if server.failures else status
                    data = json.dumps(server.answer(body) if status == 200 else {"error": "no"})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data.encode())

            def log_message(self, *args: Any) -> None:
                """Nothing is shown."""

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1"
        finally:
            http.shutdown()
            thread.join()
            http.server_close()
