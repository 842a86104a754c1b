"""``gnomon eval`` plays episodes: returns by hand, failed ones in no score, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evals_world import Speaker, write

from gnomon.errors import ConfigError, RunError
from gnomon.evals.evaluate import evaluate
from gnomon.evals.subject import Model
from gnomon.evals.table import make_suite
from gnomon.runs.evals import EvalResult
from scripted import save_scripted

GAME = '''
from gnomon.agents import Observation
from gnomon.records import Message

class Game:
    """Pays the row's prize, in two turns; a row without one cannot be played."""
    tools = ()

    def __init__(self, share=0.5):
        self.share = share

    def reset(self, prompt, seed):
        if "prize" not in prompt.meta:
            raise RuntimeError("no prize")
        self.prize, self.turns = prompt.meta["prize"], 0

    def step(self, action):
        self.turns += 1
        paid = self.prize * self.share
        told = Message("user", "and then?")
        return Observation((told,), paid, self.turns == 2, parts={"paid": paid})

    def close(self):
        pass
'''
PLACE = {"name": "game.py:Game", "max_turns": 2, "max_episode_tokens": 60}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    save_scripted(folder / "model", "Blue .")
    (folder / "game.py").write_text(GAME)
    rows: list[dict[str, Any]] = [{"prompt": f"Game {i}.", "prize": i} for i in (1, 2, 3)]
    write(folder / "games.jsonl", [*rows, {"prompt": "Game 4."}])
    return folder


def play(home: Path, name: str = "all", **options: Any) -> EvalResult:
    given = {"data": "games.jsonl", "environment": PLACE, "samples": 2, "max_new_tokens": 12,
             "name": name, **options}  # fmt: skip
    suite = make_suite("episodes", given, home)
    return evaluate(suite, Model(str(home / "model"), "tiny"), home)


def test_returns_are_those_that_the_environment_paid(home: Path) -> None:
    found = play(home)
    rows = [json.loads(line) for line in (home / "evals/tiny/all.jsonl").read_text().splitlines()]
    for row, prize in zip(rows[:3], (1, 2, 3), strict=True):
        assert row["score"] == [float(prize)] * 2  # half of it in each of two turns
        assert all(text.count("[user] and then?") == 2 for text in row["answers"])
    assert found.scores["return"].value == pytest.approx(2.0)
    assert found.scores["paid"].value == pytest.approx(2.0)
    assert found.scores["turns"].value == 2.0
    assert found.scores["finished"].value == 1.0
    assert (found.n, found.errors) == (3, 1)  # the game without a prize is in no score
    assert any("no prize" in note for note in found.notes)
    assert all("[assistant] " in text for row in rows[:3] for text in row["answers"])


def test_a_policy_measured_again_keeps_its_rows_and_another_game_does_not(home: Path) -> None:
    first = play(home, "again")
    (home / "evals/tiny/again.json").unlink()
    assert play(home, "again").scores == first.scores
    other = play(home, "again", environment={**PLACE, "options": {"share": 0.0}})
    assert other.scores["return"].value == 0


def test_a_built_in_source_is_played(home: Path) -> None:
    found = play(home, "made", data="agents:rooms", games={"n": 2, "rooms": 3},
                 environment={"name": "rooms", "calls": "python", "show_tools": False,
                              "max_turns": 2, "max_episode_tokens": 40})  # fmt: skip
    assert found.n == 2
    assert found.scores["failed"].value == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"environment": None}, "needs what is played"),
        ({"data": []}, "needs openings"),
        ({"environment": "gymnasum"}, "did you mean 'gymnasium'"),
        ({"data": "agents:roms"}, "did you mean 'agents:rooms'"),
        ({"games": {"n": 3}}, "a made source"),
        ({"environment": {"name": "rooms", "max_turn": 3}}, "max_turns"),
    ],
)
def test_what_cannot_be_played_is_refused(home: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        play(home, "bad", **options)


def test_stored_answers_play_nothing(home: Path) -> None:
    suite = make_suite("episodes", {"data": "games.jsonl", "environment": PLACE}, home)
    with pytest.raises(ConfigError, match="has no weights"):
        evaluate(suite, Speaker(lambda text: "x"), home)


def test_games_that_all_fail_are_an_error(home: Path) -> None:
    write(home / "none.jsonl", [{"prompt": "Game."}])
    with pytest.raises(RunError, match=r"all 1 items failed.*no prize"):
        play(home, "none", data="none.jsonl")
