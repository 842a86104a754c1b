"""Environments of verifiers (v1): a taskset's prompts, tools, stop conditions and weighted rewards,
played by gnomon's own loop. Tested with verifiers 0.4.0.

``verifiers:TASKSET`` is the data, and the environment ``verifiers`` plays it. The policy's tokens
are sampled here and never tokenised again.
"""

from __future__ import annotations

import asyncio
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gnomon.agents.environment import Action, Observation, Tool
from gnomon.agents.verifiers_seat import Seat, Tools, part_of, plain, prompt_of
from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean, nearest
from gnomon.records import Group, Message, Prompt
from gnomon.rollout.wire import first_problem
from gnomon.usercode import explain, is_interrupt, settled

ROW = "task"
"""Where a prompt's meta keeps its task's data."""


@dataclass(frozen=True)
class World:
    """A taskset with the environment that plays it, loaded once per process."""

    env: Any
    seat: str
    runtime: Any
    shared: Sequence[Any]
    tools: tuple[Tool, ...]

    def task(self, row: Mapping[str, Any]) -> Any:
        """A task of the taskset, from its data."""
        kind = type(self.env.taskset).task_type()
        data = kind.data_type().model_validate(row)
        return kind(data, self.env.taskset.config.task)


class VerifiersEpisode:
    """One episode of a taskset.

    Args:
        taskset: an installed package that exports a Taskset, as ``vf.Env`` names it.
        config: the taskset's own settings.
        env: settings of the environment that drives the episode; ``id`` names one that the
            taskset does not bring itself.
        runtime: where the task's hooks run commands; ``{type: docker, ...}`` for tasks that need a
            container.
    """

    def __init__(
        self,
        taskset: str,
        config: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        given = [json.dumps(dict(x or {}), sort_keys=True) for x in (config, env, runtime)]
        self._world = load_world(taskset, *given)
        self.tools: Sequence[Tool] = self._world.tools
        self._loop: asyncio.AbstractEventLoop | None = None

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message]:
        """Begin the prompt's task, up to the policy's first turn.

        Raises:
            ValueError: the prompt holds no task, or the environment asks for no turn.
        """
        if ROW not in prompt.meta:
            raise ValueError(f"prompt {prompt.id} has no meta[{ROW!r}]; use verifiers:TASKSET")
        world = self._world
        self._seat = Seat(getattr(world.env.config, world.seat), world.runtime, world.shared)
        self._loop = asyncio.new_event_loop()
        self._play = self._loop.create_task(self._episode(world.task(prompt.meta[ROW])))
        asked = self._go_on()
        if asked is None:
            raise ValueError("the environment ended before the policy's first turn")
        return asked

    def step(self, action: Action) -> Observation:
        """The environment's answer; at the end the sum of the weighted rewards, with every reward
        (weighted) and metric as a part."""
        self._seat.tool_errors = 0
        self._seat.answer(action)
        asked = self._go_on()
        errors = self._seat.tool_errors
        if asked is not None:
            return Observation(asked, tool_errors=errors)
        (trace,) = self._seat.traces
        parts = {name: reward.value for name, reward in trace.rewards.items() if reward is not None}
        parts |= {name: value for name, value in trace.metrics.items() if value is not None}
        return Observation((), trace.reward, True, parts, errors)

    def close(self) -> None:
        """Leave the environment's code where it is, and free what it holds."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            if not self._play.done():
                self._play.cancel()
                loop.run_until_complete(asyncio.wait({self._play}))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _go_on(self) -> list[Message] | None:
        """Run the environment's code to the policy's next turn; None at its end."""
        assert self._loop is not None
        return self._loop.run_until_complete(self._next())

    async def _next(self) -> list[Message] | None:
        asked = asyncio.ensure_future(self._seat.asked.get())
        await asyncio.wait({asked, self._play}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        self._play.result()
        return None

    async def _episode(self, task: Any) -> None:
        env, name = self._world.env, self._world.seat
        agents = part_of("agent").Agents(env.config, lambda _name, _config: self._seat)
        await env.setup(agents)
        await env.run(task, agents)
        if not self._seat.traces:
            raise ValueError(f"{type(env).__name__}.run() finished no conversation of {name!r}")
        kinds, trace = part_of("episode"), self._seat.traces[0]
        info = kinds.EnvInfo(id=env.config.env_id)
        episode = kinds.Episode(env=info, task=trace.task, traces=list(self._seat.traces))
        await env.finalize(task, episode)


@lru_cache(maxsize=16)
def load_world(taskset: str, config: str = "{}", env: str = "{}", runtime: str = "{}") -> World:
    """Load a taskset and its environment.

    Args:
        config, env, runtime: as JSON.

    Raises:
        ConfigError: verifiers or the taskset is not installed, settings do not fit, or gnomon
            cannot play it, with the reason.
    """
    try:
        part_of("")
    except ImportError as error:
        raise ConfigError(
            f"the environment 'verifiers' needs the package: pip install verifiers ({error})"
        ) from error
    where = f"verifiers: taskset {taskset!r}"
    try:
        loaders = part_of("utils.loaders")
        loaders.taskset_class(taskset)
        asked = {**json.loads(env), "taskset": {**json.loads(config), "id": taskset}}
        loaded = loaders.load_environment(loaders.resolve_env_config(asked))
        box = {"type": "subprocess", **json.loads(runtime)}
        kinds: Any = part_of("runtimes").RuntimeConfig
        chosen = TypeAdapter(kinds).validate_python(box)
        seat = _seat_of(loaded)
        shared = loaded.taskset.toolsets(loaded.taskset.config)
        for toolset in shared:
            settled(toolset.setup())
        tools = _tools([*type(loaded.taskset).task_type().toolsets(loaded.taskset.config.task),
                        *shared])  # fmt: skip
    except ValidationError as error:
        raise ConfigError(f"{where}: {_problem(error, taskset)}") from error
    except ModuleNotFoundError as error:
        near = nearest(taskset, [m.name.replace("_", "-") for m in pkgutil.iter_modules()])
        cure = f"; {near}" if near else ""
        raise ConfigError(f"{where} cannot be imported: {explain(error)}{cure}") from error
    except BaseException as error:  # a taskset's own code may raise anything
        if isinstance(error, ConfigError) or is_interrupt(error):
            raise
        raise ConfigError(f"{where}: {explain(error)}") from error
    return World(loaded, seat, chosen, shared, tools)


def _problem(error: ValidationError, taskset: str) -> str:
    """What is wrong with the settings; for one that does not exist, which there are."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] != "extra_forbidden":
        return first_problem(error)
    loaders, (*within, name) = part_of("utils.loaders"), map(str, first["loc"])
    whole = loaders.taskset_config_type if "taskset" in within else loaders.env_config_type
    near = did_you_mean(name, whole(taskset).model_fields, "there are")
    return f"it has no setting {name!r}; {near}"


