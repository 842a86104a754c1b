"""A Hugging Face hub on this machine, as far as huggingface_hub asks for one in a push."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class FakeHub:
    """What it was told.

    Attributes:
        repos: whether each repository is private, by its name.
        files: what was committed, by ``repo/path``.
        tokens: the tokens that came with requests.
        broken: answer a commit with an error.
    """

    token: str = "hf_good"
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: bool = False
    url: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "whoami-v2"]:
            return 200, {"name": "me", "type": "user", "fullname": "me", "orgs": []}
        if parts == ["api", "validate-yaml"]:
            return 200, {"warnings": [], "errors": []}
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            owner = wanted.get("organization") or "me"
            name = f"{owner}/{wanted['name']}"
            self.repos.setdefault(name, wanted.get("visibility") == "private")
            return 200, {"url": f"{self.url}/{name}", "id": name, "name": name}
        if parts[:2] == ["api", "models"]:
            return self._model("/".join(parts[2:4]), parts[4:], body)
        return 404, {"error": f"{method} {path}"}

    def _model(self, repo: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        if repo not in self.repos:
            return 404, {"error": "RepoNotFound"}
        if not rest or rest[0] == "revision":
            return 200, {"id": repo, "private": self.repos[repo], "sha": "0" * 40, "siblings": []}
        if rest[0] == "tree":
            here = [name.removeprefix(f"{repo}/") for name in self.files if name.startswith(repo)]
            return 200, [{"type": "file", "path": p, "size": 1, "oid": "0"} for p in here]
        if rest[0] == "preupload":
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return 200, {"files": [{"path": f["path"], **plain} for f in files]}
        if rest[0] == "commit":
            if self.broken:
                return 400, {"error": "the disk of the hub is full"}
            for line in body.splitlines():
                told = json.loads(line)
                if told["key"] == "deletedFile":
                    del self.files[f"{repo}/{told['value']['path']}"]
                if told["key"] == "file":
                    value = told["value"]
                    self.files[f"{repo}/{value['path']}"] = base64.b64decode(value["content"])
            url = f"{self.url}/{repo}/commit/abc"
            return 200, {"commitUrl": url, "commitOid": "abc", "pullRequestUrl": None}
        return 404, {"error": "/".join(rest)}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that listens on this machine within the block."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append(f"{self.command} {self.path}")
            code, value = hub.answer(self.command, self.path, body)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                code, value = 401, {"error": "Invalid credentials"}
            data = json.dumps(value).encode()
            self.send_response(code)
            if value == {"error": "RepoNotFound"}:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _serve  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
