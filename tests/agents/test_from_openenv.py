"""OpenEnv servers of the real package, in this process; the wire is the package's own.

pip install --target FOLDER openenv, then PYTHONPATH=FOLDER pytest tests/agents/test_from_openenv.py
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import uvicorn
from agents_zoo import Script, prompt, runner

from gnomon.agents import Action, Environment, ToolCall, environment_factory
from gnomon.errors import ConfigError
from gnomon.rollout.protocol import SamplingParams

pytest.importorskip("openenv", reason="openenv is not in this environment")

from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment as Base
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action as Move
from openenv.core.env_server.types import Observation, State


class Say(Move):
    message: str


class Put(Move):
    row: int
    mark: str = "x"


class Heard(Observation):
    echoed: str = ""
    length: int = 0


class Echo(Base):  # type: ignore[misc]
    """Says what it hears, half a point each time, three times."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: Any = None, episode_id: Any = None, word: str = "", **more: Any) -> Any:
        self.heard = 0
        return Heard(echoed=f"ready {Random(seed).randrange(1000)} {word}".strip())

    def step(self, action: Any, **more: Any) -> Any:
        self.heard += 1
        said = getattr(action, "message", None) or f"{action.row}{action.mark}"
        if said == "boom":
            raise RuntimeError("the floor fell in")
        return Heard(echoed=said, length=len(said), reward=0.5, done=self.heard == 3)

    @property
    def state(self) -> Any:
        return State()


class Adding(MCPEnvironment):  # type: ignore[misc]
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        from fastmcp import FastMCP

        server = FastMCP("adding")

        @server.tool
        def add(a: int, b: int = 1) -> int:
            """Add two numbers."""
            return a + b

        super().__init__(server)

    def reset(self, seed: Any = None, episode_id: Any = None, **more: Any) -> Any:
        return Observation()

    def _step_impl(self, action: Any, timeout_s: Any = None, **more: Any) -> Any:
        return Observation()

    @property
    def state(self) -> Any:
        return State()


Serve = Callable[..., str]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(made: Any = Echo, action: Any = Say, seen: Any = Heard, sessions: int = 8) -> str:
            app = create_fastapi_app(made, action, seen, max_concurrent_envs=sessions)
            return str(stack.enter_context(serving(app)))

        yield start


def opened(url: str, **options: Any) -> Environment:
    return environment_factory("openenv", {"url": url, **options}, Path())()


def test_the_only_field_takes_the_turn_and_the_named_field_is_shown(serve: Serve) -> None:
    env = opened(serve(), observation="echoed", reset={"word": "word"})
    assert not env.tools
    shown = env.reset(prompt(text="Hi."), 7)
    assert shown is not None
    assert shown[-1].content == f"Hi.\n\nready {Random(7).randrange(1000)} word"
    seen = [env.step(Action(text)) for text in ("hello ", "you", "there")]
    assert [s.messages[0].content for s in seen] == ["hello", "you", "there"]
    assert [(s.reward, s.done) for s in seen] == [(0.5, False), (0.5, False), (0.5, True)]
    env.close()


def test_without_a_field_everything_is_shown_but_the_frame(serve: Serve) -> None:
    env = opened(serve())
    env.reset(prompt(), 1)
    assert env.step(Action("hello")).messages[0].content == '{"echoed": "hello", "length": 5}'
    env.close()


def test_an_action_of_several_fields_is_a_tool_or_one_of_them(serve: Serve) -> None:
    url = serve(action=Put)
    env = opened(url, observation="echoed")
    assert [t.name for t in env.tools] == ["act"]
    assert env.tools[0].wrong({"row": "a"})
    env.reset(prompt(), 1)
    calls = tuple(ToolCall("act", {"row": row, "mark": "o"}) for row in (1, 2))
    seen = env.step(Action("", calls))
    assert [m.content for m in seen.messages] == ["1o", "2o"]
    assert seen.reward == 1.0
    assert env.step(Action("I am done.")).done
    env.close()
    env = opened(url, observation="echoed", action="row")
    env.reset(prompt(), 1)
    assert env.step(Action(" 4 ")).messages[0].content == "4x"
    asked = env.step(Action("four"))
    assert (asked.tool_errors, asked.done) == (1, False)
    env.close()


