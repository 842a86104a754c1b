"""The shipped tasks, their demonstrations, and games of other houses."""

from __future__ import annotations

import sys
from collections import deque
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from agents_zoo import Script, encoder, prompt, runner
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_world as tw
from gnomon.agents.dialogue import parse_calls
from gnomon.agents.environment import Action, ToolError
from gnomon.agents.from_gymnasium import TextGame
from gnomon.agents.load import environment_factory
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt
from gnomon.tasks.calculator import Calculator, calculate, calculator_prompts, written
from gnomon.tasks.demonstrations import calculator_demonstrations, rooms_demonstrations
from gnomon.tasks.rooms import Place, Rooms, act, actions, rooms_prompts, solve, world_of

# -- the calculator -------------------------------------------------------------------------------

NUMBERS = st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*/"), part).map(" ".join),
        part.map(lambda x: f"({x})"),
        part.map(lambda x: f"-({x})"),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS)
def test_values_are_those_of_exact_arithmetic(text: str) -> None:
    import re

    source = re.sub(r"\d+(?:\.\d+)?", lambda m: f"Fraction('{m[0]}')", text)
    try:
        wanted = eval(source, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="division by zero"):
            calculate(text)
        return
    if len(text) <= 200:
        assert calculate(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os').system('true')", "open('x')", "().__class__", "a", "'1' * 9", "1 if 1"),
        *("9**9**9", "2**65", "1/0", "0**-1", "10**41", "1e999", "[1]*9", "lambda: 1", "", "1;2"),
        *("(" * 300, "1" * 300, "-" * 150 + "1" * 60, "1 and 2", "True", "1j", "x" * 20, "3 3"),
    ],
)
def test_nothing_else_is_worked_out(text: str) -> None:
    with pytest.raises(ToolError):
        calculate(text)


def test_results_as_they_are_written() -> None:
    shown = {
        "6 x 7": "42",
        "10 / 4": "2.5",
        "-2 ** 2": "-4",
        "1 / 3": "0.3333333333",
        "7 // 2": "3",
        "246913578025 / 2": "123456789012.5",
        "-4 / 3": "-1.333333333",
        "(10 ** 20 + 1) / 7": "14285714285714285714.4286",
        "1 / 10 ** 12": "0.000000000001",
        "2 / 3 / 10 ** 8": "0.000000006666666667",
        "10 ** 40": "1" + "0" * 40,
    }
    assert {k: written(calculate(k)) for k in shown} == shown


NO_NUMBERS: tuple[Any, ...] = (
    *("2^10", "7 or 8", "2x + 3", "2 + 2", "1:30", "5 million", "3/0", "nan", "3 3/4 5"),
    *(True, float("nan"), float("inf"), ["3"], {"a": 3}),
)


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (
            "3/4",
            ["The answer is 3/4.", "0.75", "$\\frac{3}{4}$", "6/8"],
            ["4", "3", "3 or 4", "3:4"],
        ),
        ("1.5e-3", ["0.0015", "It is 1.5e-3", "1.5 x 10^-3", "3/2000"], ["-3", "1.5", "3"]),
        ("2 1/2", ["2.5", "2 1/2 cups", "2½", "5/2"], ["2", "1/2", "2 1/3", "21/2"]),
        ("-1/3", ["-1/3", "-0.3333333333", "−1/3"], ["1/3", "-0.33", "3"]),
        ("$18", ["18", "$18.00", "18 dollars!", "That is 18 dollars."], ["18 million", "-18"]),
        ("10 - 3 = 7\n#### 7", ["7", "**7**", "__7__.", "10 - 3 = 7", "$x = 7$"], ["10 - 3", "10"]),
        (1.5e-3, ["0.0015"], ["3"]),
        (1e22, ["10000000000000000000000"], ["22"]),
        ("1,234.50", ["1234.5", "1,234.5!"], ["234.5", "1"]),
        ("12%", ["12%", "12", "12 percent"], ["0.12 x"]),
        ("4057", ["So 47 x 86 + 15 = 4057."], ["47 x 86 + 15", "4056 + 1", "4057 + 0", "4057 x 1"]),
        ("1024", ["1024"], ["2^10", "2**10", "1024 - 1", "1024!!"]),
    ],
)
def test_numbers_are_read_whole(answer: Any, right: list[str], wrong: list[str]) -> None:
    env = Calculator()
    env.reset(prompt(answer=answer), 0)
    got = {text: env.step(Action(text)).reward for text in [*right, *wrong, "", "x" * 50_000]}
    assert [text for text in right if got[text] != 1.0] == []
    assert [text for text in got if text not in right and got[text] != 0.0] == []


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**4))
def test_what_the_tool_writes_answers_right(above: int, below: int) -> None:
    env = Calculator()
    env.reset(prompt(answer=f"{above}/{below}"), 0)
    value = Fraction(above, below)
    text = written(value)
    assert "e" not in text.lower()
    assert abs(Fraction(text) - value) <= abs(value) / 10**9
    assert env.step(Action(f"The answer is {text}.")).reward == 1.0


