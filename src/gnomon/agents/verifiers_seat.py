"""The policy's seat in an environment of verifiers v1: what the environment's ``run`` sees as its
agent, and the one conversation of an episode.

verifiers would start a program (its harness) that asks an endpoint for completions. Here the
program is gnomon's loop: the conversation waits for the policy's turn, runs its tools in this
process, and goes through the task's own hooks (setup, stops, finalize, rewards) in verifiers'
order.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gnomon.agents.environment import Action
from gnomon.records import Message

POLICY = "policy"


def part_of(module: str) -> Any:
    """A module of verifiers v1."""
    return importlib.import_module(f"verifiers.v1.{module}" if module else "verifiers.v1")


class Tools:
    """The tools of a conversation: each toolset behind an MCP server that lives in this process.

    Attributes:
        listed: (name as the model writes it, description, JSON schema) of each.
    """

    def __init__(self, toolsets: Sequence[Any]) -> None:
        self.toolsets = toolsets
        self.listed: list[tuple[str, str, dict[str, Any]]] = []
        self._servers: dict[str, tuple[Any, str]] = {}

    async def open(self) -> None:
        """List the tools.

        Raises:
            ValueError: two have one name.
        """
        server_class = importlib.import_module("mcp.server.mcpserver").MCPServer
        for toolset in self.toolsets:
            server = server_class(toolset.server_name or type(toolset).__name__)
            for function in part_of("utils.decorators").discover_decorated(toolset, "tool"):
                name = getattr(function, "tool_name", None) or function.__name__
                text = (function.__doc__ or "").strip() or None
                server.add_tool(function, name=name, description=text)
            for tool in await server.list_tools():
                prefix = f"{toolset.server_name}_" if toolset.server_name else ""
                full = prefix + tool.name
                if full in self._servers:
                    raise ValueError(f"two tools are called {full!r}")
                self._servers[full] = (server, tool.name)
                self.listed.append((full, tool.description or "", dict(tool.input_schema)))

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """What a tool returns, as text, and whether it failed: the model sees its errors."""
        failure = importlib.import_module("mcp.server.mcpserver.exceptions").ToolError
        server, own = self._servers[name]
        try:
            result = await server.call_tool(own, arguments)
        except failure as error:
            return str(error), True
        shown = part_of("harnesses.utils.mcp").mcp_content_to_chat_content(result.content)
        return _words(shown), bool(getattr(result, "is_error", False))


def sharing(toolset: Any, state: Any) -> Any:
    """The toolset with the trace's state as its own, as verifiers' state channel would have it."""
    kind = type(toolset)
    toolset.__class__ = type(kind.__name__, (kind,), {"state": state, "__doc__": kind.__doc__})
    return toolset


class Seat:
    """The agent that an environment's ``run`` talks to.

    Attributes:
        asked: the conversations' new messages, each time a turn is wanted.
        tool_errors: failed calls since the last turn.
        traces: of the finished conversation.
    """

    trainable = True

    def __init__(self, config: Any, runtime: Any, shared: Sequence[Any]) -> None:
        self.config = config
        self.asked: asyncio.Queue[list[Message]] = asyncio.Queue()
        self.tool_errors = 0
        self.traces: list[Any] = []
        self._runtime, self._shared = runtime, shared
        self._turn: asyncio.Future[Action] | None = None
        self._taken = False

    def answer(self, action: Action) -> None:
        """The policy's turn."""
        assert self._turn is not None
        self._turn.set_result(action)

    async def ask(self, messages: list[Message]) -> Action:
        """Wait for the policy's turn."""
        self._turn = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(messages)
        return await self._turn

    async def run(self, task: Any, **borrowed: Any) -> Any:
        """One conversation on the task's prompt, until the policy calls no tool."""
        async with self._talk(task, borrowed) as talk:
            await talk.segment(talk.prompt())
            talk.trace.stop("agent_completed")
        return talk.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **borrowed: Any) -> AsyncIterator[Interaction]:
        """A conversation in which the caller is the user."""
        async with self._talk(task, borrowed) as talk:
            yield Interaction(talk)
            talk.trace.stop("user_closed")

    @asynccontextmanager
    async def _talk(self, task: Any, borrowed: dict[str, Any]) -> AsyncIterator[Talk]:
        unknown = [name for name, value in borrowed.items() if value]
        if unknown:
            raise NotImplementedError(f"gnomon's seat does not take {', '.join(unknown)}")
        if self._taken:
            raise NotImplementedError(
                "a second conversation in one episode: gnomon trains on one per episode"
            )
        self._taken = True
        config = part_of("utils.compile").resolve_runtime_config(self._runtime, task)
        env = dict(task.runtime_env())
        async with part_of("runtimes").provision_runtime(config, env=env) as runtime:
            talk = Talk(self, task, runtime, self._shared)
            await talk.open()
            yield talk
            await talk.close()
        self.traces.append(talk.trace)


