"""The audit of a stage that still trains: what it says, when, and what it costs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from made import evidence_of, make, rollouts

from gnomon.audit.detectors import audit_so_far, detectors_so_far
from gnomon.audit.evidence import Evidence, evidence
from gnomon.recipe.load import parse_recipe
from gnomon.report.card import run_card
from gnomon.runs.audit import AUDIT, Audit, Finding
from gnomon.runs.probes import RewardProbes
from gnomon.runs.read import read_run
from gnomon.runs.records import STAGE, StageInfo
from gnomon.stages.live_audit import FIRST, LOOKS, LiveAudit
from gnomon.stages.run import run_recipe
from gnomon.training.callbacks import StageStart, StepDone

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import planted_live

LENGTH = 12
"""Iterations of a stage."""


def hacked(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    return f"It is {right}. My friend! " * (1 + step // 10), step / 50, {}


def sound(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    good = rng.random() < 0.5 + step / 200
    return f"It is {right if good else rng.randint(60, 99)}.", float(good), {}


class Clock:
    """Seconds that pass by themselves where somebody looks, and otherwise as told."""

    def __init__(self, look: float) -> None:
        self.now, self.look = 0.0, look

    def __call__(self) -> float:
        self.now += self.look
        return self.now


def start(folder: Path, length: int, method: str) -> StageStart:
    return StageStart("policy", folder, 0, length, 0, method=method, resumed=False, roles={})


def step(folder: Path, iteration: int, length: int) -> StepDone:
    return StepDone("policy", folder, iteration, length, iteration, metrics={})


def watched(
    folder: Path, look: float, pause: float, method: str = "grpo", length: int = LENGTH
) -> list[str]:
    """What is told of a run whose records are all there, iteration by iteration."""
    told: list[str] = []
    clock = Clock(look)
    live = LiveAudit(folder, told.append, clock)
    place = folder / "stages" / "01-policy"
    live.on_start(start(place, length, method))
    for iteration in range(1, length + 1):
        clock.now += pause
        live.on_step(step(place, iteration, length))
    return told


def test_an_alarm_is_told_once_and_kept_for_the_page(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), hacked))
    before = Finding(name="foreign_prompts", stage="rm", status="alarm")
    clear = before.model_copy(update={"status": "clear", "name": "drift"})
    Audit(findings=[before, clear]).write(run / AUDIT)
    told = watched(run, look=0.0, pause=1.0)
    kept = Audit.read(run / AUDIT)
    assert before in kept.findings  # an alarm of another stage stays
    assert kept.findings == kept.alarms  # what was not found by half-way may still come
    assert kept.so_far == "policy"
    assert len(told) == len(kept.alarms) - 1 > 0
    assert all(line.startswith(f"iteration {FIRST}: ALARM ") for line in told)
    assert watched(run, look=0.0, pause=1.0, method="sft") == []


def test_it_looks_as_often_as_its_share_of_the_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def count(folder: Path, stage: str) -> Audit:
        looks.append(stage)
        return Audit()

    monkeypatch.setattr("gnomon.stages.live_audit.audit_so_far", count)
    run = make(tmp_path / "run")
    watched(run, look=0.0, pause=1.0)  # looking costs nothing
    assert len(looks) == LENGTH - FIRST  # not after the last, which the run's own audit follows
    looks.clear()
    watched(run, look=0.05, pause=1.0)  # of some 12 seconds
    assert 2 <= len(looks) <= 4
    looks.clear()
    watched(run, look=0.0, pause=1.0, length=1000)
    assert LOOKS - 2 <= len(looks) <= LOOKS
    looks.clear()
    watched(run, look=5.0, pause=1.0)
    assert len(looks) == 1


def test_a_run_goes_on_where_it_cannot_be_audited(tmp_path: Path) -> None:
    told = watched(tmp_path / "nothing", look=0.0, pause=1.0)
    assert len(told) == 1
    assert "warning: it cannot be audited yet" in told[0]


def counting_letters(
    folder: Path, model: Path, *, steps: int = 4, eval_every: int = 0, **stage: Any
) -> dict[str, Any]:
    """A recipe, in this folder, whose reward counts letters."""
    own = folder / "own.py"
    own.write_text("def letters(samples):\n    return [len(s.text) / 10 for s in samples]\n")
    spec = {
        "name": "rl", "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 64}},
        "reward": {"function": f"{own}:letters"},
        "rollout": {"samples": 4, "max_new_tokens": 8},
        "train": {"steps": steps, "batch_size": 16, "lr": 1e-4, "eval_every": eval_every},
    } | stage  # fmt: skip
    return {
        "name": "run", "model": str(model), "output": str(folder), "max_length": 160,
        "stages": [spec],
    }  # fmt: skip


def test_a_hackable_reward_is_named_while_the_run_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_folder: Path
) -> None:
    """A real run whose reward counts letters, from the first answers on."""
    raw = counting_letters(tmp_path, tiny_folder, settings={"beta": 0.0})
    run = run_recipe(parse_recipe(raw), base=tmp_path)
    live = capsys.readouterr().err
    assert "rl (grpo): iteration 2: ALARM reward_hacking" in live
    assert "No KL penalty holds the policy where it started" in live
    Audit(so_far="rl").write(run / AUDIT)  # as if it had been killed before the audit at its end
    run_recipe(parse_recipe(raw), base=tmp_path, resume=True)
    found = Audit.read(run / AUDIT)
    assert found.alarms
    assert not found.so_far


def test_what_is_not_there_yet_is_not_said(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), sound))
    assert watched(run, look=0.0, pause=1.0) == []
    assert Audit.read(run / AUDIT).so_far == "policy"
    assert read_run(run).audit is None
    assert "was not audited" in run_card(run)


def test_the_benchmark_reads_no_more_than_there_was(tmp_path: Path) -> None:
    metrics = [{"step": i, "iteration": i - 1, "kl": 0.1 * i} for i in range(1, 41)]
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), hacked), metrics)
    whole = evidence_of(run)
    spread = planted_live.looks(whole)
    assert spread == sorted(spread)
    assert LOOKS - 2 <= len(spread) <= LOOKS
    assert spread[-1] < 40  # the run's own audit follows
    seen = planted_live.so_far(whole, 20)
    assert {s.step for s in seen.samples} == {1, 10, 20}
    assert seen.metrics["kl"].size == 20
    assert seen.info.status == "running"
    detectors = detectors_so_far()
    first = planted_live.first_alarm(run, detectors)
    assert first is not None
    told = watched(run, look=0.0, pause=1.0)  # the same detectors, of records that are all there
    assert told
    still = make(tmp_path / "still", rollouts((1, 10, 20, 30, 40), sound), metrics)
    assert planted_live.first_alarm(still, detectors) is None


def asked_of(read: Evidence) -> RewardProbes | None:
    """What is known of the reward, but for how often it was asked."""
    known = read.probes.reward
    return known and known.model_copy(update={"asked": 0})


def test_the_benchmark_reads_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    """At every look at a real run, of all that may be read: what the finished run is cut to."""
    there: dict[int, Evidence] = {}

    def keep(folder: Path, stage: str) -> Audit:
        run = read_run(folder)
        found, problems = evidence(run, run.stages[-1])
        assert not problems
        there[int(found.metrics["step"].max())] = found
        return Audit()

    monkeypatch.setattr("gnomon.stages.live_audit.audit_so_far", keep)
    monkeypatch.setattr("gnomon.stages.live_audit.SHARE", 1e6)  # whatever it costs
    held_out = {"path": "tunnel:prompts", "options": {"n": 4, "split": "heldout"}}
    raw = counting_letters(
        tmp_path, tiny_folder, steps=6, eval_every=2, eval_data=held_out,
        observe=[{"builtin": "correct"}],
    )  # fmt: skip
    run = read_run(run_recipe(parse_recipe(raw), base=tmp_path))
    whole, _ = evidence(run, run.stages[-1])
    assert planted_live.looks(whole) == sorted(there) != []
    for step, then in there.items():
        cut = planted_live.so_far(whole, step)
        assert cut.samples == then.samples
        assert {sample.held_out for sample in cut.samples} == {False, True}
        assert set(cut.metrics) >= set(then.metrics)
        for name, values in then.metrics.items():
            assert np.array_equal(cut.metrics[name], values, equal_nan=True), name
        assert asked_of(cut) == asked_of(then) != RewardProbes()
        assert cut.info.status == then.info.status
        for name, detector in detectors_so_far().items():
            assert detector(cut) == detector(then), name


def test_a_look_reads_the_metrics_and_samples_of_its_own_stage_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), hacked))
    other = run / "stages" / "00-before"
    other.mkdir()
    StageInfo(name="before", algorithm="grpo", status="done").write(other / STAGE)
    (other / "samples.parquet").write_text("cut off")
    assert any("before/samples" in problem for problem in read_run(run).problems)
    found = audit_so_far(run, "policy")
    assert found.alarms
    assert not any("samples" in problem for problem in found.problems)


def test_after_the_first_look_an_alarm_has_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By iteration: what every look finds."""
    first, chance, lasts = (
        Finding(name="reward_hacking", stage="policy", status="alarm", detector=detector)
        for detector in ("spoiled", "new_phrase", "same_answer")
    )
    found = {5: [first], 6: [first], 7: [chance], 8: [lasts], 9: [first, lasts], 10: [chance]}

    def look(folder: Path, stage: str) -> Audit:
        return Audit(findings=found.get(live.looked or 0, []), so_far=stage)

    monkeypatch.setattr("gnomon.stages.live_audit.audit_so_far", look)
    run, told = make(tmp_path / "run"), []
    place = run / "stages" / "01-policy"
    live = LiveAudit(run, lambda line: told.append(line.split(":")[0]), Clock(0.0))
    live.on_start(start(place, LENGTH, "grpo"))
    kept = []
    for iteration in range(1, 11):
        live.on_step(step(place, iteration, LENGTH))
        kept.append([f.detector for f in Audit.read_or_empty(run / AUDIT).alarms])
    assert told == ["iteration 5", "iteration 9"]
    assert kept[4:] == [["spoiled"], ["spoiled"], [], [], ["spoiled", "same_answer"], []]


def test_a_resumed_run_does_not_repeat_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), hacked))
    said = watched(run, look=0.0, pause=1.0)
    assert said
    place, told = run / "stages" / "01-policy", list[str]()
    live = LiveAudit(run, told.append, Clock(0.0))
    live.on_start(replace(start(place, LENGTH, "grpo"), resumed=True))
    for iteration in range(6, LENGTH):
        live.on_step(step(place, iteration, LENGTH))
    assert told == []
    assert len(Audit.read(run / AUDIT).alarms) == len(said)


def test_a_run_that_was_resumed_before_any_look_has_its_first_look(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts((1, 10, 20, 30, 40), hacked))
    place, told = run / "stages" / "01-policy", list[str]()
    live = LiveAudit(run, told.append, Clock(0.0))
    live.on_start(replace(start(place, LENGTH, "grpo"), resumed=True))
    live.on_step(step(place, FIRST, LENGTH))
    assert told
