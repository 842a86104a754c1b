"""Judges in processes of their own: the same scores, whichever answers and whichever dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError, EngineError
from gnomon.judges.build import build_judge, one_judge
from gnomon.judges.protocol import judged
from gnomon.judges.workers import About, WorkerJudge, Workplace, split
from gnomon.models.roles import Role
from gnomon.models.save import load_reward_model, save_reward_model
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Message, Prompt, Response
from gnomon.runs.folder import RunFolder
from gnomon.workers.process import Worker
from judging import OWN, groups, scores

NOWHERE = Path("nowhere")
KILLED = "a worker's process ended: killed by SIGKILL"


@pytest.fixture
def place() -> Iterator[Workplace]:
    with ExitStack() as closing:
        yield Workplace(closing, lambda name: NOWHERE / name)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def made(spec: RewardSpec, base: Path, place: Workplace | None = None, **more: Any) -> Any:
    return build_judge([spec], base=base, load=more.pop("load", pytest.fail), place=place, **more)


def test_kill_9_of_one_of_two_workers_loses_and_doubles_nothing(own: Path) -> None:
    spec = RewardSpec(function="own.py:score")
    wanted = scores(judged(made(spec, own), groups()))
    (own / "asked").unlink()
    (own / "die").touch()
    with ExitStack() as closing:
        several = spec.model_copy(update={"workers": 2})
        judge = made(several, own, Workplace(closing, lambda name: NOWHERE))
        with pytest.warns(
            UserWarning,
            match=rf"worker . of score failed: {KILLED}",
        ):
            assert scores(judged(judge, groups())) == wanted
        lines = [line.split(" ", 1) for line in (own / "asked").read_text().splitlines()]
        asked = sorted(text for _, text in lines)
        assert asked == sorted(r.text for g in groups() for r in g.responses)
        (own / "asked").unlink()
        assert scores(judged(judge, groups())) == wanted  # by two again
        assert judge.version == made(spec, own).version != ""
        pids = [worker.pid for worker in judge._crew.workers.values()]
        assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_fails_is_an_error_of_its_response_alone(own: Path, place: Workplace) -> None:
    bad = Group(Prompt("bad"), (Response((Message("assistant", "fail"),)),))
    asked = [*groups(2), bad]
    spec = RewardSpec(function="own.py:score", workers=1)
    found = scores(judged(made(spec, own, place), asked))
    assert found == scores(judged(made(spec, own), asked))
    (error,) = [s.error for s in found[-1]]
    assert error is not None
    assert "it cannot be scored" in error


def test_a_judge_that_kills_every_worker_stops_the_run(own: Path, place: Workplace) -> None:
    judge = made(RewardSpec(function="own.py:deadly", workers=1), own, place)
    with pytest.raises(EngineError, match=f"reward 'deadly': {KILLED}"):
        judged(judge, groups(1))


def test_a_reward_model_gives_the_same_bits_in_another_process(tmp_path: Path) -> None:
    role = Role("rm", tw.trunk(3), head=tw.head(4))
    folder = save_reward_model(tmp_path / "rm", role)
    loaded = load_reward_model(folder)
    spec = RewardSpec(model="rm", workers=1, weight=2.0)
    here = one_judge(spec, base=tmp_path, load=lambda name: loaded, tokenizer=tw.tokenizer())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wanted = [j for share in split(groups()) for j in judged(here, share)]
        whole = judged(here, groups())
    finally:
        torch.set_num_threads(threads)
    with ExitStack() as closing:
        place = Workplace(closing, lambda name: tmp_path / name)
        judge: Any = one_judge(
            spec, base=tmp_path, load=pytest.fail, tokenizer=tw.tokenizer(), place=place
        )
        found = judged(judge, groups())
        assert judge.parameters == here.parameters > 0  # type: ignore[attr-defined]
    assert scores(found) == scores(wanted)
    assert (judge.version, sum(j.cost.tokens for j in found)) == (
        here.version,
        sum(j.cost.tokens for j in whole),
    )
    flat = [[s.value for row in scores(x) for s in row] for x in (found, whole)]
    assert flat[0] == pytest.approx(flat[1], abs=1e-5)


def test_programs_run_in_the_workers_sandboxes(tmp_path: Path, place: Workplace) -> None:
    tests = [{"function": "double", "args": [3], "expected": 6}]
    programs = ["def double(x):\n    return 2 * x", "def double(x):\n    return x"]
    asked = [
        Group(
            Prompt(f"p{i}", (Message("user", "double"),), meta={"tests": tests}),
            (Response((Message("assistant", program),)),),
        )
        for i, program in enumerate(programs)
    ]
    spec = RewardSpec(builtin="code", workers=2)
    try:
        here = made(spec, tmp_path)
    except ConfigError as error:
        pytest.skip(f"the kernel has no sandbox: {error}")
    found = scores(judged(made(spec, tmp_path, place), asked))
    assert found == scores(judged(here, asked))
    assert [s[0].value for s in found] == [1.0, 0.0]


class Elsewhere(Worker):
    """A worker on another machine, with another version of the judge's file."""

    def __init__(self, version: str) -> None:
        self.pid, self.version, self.closed = 0, version, False

    def call(self, method: str, *args: Any, wanted: Any = None) -> Any:
        return About(self.version)

    def close(self) -> None:
        self.closed = True


