"""A small text world: rooms, doors, keys, and a thing to find.

A world is made from a seed. Its shortest solution is known, so an episode's length can be judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from gnomon.agents.environment import Action, Observation, ToolEnvironment, ToolError
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt
from gnomon.tasks.tunnel.world import Split, split_of

Direction = Literal["up", "down", "left", "right"]
MOVES: dict[str, tuple[int, int]] = {
    "up": (0, 1),
    "down": (0, -1),
    "left": (-1, 0),
    "right": (1, 0),
}
BACK = {"up": "down", "down": "up", "left": "right", "right": "left"}
NAMES = ("garden", "farm", "lake", "hill", "wood", "bank", "road", "pond")
THINGS = ("lamp", "ring", "book", "egg", "bell", "coat", "drum", "spoon")
KEYS = ("red", "blue")
TURN = tuple[str, str]
"""An action: ("go", direction) or ("take", thing)."""


@dataclass(frozen=True)
class World:
    """Rooms joined by doors.

    Attributes:
        doors: room -> direction -> the room behind.
        locks: (room, direction) -> the key that opens the door, from either side.
        lying: thing or key -> where it lies at first.
        start: the first room.
        goal: the thing to take.
    """

    doors: dict[str, dict[str, str]]
    locks: dict[tuple[str, str], str]
    lying: dict[str, str]
    start: str
    goal: str

    @property
    def key(self) -> str:
        """What identifies the world, whatever seed made it."""
        return repr((sorted(map(repr, self.doors.items())), self.locks, self.lying, self.start))


@dataclass(frozen=True)
class Place:
    """Where the player is and what they carry."""

    room: str
    held: frozenset[str] = frozenset()


def make_world(rng: Random, rooms: int, locks: int) -> World:
    """A random world that can be solved: each key lies on the near side of its door."""
    names = rng.sample(NAMES, rooms)
    doors: dict[str, dict[str, str]] = {names[0]: {}}
    where = {(0, 0): names[0]}
    joined: list[tuple[str, str]] = []
    for name in names[1:]:
        free = [
            (x, y, way)
            for (x, y), room in where.items()
            for way, (dx, dy) in MOVES.items()
            if way not in doors[room] and (x + dx, y + dy) not in where
        ]
        x, y, way = rng.choice(free)
        room = where[x, y]
        where[x + MOVES[way][0], y + MOVES[way][1]] = name
        doors[room][way], doors[name] = name, {BACK[way]: room}
        joined.append((room, way))
    # Rooms were joined one after another, so what came before a door is on its near side.
    locked = sorted(rng.sample(range(len(joined)), locks))
    closed: dict[tuple[str, str], str] = {}
    lying: dict[str, str] = {}
    for colour, place in zip(rng.sample(KEYS, locks), locked, strict=True):
        room, way = joined[place]
        closed[room, way] = closed[doors[room][way], BACK[way]] = f"{colour} key"
        lying[f"{colour} key"] = rng.choice(names[: place + 1])
    thing = rng.choice(THINGS)
    lying[thing] = names[joined_last(locked, len(names), rng)]
    return World(doors, closed, lying, names[0], thing)


def joined_last(locked: Sequence[int], rooms: int, rng: Random) -> int:
    """The goal's room: behind the last locked door where there is one, never the first room."""
    return locked[-1] + 1 if locked else rng.randrange(1, rooms)


def act(world: World, place: Place, turn: TURN) -> Place:
    """Where an action leads.

    Raises:
        ToolError: it cannot be done, and why.
    """
    verb, what = turn
    if verb == "go":
        behind = world.doors[place.room].get(what)
        if behind is None:
            raise ToolError(f"there is no door {what}")
        lock = world.locks.get((place.room, what))
        if lock is not None and lock not in place.held:
            raise ToolError(f"the door is closed; you need the {lock}")
        return replace(place, room=behind)
    if what in place.held or world.lying.get(what) != place.room:
        raise ToolError(f"there is no {what} here")
    return replace(place, held=place.held | {what})


def actions(world: World, place: Place) -> list[TURN]:
    """What can be done, in a fixed order."""
    found: list[TURN] = [
        ("take", thing)
        for thing, room in world.lying.items()
        if room == place.room and thing not in place.held
    ]
    for way in world.doors[place.room]:
        lock = world.locks.get((place.room, way))
        if lock is None or lock in place.held:
            found.append(("go", way))
    return found


