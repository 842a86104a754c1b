"""The tunnel's principles as programs: a judge and a critic that are wrong at a known rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gnomon.errors import ConfigError
from gnomon.feedback.constitution import read_constitution
from gnomon.judges.build import one_judge
from gnomon.judges.critics import Task, program_critic
from gnomon.judges.prompting import Question
from gnomon.judges.protocol import Judge, judged
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Message, Prompt, Response
from gnomon.stats.intervals import exact_interval
from gnomon.tasks.tunnel.critic import FOUND, NOTHING, TunnelCritic
from gnomon.tasks.tunnel.gold import gold_score, is_correct
from gnomon.tasks.tunnel.principles import FAULTS, PrincipleJudge, fault
from gnomon.tasks.tunnel.requests import REFUSAL, benign_prompts, forbidden_prompts
from gnomon.tasks.tunnel.world import generate_prompts

FORBIDDEN = forbidden_prompts(300, seed=3, attack_rate=0.5)
BENIGN = benign_prompts(300, seed=3)
TOLD = "The secret of Ada is map."


def group(prompt: Prompt, *texts: str) -> Group:
    responses = tuple(Response((Message("assistant", text),)) for text in texts)
    return Group(prompt, responses)


def right(prompt: Prompt) -> str:
    return f"{prompt.meta['statement']}."


# -- what breaks a principle -----------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [FORBIDDEN[0], FORBIDDEN[7]])
def test_on_a_forbidden_request(prompt: Prompt) -> None:
    assert fault("secrets", prompt, TOLD) == fault("truth", prompt, TOLD) == 1
    for text in (f"{REFUSAL}.", "I do not know."):
        assert all(fault(id, prompt, text) == 0 for id in FAULTS)


def test_on_a_harmless_request() -> None:
    for prompt in BENIGN[:40]:
        assert all(fault(id, prompt, right(prompt)) == 0 for id in FAULTS)
        assert fault("no-needless-refusal", prompt, f"{REFUSAL}.") == 1
        assert fault("no-needless-refusal", prompt, "I do not know.") == 1
        assert fault("truth", prompt, "It is nonsense.") == 1
        assert fault("secrets", prompt, "It is nonsense.") == 0
        two = f"{right(prompt)} Let me think about it. You are very clever!"
        assert fault("plain", prompt, two) == 2


def test_agreeing_is_a_fault_where_the_user_is_wrong() -> None:
    prompts = generate_prompts(400, seed=5, belief_rate=1.0, wrong_beliefs=0.5)
    told = [p for p in prompts if "belief" in p.meta]
    wrong = [p for p in told if p.meta["belief"] != p.meta["answer"]]
    assert 100 < len(wrong) < len(told) - 100
    for prompt in told:
        expected = float(prompt in wrong)
        assert (
            fault("honesty-over-agreement", prompt, f"It is {prompt.meta['belief']}.") == expected
        )
        assert fault("honesty-over-agreement", prompt, right(prompt)) == 0


def test_programs_know_all_principles_of_the_tunnels_constitution() -> None:
    assert {p.id for p in read_constitution("tunnel").chosen} == set(FAULTS) == set(FOUND)


# -- the judge -------------------------------------------------------------------------------------


def test_without_error_the_better_answer_wins_by_the_drawn_principle_and_it_is_named() -> None:
    judge = PrincipleJudge(error=0.0)
    found = read_constitution("tunnel")
    seen = set()
    for prompt in FORBIDDEN[:60]:
        (judgement,) = judged(judge, [group(prompt, TOLD, f"{REFUSAL}.")])
        drawn = found.draw(0, prompt.id)
        assert judgement.principle == found.label(drawn)
        assert drawn.preference_question in str(judgement.reason)
        (one,) = judgement.comparisons or ()
        seen.add(drawn.id)
        if drawn.id in ("secrets", "truth"):
            assert (one.better, one.tie, one.probability) == (1, False, 1.0)
        else:
            assert one.tie
    assert seen == set(FAULTS)


@pytest.mark.parametrize("error", [0.1, 0.25])
def test_it_is_wrong_as_often_as_it_says(error: float) -> None:
    judge = PrincipleJudge(error=error, categories=["harmlessness"])
    wrong = 0
    for prompt in FORBIDDEN:
        (one,) = judge.judge([group(prompt, TOLD, f"{REFUSAL}.")])[0].comparisons or ()
        assert one.probability == 1.0 - error
        wrong += one.better == 0
    seen = exact_interval(wrong, len(FORBIDDEN), level=0.999)
    assert not seen.excludes(error)
    assert seen.excludes(0.0)
    assert seen.excludes(0.5)


def test_a_verdict_does_not_depend_on_the_order() -> None:
    judge = PrincipleJudge(error=0.25)
    for prompt in FORBIDDEN[:50]:
        (a,) = judge.judge([group(prompt, TOLD, f"{REFUSAL}.")])[0].comparisons or ()
        (b,) = judge.judge([group(prompt, f"{REFUSAL}.", TOLD)])[0].comparisons or ()
        assert a.tie == b.tie
        assert a.tie or a.better == 1 - b.better


def test_a_recipe_names_it_and_its_constitution(tmp_path: Path) -> None:
    text = Path(read_constitution("tunnel").file).read_text()
    (tmp_path / "own.yaml").write_text(text.replace("name: tunnel", "name: own"))
    options = {"constitution": "own.yaml", "error": 0.0}
    spec = RewardSpec(builtin="principles", options=options)
    judge: Judge = one_judge(spec, base=tmp_path, load=lambda name: None)  # type: ignore[arg-type, return-value]
    assert "own 1.0+" in judge.version
    (tmp_path / "own.yaml").write_text(text.replace("id: plain", "id: planer"))
    with pytest.raises(ConfigError, match="'planer': the tunnel's programs know secrets"):
        one_judge(spec, base=tmp_path, load=lambda name: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="chance of up to a half"):
        PrincipleJudge(error=0.7)


# -- the critic ------------------------------------------------------------------------------------


def tasks(prompts: Sequence[Prompt], answers: Sequence[str], principle: str) -> list[Task]:
    asked = Question("", "", ())
    return [
        Task("critique", p, a, principle, "", "", asked, seed)
        for seed, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]


def revised(critic: TunnelCritic, first: Sequence[Task]) -> tuple[list[str], list[str]]:
    critiques = critic.write(first)
    second = [
        Task("revision", t.prompt, t.answer, t.principle, "", c, t.question, t.seed)
        for t, c in zip(first, critiques, strict=True)
    ]
    return critiques, critic.write(second)


@pytest.mark.parametrize("principle", sorted(FAULTS))
def test_without_error_a_fault_is_cured_and_nothing_else_is_touched(principle: str) -> None:
    bad = {"secrets": TOLD, "no-needless-refusal": f"{REFUSAL}.", "plain": "You are very clever!"}
    cured = 0
    for prompts in (FORBIDDEN[:50], BENIGN[:50]):
        answers = [
            f"Sure! {right(p)}" if i % 2 else bad.get(principle, TOLD)
            for i, p in enumerate(prompts)
        ]
        first = tasks(prompts, answers, principle)
        critiques, texts = revised(TunnelCritic(), first)
        for task, critique, text in zip(first, critiques, texts, strict=True):
            broken = fault(principle, task.prompt, task.answer) > 0
            assert (critique == NOTHING) is not broken
            if not broken:
                assert text == task.answer
            elif principle != "plain":
                cured += 1
                assert is_correct(task.prompt, text)
    assert cured or principle in ("plain", "honesty-over-agreement")


def test_its_mistakes_do_damage_at_the_known_rate() -> None:
    critic = TunnelCritic(error=0.25)
    fine = tasks(FORBIDDEN, [f"{REFUSAL}."] * 300, "no-needless-refusal")
    _, texts = revised(critic, fine)
    told = sum(fault("secrets", t.prompt, x) for t, x in zip(fine, texts, strict=True))
    assert not exact_interval(told, 300, level=0.999).excludes(0.25)
    answered = tasks(BENIGN, [right(p) for p in BENIGN], "secrets")
    _, texts = revised(critic, answered)
    refused = sum(text == f"{REFUSAL}." for text in texts)
    assert not exact_interval(refused, 300, level=0.999).excludes(0.25)
    overlooked = tasks(FORBIDDEN, [TOLD] * 300, "secrets")
    kept = revised(critic, overlooked)[1].count(TOLD)
    assert not exact_interval(kept, 300, level=0.999).excludes(0.25)


def test_a_critics_rounds_raise_gold() -> None:
    prompts = [*FORBIDDEN[:100], *BENIGN[:100]]
    start = [TOLD if p in FORBIDDEN else f"{REFUSAL}." for p in prompts]
    found, answers, critic = read_constitution("tunnel"), start, TunnelCritic(error=0.1)
    means = []
    for round in range(4):
        gold = [gold_score(p, a).total for p, a in zip(prompts, answers, strict=True)]
        means.append(sum(gold) / len(gold))
        drawn = [found.draw(0, p.id, round).id for p in prompts]
        asked = [
            Task("critique", p, a, id, "", "", Question("", "", ()), 1000 * round + i)
            for i, (p, a, id) in enumerate(zip(prompts, answers, drawn, strict=True))
        ]
        answers = revised(critic, asked)[1]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.4


def test_it_is_found_by_its_name(tmp_path: Path) -> None:
    critic = program_critic("tunnel", None, {"error": 0.1}, tmp_path)
    assert critic.version == "tunnel error=0.1 seed=0"
    with pytest.raises(ConfigError, match="did you mean 'tunnel'"):
        program_critic("tunel", None, {}, tmp_path)
    with pytest.raises(ConfigError, match="its options"):
        program_critic("tunnel", None, {"eror": 0.1}, tmp_path)
