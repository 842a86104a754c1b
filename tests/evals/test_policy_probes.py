"""Probes of policies, on policies whose faults are known."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from gnomon.audit.evidence import Evidence
from gnomon.audit.policy_probes import policy_probes
from gnomon.evals.policy_probes import (
    Ask,
    Policies,
    Question,
    fragility,
    half_questions,
    refusals,
    same_questions,
    says,
    sycophancy,
)
from gnomon.judges.protocol import Judge
from gnomon.records import Group, Judgement, Message, Prompt, Response, Score
from gnomon.runs.probes import PolicyProbe, Probes
from gnomon.tasks.tunnel.gold import CorrectReward
from gnomon.tasks.tunnel.world import generate_prompts, problem_of

PROMPTS = generate_prompts(80, seed=5, families=["arithmetic"], belief_rate=0.0)
QUESTIONS = [Question(p, str(int(problem_of(p).answer) + 1)) for p in PROMPTS]
JUDGE = CorrectReward()
KNOWN = {p.messages[-1].content: problem_of(p).answer for p in PROMPTS}


def solid(prompts: Sequence[Prompt]) -> list[str]:
    """Knows the answers, whatever is said around the question or however it is put."""
    answers = []
    for prompt in prompts:
        asked = prompt.messages[0].content.lower()
        found = next((a for q, a in KNOWN.items() if q.lower() in asked), None)
        answers.append(f"It is {found}." if found else "I do not know.")
    return answers


def yielding(prompts: Sequence[Prompt]) -> list[str]:
    """Knows the answers, and says what the user thinks wherever they say it."""
    answers = []
    for prompt, own in zip(prompts, solid(prompts), strict=True):
        said = re.search(r"(?:it is) (\d+)\.$", prompt.messages[-1].content)
        answers.append(f"It is {said.group(1)}." if said else own)
    return answers


def brittle(prompts: Sequence[Prompt]) -> list[str]:
    """Knows the questions by heart, letter by letter."""
    return [f"It is {KNOWN.get(p.messages[-1].content, 0)}." for p in prompts]


def forgetful(prompts: Sequence[Prompt]) -> list[str]:
    """Every fourth answer is gone."""
    return ["It is 0." if i % 4 == 0 else text for i, text in enumerate(solid(prompts))]


def statuses(found: list[PolicyProbe]) -> dict[str, str]:
    evidence = Evidence("run", "ppo", probes=Probes(policy=found))
    return {p.probe: f.status for p, f in zip(found, policy_probes(evidence), strict=True)}


@pytest.mark.parametrize(("after", "expected"), [(yielding, "alarm"), (solid, "clear")])
def test_a_policy_that_came_to_yield_is_found(after: Ask, expected: str) -> None:
    found = sycophancy(QUESTIONS, Policies(solid, after), JUDGE)
    assert [p.probe for p in found] == ["stated_opinion", "authority", "are_you_sure"]
    assert set(statuses(found).values()) == {expected}
    if expected == "alarm":
        change = found[0].change
        assert change is not None
        assert change.value == 1.0
        assert found[0].examples[0].after.startswith("It is ")


def test_what_yielded_before_is_no_fault_of_the_training() -> None:
    found = sycophancy(QUESTIONS, Policies(yielding, yielding), JUDGE)
    assert all(p.after is not None and p.after.value == 1.0 for p in found)
    assert "alarm" not in statuses(found).values()


def test_the_tax_is_paired_and_has_a_detectable_size() -> None:
    taxed = same_questions(PROMPTS, Policies(solid, forgetful), JUDGE)
    assert taxed.change is not None
    assert taxed.change.value == -0.25
    assert statuses([taxed]) == {"same_questions": "alarm"}
    kept = same_questions(PROMPTS, Policies(solid, solid), JUDGE)
    assert kept.change is not None
    assert kept.change.low <= 0 <= kept.change.high
    assert kept.detectable is not None
    assert "alarm" not in statuses([kept]).values()


def test_a_policy_that_learned_the_letters_is_fragile() -> None:
    found = fragility(QUESTIONS, Policies(solid, brittle), JUDGE)
    assert statuses(found)["paraphrase"] == "alarm"
    assert statuses(found)["long_context"] == "alarm"
    assert statuses(found)["capitals"] == "alarm"
    same = fragility(QUESTIONS, Policies(brittle, brittle), JUDGE)
    assert "alarm" not in statuses(same).values()


def test_what_does_not_fit_is_no_answer() -> None:
    def short(prompts: Sequence[Prompt]) -> list[str | None]:
        return [None if i % 4 == 0 else text for i, text in enumerate(solid(prompts))]

    for probe in (
        same_questions(PROMPTS, Policies(solid, short), JUDGE),
        refusals(PROMPTS, Policies(short, solid), safe=False),
        *sycophancy(QUESTIONS, Policies(short, short), JUDGE),
        *fragility(QUESTIONS, Policies(short, solid), JUDGE),
    ):
        assert (probe.n, probe.failed) == (len(PROMPTS) * 3 // 4, len(PROMPTS) // 4), probe.probe
        assert probe.change is not None
        assert probe.change.value == 0.0, probe.probe


def test_halves_that_are_answered_were_learned_by_heart() -> None:
    halves = {" ".join(q.split()[: len(q.split()) // 2]): a for q, a in KNOWN.items()}

    def by_heart(prompts: Sequence[Prompt]) -> list[str]:
        return [f"It is {problem_of(p).answer}." for p in prompts]

    assert halves
    found = half_questions(QUESTIONS, Policies(solid, by_heart), JUDGE)
    assert statuses([found]) == {"half_questions": "alarm"}
    kept = half_questions(QUESTIONS, Policies(solid, solid), JUDGE)
    assert statuses([kept])["half_questions"] != "alarm"


@pytest.mark.parametrize("safe", [True, False])
def test_refusals_are_counted_on_both_sides(safe: bool) -> None:
    prompts = [Prompt(f"p{i}", (Message("user", f"Question {i}"),)) for i in range(60)]

    def helps(asked: Sequence[Prompt]) -> list[str]:
        return ["Certainly, here it is." for _ in asked]

    def refuses(asked: Sequence[Prompt]) -> list[str]:
        return ["I'm sorry, but I can't help with that." for _ in asked]

    worse = Policies(helps, refuses) if safe else Policies(refuses, helps)
    better = Policies(worse.after, worse.before)
    name = "safe_prompts" if safe else "unsafe_prompts"
    assert statuses([refusals(prompts, worse, safe=safe)]) == {name: "alarm"}
    assert statuses([refusals(prompts, better, safe=safe)]) == {name: "clear"}


def test_a_named_judge_says_what_refuses_and_is_named() -> None:
    """It knows a refusal that does not open like one, and fails on some answers."""
    prompts = [Prompt(f"p{i}", (Message("user", f"Question {i}"),)) for i in range(60)]

    class Reader(Judge):
        name, version = "reader", "7"

        def judge(self, groups: Sequence[Group]) -> list[Judgement]:
            return [Judgement(self.name, scores=tuple(map(self._score, g.responses)),
                              version=self.version) for g in groups]  # fmt: skip

        def _score(self, response: Response) -> Score:
            if "17" in response.text:
                return Score(None, error="gone")
            return Score(0.8 if "another time" in response.text else 0.1)

    def helps(asked: Sequence[Prompt]) -> list[str]:
        return [f"Certainly {p.id}." for p in asked]

    def evades(asked: Sequence[Prompt]) -> list[str]:
        return [f"Let us speak of that another time {p.id}." for p in asked]

    policies = Policies(helps, evades)
    assert statuses([refusals(prompts, policies, safe=True)])["safe_prompts"] == "clear"
    found = refusals(prompts, policies, safe=True, judge=Reader())
    assert (found.judge, found.judge_version, found.n, found.failed) == ("reader", "7", 59, 1)
    (finding,) = policy_probes(Evidence("r", "s", probes=Probes(policy=[found])))
    assert finding.status == "alarm"
    assert "Safe prompts refused, by reader (7): 0% before, 100% after" in finding.text
    assert "59 questions, 1 more without an answer or a score" in finding.text
    strict = refusals(prompts, policies, safe=True, judge=Reader(), refuses_from=0.9)
    assert strict.after is not None
    assert strict.after.value == 0.0


def test_what_is_said_is_said_in_whole_words() -> None:
    assert says("12", "It is 12.")
    assert not says("1", "It is 12.")
    assert says("1 2 3", "In order: 1 2 3.")
    assert not says("", "anything")


class Grades(Judge):
    """Gives each answer the number of its words, from none to thousands."""

    name, version = "grades", "1"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [
            Judgement(self.name, tuple(Score(len(r.text.split()) - 3.0) for r in g.responses))
            for g in groups
        ]


def test_marks_that_are_no_shares_keep_their_size() -> None:
    def longer(prompts: Sequence[Prompt]) -> list[str]:
        return ["a word " * (3 + i % 2) for i, _ in enumerate(prompts)]

    def shorter(prompts: Sequence[Prompt]) -> list[str]:
        return ["one"] * (len(prompts) // 2) + ["one two"] * (len(prompts) - len(prompts) // 2)

    probe = same_questions(PROMPTS, Policies(shorter, longer), Grades())
    assert probe.before is not None
    assert probe.after is not None
    assert probe.change is not None
    assert (probe.before.value, probe.after.value) == (-1.5, 4.0)
    assert probe.change.value == 5.5
