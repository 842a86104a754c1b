"""Environments on an OpenEnv server, each episode in a session of its own. Tested with openenv
0.10.0.

The server says what an action is (``/schema``): one field takes the model's turn as text, several
make up one tool, ``act``, and an environment of MCP tools lists its tools itself.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import httpx

from gnomon.agents.environment import Action, Observation, Tool, ToolCall, ToolError, opened_with
from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean
from gnomon.records import Message, Prompt
from gnomon.usercode import settled

ACT = "act"
Headers = tuple[tuple[str, str], ...]
_FRAME = ("metadata", "type")
"""Fields of every action."""


class OpenEnv:
    """One episode on an OpenEnv server.

    Args:
        url: of the server, ``http://host:port``.
        action: the field of the action that takes the model's turn; without it the only one.
        observation: the field that is shown, dots for one within another; without it the only
            field, or all of them as JSON.
        reset: more arguments for the server's reset, next to the seed.
        timeout_s: seconds that an answer of the server may take.
        headers: sent when the server is asked what it takes and when a session begins, to be let
            in.

    Raises:
        ConfigError: openenv is not installed, no server answers or it lets nobody in, or it has no
            such field.
    """

    def __init__(
        self,
        url: str,
        action: str | None = None,
        observation: str | None = None,
        reset: Mapping[str, Any] | None = None,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            client = importlib.import_module("openenv.core").GenericEnvClient
        except ImportError as error:
            raise ConfigError(
                f"the environment 'openenv' needs the package: pip install openenv ({error})"
            ) from error
        self._reset = dict(reset or {})
        self._shown = observation
        given = tuple((headers or {}).items())
        self._client = _session(client, url, timeout_s, given)
        fields, self._required = _fields(url, timeout_s, given)
        self._field = action
        self.tools: Sequence[Tool] = ()
        if "tool_name" in fields or not fields:
            self.tools = _listed(client, url, timeout_s, given)
        elif action is None and len(fields) > 1:
            schema = {"type": "object", "properties": fields, "required": self._required}
            self.tools = (Tool(ACT, "Act in the environment.", schema),)
        elif action is None:
            (self._field,) = fields
        elif action not in fields:
            near = did_you_mean(action, fields, "its fields are")
            raise ConfigError(f"openenv: {url} has no action field {action!r}; {near}")
        self._kind = str(fields.get(self._field or "", {}).get("type", "string"))

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message]:
        """Begin an episode: the prompt's messages, and the first observation."""
        given = {"seed": int(prompt.meta.get("seed", seed)) % 2**31, **self._reset}
        result = settled(self._client.reset(**given))
        return opened_with(prompt, self._text(result.observation))

    def step(self, action: Action) -> Observation:
        """One step, or one for each call; with tools, a turn without a call ends the episode."""
        if self.tools and not action.calls:
            return Observation(done=True)
        seen = Observation()
        try:
            moves = [_call(c) for c in action.calls] or [
                {str(self._field): self._value(action.text)}
            ]
        except ToolError as error:
            return Observation((Message("user", f"error: {error}"),), tool_errors=1)
        for move in moves:
            result = settled(self._client.step(move))
            failed = bool(result.observation.get("error"))
            message = Message("tool" if self.tools else "user", self._text(result.observation))
            seen = replace(
                seen,
                messages=(*seen.messages, message),
                reward=seen.reward + float(result.reward or 0.0),
                done=bool(result.done),
                tool_errors=seen.tool_errors + failed,
            )
            if seen.done:
                break
        return seen

    def close(self) -> None:
        """End the session."""
        settled(self._client.close())

    def _value(self, text: str) -> Any:
        text = text.strip()
        if self._kind == "string":
            return text
        try:
            value = json.loads(text)
        except ValueError:
            raise ToolError(f"write a JSON value of type {self._kind} and nothing else") from None
        return value

    def _text(self, observation: Mapping[str, Any]) -> str:
        """What is shown of an observation."""
        value: Any = observation
        for name in (self._shown or "").split("."):
            if not name:
                break
            if not isinstance(value, Mapping) or name not in value:
                near = did_you_mean(name, value if isinstance(value, Mapping) else (), "it has")
                raise ValueError(f"the observation has no {self._shown!r}; {near}")
            value = value[name]
        if self._shown is None:
            value = _plain(observation)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _call(call: ToolCall) -> dict[str, Any]:
    if call.name == ACT:
        return dict(call.arguments)
    return {"type": "call_tool", "tool_name": call.name, "arguments": dict(call.arguments)}


def _plain(observation: Mapping[str, Any]) -> Any:
    """An observation without its frame: a tool's result, the only field's value, or all fields."""
    if observation.get("error"):
        error = observation["error"]
        return f"error: {error.get('message', error) if isinstance(error, Mapping) else error}"
    if "tool_name" in observation:
        result = observation.get("result")
        return result["data"] if isinstance(result, Mapping) and "data" in result else result
    fields = {k: v for k, v in observation.items() if k != "metadata" and v is not None}
    return next(iter(fields.values())) if len(fields) == 1 else fields or ""


def _session(client: Any, url: str, timeout_s: float, headers: Headers) -> Any:
    """A session that has not begun."""
    return client(base_url=url, message_timeout_s=timeout_s, headers=dict(headers) or None)


def _unreachable(url: str, error: Exception) -> ConfigError:
    """What to say where a server cannot be asked."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return ConfigError(
            f"openenv: {url} does not let this in (HTTP {status}); give what it asks for in "
            "options.headers, as in {Authorization: Bearer TOKEN}"
        )
    return ConfigError(
        f"openenv: no OpenEnv server answers at {url} ({type(error).__name__}: {error}); start "
        "it, or correct options.url"
    )


@lru_cache(maxsize=64)
def _fields(url: str, timeout_s: float, headers: Headers) -> tuple[dict[str, Any], list[str]]:
    """The fields of an action by name, and which are required, as the server says."""
    where = url.rstrip("/").replace("ws://", "http://").replace("wss://", "https://") + "/schema"
    try:
        response = httpx.get(where, timeout=timeout_s, headers=dict(headers))
        schema = response.raise_for_status().json()["action"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise _unreachable(url, error) from error
    known = {k: v for k, v in schema.get("properties", {}).items() if k not in _FRAME}
    return known, [name for name in schema.get("required", ()) if name in known]


@lru_cache(maxsize=64)
def _listed(client: Any, url: str, timeout_s: float, headers: Headers) -> tuple[Tool, ...]:
    """The tools that an environment of MCP tools lists."""
    session = _session(client, url, timeout_s, headers)
    try:
        result = settled(session.step({"type": "list_tools"}))
    except (OSError, TimeoutError) as error:
        raise _unreachable(url, error) from error
    finally:
        settled(session.close())
    found = result.observation.get("tools", ())
    return tuple(Tool(t["name"], t.get("description") or "", t["input_schema"]) for t in found)
