"""docs/rewards.md: its own functions and classes judge, as the page's recipes name them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from docs_pages import ROOT, blocks

from gnomon.judges.build import build_judge
from gnomon.judges.protocol import Judge, Sample, judged
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Comparison, Prompt
from judging import group_of

PAGE = blocks(ROOT / "docs" / "rewards.md")
GROUP = group_of(*(Sample(Prompt("p"), text) for text in ("12 is it", "1", "twelve of them")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files; those of the same name follow each other in one."""
    for block in PAGE:
        name = block.text.split("\n", 1)[0].removeprefix("# ")
        if block.language == "python" and name.endswith(".py"):
            with (tmp_path / name).open("a", encoding="utf-8") as file:
                file.write(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge(folder: Path, spec: dict[str, object]) -> Judge:
    return build_judge([RewardSpec(**spec)], base=folder, load=lambda name: pytest.fail(name))


def entries() -> list[dict[str, object]]:
    """The page's rewards that name a function of the recipe's author's."""
    found = [yaml.safe_load(block.text).get("reward") for block in PAGE if block.language == "yaml"]
    return [e for e in found if isinstance(e, dict) and ("function" in e or "verifier" in str(e))]


def test_every_function_that_the_page_names_judges(folder: Path) -> None:
    names = [str(e.get("function") or e["options"]["function"]) for e in entries()]  # type: ignore[index]
    assert names == ["mine.py:short", "ranks.py:Brevity", "mine.py:verify"]
    for entry in entries()[:2]:
        (judgement,) = judged(judge(folder, entry), [GROUP])
        assert all(score.error is None for score in judgement.scores)


def test_places_within_the_group(folder: Path) -> None:
    (judgement,) = judged(judge(folder, {"function": "ranks.py:Brevity"}), [GROUP])
    assert [score.value for score in judgement.scores] == [0.5, 1.0, 0.0]


def test_comparisons_of_a_few(folder: Path) -> None:
    (judgement,) = judged(judge(folder, {"function": "pairs.py:FirstTwo"}), [GROUP])
    assert judgement.judge == "digits"
    assert judgement.comparisons == (Comparison(0, 1),)
    assert [score.value for score in judgement.scores] == [1.0, 0.0, 0.5]
