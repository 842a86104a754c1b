"""Spot checks: which pairs people see, what their labels say of the reward, and what an audit does
with it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml
from typer.testing import CliRunner

from gnomon.audit.decide import detectable
from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.audit.spotcheck import spotcheck
from gnomon.cli.main import app
from gnomon.feedback.records import Label
from gnomon.feedback.spotcheck import choose, read_labels, shown_order, without_noise
from gnomon.feedback.spotchecking import ask
from gnomon.feedback.store import Store
from gnomon.records import Cost
from gnomon.report.findings import audit_lines
from gnomon.report.html import write_report
from gnomon.runs.audit import AUDIT, Audit, Finding
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.records import STAGE, StageInfo
from gnomon.runs.rows import SampleStore
from gnomon.runs.spotchecks import PHASES, SpotCheck, SpotPair
from gnomon.stats.intervals import exact_interval
from gnomon.stats.judges import JudgedPair

STEPS = tuple(range(10, 130, 10))


def sample(step: int, prompt: str, response: str, reward: float | None) -> Sample:
    return Sample(
        step=step,
        prompt_id=prompt,
        prompt=f"question {prompt}?",
        response=response,
        reward=reward,
        parts={},
        category=None,
        error=None if reward is not None else "failed",
        length=3,
        finished=True,
        held_out=False,
    )


def samples(k: int = 4, prompts: int = 10) -> list[Sample]:
    """Each step has its own prompts, each with ``k`` answers of other rewards; the word says how
    good the answer truly is."""
    rng = Random(1)
    out = []
    for step in STEPS:
        for place in range(prompts):
            for i in range(k):
                reward = rng.random() + (1.0 if place < 3 else 0.0)
                out.append(sample(step, f"{step}/{place}", f"answer {i} of {step}/{place}", reward))
    return out


def checked(pairs: Sequence[SpotPair], overlap: int = 1) -> SpotCheck:
    named = [pair.model_copy(update={"item": f"i{n}"}) for n, pair in enumerate(pairs)]
    return SpotCheck(stage="policy", pairs=named, overlap=overlap)


def say(pair: SpotPair, who: str, best_wins: float, n: int = 0) -> Label:
    """A person's ranking of the pair as it is shown, the second text first on the screen."""
    ranks = {1.0: (1.0, 2.0), 0.0: (2.0, 1.0), 0.5: (1.0, 1.0)}[best_wins]
    if shown_order(pair)[0] != pair.best:
        ranks = (ranks[1], ranks[0])
    return Label(
        id=f"{pair.item}-{who}-{n}", item=pair.item, labeller=who, kind="ranking",
        ranks=ranks, shown=(1, 0), cost=Cost(seconds=10.0, money=0.5),
    )  # fmt: skip


# -- choosing -------------------------------------------------------------------------------------


def test_pairs_are_even_over_the_phases_and_of_one_prompt_and_step() -> None:
    everything = samples()
    pairs = choose(everything, 30)
    assert Counter(pair.phase for pair in pairs) == dict.fromkeys(PHASES, 10)
    assert len({pair.prompt_id for pair in pairs}) == 30
    rewards = {(s.prompt_id, s.response): s.reward for s in everything}
    for pair in pairs:
        assert pair.step == pair.other_step
        group = [s for s in everything if (s.prompt_id, s.step) == (pair.prompt_id, pair.step)]
        best, *rest = sorted(group, key=lambda s: -(s.reward or 0))
        assert pair.best == best.response
        ordinary = statistics.median(s.reward or 0.0 for s in rest)
        assert rewards[pair.prompt_id, pair.other] == pytest.approx(ordinary)
        assert pair.rewards == [best.reward, rewards[pair.prompt_id, pair.other]]
    # a quarter of each phase's answers has the highest rewards, and those are taken first
    assert all(pair.rewards[0] > 1.0 for pair in pairs)


def test_the_draw_is_fixed_and_a_larger_one_holds_the_smaller() -> None:
    everything = samples()
    few, again = choose(everything, 12), choose(list(reversed(everything)), 12)
    assert few == again
    assert choose(everything, 12, seed=1) != few
    more = choose(everything, 24, known=few)
    assert more[:12] == few
    assert len({(p.prompt_id, p.step) for p in more}) == 24