def test_the_tools_of_an_environment_are_listed_and_called(serve: Serve) -> None:
    env = opened(serve(Adding, CallToolAction, CallToolObservation))
    (tool,) = env.tools
    assert (tool.name, tool.description) == ("add", "Add two numbers.")
    assert tool.wrong({"b": 2})
    shown = env.reset(prompt(text="Add."), 1)
    assert shown is not None
    assert shown[-1].content == "Add."
    assert env.step(Action("", (ToolCall("add", {"a": 2}),))).messages[0].content == "3"
    wrong = env.step(Action("", (ToolCall("add", {"a": "two"}),)))
    assert wrong.tool_errors == 1
    assert wrong.messages[0].content.startswith("error: ")
    env.close()


def test_episodes_are_sessions_of_their_own_and_play_again_from_their_seed(serve: Serve) -> None:
    url = serve()
    made = runner(lambda: opened(url, observation="echoed"), max_turns=5)

    def play(seed: int) -> list[Any]:
        (group,) = made.run(
            [(prompt(), [1])], Script("a", "b"), SamplingParams(), seeds=[seed], samples=2
        )
        assert [e.value for e in group.episodes] == [1.5, 1.5]
        return [group.prompt, *(e.shown for e in group.episodes)]

    assert play(1) == play(1) != play(2)


@pytest.mark.parametrize(("said", "why"), [("boom", "the floor fell in"), ("fine", None)])
def test_what_the_server_raises_is_the_samples_error(
    said: str, why: str | None, serve: Serve
) -> None:
    url = serve()
    made = runner(lambda: opened(url), max_turns=2)
    (group,) = made.run([(prompt(), [1])], Script(said), SamplingParams(), seeds=[1], samples=1)
    assert (group.episodes[0].error is None) == (why is None)
    assert (why or "") in str(group.episodes[0].error)


def test_a_server_that_is_full_says_so(serve: Serve) -> None:
    url = serve(sessions=1)
    made = runner(lambda: opened(url), max_turns=2)
    (group,) = made.run([(prompt(), [1])], Script("a"), SamplingParams(), seeds=[1], samples=2)
    assert "Server at capacity" in str(group.episodes[1].error)
    assert group.episodes[0].error is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"action": "mesage"}, "did you mean 'message'"),
        ({"actoin": "message"}, "actoin"),
        ({"url": "http://127.0.0.1:9"}, "no OpenEnv server answers at http://127.0.0.1:9"),
        ({"url": "nonsense"}, "no OpenEnv server answers at nonsense"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str, serve: Serve) -> None:
    with pytest.raises(ConfigError, match=said):
        environment_factory("openenv", {"url": serve(), **options}, Path())


def doorman(app: Any, answers: tuple[str, ...] = ("http", "websocket")) -> Any:
    """Lets in only who brings the key; everybody else to all but ``answers``."""

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope.get("headers", ())).get(b"x-key")
        if scope["type"] not in answers or key == b"sesame":
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # 403
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

    return asked


def test_headers_let_it_in_wherever_the_server_is_asked() -> None:
    tools = create_fastapi_app(Adding, CallToolAction, CallToolObservation, max_concurrent_envs=8)
    with serving(doorman(tools)) as url:
        with pytest.raises(
            ConfigError, match=r"does not let this in \(HTTP 401\).*options.headers"
        ):
            opened(url)
        env = opened(url, headers={"x-key": "sesame"})
        assert [tool.name for tool in env.tools] == ["add"]
        env.reset(prompt(text="Add."), 1)
        env.close()
    shut = pytest.raises(ConfigError, match=r"does not let this in \(HTTP 403\)")
    with serving(doorman(tools, ("websocket",))) as url, shut:
        opened(url)


def test_the_schema_is_waited_for_as_long_as_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    def slow(where: str, *, timeout: float, **how: Any) -> Any:
        waited.append(timeout)
        raise httpx.ReadTimeout("nothing came")

    monkeypatch.setattr(httpx, "get", slow)
    with pytest.raises(ConfigError, match=r"no OpenEnv server answers.*nothing came"):
        opened("http://slow", timeout_s=25.0)
    assert waited == [25.0]


def test_a_wrong_field_of_the_observation_is_named(serve: Serve) -> None:
    url = serve()
    env = opened(url, observation="echoes")
    with pytest.raises(ValueError, match="did you mean 'echoed'"):
        env.reset(prompt(), 1)
    env.close()
