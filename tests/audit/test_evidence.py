"""Evidence holds no true reward: it is the same, byte by byte, whether one was observed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from canonical import canonical

from gnomon.audit.evidence import Evidence, evidence
from gnomon.audit.truths import Truths
from gnomon.recipe.load import parse_recipe
from gnomon.runs.audit import AUDIT, Audit
from gnomon.runs.read import read_run
from gnomon.stages.run import run_recipe

OWN = """
from gnomon.records import Score

def secret(samples):
    return [Score(float(len(s.text)), {"depth": 1.0}) for s in samples]

def paid(samples):
    return [float(len(s.text) % 2) for s in samples]

def judge(samples):
    return [float(len(s.text) % 3) for s in samples]
"""
SECRET = {"function": "own.py:secret", "truth": True}
JUDGE = {"function": "own.py:judge"}
PAID = {"function": "own.py:paid"}
TRUTHS = [{"builtin": "gold", "name": "renamed"}, {"builtin": "correct"}, SECRET]


def made(folder: Path, model: Path, truths: list[dict[str, Any]], reward: Any = PAID) -> Path:
    """A tiny GRPO run that observes and compares ``truths`` besides a judge."""
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    prompts = {"path": "tunnel:prompts", "options": {"n": 12, "families": ["arithmetic"]}}
    rollout = {"samples": 2, "max_new_tokens": 6}
    stage = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": prompts,
        "eval_data": prompts,
        "reward": reward,
        "observe": [*truths[:1], JUDGE, *truths[1:]],
        "rollout": rollout,
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-3, "sample_every": 1, "eval_every": 1},
    }
    compare = {"prompts": prompts, "rewards": [*truths[:2], PAID, *truths[2:]], "rollout": rollout}
    recipe = {
        "name": "run",
        "model": str(model),
        "output": str(folder / "runs"),
        "max_length": 96,
        "stages": [stage],
        "compare": compare,
    }
    said: list[str] = []
    run = run_recipe(parse_recipe(recipe), base=folder, announce=said.append)
    assert said[-1].startswith("audit: nothing wrong was found")
    assert f"gnomon audit {run} shows all" in said[-1]
    return run


def read(folder: Path) -> Evidence:
    run = read_run(folder)
    found, problems = evidence(run, run.stages[0])
    assert not problems
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def watched(folder: Path, tiny_folder: Path) -> Path:
    return made(folder / "watched", tiny_folder, TRUTHS)


def without_output(evidence: Evidence) -> str:
    """The two runs lie in different folders, which only their recipes say."""
    text = canonical(evidence)
    return "\n".join(line for line in text.splitlines() if '"output"' not in line)


def test_it_is_the_same_whether_the_truth_was_observed_or_not(
    folder: Path, watched: Path, tiny_folder: Path
) -> None:
    blind = made(folder / "blind", tiny_folder, [])
    told, untold = read(watched), read(blind)
    assert without_output(told) == without_output(untold)
    assert "renamed" in (watched / "stages/01-grpo/metrics.jsonl").read_text()  # it was observed
    for name in ("renamed", "secret", "correct", "gold"):
        assert name not in canonical(told).replace("brevity", "")
    assert told.judges == ["judge"]
    assert {"reward", "judge", "eval/judge", "length", "entropy"} <= told.metrics.keys()
    assert {part for sample in told.samples for part in sample.parts} == {"judge"}
    assert told.comparison.columns[0] == "paid"
    assert len(told.comparison.rows[0].scores) == 1


def test_what_is_trained_on_is_read_even_if_it_is_the_truth(
    folder: Path, tiny_folder: Path
) -> None:
    run = made(folder / "true", tiny_folder, TRUTHS, reward=[{"builtin": "correct"}, PAID])
    found = read(run)
    assert {"reward", "reward/correct", "reward/paid"} <= found.metrics.keys()
    assert "correct" not in found.metrics
    assert {part for s in found.samples for part in s.parts} == {"correct", "paid", "judge"}
    assert "correct" in found.comparison.columns
    assert not {"renamed", "secret"} & set(found.comparison.columns)


def test_a_run_audits_itself(watched: Path) -> None:
    audit = Audit.read(watched / AUDIT)
    assert audit.version
    assert {finding.stage for finding in audit.findings} == {"grpo"}


def test_the_samples_and_answers_are_told_apart(watched: Path) -> None:
    found = read(watched)
    assert found.steps
    assert {s.held_out for s in found.samples} == {True, False}
    assert found.first
    assert found.last
    assert not {s.step for s in found.first} & {s.step for s in found.last}
    assert set(found.answers) == {"base", "grpo"}
    assert found.start == "base"
    prompts = [a.prompt_id for a in found.answers["grpo"] if a.sample == 0]
    assert prompts == found.comparison.prompts


def test_without_a_recipe_truths_are_known_by_their_names() -> None:
    truths = Truths([], [])
    assert truths.hides("gold/brevity")
    assert truths.hides("eval/gold")
    assert truths.hides("pass@8")
    assert not truths.hides("golden")
    assert not truths.hides("reward")


def test_a_truth_that_is_not_named_one_is_a_judge() -> None:
    """The check above can fail: without the word, an own truth is read."""
    told, untold = Truths([PAID], [SECRET]), Truths([PAID], [{**SECRET, "truth": False}])
    assert told.hides("secret")
    assert told.part("secret")
    assert not untold.hides("secret")
    assert not untold.part("secret")
