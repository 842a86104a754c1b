"""The comparison plays episodes: the same for every policy, with returns, gains and transcripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_world as tw
from gnomon.audit.evidence import evidence
from gnomon.errors import ConfigError, RunError
from gnomon.recipe.load import parse_recipe
from gnomon.report.html import write_report
from gnomon.report.samples import pairs
from gnomon.runs.answers import read_answers
from gnomon.runs.folder import RunFolder
from gnomon.runs.read import read_run
from gnomon.stages.check import check_compare
from gnomon.stages.run import run_recipe
from gnomon.stats.prompts import over_prompts

# what an episode pays depends on its text alone, so that anyone can work it out again
COUNT = '''
import zlib
from gnomon.agents import Observation
from gnomon.records import Message

def worth(text):
    return zlib.crc32(text.encode()) % 7 / 7

class Count:
    """Pays for what is written, twice."""
    tools = ()

    def __init__(self, broken=False, odd=True):
        self.broken, self.odd = broken, odd

    def reset(self, prompt, seed):
        if self.broken or (prompt.meta["seed"] % 2 and not self.odd):
            raise RuntimeError("no game today")
        self.turns = 0
        return [Message("user", f"Game {prompt.meta['seed']}.")]

    def step(self, action):
        self.turns += 1
        told = Message("user", "and then?")
        return Observation((told,), worth(action.text), self.turns == 2)

    def close(self):
        pass

def long(samples):
    return [float(len(s.text)) for s in samples]
'''


def recipe(folder: Path, **compare: Any) -> dict[str, Any]:
    games = {"path": "agents:games", "options": {"n": 3, "first_seed": 100}}
    return {
        "name": "play",
        "model": str(folder / "model"),
        "output": str(folder / "runs"),
        "max_length": 120,
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": {"path": "tunnel:demonstrations", "options": {"n": 16}},
                "train": {"steps": 1, "batch_size": 4, "lr": 1e-2},
            }
        ],
        "compare": {
            "prompts": games,
            "environment": {"name": "count.py:Count", "max_turns": 2, "max_episode_tokens": 60},
            "rewards": [{"function": "count.py:long"}],
            "rollout": {"samples": 2, "max_new_tokens": 5},
            "reference": "base",
            **compare,
        },
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play")
    tw.save_tiny(folder / "model")
    (folder / "count.py").write_text(COUNT)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return run_recipe(parse_recipe(recipe(home)), base=home)


def worth(transcript: str) -> float:
    """The return of an episode, from its transcript alone."""
    scope: dict[str, Any] = {}
    exec(COUNT, scope)
    turns = [t for t in ("\n" + transcript).split("\n[") if t.startswith("assistant] ")]
    said = [t.removeprefix("assistant] ") for t in turns]
    return sum(scope["worth"](text) for text in said)


def test_every_policy_plays_the_same_games_and_its_return_is_a_column(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    assert said["columns"][:2] == ["long", "Count"]
    assert said["columns"][3:] == ["length (tokens)", "finished"]
    assert said["prompts"] == ["game-100", "game-101", "game-102"]
    answers, wrong = read_answers(run)
    assert not wrong
    assert len(answers) == 2 * 3 * 2
    assert {a.prompt for a in answers} == {f"Game {seed}." for seed in (100, 101, 102)}
    for row in said["rows"]:
        own = [a for a in answers if a.model == row["model"]]
        found = [[worth(a.response) for a in own if a.prompt_id == id and a.finished]
                 for id in said["prompts"]]  # fmt: skip
        kept = [[v for v, a in zip(values, (b for b in own if b.prompt_id == id), strict=True)
                 if a.finished] for id, values in zip(said["prompts"], row["scores"][1],
                                                      strict=True)]  # fmt: skip
        assert kept == [pytest.approx(values) for values in found]
        assert row["values"][1] == pytest.approx(over_prompts(row["scores"][1]).to_dict())
    base, sft = said["rows"]
    assert base["gains"][1]["value"] == 0
    gain = sft["values"][1]["value"] - base["values"][1]["value"]
    assert sft["gains"][1]["value"] == pytest.approx(gain)


def test_kl_and_length_count_what_the_policy_wrote(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    base, sft = said["rows"]
    answers, _ = read_answers(run)
    assert max(a.length for a in answers) <= 2 * 5  # turns without the environment's words
    assert base["values"][2]["value"] == 0
    assert sft["values"][2]["value"] != 0


def test_the_report_shows_transcripts(run: Path) -> None:
    write_report(run)
    page = (run / "report.html").read_text()
    assert "[assistant] " in page
    assert "Game 100." in page
    assert "Count" in page


def test_played_again_it_is_the_same_to_the_byte(run: Path, home: Path) -> None:
    names = ("comparison.json", "answers.jsonl")
    first = [(run / name).read_bytes() for name in names]
    for name in names:
        (run / name).unlink()
    again = run_recipe(parse_recipe(recipe(home)), base=home, resume=True)
    assert [(again / name).read_bytes() for name in names] == first


def test_games_that_never_begin_stop_the_comparison_and_keep_the_stages(home: Path) -> None:
    place = recipe(home)["compare"]["environment"] | {"options": {"broken": True}}
    made = recipe(home, environment=place, rewards=[]) | {"name": "broken"}
    with pytest.raises(RunError, match=r"the environment failed on all 6 samples.*no game today"):
        run_recipe(parse_recipe(made), base=home)


def test_a_game_that_never_began_has_no_figure_at_all(home: Path, run: Path) -> None:
    place = recipe(home)["compare"]["environment"] | {"options": {"odd": False}}
    made = recipe(home, environment=place) | {"name": "odd"}
    odd = run_recipe(parse_recipe(made), base=home)
    said = json.loads((odd / "comparison.json").read_text())
    answers, _ = read_answers(odd)
    marked = {a.prompt_id for a in answers if a.error is not None}
    assert marked == {"game-101"}
    assert all("no game today" in a.error for a in answers if a.error is not None)
    *_, failures = said["tables"]
    assert "failed" in failures["title"]
    assert [row["values"][0]["value"] for row in failures["rows"]] == [pytest.approx(1 / 3)] * 2
    assert "the episode failed: Count, reset: " in said["samples"][1]["base"]
    run_seen = read_run(odd)
    seen, _ = evidence(run_seen, run_seen.stages[0])
    assert {a.prompt_id for a in seen.answers["sft"]} == {"game-100", "game-102"}
    sides = [p.answers for p in pairs(run_seen)]
    assert ["the episode failed: " in side.note for row in sides for side in row] == [
        *(False, False), *(True, True), *(False, False)
    ]  # fmt: skip
    whole = json.loads((run / "comparison.json").read_text())
    for row, full in zip(said["rows"], whole["rows"], strict=True):
        for scores, every in zip(row["scores"], full["scores"], strict=True):
            assert scores == [every[0], [None, None], every[2]]
        assert row["values"][3]["value"] > 2  # no length of 0 is in it
        assert [value["n"] for value in row["values"]] == [2] * 5
    assert said["judges"]["long"]["errors"] == 0  # the judge was not asked


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ({"environment": "gymnasum"}, "did you mean 'gymnasium'"),
        ({"environment": {"name": "count.py:Cuont"}}, "did you mean 'Count'"),
        ({"environment": "count.py:Count"}, "max_episode_tokens .512., leaves no room"),
        ({"rewards": [{"function": "count.py:long", "name": "Count"}]}, "environment's name"),
    ],
)
def test_what_cannot_be_played_is_refused_beforehand(
    compare: dict[str, Any], said: str, home: Path
) -> None:
    made = parse_recipe(recipe(home, **compare))
    with pytest.raises(ConfigError, match=said):
        check_compare(made, RunFolder(made), home)
