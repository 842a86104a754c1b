"""Reward models of the same labels are no held-out judges, by hash or by spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnomon.audit.same_labels import same_labels
from gnomon.files import write_json
from gnomon.report.kinds import column_kinds
from gnomon.runs.comparison import Comparison
from gnomon.runs.read import RunView, StageView
from gnomon.runs.records import DATA, StageInfo

OWN, OTHER = "a" * 64, "b" * 64


def stage(folder: Path, name: str, algorithm: str, sha: str) -> StageView:
    """A stage that read a file of this hash."""
    folder.mkdir(parents=True)
    write_json(folder / DATA, {"labels.jsonl": {"sha256": sha, "rows": 9}})
    return StageView(folder, name, StageInfo(name=name, algorithm=algorithm, status="done"))


def run_of(path: Path, policy: dict[str, object], judge: str, *stages: StageView) -> RunView:
    recipe = {
        "stages": [{"name": s.name, "algorithm": s.info.algorithm} for s in stages[:-1]] + [policy],
        "compare": {"rewards": [{"model": judge, "name": "judge"}]},
    }
    shown = Comparison(columns=["judge"])
    return RunView(path, "r", recipe=recipe, stages=stages, comparison=shown)


@pytest.mark.parametrize(("sha", "kind"), [(OWN, "trained"), (OTHER, "judge")])
def test_a_judge_of_another_run_is_told_by_the_hash_of_its_labels(
    tmp_path: Path, sha: str, kind: str
) -> None:
    made = stage(tmp_path / "other" / "stages" / "02-rm", "rm", "reward_model", sha)
    policy = stage(tmp_path / "r" / "stages" / "01-dpo", "dpo", "dpo", OWN)
    run = run_of(
        tmp_path / "r", {"name": "dpo", "algorithm": "dpo"}, str(made.folder / "model"), policy
    )
    assert same_labels(run) == ({"judge"} if sha == OWN else set())
    assert column_kinds(run) == {"judge": kind}


@pytest.mark.parametrize("sha", [OWN, OTHER])
def test_two_reward_models_of_the_same_labels_are_one_opinion(tmp_path: Path, sha: str) -> None:
    """What a policy is trained on and what it is judged by; the policy's own data are prompts."""
    rm = stage(tmp_path / "stages" / "01-rm", "rm", "reward_model", OWN)
    second = stage(tmp_path / "stages" / "02-second", "second", "reward_model", sha)
    ppo = stage(tmp_path / "stages" / "03-ppo", "ppo", "ppo", OTHER)
    policy = {"name": "ppo", "algorithm": "ppo", "reward": [{"model": "rm"}]}
    run = run_of(tmp_path, policy, "second", rm, second, ppo)
    assert same_labels(run) == ({"judge"} if sha == OWN else set())


def test_shared_prompts_are_no_shared_labels(tmp_path: Path) -> None:
    rm = stage(tmp_path / "stages" / "01-rm", "rm", "reward_model", OTHER)
    ppo = stage(tmp_path / "stages" / "02-ppo", "ppo", "ppo", OTHER)
    policy = {"name": "ppo", "algorithm": "ppo", "reward": [{"builtin": "exact"}]}
    assert same_labels(run_of(tmp_path, policy, "rm", rm, ppo)) == set()


def test_without_hashes_the_recipes_words_tell(tmp_path: Path) -> None:
    data = [{"path": "pairs.jsonl"}]
    recipe = {
        "stages": [
            {"name": "rm", "algorithm": "reward_model", "data": data},
            {"name": "dpo", "algorithm": "dpo", "data": data, "observe": [{"model": "rm"}]},
        ],
    }
    assert same_labels(RunView(tmp_path, "r", recipe=recipe)) == {"rm"}
    broken = tmp_path / "stages" / "01-dpo"
    broken.mkdir(parents=True)
    (broken / DATA).write_text(json.dumps([1]))
    view = StageView(broken, "dpo", StageInfo(name="dpo", algorithm="dpo"))
    assert same_labels(RunView(tmp_path, "r", recipe=recipe, stages=(view,))) == {"rm"}