def solve(world: World, place: Place) -> list[TURN]:
    """A shortest way to the goal (breadth first).

    Raises:
        ConfigError: the goal cannot be reached.
    """
    queue: deque[tuple[Place, list[TURN]]] = deque([(place, [])])
    seen = {place}
    while queue:
        here, path = queue.popleft()
        if world.goal in here.held:
            return path
        for turn in actions(world, here):
            there = act(world, here, turn)
            if there not in seen:
                seen.add(there)
                queue.append((there, [*path, turn]))
    raise ConfigError("this world cannot be solved")


def describe(world: World, place: Place) -> str:
    """What the player sees."""
    doors = [
        way
        + (
            f" (closed, {lock})"
            if (lock := world.locks.get((place.room, way))) is not None and lock not in place.held
            else ""
        )
        for way in world.doors[place.room]
    ]
    here = [t for t, room in world.lying.items() if room == place.room and t not in place.held]
    text = f"You are in the {place.room}. Doors: {', '.join(doors)}."
    return f"{text} Here: {', '.join(here)}." if here else text


class Rooms(ToolEnvironment):
    """Find a thing. Reward 1 for taking it, less ``step_cost`` for each action.

    The prompt's ``meta["world"]`` makes the world (see :func:`rooms_prompts`).

    Args:
        step_cost: taken off for every action, those that fail too.
    """

    def __init__(self, step_cost: float = 0.0) -> None:
        super().__init__(self.go, self.take)
        self.step_cost = step_cost
        self._world = World({}, {}, {}, "", "")
        self._place = Place("")
        self._steps = 0
        self._optimal = 0

    def go(self, direction: Direction) -> str:
        """Go through a door.

        Args:
            direction: up, down, left or right
        """
        self._place = act(self._world, self._place, ("go", direction))
        return describe(self._world, self._place)

    def take(self, thing: str) -> str:
        """Take something that lies here.

        Args:
            thing: what to take
        """
        self._place = act(self._world, self._place, ("take", thing))
        return describe(self._world, self._place)

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Build the prompt's world.

        Raises:
            ValueError: the prompt has none.
        """
        world = prompt.meta.get("world")
        if world is None:
            raise ValueError(f"prompt {prompt.id} has no meta['world']; use agents:rooms")
        self._world = world_of(*(int(x) for x in world))
        self._place = Place(self._world.start)
        self._steps = 0
        self._optimal = len(solve(self._world, self._place))
        return None

    def answer(self, text: str) -> Observation:
        """A turn that does nothing."""
        hint = Message("tool", "error: do something: go or take")
        return Observation((hint,), tool_errors=1)

    def step(self, action: Action) -> Observation:
        """Do it; taking the goal ends the episode."""
        seen = super().step(action)
        done = max(1, len(action.calls))
        self._steps += done
        reached = self._world.goal in self._place.held
        parts = {"correct": float(reached)}
        if reached:
            parts["efficiency"] = self._optimal / self._steps
        reward = float(reached) - self.step_cost * done
        return replace(seen, reward=reward, done=reached, parts=parts)


# -- prompts --------------------------------------------------------------------------------------


def world_of(seed: int, rooms: int, locks: int) -> World:
    """The world that ``meta["world"]`` names."""
    return make_world(Random(f"rooms/{seed}/{rooms}/{locks}"), rooms, locks)


def rooms_prompts(
    n: int, seed: int = 0, split: Split = "train", rooms: int = 4, locks: int = 1
) -> list[Prompt]:
    """``n`` worlds to search; the splits share none.

    ``meta`` holds ``world`` (what makes it) and ``optimal`` (the fewest actions).

    Args:
        n: how many; the i-th does not depend on it.
        seed: fixes them.
        split: "train" or "heldout".
        rooms: in each world, 2 to 8.
        locks: locked doors, 0 to 2.

    Raises:
        ConfigError: no such split, or numbers out of range.
    """
    if not (2 <= rooms <= len(NAMES) and 0 <= locks <= min(len(KEYS), rooms - 1)):
        raise ConfigError(f"rooms prompts: {rooms} rooms (2 to 8) with {locks} locks (0 to 2)")
    if split not in ("train", "heldout"):
        raise ConfigError(f"rooms prompts: split {split!r}: choose train or heldout")
    return [_task(seed, split, i, rooms, locks) for i in range(n)]


def _task(seed: int, split: Split, i: int, rooms: int, locks: int) -> Prompt:
    rng = Random(f"rooms/{seed}/{split}/{i}")
    while True:
        number = rng.randrange(2**31)
        world = world_of(number, rooms, locks)
        if split_of(world.key) == split:
            break
    start = Place(world.start)
    text = f"Take the {world.goal}. {describe(world, start)}"
    meta = {"world": (number, rooms, locks), "optimal": len(solve(world, start))}
    name = f"rooms-{split}-{seed}-{i}"
    return Prompt(name, (Message("user", text),), category="rooms", meta=meta)
