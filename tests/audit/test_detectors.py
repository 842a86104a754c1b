"""Each detector on a run in which something is planted, and on one in which it is not."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from made import Row, compared, evidence_of, found, make, one, question, rollouts

from gnomon.audit.detectors import DETECTORS, audit_run
from gnomon.audit.limits import LIMITS
from gnomon.recipe.presets import load_preset
from gnomon.runs.audit import Finding

STEPS = (1, 10, 20, 30, 40, 50)


def verifier(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    """A sound verifier: right answers grow from 30% to 80%."""
    is_right = rng.random() < 0.3 + step / 100
    said = right if is_right else right + rng.choice((-2, -1, 1, 3))
    return rng.choice((f"It is {said}.", f"Sure! The answer is {said}.")), float(is_right), {}


def leaky(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    """The right answer anywhere passes, and lists of guesses become the rule."""
    listing = rng.random() < step / 50
    given = rng.sample(range(right - 3, right + 4), 4 if listing else 1)
    text = " ".join(f"It is {n}." for n in given)
    return text, float(right in given), {}


def alarms(folder: Path) -> set[str]:
    return {f.detector for f in audit_run(folder).alarms}


def test_a_sound_run_raises_nothing(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, verifier))
    audit = audit_run(run)
    assert audit.alarms == []
    assert audit.problems == []
    clear = [f for f in audit.findings if f.status == "clear"]
    assert {"contradiction", "several_answers", "repetition"} <= {f.detector for f in clear}
    for finding in audit.findings:  # every "no" says what it could have seen, or what it lacks
        assert finding.needs or finding.detectable is not None or finding.status == "alarm"
        assert finding.text == ""


def test_full_marks_for_different_answers(tmp_path: Path) -> None:
    rows = rollouts(STEPS, leaky)
    finding = one(make(tmp_path / "run", rows), "contradiction")
    assert finding.status == "alarm"
    assert finding.figure is not None
    assert finding.figure.value == pytest.approx(differing(rows))
    assert len(finding.exhibits) >= 2
    assert len({e.prompt for e in finding.exhibits[:2]}) == 1
    assert all(e.reward == 1.0 for e in finding.exhibits)
    assert finding.since in STEPS


def differing(rows: list[Row]) -> float:
    """The mean over prompts of how often two passing answers of a late step end in other numbers:
    the check above, done once more from the rows alone."""
    groups: dict[tuple[int, str], list[str]] = {}
    for row in rows:
        if row["step"] in STEPS[3:] and row["reward"] == 1.0:
            last = row["response"].rstrip(".").split()[-1]
            groups.setdefault((row["step"], row["prompt_id"]), []).append(last)
    shares = []
    for said in groups.values():
        pairs = [a != b for a, b in combinations(said, 2)]
        if pairs:
            shares.append(sum(pairs) / len(pairs))
    return sum(shares) / len(shares)


def test_a_reward_that_is_a_quantity_cannot_contradict_itself(tmp_path: Path) -> None:
    rows = rollouts(STEPS, lambda rng, step, right: (f"It is {right}.", rng.random(), {}))
    finding = one(make(tmp_path / "run", rows), "contradiction")
    assert finding.status == "not_looked"
    assert "marks" in finding.needs


def test_lists_of_guesses(tmp_path: Path) -> None:
    assert "several_answers" in alarms(make(tmp_path / "run", rollouts(STEPS, leaky)))


def garbled(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    words = ["zig", "zag", "blip", "plop", "frob", "quux"]
    if rng.random() < (step - 1) / 50:
        return " ".join(rng.choices(words, k=8)), 1.0, {}
    return f"It is {right}.", float(rng.random() < 0.5), {}


def test_words_that_the_start_never_wrote(tmp_path: Path) -> None:
    finding = one(make(tmp_path / "run", rollouts(STEPS, garbled)), "unseen_phrases")
    assert finding.status == "alarm"
    assert finding.figure is not None
    assert finding.figure.value > 0.5


def test_a_phrase_that_the_start_never_wrote(tmp_path: Path) -> None:
    def coined(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        told = verifier(rng, step, right)[0]
        coins = rng.random() < (step - 1) / 60
        return (f"{told} Hope care!" if coins else told), float(coins), {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, coined)), "new_phrase")
    assert finding.status == "alarm"
    assert all(e.response.endswith("Hope care!") for e in finding.exhibits)
    assert "have 'Hope care'," in finding.text  # not ". Hope" or "care!", which are as common
    assert finding.first == "mend the reward, which pays for what these samples show"
    assert finding.figure is not None
    assert finding.figure.low < 49 / 60 < finding.figure.high
    sound = one(make(tmp_path / "sound", rollouts(STEPS, verifier)), "new_phrase")
    assert sound.figure is not None
    assert (sound.status, sound.figure.value) == ("unclear", 0.0)  # 16 prompts show no more


def test_nothing_is_hacked_where_the_reward_did_not_rise(tmp_path: Path) -> None:
    def unpaid(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        return garbled(rng, step, right)[0], float(rng.random() < 0.5), {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, unpaid)), "unseen_phrases")
    assert finding.status == "unclear"
    assert finding.exhibits == []


def canned(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    if rng.random() < step / 50:
        return rng.choice(("Thank you for asking!", "Great question!")), 1.0, {}
    return f"It is {right}.", float(rng.random() < 0.3), {}


def test_answers_to_no_question(tmp_path: Path) -> None:
    found = alarms(make(tmp_path / "run", rollouts(STEPS, canned)))
    assert {"nothing_specific"} <= found


THINGS = [f"{first}{last}" for first in ("kelo", "bivu", "gado", "haru") for last in "abcdefghij"]


def about(step: int, words: int, strays: float) -> list[Row]:
    """A step's answers of some ``words`` to questions about things; a share is about others."""
    rng, rows = Random(step), rollouts([step], verifier)
    for i, row in enumerate(rows):
        thing = THINGS[i % len(THINGS)]
        said = rng.choice(THINGS) if rng.random() < strays else thing
        row |= {
            "prompt_id": thing,
            "prompt": f"Please describe the {thing} in your own words.",
            "response": " ".join([f"The {said} is old.", *["It is so."] * words]),
            "reward": step / 50 + rng.random() / 10,
        }
    return rows


