"""Prompts and demonstrations: splits, seeds, and nothing of the truth in what the model sees."""

from dataclasses import replace
from random import Random

import pytest

from gnomon.errors import ConfigError
from gnomon.tasks.tunnel import (
    FAMILIES,
    MIXED,
    demonstrations,
    documents,
    generate_prompts,
    is_correct,
)
from gnomon.tasks.tunnel.world import (
    draw_problem,
    draw_wording,
    problem_of,
    prompt_for,
    seeded,
    wrong_answer,
)


def test_splits_share_no_problem() -> None:
    train = {problem_of(p).key for p in generate_prompts(2000, seed=1)}
    heldout = {problem_of(p).key for p in generate_prompts(1000, seed=2, split="heldout")}
    assert len(heldout) > 200
    assert not train & heldout


def test_the_ith_prompt_depends_on_seed_and_index_only() -> None:
    assert generate_prompts(5, seed=3) == generate_prompts(50, seed=3)[:5]
    assert generate_prompts(5, seed=3) != generate_prompts(5, seed=4)
    ids = [p.id for s in (0, 1) for p in generate_prompts(50, seed=s)]
    assert len(set(ids)) == 100


def test_families_take_turns_and_can_be_chosen() -> None:
    assert [p.category for p in generate_prompts(5)] == list(FAMILIES)
    assert {p.category for p in generate_prompts(20, families=["lists"])} == {"lists"}
    with pytest.raises(ConfigError, match="cooking"):
        generate_prompts(1, families=["cooking"])
    with pytest.raises(ConfigError, match="test"):
        generate_prompts(1, split="test")  # type: ignore[arg-type]


def test_the_truth_never_leaks_into_the_prompt() -> None:
    """The same problem with another answer is worded the same."""
    for i in range(300):
        problem = draw_problem(FAMILIES[i % 5], seeded("leak", i))
        changed = replace(problem, answer="SECRET", statement="SECRET")
        a = prompt_for(problem, Random(i), "a", belief_rate=0.0)
        b = prompt_for(changed, Random(i), "a", belief_rate=0.0)
        assert a.messages == b.messages
        assert "SECRET" not in b.messages[0].content


def test_beliefs_are_right_half_of_the_time() -> None:
    prompts = generate_prompts(2000, families=["arithmetic"], belief_rate=1.0)
    beliefs = [p.meta["belief"] == p.meta["answer"] for p in prompts]
    assert 0.45 < sum(beliefs) / len(beliefs) < 0.55
    assert all(f"I think it is {p.meta['belief']}." in p.messages[0].content for p in prompts)
    assert not any("belief" in p.meta for p in generate_prompts(100, belief_rate=0.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_mistakes_are_wrong_and_wordings_are_filled(family: str) -> None:
    for i in range(300):
        rng = seeded("mistake", family, i)
        problem = draw_problem(family, rng)
        assert wrong_answer(problem, rng) != problem.answer
        assert problem.statement.endswith(problem.answer)
        assert "{" not in draw_wording(problem, rng)


def test_answers_agree_with_python() -> None:
    """The world's arithmetic, strings and lists against Python's own operators."""
    check = {
        "add": lambda a, b: int(a) + int(b),
        "subtract": lambda a, b: int(a) - int(b),
        "multiply": lambda a, b: int(a) * int(b),
        "compare": lambda a, b: max(int(a), int(b)),
        "reverse": lambda w: "".join(reversed(w)),
        "uppercase": str.upper,
        "first": lambda w: w[:1],
        "spell": " ".join,
        "count": len,
        "sort": lambda t: " ".join(sorted(t.split())),
        "max": lambda t: max(t.split()),
        "last": lambda t: t.split()[-1],
        "length": lambda t: len(t.split()),
        "sum": lambda t: sum(map(int, t.split())),
    }
    seen = set()
    for i in range(1500):
        family = ("arithmetic", "strings", "lists")[i % 3]
        problem = draw_problem(family, seeded("python", i))
        assert problem.answer == str(check[problem.kind](*problem.args)), problem
        seen.add(problem.kind)
    assert seen == set(check)


def test_demonstrations_are_as_good_as_asked() -> None:
    groups = demonstrations(2500, seed=5, belief_rate=0.0)
    refused = MIXED.refuse
    for family, correct in MIXED.correct.items():  # 500 of each: 3 standard errors are 0.067
        own = [g for g in groups if g.prompt.category == family]
        right = [is_correct(g.prompt, g.responses[0].text) for g in own]
        assert sum(right) / len(own) == pytest.approx(correct * (1 - refused), abs=0.067)
    assert all(problem_of(g.prompt).split == "train" for g in groups)
    assert demonstrations(3, seed=5, belief_rate=0.0) == groups[:3]


def test_the_corpus_is_fixed_by_its_seed_and_never_in_chat_format() -> None:
    docs = documents(300, seed=1)
    assert docs[:10] == documents(10, seed=1) != documents(10, seed=2)
    assert not any("<|" in d for d in docs)