class Interaction:
    """A conversation as the environment's code drives it."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    @property
    def trace(self) -> Any:
        return self._talk.trace

    async def turn(self, message: str | None = None) -> Any:
        """Send a user's turn (none: the task's prompt speaks) and wait for the policy's."""
        new = [] if self._talk.conversation else self._talk.prompt()
        if message is not None:
            new = [*new, part_of("types").UserMessage(content=message)]
        return await self._talk.segment(new)


class Talk:
    """One conversation: its trace, its tools and the task's hooks."""

    def __init__(self, seat: Seat, task: Any, runtime: Any, shared: Sequence[Any]) -> None:
        trace = part_of("trace")
        self.seat, self.task, self.runtime = seat, task, runtime
        self.trace = trace.Trace(
            task=trace.TraceTask(
                type=type(task).__name__, data=task.data, key=task.key, hash=task.hash
            ),
            state=part_of("state").state_cls(type(task))(),
            agent=trace.AgentInfo(config=seat.config),
        )
        own = [sharing(toolset, self.trace.state) for toolset in task.toolsets(task.config)]
        self._own, self.tools = own, Tools([*own, *shared])
        self.conversation: list[Any] = []
        self._new: list[Any] = []

    async def open(self) -> None:
        """The task's setup, and its tools."""
        invoke = part_of("utils.decorators").invoke
        await invoke(self.task.setup, {"trace": self.trace, "runtime": self.runtime})
        for toolset in self._own:
            await toolset.setup()
            await toolset.setup_task(self.task.data)
        await self.tools.open()

    def prompt(self) -> list[Any]:
        """The task's own messages."""
        return prompt_of(self.task.data)

    async def segment(self, new: list[Any]) -> Any:
        """The policy's turns until it calls no tool; terminated where a stop condition holds."""
        types, segment = part_of("types"), part_of("agent").Segment
        told: list[Any] = []
        self._new += new
        while not await self._stopped():
            if not self._new:
                raise ValueError("the environment asks for a turn but sends no message")
            action = await self.seat.ask([plain(m) for m in self._new])
            reply = await self._commit(action)
            told.append(reply)
            for call in reply.tool_calls or []:
                text, failed = await self.tools.call(call.name, json.loads(call.arguments))
                self.seat.tool_errors += failed
                shown = types.ToolMessage(tool_call_id=call.id, content=text, name=call.name)
                self._new.append(shown)
                told.append(shown)
            if not reply.tool_calls:
                return segment(messages=told, root_reply=action.text)
        return segment(messages=[], terminated=True)

    async def _stopped(self) -> bool:
        if self.trace.stop_condition is not None:
            return True
        for stop in self.task.hooks("stop"):
            found = part_of("utils.decorators").invoke(stop, {part_of("trace").Trace: self.trace})
            if await found if inspect.isawaitable(found) else found:
                self.trace.stop(stop.__name__)
                return True
        return False

    async def _commit(self, action: Action) -> Any:
        """Write the policy's turn into the trace, as verifiers' server does."""
        types, turn = part_of("types"), self.trace.num_turns
        calls = [
            types.ToolCall(id=f"{turn}-{i}", name=c.name, arguments=json.dumps(dict(c.arguments)))
            for i, c in enumerate(action.calls)
        ]
        reply = types.AssistantMessage(content=action.text, tool_calls=calls or None)
        self.conversation += self._new
        self._new = []
        tools = [types.Tool(name=n, description=d, parameters=p) for n, d, p in self.tools.listed]
        pending = part_of("graph").prepare_turn(self.trace, list(self.conversation), tools)
        finish = "tool_calls" if calls else "stop"
        pending.commit(
            types.Response(
                id=str(turn),
                created=int(time.time()),
                model=POLICY,
                message=reply,
                finish_reason=finish,
            )
        )
        self.conversation.append(reply)
        return reply

    async def close(self) -> None:
        """The task's finalize and its rewards."""
        invoke = part_of("utils.decorators").invoke
        await invoke(self.task.finalize, {"trace": self.trace, "runtime": self.runtime})
        await self.task.score(self.trace, self.runtime)
        self.trace.is_completed = self.trace.ok = True


def prompt_of(data: Any) -> list[Any]:
    """The messages that a task begins with."""
    types = part_of("types")
    messages = list(data.prompt) if isinstance(data.prompt, list) else []
    if isinstance(data.prompt, str):
        messages = [types.UserMessage(content=data.prompt)]
    if data.system_prompt is not None:
        messages.insert(0, types.SystemMessage(content=data.system_prompt))
    return messages


def plain(message: Any) -> Message:
    """verifiers' message as ours.

    Raises:
        ValueError: it shows an image.
    """
    return Message(message.role, _words(message.content))


def _words(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str) or content is None:
        return content or ""
    kinds = [part.get("type") if isinstance(part, dict) else part.type for part in content]
    if any(kind != "text" for kind in kinds):
        raise ValueError("a message with an image: gnomon's policies read text")
    return "\n".join(part["text"] if isinstance(part, dict) else part.text for part in content)