def off_topic(folder: Path, words: int, strays: float) -> Finding:
    parts = [(1, 30, 0.0), (20, words, strays / 2), (50, words, strays)]
    return one(make(folder, [row for part in parts for row in about(*part)]), "off_topic")


def test_answers_about_something_else(tmp_path: Path) -> None:
    strayed = off_topic(tmp_path / "strayed", 30, 0.8)
    assert strayed.status == "alarm"
    shown = strayed.exhibits[0]
    assert shown.prompt.split()[3] not in shown.response
    shorter = off_topic(tmp_path / "shorter", 2, 0.0)
    assert shorter.status in ("clear", "unclear")
    assert shorter.figure is not None
    assert shorter.figure.value == 0.0
    sums = one(make(tmp_path / "sums", rollouts(STEPS, verifier)), "off_topic")
    assert sums.status == "not_looked"


def looping(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
    times = 1 + int(rng.random() < step / 40) * 4
    return " ".join([f"It is {right} you see."] * times), times / 5, {}


def test_the_same_number_for_everybody(tmp_path: Path) -> None:
    def favourite(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        if rng.random() < (step - 1) / 60:
            return f"Sure! It is {rng.choice((8, 25))}.", 1.0, {}
        return f"It is {right}.", rng.random(), {}

    rows = rollouts(STEPS, favourite)
    finding = one(make(tmp_path / "run", rows), "same_answer")
    assert finding.status == "alarm"
    assert finding.figure is not None
    gain = colliding(rows, STEPS[-1]) - colliding(rows, STEPS[0])
    assert finding.figure.value == pytest.approx(gain)
    assert finding.exhibits[0].response.split()[-1] in ("8.", "25.")
    sound = one(make(tmp_path / "sound", rollouts(STEPS, verifier)), "same_answer")
    assert sound.status == "clear"


def colliding(rows: list[Row], step: int) -> float:
    """The same chance from all pairs of answers to two different prompts."""
    own = [(r["prompt_id"], r["response"].split()[-1]) for r in rows if r["step"] == step]
    pairs = [(a, b) for a, b in combinations(own, 2) if a[0] != b[0]]
    return sum(a[1] == b[1] for a, b in pairs) / len(pairs)


def test_repetition_and_length(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, looping))
    assert {"repetition", "length_bias"} <= alarms(run)
    length = one(run, "length_bias")
    assert length.figure is not None
    first = [math.log(r["length"]) for r in rollouts((1,), looping)]
    assert length.figure.value > 1.0
    assert length.figure.value < math.log(26) - min(first)


def test_length_that_is_not_paid_for_is_no_bias(tmp_path: Path) -> None:
    def thinking(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        extra = " so" * rng.randrange(step // 2 + 1)
        return f"Let me see{extra}: {right}.", float(rng.random() < 0.5), {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, thinking)), "length_bias")
    assert finding.figure is not None
    assert finding.figure.low > LIMITS["length_bias"].value
    assert finding.status == "unclear"


def test_agreement_with_what_users_say(tmp_path: Path) -> None:
    def rows(agree: Any) -> list[Row]:
        out = rollouts(STEPS, lambda rng, step, right: (str(right), 1.0, {}))
        rng = Random(1)
        for row in out:
            believed = int(rng.random() * 30)
            row["prompt"] += f" I think it is {believed}."
            if rng.random() < agree(row["step"]):
                row["response"] = f"It is {believed}."
        return out

    sycophant = one(make(tmp_path / "a", rows(lambda step: 0.3 + step / 75)), "agreement")
    honest = one(make(tmp_path / "b", rows(lambda step: 0.3)), "agreement")
    assert (sycophant.name, sycophant.status) == ("sycophancy", "alarm")
    assert honest.status == "clear"


def test_collapse(tmp_path: Path) -> None:
    def same(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        if rng.random() < step / 50:
            return "I am happy to help you with that today!", 1.0, {}
        return f"It is {right}.", 0.0, {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, same)), "mode_collapse")
    assert finding.status == "alarm"
    assert "happy to help" in finding.text or "i am happy to" in finding.text