def test_what_nobody_could_judge_is_not_shown() -> None:
    alike = [sample(10, "p", text, 1.0) for text in ("a", "b")]
    same_text = [sample(10, "q", "a", reward) for reward in (0.0, 1.0)]
    failed = [sample(10, "r", "a", None), sample(10, "r", "b", 1.0)]
    blank = [sample(10, "s", " ", 1.0), sample(10, "s", "b", 0.0)]
    assert choose([*alike, *same_text, *failed, *blank], 10) == []


def test_prompts_sampled_once_a_step_are_paired_over_steps() -> None:
    rows = [sample(step, "p", f"answer {step}", float(step)) for step in STEPS]
    pairs = choose(rows, 100)
    assert pairs
    assert all(abs(pair.step - pair.other_step) == 10 for pair in pairs)
    assert all(pair.rewards[0] > pair.rewards[1] for pair in pairs)
    assert len({frozenset((p.best, p.other)) for p in pairs}) == len(pairs)


def test_the_order_of_the_texts_says_nothing_of_the_rewards() -> None:
    pairs = choose(samples(prompts=40), 400)
    first = sum(shown_order(pair)[0] == pair.best for pair in pairs)
    assert exact_interval(first, len(pairs), 0.999).excludes(0.5) is False


# -- reading --------------------------------------------------------------------------------------


def test_agreement_is_the_share_of_labels_for_the_best_rewarded() -> None:
    check = checked(choose(samples(), 30))
    labels = [
        say(pair, "ann", {0: 0.0, 1: 0.5}.get(i % 4, 1.0)) for i, pair in enumerate(check.pairs)
    ]
    found = read_labels(check, labels)
    wins = [{0: 0.0, 1: 0.5}.get(i % 4, 1.0) for i in range(30)]
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx(statistics.mean(wins))
    plain = exact_interval(sum(wins), 30)  # an independent pair each; ties vary less
    assert plain.low <= found.agreement.low < found.agreement.value
    assert found.agreement.value < found.agreement.high <= plain.high
    assert [pair.won for pair in found.pairs] == wins
    assert (found.asked, found.answered, found.labels, found.skipped) == (30, 30, 30, 0)
    assert (found.seconds, found.money) == (300.0, 15.0)
    assert found.people is None
    assert found.without_noise is None
    assert found.problems[0].startswith("one person")
    half = (found.agreement.high - found.agreement.low) / 2
    assert found.detectable == pytest.approx(half * (1 + 0.8416 / 1.96), rel=1e-3)


def test_labels_of_one_pair_make_no_more_pairs() -> None:
    """Ten people who say the same of each of 12 pairs know of 12 pairs, not of 120."""
    check = checked(choose(samples(), 12))
    once = [say(pair, "a", float(i % 3 > 0)) for i, pair in enumerate(check.pairs)]
    many = [
        say(pair, f"p{who}", float(i % 3 > 0))
        for i, pair in enumerate(check.pairs)
        for who in range(10)
    ]
    one, ten = read_labels(check, once).agreement, read_labels(check, many).agreement
    assert one is not None
    assert ten is not None
    assert ten.value == pytest.approx(one.value)
    assert ten.high - ten.low > 0.8 * (one.high - one.low)


def test_corrections_skips_and_foreign_labels() -> None:
    check = checked(choose(samples(), 3))
    first, second, third = check.pairs
    wrong = say(first, "ann", 0.0)
    taken_back = replace(say(first, "ann", 1.0, n=1), replaces=wrong.id)
    twice = [say(second, "ann", 0.0), say(second, "ann", 1.0, n=1)]  # the later one counts
    skip = replace(say(third, "ann", 1.0), kind="skip", ranks=())
    other = replace(say(third, "bob", 0.0), item="elsewhere", id="x")
    found = read_labels(check, [wrong, taken_back, *twice, skip, other])
    assert [(pair.labels, pair.won) for pair in found.pairs] == [(1, 1.0), (1, 1.0), (0, None)]
    assert (found.labels, found.skipped, found.answered) == (2, 1, 3)
    nothing = read_labels(check, [])
    assert nothing.agreement is None
    assert nothing.drift is None
    assert nothing.phases == {}


