"""Rejection sampling: a collect stage that keeps the best answer, and refuses what is not one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_world as tw
from gnomon.algorithms.collect_settings import CollectSettings
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.errors import ConfigError
from gnomon.judges.protocol import Judge, SampleJudge, Score
from gnomon.records import Group, Judgement, Message, Prompt
from gnomon.rollout.protocol import Completion, FinishReason, SamplingParams
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.collect import Collector, collect
from gnomon.tasks.tunnel import Labeller, Turns
from gnomon.training.progress import Progress


class Scripted:
    """An engine that gives the same texts to every prompt; one that ends in ... was cut off."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def generate(self, requests: Any, params: Any, progress: Any = None) -> list[list[Completion]]:
        def written(text: str) -> Completion:
            reason: FinishReason = "length" if text.endswith("...") else "eos"
            return Completion((5, 6), torch.zeros(2), reason, text)

        return [[written(text) for text in self.texts] for _ in requests]


class Length(SampleJudge):
    """A reward that likes what is long."""

    name = "length"

    def __call__(self, samples: Any) -> list[Score]:
        return [Score(float(len(sample.text))) for sample in samples]


def rows(
    folder: Path, texts: tuple[str, ...], judge: Judge | None = None, **settings: Any
) -> tuple[list[Any], list[str]]:
    """What is written, and why prompts are left out."""
    prompt = EncodedPrompt(Prompt("p", (Message("user", "2 + 3 = ?"),), meta=ADD), [1, 2])
    collector = Collector(
        Scripted(*texts),  # type: ignore[arg-type]
        judge or Length(),
        CollectSettings(**{"keep": "best", **settings}),
        SamplingParams(max_new_tokens=4),
        len(texts),
        seed=0,
    )
    progress = Progress("collect", 1, enabled=False)
    made = collect(collector, [prompt], folder, progress)
    written = (folder / "groups.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in written], [str(s) for s in made.skipped]


ADD = {
    "family": "arithmetic",
    "kind": "add",
    "args": ("2", "3"),
    "answer": "5",
    "statement": "2 + 3 = 5",
}


def texts_of(found: list[Any]) -> list[list[str]]:
    return [[r["text"] for r in row["responses"]] for row in found]


def test_the_best_that_ended_is_kept(tmp_path: Path) -> None:
    found, skipped = rows(tmp_path, ("short", "longer one", "the longest was cut off..."))
    assert texts_of(found) == [["longer one"]]
    assert skipped == []


class Explained(Length):
    """Says what it thinks of each answer, by its number, as every judge with reasons does."""

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [
            replace(found, reason="\n".join(f"{i}: {r.text}" for i, r in enumerate(g.responses, 1)))
            for g, found in zip(groups, super().judge(groups), strict=True)
        ]


def test_reasons_name_the_answers_by_their_ids(tmp_path: Path) -> None:
    texts = ("short", "longer one", "", "mid", "the longest was...")
    (row,), _ = rows(tmp_path, texts, Explained())
    reasons = dict(line.split(": ") for line in row["reason"].splitlines())
    assert len(reasons) == 4  # of what was not kept, too
    assert [reasons[r["id"]] for r in row["responses"]] == ["longer one"]
    (row,), _ = rows(tmp_path / "all", ("bb", "a", "ccc"), Explained(), keep="all")
    reasons = dict(line.split(": ") for line in row["reason"].splitlines())
    assert [r["text"] for r in row["responses"]] == ["ccc", "bb", "a"]  # in order of their ranks
    assert [reasons[r["id"]] for r in row["responses"]] == ["ccc", "bb", "a"]


def test_one_answer_is_enough(tmp_path: Path) -> None:
    found, _ = rows(tmp_path, ("same", "same", "same"), threshold=4)
    assert texts_of(found) == [["same"]]


def test_labellers_choose_too(tmp_path: Path) -> None:
    who = Turns([Labeller(noise=0.0)], ["p"])
    found, _ = rows(tmp_path, ("It is 4.", "It is 5.", "It is 6."), who)
    assert texts_of(found) == [["It is 5."]]


@pytest.mark.parametrize(
    ("texts", "settings", "said"),
    [
        (("short", "longer"), {"threshold": 9}, "best reward is 6, below the threshold of 9"),
        (("cut...", "off..."), {}, "every response was cut off"),
    ],
)
def test_nothing_good_enough_is_said(
    texts: tuple[str, ...], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=said):  # of all prompts, so there is nothing to write
        rows(tmp_path, texts, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 1}, "threshold goes only with keep: best"),
        ({"keep": "best", "threshold": 1, "labellers": [{"name": "a"}]}, "labellers give none"),
    ],
)
def test_a_threshold_that_would_not_be_used(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CollectSettings(**settings)


def test_the_best_alone_are_no_pairs(tiny_folder: Path, tmp_path: Path) -> None:
    data = {"path": "tunnel:prompts", "options": {"n": 4}}
    stages = [
        {"name": "best", "algorithm": "collect", "data": data, "reward": "gold",
         "rollout": {"samples": 2, "max_new_tokens": 4}, "settings": {"keep": "best"}},
        {"name": "dpo", "algorithm": "dpo", "data": "stage:best", "train": {"steps": 1}},
    ]  # fmt: skip
    made = tw.make_recipe(tiny_folder, tmp_path, stages)
    with pytest.raises(ConfigError, match=r"keep: best.*set best.settings.keep to all"):
        check_recipe(made, RunFolder(made), tmp_path)
    stages[1]["algorithm"] = "sft"
    made = tw.make_recipe(tiny_folder, tmp_path, stages)
    check_recipe(made, RunFolder(made), tmp_path)


def test_one_response_to_a_prompt_is_refused_before_anything_is_sampled(
    tiny_folder: Path, tmp_path: Path
) -> None:
    data = {"path": "tunnel:prompts", "options": {"n": 4}}
    stage = {"name": "own", "algorithm": "collect", "data": data, "reward": "gold"}
    made = tw.make_recipe(tiny_folder, tmp_path, [stage])  # one response is the default
    with pytest.raises(ConfigError, match=r"rollout\.samples to at least 2"):
        check_recipe(made, RunFolder(made), tmp_path)
    made = tw.make_recipe(tiny_folder, tmp_path, [stage | {"settings": {"keep": "best"}}])
    check_recipe(made, RunFolder(made), tmp_path)