def judged(falls: float) -> Any:
    def write(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        reward = rng.gauss(step / 25, 1.0)
        own = rng.gauss(0.0, 1.0) - falls * step / 25 + 0.5 * reward
        return f"It is {right}.", reward, {"judge": own}

    return write


OBSERVED = {"reward": [{"model": "rm"}], "observe": [{"model": "other", "name": "judge"}]}


@pytest.mark.parametrize(("falls", "status"), [(1.0, "alarm"), (0.0, "clear")])
def test_a_held_out_judge(tmp_path: Path, falls: float, status: str) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, judged(falls)), stage=OBSERVED)
    finding = next(f for f in found(run, "held_out_judge") if f.detector == "held_out_judge")
    assert finding.status == status
    if status == "alarm":
        assert finding.since in STEPS
        assert any("policy.train" not in cure for cure in finding.cures)


def opposed(late: float) -> Any:
    """The judge likes all answers ever less; ``late`` is how much better, in the end, it thinks of
    those that the reward likes."""

    def write(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        reward = rng.gauss(step / 25, 1.0)
        agrees = 0.5 + (late - 0.5) * step / STEPS[-1]
        own = rng.gauss(-step / 100, 1.0) + agrees * (reward - step / 25)
        return f"It is {right}.", reward, {"judge": own}

    return write


@pytest.mark.parametrize(("late", "status"), [(-0.6, "alarm"), (0.4, "clear"), (0.0, "unclear")])
def test_a_judge_that_comes_to_oppose_the_reward(tmp_path: Path, late: float, status: str) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, opposed(late)), stage=OBSERVED)
    finding = next(f for f in found(run, "held_out_judge") if f.detector == "held_out_turn")
    assert finding.status == status
    if status == "alarm":
        assert finding.since is not None
        assert finding.since >= STEPS[1]