def test_the_last_number_answers() -> None:
    env = Calculator()
    for answer, text, right in (
        ("1234", "First 12, then it is 1,234.", 1.0),
        ("2.5", "2.50", 1.0),
        ("-4", "It is -4.", 1.0),
        ("7", "7 or 8", 0.0),
        ("7", "seven", 0.0),
    ):
        env.reset(prompt(answer=answer), 0)
        seen = env.step(Action(text))
        assert (seen.reward, seen.done, seen.parts) == (right, True, {"correct": right})
    for meta in ({}, {"answer": "many"}, *({"answer": a} for a in NO_NUMBERS)):
        with pytest.raises(ValueError, match="answer"):
            env.reset(prompt(**meta), 0)


def test_the_calculator_in_an_episode() -> None:
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "%s"}}</tool_call>'
    played = runner(Calculator, max_episode_tokens=200, max_turns=5)
    asked = prompt(answer="56")
    opening = played.dialogue.encode(asked)
    engine = Script(call % "7 x", call % "7 x 8", "It is 56.")
    from gnomon.rollout.protocol import SamplingParams

    (group,) = played.run(
        [(asked, opening)], engine, SamplingParams(max_new_tokens=90), seeds=[1], samples=1
    )
    (episode,) = group.episodes
    assert [m.content for m in episode.transcript if m.role == "tool"] == [
        "error: cannot read '7 x'",
        "56",
    ]
    assert (episode.value, episode.tool_errors, episode.tool_calls) == (1.0, 1, 2)


def test_calculator_prompts_have_right_answers_and_disjoint_splits() -> None:
    train, held_out = (calculator_prompts(300, 1, split) for split in ("train", "heldout"))  # type: ignore[arg-type]
    for p in train:
        assert calculate(p.meta["expression"]) == Fraction(p.meta["answer"])
    assert {p.category for p in train} == {"expression", "words"}
    assert not {p.meta["expression"] for p in train} & {p.meta["expression"] for p in held_out}
    assert calculator_prompts(10, 1) == train[:10]
    for wrong in ({"kinds": ["sums"]}, {"split": "test"}, {"largest": 3}):
        with pytest.raises(ConfigError, match="calculator prompts"):
            calculator_prompts(1, **wrong)  # type: ignore[arg-type]


# -- rooms ----------------------------------------------------------------------------------------