def test_workers_with_other_files_than_the_others_are_named() -> None:
    workers = [Elsewhere("v1"), Elsewhere("v2")]
    makers = {f"worker {i}": lambda worker=worker: worker for i, worker in enumerate(workers)}
    with pytest.raises(ConfigError, match=r"worker \d has another judge than worker \d \(v"):
        WorkerJudge("mine", makers)  # type: ignore[arg-type]
    assert all(worker.closed for worker in workers)


def test_workers_are_told_of_each_round_once(
    own: Path, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    judge = made(RewardSpec(function="own.py:Told", workers=1), own, place)

    def asked() -> set[float | None]:
        return {score.value for row in scores(judged(judge, groups())) for score in row}

    assert asked() == {0.0}
    for round, told in ((1, 1.0), (2, 12.0)):
        judge.begin(round)
        assert asked() == {told}


def test_shares_hold_every_group_once_and_follow_from_the_groups_alone() -> None:
    shares = split(groups(12, 3))
    assert [g for share in shares for g in share] == groups(12, 3)
    assert [len(share) for share in shares] == [2] * 6  # of 5 responses, and the rest of a group
    logged = Response((), ids=(1,), logprobs=torch.ones(1))
    assert split([Group(Prompt("a"), (logged,))])[0][0].responses[0].logprobs is None
    assert split([]) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"builtin": "people", "workers": 2}, "people answer in their own time: remove workers"),
        ({"builtin": "human_queue", "workers": 2}, "people answer in their own time"),
        ({"builtin": "ai", "options": {"model": "m"}, "workers": 2}, r"options.url: \[...\]"),
        ({"function": "python:mine", "workers": 2}, "mine was passed from Python and is in no"),
        ({"function": "own.py:Rounds", "workers": 1}, "asked once a round.*remove workers"),
        ({"builtin": "regex", "options": {"patern": "x"}, "workers": 1}, "its options.*patern"),
    ],
)
def test_a_judge_that_cannot_be_a_worker_is_said_to_be_none(
    entry: dict[str, Any], words: str, own: Path, place: Workplace
) -> None:
    with pytest.raises(ConfigError, match=words):
        made(RewardSpec(**entry), own, place)


@pytest.mark.parametrize(
    ("entry", "words"), [({"workers": 0}, "workers"), ({"worker": 2}, "did you mean 'workers'")]
)
def test_keys_that_mean_nothing_are_refused(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate_as(RewardSpec, {"builtin": "gold", **entry}, "reward")


def test_a_resumed_run_may_have_more_workers_but_not_begin_to_have_any(tmp_path: Path) -> None:
    def folder(workers: int | None, urls: list[str], option: int = 1) -> RunFolder:
        member = {"model": "m", "url": urls}
        asked = {"builtin": "ai", "options": member}
        own = {"function": "own.py:score", "options": {"workers": option}}
        reward = [{"builtin": "gold", "workers": workers}, asked, own]
        stage = {"name": "s", "algorithm": "grpo", "data": "tunnel:prompts", "reward": reward}
        panel = {"builtin": "ai", "options": {"panel": [member, {"model": "n"}]}}
        compare = {"prompts": "tunnel:prompts", "rewards": [panel]}
        return RunFolder(tw.make_recipe("m", tmp_path / "runs", stage, compare=compare))

    folder(2, ["http://a/v1"]).open(resume=False)
    assert folder(3, ["http://b/v1", "http://c/v1"]).check(resume=True)
    with pytest.raises(ConfigError, match=r"reward.0.workers was 2 and is now not there"):
        folder(None, ["http://a/v1"]).check(resume=True)
    with pytest.raises(ConfigError, match=r"reward.2.options.workers was 1 and is now 2"):
        folder(2, ["http://a/v1"], option=2).check(resume=True)
