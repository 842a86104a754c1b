"""Tasksets of the real verifiers package, played by gnomon's loop.

pip install --target FOLDER verifiers, then
PYTHONPATH=FOLDER pytest tests/agents/test_from_verifiers.py
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from agents_zoo import Script, runner

import tiny_world as tw
from gnomon.agents import Action, Environment, ToolCall, environment_factory, guard
from gnomon.errors import ConfigError
from gnomon.records import Group, Message, Prompt
from gnomon.rollout.protocol import SamplingParams
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_stage
from gnomon.stages.stage import open_stage, run_stage
from gnomon.tasks.sources import check_generated, generated_groups

pytest.importorskip("verifiers.v1", reason="verifiers is not in this environment")

LETTERS = '''
import threading
import verifiers.v1 as vf

hanging, released = threading.Event(), threading.Event()  # it hangs until the test is over

class Data(vf.TaskData):
    answer: str
    how: str = ""

class State(vf.State):
    looked: int = 0

class ToolsConfig(vf.ToolsetConfig):
    offset: int = 96

class Dictionary(vf.Toolset[ToolsConfig, State]):
    async def setup_task(self, task):
        self.known = task.answer

    @vf.tool
    async def look_up(self, letter: str, times: int = 1) -> str:
        """Look a letter up."""
        self.state.looked += times
        if letter == "?":
            raise ValueError(f"no such letter; try for {self.known}")
        return f"{letter} is letter {ord(letter) - self.config.offset}"

class Config(vf.TaskConfig):
    tools: ToolsConfig = ToolsConfig()

class LetterTask(vf.Task[Data, State, Config]):
    @classmethod
    def toolsets(cls, config):
        return [Dictionary(config.tools)]

    async def setup(self, trace, runtime):
        if self.data.how == "setup":
            raise RuntimeError("no letters today")
        await runtime.write("note.txt", self.data.answer.encode())

    async def finalize(self, trace, runtime):
        trace.info["note"] = (await runtime.read("note.txt")).decode()

    @vf.reward(weight=0.5)
    async def right(self, task, trace) -> float:
        if task.how == "reward":
            raise KeyError("no opinion")
        if task.how == "hang":
            hanging.set()
            released.wait()
        return float(trace.last_reply == task.answer == trace.info["note"])

    @vf.reward(weight=0.25)
    async def looked(self, trace) -> float:
        return float(trace.state.looked)

    @vf.metric
    async def turns(self, trace) -> float:
        return float(trace.num_turns)

    @vf.stop
    async def enough(self, trace: vf.Trace) -> bool:
        return trace.state.looked >= 5

class LettersConfig(vf.TasksetConfig):
    size: int = 4
    how: str = ""
    task: Config = Config()

class Letters(vf.Taskset[LetterTask, LettersConfig]):
    def load(self):
        for i in range(self.config.size):
            yield LetterTask(Data(
                prompt=f"Which number is {chr(97 + i)}?", system_prompt="Be brief.",
                answer=str(i + 1), how=self.config.how,
            ), self.config.task)

__all__ = ["Letters"]
'''

GUESS = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    secret: int

class Guess(vf.Task[Data]):
    @vf.reward
    async def short(self, trace):
        return 1.0 / trace.num_turns

class Guesses(vf.Taskset[Guess, vf.TasksetConfig]):
    def load(self):
        for i in range(3):
            yield Guess(Data(prompt=None, secret=i), self.config.task)

class GuessConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()
    guesses: int = 3
    twice: bool = False

class GuessEnv(vf.Env[GuessConfig]):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn("Guess.")
            for _ in range(self.config.guesses - 1):
                if int(segment.last_reply) == task.data.secret:
                    break
                low = int(segment.last_reply) < task.data.secret
                segment = await talk.turn("higher" if low else "lower")
        won = segment.last_reply == str(task.data.secret)
        talk.trace.record_reward("won", float(won), 2.0)
        if self.config.twice:
            await agents.player.run(task)

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        trace.record_metric("said", float(len(trace.assistant_messages)))

__all__ = ["Guesses", "GuessEnv"]
"""

BEST = GUESS.replace("    guesses: int = 3", "    other: vf.AgentConfig = vf.AgentConfig()")
SPY = GUESS.replace(
    "    @vf.reward",
    "    @vf.intercept\n    async def spy(self, request: vf.Request):\n        return None\n"
    "    @vf.reward",
)