def _seat_of(env: Any) -> str:
    """The name of the policy's seat.

    Raises:
        ConfigError: there are several, or the environment does what gnomon's seat cannot.
    """
    name, kind = type(env).__name__, type(env.taskset).task_type()
    seats = part_of("configs.agent").agent_config_fields(env.config)
    if len(seats) != 1:
        raise ConfigError(
            f"{name} has the seats {', '.join(seats)}; gnomon plays environments with one"
        )
    if type(env).start is not part_of("env").Env.start:
        raise ConfigError(f"{name} starts servers of its own, which gnomon does not")
    marked = part_of("utils.decorators").discover_decorated
    hooks = [fn.__name__ for fn in marked(kind.__new__(kind), "intercept")]
    boundary, trace = part_of("session").hook_boundary, part_of("trace").Trace
    stops = marked(kind.__new__(kind), "stop")
    hooks += [fn.__name__ for fn in stops if boundary(fn, allow_trace=True) is not trace]
    if hooks:
        raise ConfigError(
            f"{kind.__name__} reads requests and responses ({', '.join(hooks)}), which a policy "
            "in training has none of; gnomon runs stop conditions on the trace"
        )
    return str(next(iter(seats)))


def _tools(toolsets: Sequence[Any]) -> tuple[Tool, ...]:
    away = [t for t in toolsets if getattr(t.config, "url", None)]
    if away:
        raise ConfigError(
            f"the tools of {type(away[0]).__name__} are at a url; gnomon runs its own"
        )
    tools = Tools(toolsets)
    settled(tools.open())
    return tuple(Tool(*one) for one in tools.listed)


# -- data ------------------------------------------------------------------------------------------


def check_verifiers(taskset: str, options: Mapping[str, Any]) -> None:
    """Check that the tasks can be read.

    Raises:
        ConfigError: see :func:`load_world`.
    """
    load_world(taskset, json.dumps(dict(options.get("config", {})), sort_keys=True))


def verifiers_groups(
    taskset: str, n: int, first: int = 0, config: Mapping[str, Any] | None = None
) -> list[Group]:
    """``n`` tasks of a taskset as prompts, from the ``first`` on; ``meta`` holds each task's data.

    Args:
        config: the taskset's own settings.

    Raises:
        ConfigError: see :func:`load_world`; or the taskset has fewer tasks.
    """
    world = load_world(taskset, json.dumps(dict(config or {}), sort_keys=True))
    tasks = list(islice(iter(world.env.taskset), first, first + n))
    if not tasks:
        raise ConfigError(f"verifiers:{taskset} has no task from number {first} on")
    return [_group(taskset, first + i, task) for i, task in enumerate(tasks)]


def _group(taskset: str, number: int, task: Any) -> Group:
    messages = tuple(map(plain, prompt_of(task.data))) or (Message("user", "Begin."),)
    meta = {ROW: task.data.model_dump(mode="json")}
    return Group(Prompt(f"{taskset}-{number}", messages, category=None, meta=meta))