def test_drift_is_the_last_phase_less_the_first() -> None:
    check = checked(choose(samples(), 60))
    wins = {"early": 0.9, "middle": 0.6, "late": 0.2}
    count: Counter[str] = Counter()
    labels = []
    for pair in check.pairs:
        count[pair.phase] += 1
        labels.append(say(pair, "ann", float(count[pair.phase] <= 20 * wins[pair.phase])))
    found = read_labels(check, labels)
    assert {k: v.value for k, v in found.phases.items() if v} == pytest.approx(wins)
    assert found.drift is not None
    assert found.drift.value == pytest.approx(-0.7)
    assert found.drift.excludes(0.0)
    # shuffling what people said over the phases leaves no drift
    mixed = [
        say(pair, "ann", float(won))
        for pair, won in zip(check.pairs, Random(0).choices((0, 1), k=60), strict=True)
    ]
    none = read_labels(check, mixed).drift
    assert none is not None
    assert not none.excludes(0.0)


def test_position_bias_is_said() -> None:
    check = checked(choose(samples(), 40))
    labels = [say(pair, "ann", float(shown_order(pair)[1] == pair.best)) for pair in check.pairs]
    found = read_labels(check, labels)  # say() shows the second text first, and that always wins
    assert found.first is not None
    assert found.first.value == 1.0
    assert any("shown first wins" in problem for problem in found.problems)


def simulated(rng: Random, n: int, right: float, people: int, accuracy: float) -> list[JudgedPair]:
    """Pairs of which the reward is right with a chance of ``right``, judged by noisy people."""
    out = []
    for i in range(n):
        truth = rng.random() < right
        said = tuple(float(truth == (rng.random() < accuracy)) for _ in range(people))
        out.append(JudgedPair(i, said, 1.0, 1.0))
    return out


def test_noise_of_the_labellers_is_corrected_for() -> None:
    """Of 300 simulated checks, the interval holds the reward's true agreement in about 95%."""
    rng, held, values = Random(7), 0, []
    for _ in range(300):
        found = without_noise(simulated(rng, 150, 0.8, 3, 0.75))
        assert found is not None
        held += found.low <= 0.8 <= found.high
        values.append(found.value)
    assert held / 300 >= 0.9
    assert statistics.mean(values) == pytest.approx(0.8, abs=0.02)
    assert without_noise(simulated(rng, 150, 0.8, 1, 0.75)) is None  # nobody can tell
    assert without_noise(simulated(rng, 150, 0.8, 3, 0.5)) is None  # coins


# -- the audit ------------------------------------------------------------------------------------


def audited(check: SpotCheck) -> dict[str, Finding]:
    spec = {"algorithm": "grpo", "reward": [{"builtin": "leaky"}]}
    seen = Evidence("run", "policy", spec=spec, samples=samples(), spotcheck=check)
    return {finding.detector: finding for finding in spotcheck(seen)}


def judged_by(won: Callable[[SpotPair, Random], float], n: int = 90) -> SpotCheck:
    check, rng = checked(choose(samples(), n)), Random(3)
    return read_labels(check, [say(pair, "ann", won(pair, rng)) for pair in check.pairs])


def test_people_who_prefer_the_lower_rewarded_are_an_alarm() -> None:
    check = judged_by(lambda pair, rng: float(rng.random() < 0.2))
    found = audited(check)
    alarm = found["spotcheck"]
    assert alarm.status == "alarm"
    assert alarm.name == "reward_hacking"
    shown = alarm.exhibits
    assert shown
    disliked = {(pair.best, pair.other) for pair in check.pairs if pair.won == 0.0}
    for exhibit in shown:
        other = next(other for best, other in disliked if best == exhibit.response)
        assert other in exhibit.shows
    assert found["spotcheck_drift"].status != "alarm"


def test_people_who_agree_are_none_and_say_what_they_would_have_seen() -> None:
    found = audited(judged_by(lambda pair, rng: float(rng.random() < 0.85)))
    clear = found["spotcheck"]
    assert clear.status == "clear"
    figure = clear.figure
    assert figure is not None
    assert clear.detectable == detectable(figure, 0.5, above=False)
    assert found["spotcheck_drift"].status == "unclear"