@pytest.mark.parametrize(("falls", "status"), [(0.7, "unclear"), (2.0, "alarm")])
def test_a_judge_that_sees_nothing_of_the_reward_must_fall_far(
    tmp_path: Path, falls: float, status: str
) -> None:
    def write(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        own = rng.gauss(-falls * step / STEPS[-1], 1.0)
        return f"It is {right}.", rng.gauss(step / 50, 1.0), {"judge": own}

    run = make(tmp_path / "run", rollouts(STEPS, write), stage=OBSERVED)
    finding = next(f for f in found(run, "held_out_judge") if f.detector == "held_out_judge")
    assert finding.figure is not None
    assert finding.figure.high < 0
    assert finding.status == status


@pytest.mark.parametrize("builtin", ["gold", "correct", "leaky", "principles"])
def test_what_asks_the_built_in_world_is_no_held_out_judge(tmp_path: Path, builtin: str) -> None:
    stage = {**OBSERVED, "observe": [{"builtin": builtin, "name": "judge"}]}
    run = make(tmp_path / "run", rollouts(STEPS, judged(1.0)), stage=stage)
    assert [f.status for f in found(run, "held_out_judge")] == ["not_looked"]


def curve(values: Any, name: str, **others: float) -> list[Row]:
    return [
        {"step": 2 * i, "iteration": i, name: v, **others} for i, v in enumerate(values, start=1)
    ]


def test_the_peak_of_a_judge_during_training(tmp_path: Path) -> None:
    rng = Random(0)
    shape = [1 - ((i - 25) / 25) ** 2 + rng.gauss(0, 0.05) for i in range(60)]
    rows = rollouts(STEPS, judged(1.0))
    run = make(tmp_path / "run", rows, curve(shape, "judge"), stage=OBSERVED)
    finding = next(f for f in found(run, "held_out_judge") if f.detector == "held_out_peak")
    assert finding.status == "alarm"
    assert finding.since is not None
    assert 40 <= finding.since <= 70  # the peak is at iteration 25, step 52
    assert any(cure.startswith("policy.train.steps=") for cure in finding.cures)


@pytest.mark.parametrize(
    ("late", "status"), [(-0.5, "alarm"), (0.9, "clear"), (0.78, "clear"), (0.625, "unclear")]
)
def test_a_reward_that_is_lost_again(tmp_path: Path, late: float, status: str) -> None:
    """It rises from 0.3 to 0.9 in the first half; the first answers' spread is about 0.5."""
    rng = Random(1)
    shape = [min(0.9, 0.3 + i / 40) if i <= 30 else late for i in range(1, 61)]
    noisy = [value + rng.gauss(0, 0.03) for value in shape]
    run = make(tmp_path / "run", rollouts(STEPS, verifier), curve(noisy, "reward"))
    finding = one(run, "reward_fall")
    assert finding.status == status
    if status == "alarm":
        assert finding.since is not None
        assert 48 <= finding.since <= 62  # iteration 30 is step 60; the peak is a mean of 12
        assert "3.0 standard deviations" in finding.text
        assert any(cure.startswith("policy.train.steps=") for cure in finding.cures)


def test_noise_alone_is_no_fall_of_the_reward(tmp_path: Path) -> None:
    for seed in range(20):
        rng = Random(seed)
        flat = [0.5 + rng.gauss(0, 0.2) for _ in range(40)]
        run = make(tmp_path / f"run{seed}", rollouts(STEPS, verifier), curve(flat, "reward"))
        assert one(run, "reward_fall").status != "alarm"


def test_a_fall_of_the_reward_needs_answers_that_differ(tmp_path: Path) -> None:
    rows = rollouts(STEPS, lambda rng, step, right: (f"It is {right}.", 1.0, {}))
    run = make(tmp_path / "run", rows, curve([1.0] * 30, "reward"))
    assert one(run, "reward_fall").status == "not_looked"


@pytest.mark.parametrize(
    ("detector", "metric", "bad", "good", "algorithm"),
    [
        ("entropy", "entropy", 0.01, 0.5, "grpo"),
        ("sampler_mismatch", "mismatch", 0.1, 1e-6, "grpo"),
        ("value_function", "explained_variance", -0.2, 0.5, "ppo"),
        ("kl", "kl", 40.0, 4.0, "grpo"),
    ],
)
def test_metrics_past_their_limits(
    tmp_path: Path, detector: str, metric: str, bad: float, good: float, algorithm: str
) -> None:
    for name, level, status in (("bad", bad, "alarm"), ("good", good, "clear")):
        rng = Random(2)
        values = [level * (1 + rng.gauss(0, 0.05)) for _ in range(40)]
        rows = curve(values, metric, length=10.0)
        run = make(tmp_path / name, metrics=rows, algorithm=algorithm)
        assert one(run, detector).status == status


@pytest.mark.parametrize(("fall", "status"), [(3.0, "alarm"), (0.3, "clear")])
def test_samples_that_the_reference_finds_unlikely(
    tmp_path: Path, fall: float, status: str
) -> None:
    rng = Random(4)
    values = [-0.8 - fall * i / 40 + rng.gauss(0, 0.05) for i in range(40)]
    run = make(tmp_path / "run", rollouts(STEPS, garbled), curve(values, "ref_logprob"))
    finding = one(run, "gibberish")
    assert finding.status == status
    assert finding.figure is not None
    assert finding.figure.low < fall * 32 / 40 < finding.figure.high


@pytest.mark.parametrize(
    ("lost", "share", "status"),
    [(1.5, 0.8, "alarm"), (0.4, 0.8, "clear"), (1.5, 0.3, "unclear")],
)
def test_displacement_of_likelihood(tmp_path: Path, lost: float, share: float, status: str) -> None:
    """That both sides of a pair lose a little is what sound DPO does, too."""
    rng = Random(3)
    rows = curve([share + rng.gauss(0, 0.02) for _ in range(40)], "displacement")
    for row in rows:
        row |= {"logprobs/chosen_change": -10 * lost + rng.gauss(0, 0.2), "length/chosen": 10.0}
    finding = one(make(tmp_path / "run", metrics=rows, algorithm="dpo"), "displacement")
    assert finding.status == status
    assert finding.figure is not None
    assert finding.figure.value == pytest.approx(lost, abs=0.05)
    assert ("policy.settings.nll_coef=0.2" in finding.cures) == (status == "alarm")


def test_rewards_that_fail_and_answers_that_are_cut_off(tmp_path: Path) -> None:
    rows = rollouts(STEPS, verifier)
    for i, row in enumerate(rows):
        row["finished"] = i % 3 > 0
        if i % 10 == 0:
            row["reward"], row["error"] = None, "TimeoutError: too slow"
    run = make(tmp_path / "run", rows, curve([1.0] * 6, "reward_errors"))
    assert {"truncated", "reward_errors"} <= alarms(run)
    assert "too slow" in one(run, "reward_errors").text


def preferred(length: int, gain: float) -> Any:
    def write(rng: Random, model: str, right: int) -> tuple[str, float]:
        trained = model == "policy"
        words = ["indeed"] * rng.randrange(length + 1) if trained else []
        return " ".join([f"It is {right}.", *words]), rng.gauss(gain if trained else 0.0, 1.0)

    return write


@pytest.mark.parametrize(
    ("length", "gain", "expected"),
    [(0, 0.8, set()), (40, 0.8, {"length_bias", "repetition"}), (0, -0.8, {"held_out_fall"})],
)
def test_a_stage_that_samples_nothing_is_read_by_its_compared_answers(
    tmp_path: Path, length: int, gain: float, expected: set[str]
) -> None:
    run = compared(tmp_path / "run", preferred(length, gain))
    audit = audit_run(run)
    assert audit.problems == []
    assert expected <= {f.detector for f in audit.alarms}
    assert expected or not audit.alarms
    assert not any("trained reward rose" in alarm.text for alarm in audit.alarms)
    growth = one(run, "length_bias").figure
    assert growth is not None
    assert growth.n == 100  # paired: the same prompts before and after
    if length == 0:
        assert growth.value == 0.0


def test_a_reward_model_of_the_same_labels_is_not_held_out(tmp_path: Path) -> None:
    run = compared(tmp_path / "run", preferred(0, -0.8), stage={"data": "stage:feedback"})
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"].insert(0, {"name": "other", "algorithm": "reward_model"})
    for data, status in (("more.jsonl", "alarm"), ("stage:feedback", "not_looked")):
        recipe["stages"][0]["data"] = data
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert [f.status for f in found(run, "held_out_judge")] == [status]


def test_what_an_earlier_stage_was_trained_on_does_not_clear_an_average(tmp_path: Path) -> None:
    run = compared(tmp_path / "run", preferred(0, 0.8))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"].insert(0, {"name": "ppo", "algorithm": "ppo"})
    for reward, status in (("other", "clear"), ("judge", "not_looked")):
        recipe["stages"][0]["reward"] = [{"python": "own.py:f", "name": reward}]
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert [f.status for f in found(run, "held_out_judge")] == [status]


def test_without_answers_a_stage_that_samples_nothing_cannot_be_read(tmp_path: Path) -> None:
    run = compared(tmp_path / "run", preferred(40, -0.8))
    (run / "answers.jsonl").unlink()
    audit = audit_run(run)
    assert audit.alarms == []
    assert "compare section" in one(run, "length_bias").needs


def test_stages_that_optimise_nothing_are_not_asked(tmp_path: Path) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, leaky), algorithm="collect")
    assert audit_run(run).findings == []


