"""docs/tutorials: every command runs as it stands, and prints what the page shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml
from docs_pages import blocks
from tutorial_pages import FIRST, FOLDER, Done, commands, do, missing, tutorial

NAMES = ["sft", *FIRST]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """A tutorial done, after those that it goes on from; each once, all in one folder."""
    folder = tmp_path_factory.mktemp("tutorials")
    results: dict[str, Done] = {}

    def one(name: str) -> Done:
        for first in (*FIRST.get(name, ()), name):
            if first not in results:
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    patch.setenv("COLUMNS", "100")
                    results[first] = do(tutorial(first), folder)
        return results[name]

    return one


@pytest.mark.walk
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs_and_prints_what_it_shows(name: str, done: Callable[[str], Done]) -> None:
    result = done(name)
    assert result.shown, "the page shows nothing of what is printed"
    for shown, printed in result.shown:
        assert missing(shown, printed) == [], printed


def test_every_tutorial_is_run() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == {*NAMES, "index"}
    for name in NAMES:
        assert any(commands(block) for block in blocks(tutorial(name)))


def test_a_page_says_which_tutorials_it_goes_on_from() -> None:
    for name, first in FIRST.items():
        needs = tutorial(name).read_text(encoding="utf-8").split("## ")[1]
        for other in first:
            assert f"({other}.md)" in needs, f"{name}: {other}"


def test_an_output_that_was_made_up_is_noticed() -> None:
    printed = "rm: 8 s, loss 0.648\nsft   0.435 [0.302, 0.569] n=64\nreport: runs/a/report.html\n"
    assert missing("rm: …, loss 0.7\n…\nreport: runs/a/report.html\n", printed) == []
    assert missing("rm: …, accuracy 0.7\n", printed) == ["rm: …, accuracy 0.7"]
    assert missing("report: runs/a/report.html\nrm: …\n", printed) == ["rm: …"]


def test_the_tutorials_stay_small() -> None:
    """Each trains for seconds: whoever makes one longer makes the tests slow."""
    for page in FOLDER.glob("*.md"):
        for block in blocks(page):
            raw = yaml.safe_load(block.text) if block.language == "yaml" else {}
            for stage in raw.get("stages", []):
                train = stage.get("train", {})
                assert train.get("steps", 0) * train.get("batch_size", 0) <= 1000, page.name
                assert raw["model"] == "tunnel" or raw["model"].startswith("runs/"), page.name