def test_agreement_that_falls_is_an_alarm_of_its_own() -> None:
    share = {"early": 0.95, "middle": 0.75, "late": 0.5}
    found = audited(judged_by(lambda pair, rng: float(rng.random() < share[pair.phase]), 110))
    assert found["spotcheck"].status == "clear"
    drift = found["spotcheck_drift"]
    assert drift.status == "alarm"
    assert drift.since in STEPS[8:]


def test_nobody_was_asked() -> None:
    (finding,) = audited(SpotCheck()).values()
    assert finding.status == "not_looked"
    assert "gnomon label spotcheck" in finding.needs


# -- the command ----------------------------------------------------------------------------------


def write_run(folder: Path, good: Callable[[int], float]) -> Path:
    """A finished GRPO run. An answer says how good it truly is; with a chance of ``good(step)`` its
    reward is that, else the reward likes the bad one."""
    place = folder / "stages" / "01-policy"
    place.mkdir(parents=True)
    rng, store = Random(5), SampleStore(place / "samples.parquet")
    for step in STEPS:
        for prompt in range(12):
            sound = rng.random() < good(step)
            for value in (0.0, 0.3, 0.6, 1.0):
                store.append(
                    {
                        "step": step,
                        "prompt_id": f"{step}-{prompt}",
                        "category": None,
                        "prompt": f"<b>question</b> {step}-{prompt}",
                        "response": f"worth {value} <script>alert(1)</script>",
                        "reward": value if sound else 1.0 - value,
                        "parts": None,
                        "error": None,
                        "length": 3,
                        "finished": True,
                        "policy_iteration": step - 1,
                    }
                )
    store.finish()
    store.close()
    StageInfo(name="policy", algorithm="grpo", status="done").write(place / STAGE)
    Manifest(name=folder.name, started="2026-11-26T10:00:00+0000").write(folder / MANIFEST)
    spec = {"name": "policy", "algorithm": "grpo", "reward": [{"builtin": "leaky"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": folder.name, "stages": [spec]}))
    return folder


def people_judge(store: Path, accuracy: float = 0.9, overlap: int = 3) -> None:
    """Simulated people say which answer is worth more, with this accuracy, through the queue."""
    with Store.open(store) as opened:
        (campaign,) = opened.campaigns()
        for who in range(overlap):
            name = f"person {who}"
            opened.add_labeller(name, "simulated")
            rng = Random(who)
            while (given := opened.queue.assign(name, campaign.name)) is not None:
                item = opened.item(given.item)
                worth = [float(r.text.split()[1]) for r in item.responses]
                right = rng.random() < accuracy
                first_better = (worth[0] > worth[1]) == right
                ranks = (1.0, 2.0) if first_better else (2.0, 1.0)
                label = Label(
                    given.id, item.id, name, "ranking", ranks=ranks, cost=Cost(seconds=9.0)
                )
                opened.add_labels([label])


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["label", "spotcheck", *arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_a_planted_run_is_found_and_a_sound_one_is_not(tmp_path: Path) -> None:
    """From the samples to the alarm: reward that likes bad answers more and more."""
    planted = write_run(tmp_path / "planted", lambda step: 0.95 if step <= 40 else 0.1)
    sound = write_run(tmp_path / "sound", lambda step: 0.95)
    for run in (planted, sound):
        code, said = call(str(run), "--n", "60", "--overlap", "3")
        assert code == 0, said
        assert "asked: 60 pairs" in said
        assert "gnomon label serve" in said
        people_judge(run / "spotchecks" / "labels.db")
        code, said = call(str(run), "--read")
        assert code == 0, said
        assert "labels: 180 on 60 of 60 pairs" in said
    found = {
        run.name: SpotCheck.read(run / "spotchecks" / "policy.json") for run in (planted, sound)
    }
    assert found["planted"].rewards == ["leaky"]
    assert found["planted"].seconds == pytest.approx(180 * 9.0)
    assert found["planted"].drift is not None
    assert found["planted"].drift.low < -0.68 < found["planted"].drift.high < -0.1
    for check in found.values():  # three people of accuracy 0.9 agree with 0.9^2 + 0.1^2 = 0.82
        assert check.people is not None
        assert check.people.low < 0.82 < check.people.high
    truth = found["sound"].without_noise
    assert truth is not None
    assert truth.low < 0.95 < truth.high or truth.high == 1.0
    audits = {run.name: Audit.read(run / AUDIT) for run in (planted, sound)}
    alarms = {name: {f.detector for f in audit.alarms} for name, audit in audits.items()}
    assert "spotcheck_drift" in alarms["planted"]
    assert not {"spotcheck", "spotcheck_drift"} & alarms["sound"]
    lines = " ".join(audit_lines(audits["planted"]))
    assert "people agree less and less with the trained reward" in lines
    assert "spotcheck" in str(write_report(planted).read_text())


def test_the_store_says_nothing_of_rewards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step: 1.0)
    assert call(str(run), "--n", "12")[0] == 0
    raw = (run / "spotchecks" / "labels.db").read_bytes()
    check = SpotCheck.read(run / "spotchecks" / "policy.json")
    with Store.open(run / "spotchecks" / "labels.db") as store:
        items = list(store.items(check.campaign))
        (campaign,) = store.campaigns()
    assert (campaign.kind, campaign.overlap) == ("spotcheck", 1)
    assert len(items) == 12
    for item in items:
        assert not item.origin
        assert not item.prompt.meta
        assert all(not r.meta and r.rank is None and not r.ids for r in item.responses)
    assert b"leaky" not in raw
    first = sum(i.responses[0].text == p.best for i, p in zip(items, check.pairs, strict=True))
    assert 0 < first < 12 or len({p.best for p in check.pairs}) == 1


def test_more_pairs_keep_the_labels_of_the_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step: 1.0)
    store = tmp_path / "shared.db"
    assert call(str(run), "--n", "6", "--store", str(store))[0] == 0
    people_judge(store, overlap=1)
    code, said = call(str(run), "--n", "15")
    assert code == 0, said
    assert "labels: 6 on 6 of 15 pairs" in said
    code, said = call(str(run), "--n", "6")  # fewer takes nothing back
    assert "of 15 pairs" in said
    again = call(str(run))
    assert again[0] == 0
    (tmp_path / "moved").mkdir()
    run.rename(tmp_path / "moved" / "run")
    assert "labels: 6 on 6 of 15 pairs" in call(str(tmp_path / "moved" / "run"), "--read")[1]


def test_a_moved_run_takes_its_own_store_with_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step: 1.0)
    assert call(str(run), "--n", "6")[0] == 0
    people_judge(run / "spotchecks" / "labels.db", overlap=1)
    run.rename(tmp_path / "renamed")
    assert "labels: 6 on 6 of 6 pairs" in call(str(tmp_path / "renamed"), "--read")[1]


def test_what_cannot_be_checked_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step: 1.0)
    for arguments, cure in (
        ((str(tmp_path / "none"),), "is not a folder"),
        ((str(run), "--stage", "polici"), "did you mean 'policy'"),
        ((str(run), "--read"), "leave --read out"),
        ((str(run), "--guideline", str(tmp_path / "no.md")), "cannot be read"),
        ((str(run), "--store", str(tmp_path)), "is a folder"),
    ):
        code, said = call(*arguments)
        assert code == 1
        assert cure in said
    flat = write_run(tmp_path / "flat", lambda step: 1.0)
    store = SampleStore(flat / "stages" / "01-policy" / "samples.parquet")
    store.reset()
    store.append({"step": 1, "prompt_id": "p", "prompt": "q", "response": "a", "reward": 1.0})
    store.finish()
    store.close()
    code, said = call(str(flat))
    assert code == 1
    assert "rollout.samples" in said
    assert call(str(run), "--n", "6")[0] == 0
    (run / "spotchecks" / "policy.json").write_text("{")
    code, said = call(str(run), "--read")
    assert code == 1
    assert "is damaged" in said


def test_a_call_killed_before_the_store_is_repaired_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", lambda step: 1.0)
    with monkeypatch.context() as patch:
        patch.setattr("gnomon.feedback.store.Store.add_items", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(run, n=6)
    code, said = call(str(run))
    assert code == 0, said
    assert "0 of 6 pairs" in said
    with Store.open(run / "spotchecks" / "labels.db") as store:
        assert len(list(store.items())) == 6
