"""Reward models of the same labels are no held-out judges, by hash or by spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("shared", ["data", "pretraining", "eval_data"])
def test_only_what_both_learned_preferences_from_makes_them_one(
    tmp_path: Path, shared: str
) -> None:
    """Two reward models of other labels, warmed up on the same demonstrations."""
    for name, own in (("one", OWN), ("two", OTHER)):
        made = stage(tmp_path / name / "stages" / "01-rm", "rm", "reward_model", own)
        both = {"path": "shared.jsonl"}
        spec = {"name": "rm", "algorithm": "reward_model", "data": [{"path": "labels.jsonl"}]}
        spec[shared] = [*spec["data"], both] if shared == "data" else [both]
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump({"stages": [spec]}))
        read = {"labels.jsonl": {"sha256": own}, "shared.jsonl": {"sha256": "c" * 64}}
        write_json(made.folder / DATA, read)
    ppo = stage(tmp_path / "r" / "stages" / "01-ppo", "ppo", "ppo", "d" * 64)
    trained, judge = (str(tmp_path / n / "stages" / "01-rm" / "model") for n in ("one", "two"))
    policy = {"name": "ppo", "algorithm": "ppo", "reward": [{"model": trained}]}
    run = run_of(tmp_path / "r", policy, judge, ppo)
    assert same_labels(run) == ({"judge"} if shared == "data" else set())


def test_a_source_used_twice_is_told_apart(tmp_path: Path) -> None:
    """The same made source as demonstrations to warm up on, and as what is learned from."""
    rm = stage(tmp_path / "stages" / "01-rm", "rm", "reward_model", OWN)
    second = stage(tmp_path / "stages" / "02-second", "second", "reward_model", OWN)
    ppo = stage(tmp_path / "stages" / "03-ppo", "ppo", "ppo", "d" * 64)
    policy = {"name": "ppo", "algorithm": "ppo", "reward": [{"model": "rm"}]}
    run = run_of(tmp_path, policy, "second", rm, second, ppo)
    for view, own, seed in ((rm, OWN, 1), (second, OTHER, 2)):
        read = {"tunnel:x": {"sha256": own}, "tunnel:x (2)": {"sha256": "c" * 64}}
        write_json(view.folder / DATA, read)
        spec = next(s for s in run.recipe["stages"] if s["name"] == view.name)
        spec |= {"data": {"path": "tunnel:x", "options": {"seed": seed}}, "pretraining": "tunnel:x"}
    assert same_labels(run) == set()


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