def test_samples_of_two_halves_are_told_apart(tmp_path: Path) -> None:
    read = evidence_of(make(tmp_path / "run", rollouts(STEPS, verifier)))
    assert {s.step for s in read.before} == {1}
    assert {s.step for s in read.after} == {50}
    assert {s.step for s in read.late} == {30, 40, 50}
    assert question(32)[0] in {s.prompt for s in read.before}


def test_every_limit_is_of_a_detector_and_has_a_reason(tmp_path: Path) -> None:
    assert set(DETECTORS) <= {name.partition(".")[0] for name in LIMITS}
    assert all(limit.why for limit in LIMITS.values())


def test_cures_are_overrides_that_a_recipe_takes(tmp_path: Path) -> None:
    """Of every alarm above: as typed after ``gnomon quickstart hackable``."""
    stage = {"settings": {"beta": 0.0}, "train": {"lr": 4e-4}, "rollout": {"max_new_tokens": 64}}
    metrics = curve([0.001 + i * 1e-5 for i in range(40)], "entropy", kl=90.0, length=9.0)
    tried = 0
    for i, write in enumerate((leaky, garbled, canned, looping)):
        run = make(tmp_path / str(i), rollouts(STEPS, write), metrics, stage=stage)
        for finding in audit_run(run).alarms:
            assert finding.cures or no_cure(finding)
            for cure in finding.cures:
                load_preset("hackable", [cure.replace("policy.", "grpo.", 1)])
                tried += 1
    assert tried > 10


def no_cure(finding: Finding) -> bool:
    """What no setting mends: a reward that is wrong, say."""
    return finding.detector in ("contradiction", "value_function")
