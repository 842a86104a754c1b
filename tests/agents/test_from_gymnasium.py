"""Gymnasium's own toy games, played in text: pictures, named actions, seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from agents_zoo import Script, prompt, runner

from gnomon.agents import Action, environment_factory
from gnomon.agents.from_gymnasium import TextGame, gymnasium_text, picture
from gnomon.errors import ConfigError
from gnomon.recipe.schema import StageSpec
from gnomon.records import Message, Prompt
from gnomon.rollout.protocol import SamplingParams
from gnomon.tasks.sources import tunnel_groups

LAKE: dict[str, Any] = {
    "id": "FrozenLake-v1",
    "is_slippery": False,
    "actions": ["left", "down", "right", "up"],
}


def begun(game: TextGame, seed: int = 0, **meta: Any) -> str:
    return game.reset(prompt(text="Go.", **meta), seed)[-1].content


def moved(game: TextGame, text: str) -> tuple[str, float, bool]:
    seen = game.step(Action(text))
    return seen.messages[0].content, seen.reward, seen.done


def test_a_game_that_draws_itself_is_played_by_named_actions_to_its_goal() -> None:
    game = gymnasium_text(**LAKE)
    assert begun(game) == "Go.\n\n[red S]FFF\nFHFH\nFFFH\nHFFG"
    way = ["down", "Down", "right", "I go right.\nright", "down", "right"]
    rewards = [moved(game, text) for text in way]
    assert [reward for _, reward, _ in rewards] == [0, 0, 0, 0, 0, 1]
    assert [done for *_, done in rewards] == [False] * 5 + [True]
    assert rewards[0][0] == "  (Down)\nSFFF\n[red F]HFH\nFFFH\nHFFG"
    game.close()


def test_what_is_no_action_is_answered_and_the_game_waits() -> None:
    game = gymnasium_text(**LAKE)
    before = begun(game)
    for text in ("", "downwards", "down or left"):
        seen = game.step(Action(text))
        assert (seen.reward, seen.done, seen.tool_errors) == (0.0, False, 1)
        assert "left, down, right, up" in seen.messages[0].content
    assert picture(game._game.render()) in before


@pytest.mark.parametrize(
    ("rendered", "shown"),
    [
        ("\x1b[31mS\x1b[39mF", "[red S]F"),
        ("\x1b[41mS\x1b[49mF", "[red S]F"),
        ("\x1b[31;42mS\x1b[39mF\x1b[49mH", "[red green S][green F]H"),
        ("\x1b[31mS\x1b[32mF\x1b[0mH", "[red S][green F]H"),
        ("\x1b[31mS\x1b[mF\x1b[1;4mG", "[red S]FG"),
        ("\x1b[38;1mS\x1b[48mF", "[crimson S][crimson crimson F]"),
        ("\x1b[91mS\x1b[104mF", "[red S][red blue F]"),
        ("\x1b[38;5;31mS\x1b[48;2;1;2;3mF", "[colour-31 S][colour-31 colour-1-2-3 F]"),
        ("\x1b[2J\x1b[H\x1b[?25lS\x1b[K", "S"),
        ("\x1b[41m \x1b[0m", "[red _]"),
        ("S\nF", "S\nF"),
    ],
)
def test_colours_become_words_until_they_are_reset(rendered: str, shown: str) -> None:
    assert picture(rendered) == shown


@pytest.mark.parametrize("before", ["", "31;", "38;", "38;5;", "48;2;1;", ";;"])
def test_no_code_is_an_error(before: str) -> None:
    for code in [*map(str, range(300)), "9" * 5000, ""]:
        assert "S" in picture(f"\x1b[{before}{code}mS\x1b[0m")
    assert picture("\x1b[31:2mS\x1b\x1b[x") == "S"


def test_the_picture_tells_taxi_passenger_and_goal_apart() -> None:
    """Against the state that Taxi itself decodes."""
    game = gymnasium_text("Taxi-v4")
    names = "RGYB"
    for seed in range(8):
        shown = begun(game, seed)
        inner = game._game.unwrapped
        row, _, passenger, goal = inner.decode(inner.s)
        marks = [mark.split() for mark in re.findall(r"\[(.*?)\]", shown)]
        assert names[passenger] in {mark[-1] for mark in marks if "blue" in mark}
        assert names[goal] in {mark[-1] for mark in marks if "magenta" in mark}
        assert "yellow" in shown.split("\n")[3 + row]


def test_the_parts_of_an_observation_are_named() -> None:
    parts = ["sum", "dealer", "usable ace"]
    game = gymnasium_text("Blackjack-v1", actions=["stick", "hit"], observations=parts)
    shown = begun(game, 3)
    truth, _ = gymnasium.make("Blackjack-v1").reset(seed=3)
    assert shown == "Go.\n\n" + ", ".join(f"{n}: {v}" for n, v in zip(parts, truth, strict=True))
    _, reward, done = moved(game, "stick")
    assert done
    assert reward in (-1.0, 0.0, 1.0)


def test_ones_own_reading_and_writing_take_the_place_of_gnomons() -> None:
    game = TextGame(gymnasium.make("Blackjack-v1"), lambda o: f"you have {o[0]}", lambda t: len(t))
    assert "you have" in begun(game)
    assert moved(game, "")[2]  # 0 letters: stick


def test_the_seed_is_the_prompts_where_it_has_one() -> None:
    groups = tunnel_groups("games", {"n": 3, "first_seed": 40, "prompt": "Drive."}, "agents")
    assert [g.prompt.meta["seed"] for g in groups] == [40, 41, 42]
    assert len({g.prompt.id for g in groups}) == 3
    game = gymnasium_text("Taxi-v4")
    openings = [game.reset(g.prompt, seed)[-1].content for seed in (1, 2) for g in groups]
    assert openings[:3] == openings[3:]
    assert len(set(openings)) == 3
    assert len({begun(game, seed) for seed in (1, 2, 3)}) == 3


def test_samples_of_a_prompt_slip_alike_and_a_seed_plays_the_same_episode_again() -> None:
    def play(seed: int) -> list[tuple[str, float | None]]:
        made = runner(lambda: gymnasium_text("FrozenLake-v1"), max_turns=6, max_episode_tokens=240,
                      window=600, max_prompt=200)  # fmt: skip
        asked = (Prompt("lake", (Message("user", "Go."),)), [1])
        (group,) = made.run([asked], Script("2"), SamplingParams(), seeds=[seed], samples=2)
        assert all(e.error is None for e in group.episodes)
        return [(e.shown, e.value) for e in group.episodes]

    first = play(1)
    assert first[0] == first[1]  # the same game and the same actions
    assert play(1) == first
    assert len({play(seed)[0] for seed in range(1, 7)}) > 1  # the ice is slippery


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (LAKE | {"actions": ["left", "right"]}, "2 names for 4 actions"),
        ({"id": "FrozenLak-v1"}, "Did you mean: `FrozenLake`"),
        ({"id": "FrozenLake-v1", "is_slipery": True}, "is_slipery"),
        ({"id": "Pendulum-v1", "actions": ["a"]}, "name Discrete actions"),
        ({}, "required argument: 'id'"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_trained(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        environment_factory("gymnasium", options, tmp_path)


def test_a_game_that_raises_is_its_samples_error() -> None:
    game = gymnasium.make("Blackjack-v1")
    made = runner(lambda: TextGame(game, lambda o: "cards", lambda text: 7 // (len(text) - 1)))
    (group,) = made.run([(prompt(), [1])], Script("x"), SamplingParams(), seeds=[1], samples=1)
    assert "ZeroDivisionError" in str(group.episodes[0].error)
    assert group.episodes[0].value is None


def test_numbers_without_names_are_no_text() -> None:
    made = runner(lambda: gymnasium_text("Blackjack-v1"))
    (group,) = made.run([(prompt(), [1])], Script("1"), SamplingParams(), seeds=[1], samples=1)
    assert "name its parts" in str(group.episodes[0].error)


def test_what_the_page_shows_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    fragments = [
        yaml.safe_load(text) for text in re.findall(r"```yaml\n(data: .*?)```", page, re.S)
    ]
    assert [part["environment"]["name"] for part in fragments] == [
        "gymnasium",
        "verifiers",
        "openenv",
    ]
    for part in fragments:
        StageSpec.model_validate({"name": "rl", "algorithm": "grpo", **part})
    game = environment_factory("gymnasium", fragments[0]["environment"]["options"], tmp_path)()
    assert game.reset(prompt(), 0)
    source = re.search(r"```python\n# cards.py\n(.*?)```", page, re.S)
    assert source is not None
    (tmp_path / "cards.py").write_text(source[1])
    cards = environment_factory("cards.py:blackjack", {}, tmp_path)()
    assert cards.reset(prompt(), 0)
    assert cards.step(Action("I fold")).tool_errors == 1
    assert cards.step(Action("stick")).done