@pytest.fixture(scope="module", autouse=True)
def tasksets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tasksets")
    for name, source in (("letters", LETTERS), ("guess", GUESS), ("best", BEST), ("spy", SPY)):
        (folder / f"gnomon_{name}_v1.py").write_text(source)
    (folder / "gnomon_broken_v1.py").write_text("raise RuntimeError('half a file')\n")
    (folder / "gnomon_old_v1.py").write_text("def load_environment(): ...\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def tasks(name: str, n: int = 3, **options: Any) -> list[Group]:
    return generated_groups("verifiers", f"gnomon-{name}-v1", {"n": n, **options})


def opened(name: str, **options: Any) -> Environment:
    given = {"taskset": f"gnomon-{name}-v1", **options}
    return environment_factory("verifiers", given, Path())()


def call(letter: str, times: int = 1) -> Action:
    return Action("look", (ToolCall("dictionary_look_up", {"letter": letter, "times": times}),))


def test_tasks_are_prompts_with_their_data() -> None:
    second, third = tasks("letters", 2, first=1, config={"size": 3})
    assert second.prompt.messages == (
        Message("system", "Be brief."),
        Message("user", "Which number is b?"),
    )
    assert second.prompt.id != third.prompt.id
    assert second.prompt.meta["task"]["answer"] == "2"
    assert json.dumps(second.prompt.meta)  # goes wherever rows go
    assert len(tasks("letters", 9)) == 4


def test_tools_state_stops_rewards_and_metrics_are_the_tasks_own() -> None:
    env, group = opened("letters"), tasks("letters")[1]
    (tool,) = env.tools
    assert (tool.name, tool.description) == ("dictionary_look_up", "Look a letter up.")
    assert tool.wrong({"times": "x"})
    assert env.reset(group.prompt, 0) == list(group.prompt.messages)
    assert env.step(call("b")).messages == [Message("tool", "b is letter 2")]
    wrong = env.step(call("?"))
    assert wrong.tool_errors == 1
    assert "no such letter; try for 2" in wrong.messages[0].content
    end = env.step(Action("2"))
    assert end.done
    assert end.parts == {"right": 0.5, "looked": 0.5, "turns": 3.0}
    assert end.reward == 1.0
    env.close()


def test_a_stop_condition_ends_the_episode_and_what_there_is_is_judged() -> None:
    env = opened("letters")
    env.reset(tasks("letters")[0].prompt, 0)
    end = env.step(call("a", 5))
    assert end.done
    assert end.reward == 5 * 0.25
    env.close()


def test_the_environments_code_is_the_user_of_the_conversation() -> None:
    env, group = opened("guess", env={"guesses": 2}), tasks("guess")[1]
    assert env.reset(group.prompt, 0) == [Message("user", "Guess.")]
    assert env.step(Action("0")).messages == [Message("user", "higher")]
    end = env.step(Action("1"))
    assert end.parts == {"short": 0.5, "won": 2.0, "said": 2.0}
    assert end.reward == 2.5
    env.close()


def test_episodes_are_played_side_by_side_in_the_loop() -> None:
    made = runner(lambda: opened("guess"), max_turns=4)
    asked = [(group.prompt, [1]) for group in tasks("guess")]
    groups = made.run(asked, Script("0", "1", "2"), SamplingParams(), seeds=[1, 2, 3], samples=2)
    values = [[e.value for e in group.episodes] for group in groups]
    assert values == [[3.0] * 2, [2.5] * 2, [2 + 1 / 3] * 2]
    assert groups[1].episodes[0].shown == "[assistant] 0\n[user] higher\n[assistant] 1"


def test_an_episode_that_a_budget_ends_closes_quietly(recwarn: pytest.WarningsRecorder) -> None:
    made = runner(lambda: opened("guess"), max_turns=1)
    asked = [(tasks("guess")[2].prompt, [1])]
    (group,) = made.run(asked, Script("0"), SamplingParams(), seeds=[1], samples=1)
    assert group.episodes[0].error is None
    assert not group.episodes[0].finished
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


@pytest.mark.parametrize(
    ("how", "why"),
    [("setup", "no letters today"), ("reward", "no opinion"), ("hang", "took longer than")],
)
def test_what_a_taskset_raises_or_never_answers_is_its_samples_error(
    how: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves when the taskset hangs, and never otherwise."""
    bad, good = tasks("letters", 1, config={"how": how}), tasks("letters", 2)[1:]
    module = importlib.import_module("gnomon_letters_v1")
    module.hanging.clear()
    module.released.clear()
    clock = SimpleNamespace(monotonic=lambda: 100.0 if module.hanging.is_set() else 0.0)
    monkeypatch.setattr(guard, "time", clock)
    made = runner(lambda: opened("letters"), step_timeout_s=1.0, max_turns=2)
    asked = [(group.prompt, [1]) for group in (*bad, *good)]
    try:
        first, second = made.run(asked, Script("2"), SamplingParams(), seeds=[1, 2], samples=1)
    finally:
        module.released.set()
    assert why in str(first.episodes[0].error)
    assert first.episodes[0].value is None
    assert second.episodes[0].value == 0.5


def test_a_second_conversation_in_an_episode_is_refused() -> None:
    made = runner(lambda: opened("guess", env={"twice": True}), max_turns=3)
    asked = [(tasks("guess")[0].prompt, [1])]
    (group,) = made.run(asked, Script("0"), SamplingParams(), seeds=[1], samples=1)
    assert "one per episode" in str(group.episodes[0].error)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"taskset": "gnomon-leters-v1"}, "did you mean 'gnomon-letters-v1'"),
        ({"taskset": "gnomon-letters-v1", "config": {"sise": 3}}, "did you mean 'size'"),
        ({"taskset": "gnomon-guess-v1", "env": {"guesss": 3}}, "did you mean 'guesses'"),
        ({"taskset": "gnomon-letters-v1", "config": {"size": "many"}}, "taskset.size: "),
        ({"taskset": "gnomon-letters-v1", "runtime": {"type": "dcker"}}, "'docker'"),
        ({"taskset": "gnomon-broken-v1"}, "half a file"),
        ({"taskset": "gnomon-old-v1"}, "__all__"),
        ({"taskset": "gnomon-best-v1"}, "the seats player, other"),
        ({"taskset": "gnomon-spy-v1"}, r"reads requests and responses \(spy\)"),
        ({"task_set": "gnomon-guess-v1"}, "its options"),
    ],
)
def test_what_cannot_be_played_is_said_beforehand(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        environment_factory("verifiers", options, Path())


def test_wrong_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="its options are n, first, config"):
        check_generated("verifiers", "gnomon-letters-v1", {"n": 1, "split": "test"})
    with pytest.raises(ConfigError, match="no task from number 9 on"):
        tasks("letters", 1, first=9)
    env = opened("letters")
    with pytest.raises(ValueError, match="use verifiers:TASKSET"):
        env.reset(Prompt("p", (Message("user", "Hi."),)), 0)
    env.close()


def test_a_stage_trains_on_a_taskset_and_plays_held_out_tasks(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def rows(**options: Any) -> dict[str, Any]:
        return {"path": "verifiers:gnomon-letters-v1", "options": options}

    stage = {
        "name": "rl",
        "algorithm": "grpo",
        "data": rows(n=2),
        "eval_data": rows(n=2, first=2),
        "environment": {
            "name": "verifiers",
            "options": {"taskset": "gnomon-letters-v1"},
            "show_tools": False,
            "max_episode_tokens": 60,
            "max_turns": 2,
        },
        "rollout": {"samples": 2, "max_new_tokens": 8},
        "train": {"steps": 1, "batch_size": 2, "lr": 1e-3, "sample_every": 1},
        "settings": {"beta": 0.0},
    }
    made = tw.make_recipe(tiny_folder, tmp_path, stage, max_length=160)
    folder = RunFolder(made)
    folder.open(False)
    ran = open_stage(made, made.stages[0], folder, tmp_path)
    check_stage(ran)
    run_stage(ran, resume=False)
    samples = pq.read_table(ran.folder.path / "samples.parquet").to_pylist()
    assert all(row["error"] is None for row in samples)
    assert {row["prompt_id"] for row in samples} == {f"gnomon-letters-v1-{i}" for i in range(4)}
