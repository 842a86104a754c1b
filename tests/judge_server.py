"""A small server of the OpenAI chat completions protocol, which judges by rules of its own."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER = re.compile(r"<<<(\w{16}) answer(?: ([A-Z]))?>>>\n(.*?)\n<<<\1 end of answer", re.DOTALL)
Tops = Sequence[Mapping[str, float]]
"""The probabilities of the tokens in each place of an answer."""


@dataclass
class Said:
    """What the model writes, and its tokens' probabilities; or a status and a body instead, or
    (``drop``) nothing but the end of the connection."""

    tokens: Sequence[str] = ()
    tops: Tops = ()
    status: int = 200
    body: Any = None
    finish: str = "stop"
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False


Rule = Callable[[str, dict[str, Any]], Said]
"""From the user's message and the whole request to an answer."""


def answers(text: str) -> list[str]:
    """The answers between their fences, in order."""
    return [found[2] for found in _ANSWER.findall(text)]


def letter(shares: Mapping[str, float]) -> Said:
    """A verdict of one token, with these probabilities."""
    best = max(shares, key=lambda name: shares[name])
    return Said([best], [shares])


def prefers(score: Callable[[str], float], first: float = 0.0, sharp: float = 1.0) -> Rule:
    """A judge with Bradley-Terry probabilities, with a liking for the answer shown first (nats)."""

    def rule(text: str, body: dict[str, Any]) -> Said:
        a, b = answers(text)
        p = 1 / (1 + math.exp(-(sharp * (score(a) - score(b)) + first)))
        return letter({"A": p, "B": 1 - p})

    return rule


def says(*tokens: str) -> Rule:
    """A judge that always writes the same."""
    return lambda text, body: Said(tokens, [{token: 1.0} for token in tokens])


def words(text: str, finish: str = "stop") -> Said:
    """A text without probabilities of its own."""
    return Said([text], [{text: 1.0}], finish=finish)


@dataclass
class JudgeServer:
    """``with JudgeServer(rule) as server: server.url``; ``asked`` holds the requests' bodies,
    ``keys`` the keys they came with."""

    rule: Rule
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    logprobs: bool = True
    schema: bool = True
    models: Sequence[str] = ("m",)
    port: int = 0

    def __enter__(self) -> JudgeServer:
        handler = type("Handler", (_Handler,), {"judge": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model"} for name in self.judge.models]
        self._send(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.judge.asked.append(body)
        self.judge.keys.add(self.headers["Authorization"])
        if not self.judge.logprobs and body.get("logprobs"):
            self._send(400, {"error": {"message": "logprobs are not supported by this model"}})
            return
        if not self.judge.schema and "response_format" in body:
            self._send(400, {"error": {"message": "response_format is not supported"}})
            return
        if body["model"] not in self.judge.models:
            self._send(404, {"error": {"message": f"no model {body['model']}"}})
            return
        said = self.judge.rule(body["messages"][-1]["content"], body)
        if said.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self._send(
            said.status,
            said.body if said.body is not None else _completion(body, said),
            said.headers,
        )

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        return


def _completion(body: Mapping[str, Any], said: Said) -> dict[str, Any]:
    def entry(token: str, p: float) -> dict[str, Any]:
        return {"token": token, "logprob": math.log(max(p, 1e-9)), "bytes": None}

    content = [
        entry(token, top.get(token, 0.0))
        | {"top_logprobs": [entry(t, p) for t, p in top.items()][: body.get("top_logprobs", 0)]}
        for token, top in zip(said.tokens, said.tops, strict=True)
    ]
    choice = {
        "index": 0,
        "finish_reason": said.finish,
        "message": {"role": "assistant", "content": "".join(said.tokens)},
        "logprobs": {"content": content} if body.get("logprobs") else None,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": len(said.tokens), "total_tokens": 0}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }
