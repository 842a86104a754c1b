"""Demonstrations of the shipped tasks: episodes that a program plays in the real environments.

The demonstrators are not perfect: fine-tuning on them leaves something to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from gnomon.agents.dialogue import CallFormat, describe_tools, parse_calls, write_call
from gnomon.agents.environment import Action, Environment, ToolCall, ToolError
from gnomon.records import Group, Message, Prompt, Response
from gnomon.tasks.calculator import KINDS, Calculator, calculator_prompts
from gnomon.tasks.rooms import Place, Rooms, act, actions, rooms_prompts, solve, world_of
from gnomon.tasks.tunnel.world import Split

Player = Callable[[Prompt, Sequence[Message]], str]
"""What a demonstrator writes next, from the prompt and the turns after it."""


def play(
    env: Environment,
    prompt: Prompt,
    player: Player,
    calls: CallFormat,
    max_turns: int,
    show_tools: bool,
) -> Group:
    """One episode as a demonstration; it ends with the player's last turn."""
    opening = env.reset(prompt, 0)
    shown = tuple(opening) if opening else prompt.messages
    if show_tools:
        shown = describe_tools(shown, env.tools, calls)
    turns: list[Message] = []
    for _ in range(max_turns):
        text = player(prompt, turns)
        turns.append(Message("assistant", text))
        seen = env.step(Action(text, parse_calls(text, calls, env.tools).calls))
        if seen.done:
            break
        turns += seen.messages
    env.close()
    while turns[-1].role != "assistant":
        turns.pop()
    asked = Prompt(prompt.id, shown, category=prompt.category, meta=prompt.meta)
    return Group(asked, (Response(tuple(turns)),))


def compact(name: str, argument: str) -> str:
    """A call in python style whose one argument is written without quotes.

    The space makes the argument's first token the one it is in a sentence, so that a small model
    can copy it.
    """
    return f"{name}( {argument})"


def calculator_demonstrations(
    n: int,
    seed: int = 0,
    split: Split = "train",
    kinds: Sequence[str] = KINDS,
    largest: int = 99,
    calls: CallFormat = "hermes",
    show_tools: bool = True,
    careful: float = 0.5,
) -> list[Group]:
    """Solved problems. A demonstrator uses the calculator with chance ``careful``; the others do
    the sum in their heads, and are nearly always wrong.

    The other arguments are those of :func:`calculator_prompts`; ``calls`` is how calls are written
    and ``show_tools`` whether the system turn lists them, as in the stage that follows.
    """

    def player(prompt: Prompt, turns: Sequence[Message]) -> str:
        rng = Random(f"demonstration/{seed}/{prompt.id}")
        expression, answer = str(prompt.meta["expression"]), str(prompt.meta["answer"])
        if rng.random() >= careful:
            off = rng.choice((1, 2, 5, 10, 20, 100)) * rng.choice((-1, 1))
            return f"The answer is {int(answer) + off}."
        if turns:
            return f"The answer is {turns[-1].content}."
        if calls == "python":
            return compact("calculator", expression)
        return write_call(ToolCall("calculator", {"expression": expression}), calls)

    prompts = calculator_prompts(n, seed, split, kinds, largest)
    return [play(Calculator(), p, player, calls, 3, show_tools) for p in prompts]


def rooms_demonstrations(
    n: int,
    seed: int = 0,
    split: Split = "train",
    rooms: int = 4,
    locks: int = 1,
    calls: CallFormat = "hermes",
    show_tools: bool = True,
    careful: float = 0.5,
    max_turns: int = 12,
) -> list[Group]:
    """Searched worlds. Each action is one of a shortest way with chance ``careful``, else any that
    can be done; an episode that takes more than ``max_turns`` ends without the goal."""

    tools = Rooms().tools

    def player(prompt: Prompt, turns: Sequence[Message]) -> str:
        world = world_of(*prompt.meta["world"])
        place = Place(world.start)
        done = [m.content for m in turns if m.role == "assistant"]
        for text in done:
            call = parse_calls(text, calls, tools).calls[0]
            try:
                place = act(world, place, (call.name, next(iter(call.arguments.values()))))
            except ToolError:
                continue
        rng = Random(f"demonstration/{seed}/{prompt.id}/{len(done)}")
        best = rng.random() < careful
        verb, what = solve(world, place)[0] if best else rng.choice(actions(world, place))
        if calls == "python":
            return compact(verb, what)
        key = "direction" if verb == "go" else "thing"
        return write_call(ToolCall(verb, {key: what}), calls)

    prompts = rooms_prompts(n, seed, split, rooms, locks)
    return [play(Rooms(), p, player, calls, max_turns, show_tools) for p in prompts]