def fewest(prompt: Prompt) -> int:
    """The length of a shortest solution, by walking the game itself and nothing else."""
    tools = {t.name: t for t in Rooms().tools}
    frontier: deque[tuple[tuple[str, str], ...]] = deque([()])
    reached: set[str] = set()
    things = ("lamp", "ring", "book", "egg", "bell", "coat", "drum", "spoon", "red key", "blue key")
    moves = [("go", d) for d in ("up", "down", "left", "right")] + [("take", t) for t in things]
    while frontier:
        path = frontier.popleft()
        for move in moves:
            env = Rooms()
            env.reset(prompt, 0)
            last = None
            for verb, what in (*path, move):
                key = next(iter(tools[verb].parameters["properties"]))
                last = env.step(Action("", (call(verb, key, what),)))
            assert last is not None
            if last.done:
                return len(path) + 1
            state = repr(env._place.room) + repr(sorted(env._place.held))
            if state not in reached:
                reached.add(state)
                frontier.append((*path, move))
    raise AssertionError("unsolvable")


def call(verb: str, key: str, what: str) -> Any:
    from gnomon.agents.environment import ToolCall

    return ToolCall(verb, {key: what})


def test_the_optimal_number_of_steps_is_the_fewest() -> None:
    for p in rooms_prompts(6, seed=4, rooms=3):
        assert p.meta["optimal"] == fewest(p)


@pytest.mark.parametrize(("rooms", "locks"), [(2, 0), (3, 1), (4, 2), (8, 2)])
def test_every_world_can_be_solved_and_the_goal_lies_behind_the_lock(
    rooms: int, locks: int
) -> None:
    for p in rooms_prompts(40, seed=2, rooms=rooms, locks=locks):
        world = world_of(*p.meta["world"])
        place = Place(world.start)
        path = solve(world, place)
        taken = []
        for turn in path:
            assert turn in actions(world, place)
            place = act(world, place, turn)
            taken.append(turn[1])
        assert world.goal in place.held
        assert sum(t.endswith("key") for t in taken) >= min(1, locks)


def test_room_splits_share_no_world() -> None:
    keys = [
        {world_of(*p.meta["world"]).key for p in rooms_prompts(150, 0, split)}  # type: ignore[arg-type]
        for split in ("train", "heldout")
    ]
    assert not keys[0] & keys[1]
    assert rooms_prompts(3, 0) == rooms_prompts(9, 0)[:3]
    for wrong in ({"rooms": 1}, {"locks": 3}, {"split": "test"}):
        with pytest.raises(ConfigError, match="rooms prompts"):
            rooms_prompts(1, **wrong)  # type: ignore[arg-type]


def test_what_cannot_be_done_is_told_and_costs_a_step() -> None:
    p = next(p for p in rooms_prompts(50, seed=1) if "closed" in p.messages[0].content)
    world = world_of(*p.meta["world"])
    env = Rooms(step_cost=0.1)
    env.reset(p, 0)
    closed = next(way for (room, way) in world.locks if room == world.start)
    for verb, key, what, said in (
        ("go", "direction", closed, "error: the door is closed; you need the"),
        ("take", "thing", world.goal, f"error: there is no {world.goal} here"),
    ):
        seen = env.step(Action("", (call(verb, key, what),)))
        assert seen.messages[0].content.startswith(said)
        assert (seen.tool_errors, seen.done, seen.reward) == (1, False, -0.1)
    assert env.step(Action("hello")).tool_errors == 1
    with pytest.raises(ValueError, match="agents:rooms"):
        env.reset(prompt(), 0)


# -- demonstrations -------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", ["hermes", "llama", "python"])
def test_careful_demonstrators_succeed_and_careless_ones_do_not(calls: Any) -> None:
    for group in rooms_demonstrations(8, calls=calls, careful=1.0):
        turns = [m for m in group.responses[0].messages if m.role == "assistant"]
        assert len(turns) == group.prompt.meta["optimal"]
        tools = Rooms().tools
        assert all(len(parse_calls(t.content, calls, tools).calls) == 1 for t in turns)
    for group in calculator_demonstrations(6, calls=calls, careful=1.0):
        last = group.responses[0].messages[-1].content
        assert last == f"The answer is {group.prompt.meta['answer']}."
    for group in calculator_demonstrations(6, calls=calls, careful=0.0):
        (only,) = group.responses[0].messages
        assert group.prompt.meta["answer"] not in only.content.removesuffix(".").split()


def test_demonstrations_train_on_the_actions_alone() -> None:
    tokenizer = tw.tokenizer()
    for group in rooms_demonstrations(4, rooms=3, calls="python", show_tools=False, careful=1.0):
        (response,) = encoder().encode_demonstration(group).responses
        trained = [i for i, m in zip(response.ids, response.mask, strict=True) if m]
        said = [m.content for m in group.responses[0].messages if m.role == "assistant"]
        assert tokenizer.decode(trained) == "".join(f"{text}<|eos|>" for text in said)


# -- loading, and games of other houses -----------------------------------------------------------


def test_environments_by_name(tmp_path: Any) -> None:
    assert isinstance(environment_factory("rooms", {"step_cost": 0.1}, tmp_path)(), Rooms)
    for name, options, message in (
        ("calculater", {}, "did you mean 'calculator'"),
        ("rooms", {"cost": 1}, "its options: .*cost"),
        ("nowhere.py:It", {}, "environment 'nowhere.py:It'"),
        ("builtins:dict", {}, "a dict has no reset, step, close, tools"),
    ):
        with pytest.raises(ConfigError, match=message):
            environment_factory(name, options, tmp_path)
    (tmp_path / "mine.py").write_text(
        "class Bad:\n    tools = [lambda: 1]\n    def reset(self, p, s): pass\n"
        "    def step(self, a): pass\n    def close(self): pass\n"
        "def broken():\n    raise OSError('no board')\n"
    )
    with pytest.raises(ConfigError, match="must be Tool objects"):
        environment_factory("mine.py:Bad", {}, tmp_path)
    with pytest.raises(ConfigError, match="could not be made: OSError: no board"):
        environment_factory("mine.py:broken", {}, tmp_path)


class Guess:
    """A text game with Gymnasium's API."""

    def __init__(self) -> None:
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.secret = Random(seed).randrange(10)
        return "Guess a number below 10.", {}

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = action == str(self.secret)
        return ("Yes." if right else "No."), float(right), right, False, {}

    def close(self) -> None:
        self.closed = True


def test_a_gymnasium_text_game_is_an_environment() -> None:
    from gnomon.rollout.protocol import SamplingParams

    games: list[Guess] = []

    def make() -> TextGame:
        games.append(Guess())
        return TextGame(games[-1])

    played = runner(make, max_turns=10)
    asked = Prompt("g", (Message("system", "Play."), Message("user", "Be quick.")))
    engine = Script(*[str(i) for i in range(10)])
    (group,) = played.run([(asked, [1])], engine, SamplingParams(), seeds=[5], samples=2)
    assert group.prompt.messages == (
        Message("system", "Play."),
        Message("user", "Be quick.\n\nGuess a number below 10."),
    )
    for episode, game in zip(group.episodes, games[-2:], strict=True):
        assert episode.value == 1.0
        assert episode.turns == games[-1].secret + 1
        assert game.closed
    assert games[-1].secret == games[-2].secret


def test_a_game_whose_observations_are_no_text_is_a_samples_error() -> None:
    from gnomon.rollout.protocol import SamplingParams

    class Pixels(Guess):
        def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
            return [0, 1], {}

    played = runner(lambda: TextGame(Pixels()))
    (group,) = played.run([(prompt(), [1])], Script("1"), SamplingParams(), seeds=[5], samples=1)
    assert "observation is a list, not text" in str(group.episodes[0].error)


@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("gymnasium", "gymnasium", {"id": "Text-v0"}),
        ("openenv", "openenv.core", {"url": "http://127.0.0.1:9"}),
        ("verifiers", "verifiers.v1", {"taskset": "any-v1"}),
    ],
)
def test_without_the_package_the_cure_is_named(
    name: str,
    module: str,
    options: dict[str, Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        environment_factory(name, options, tmp_path)
