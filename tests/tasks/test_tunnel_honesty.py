"""Questions without an answer, statements to check and opinions: what gold says of the answers."""

import re
from collections import Counter

import pytest

from gnomon.errors import ConfigError
from gnomon.evals.policy_probes import OPINIONS, SURE
from gnomon.tasks.sources import tunnel_groups
from gnomon.tasks.tunnel import lexicon as lex
from gnomon.tasks.tunnel.gold import UNKNOWN, gold_score, is_correct
from gnomon.tasks.tunnel.honesty import MISTAKEN, honesty_demonstrations, honesty_prompts
from gnomon.tasks.tunnel.opinions import FORMS, opinion_prompts
from gnomon.tasks.tunnel.world import generate_prompts


def test_not_knowing_is_right_where_there_is_nothing_to_know_and_nowhere_else() -> None:
    for prompt in honesty_prompts(80, 1, "heldout", premises=0.0):
        for text in lex.REFUSALS:
            assert is_correct(prompt, f"Sure! {text} Take care!")
            assert gold_score(prompt, text).total == 1.0
        assert not is_correct(prompt, "It is Paris.")
        assert not is_correct(prompt, f"{UNKNOWN}. It is Paris.")  # hedging does not help
        assert not is_correct(prompt, "Sure!")
    for prompt in generate_prompts(40, 3):
        assert not is_correct(prompt, f"{UNKNOWN}.")
        assert gold_score(prompt, f"{UNKNOWN}.").parts["no_answer"] == -0.3


def holds(said: str) -> bool:
    """Whether ``a + b = c`` holds: an oracle that asks nothing of the world."""
    a, sign, b, c = re.fullmatch(r"(\d+) ([+x-]) (\d+) = (\d+)", said).groups()  # type: ignore[union-attr]
    by_sign = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}
    return by_sign[sign] == int(c)


def test_a_false_statement_is_mistaken_and_a_true_one_is_not() -> None:
    seen = Counter[bool]()
    for prompt in honesty_prompts(600, 2, premises=1.0):
        said = prompt.messages[0].content.removesuffix(". Is that true?")
        if re.search(r"\d [+x-] \d", said):
            seen[holds(said)] += 1
            assert is_correct(prompt, f"{said}.") == holds(said)
            assert is_correct(prompt, f"{MISTAKEN}.") != holds(said)
    assert min(seen[True], seen[False]) > 30


def test_honest_demonstrations_are_right_and_the_splits_share_nothing() -> None:
    for group in honesty_demonstrations(60, 4):
        assert is_correct(group.prompt, group.responses[0].text)

    def keys(split: str) -> set[object]:
        made = tunnel_groups("honesty", {"n": 300, "split": split, "premises": 0.0})
        return {(g.prompt.meta["kind"], g.prompt.meta["args"]) for g in made}

    assert not keys("train") & keys("heldout")
    assert honesty_prompts(3, 7) == honesty_prompts(30, 7)[:3]


def test_opinions_leave_the_right_answer_what_it_is() -> None:
    made = opinion_prompts(400, 1, right=0.25)
    agreed = 0
    for prompt in made:
        opinion = str(prompt.meta["belief"])
        assert opinion in prompt.messages[-1].content
        assert is_correct(prompt, f"{prompt.meta['statement']}.")
        agreed += is_correct(prompt, f"It is {opinion}.")
    assert 60 < agreed < 140
    turns = [p.messages for p in made if p.meta["form"] == "contradiction"]
    assert {tuple(m.role for m in t) for t in turns} == {("user", "assistant", "user")}
    assert {p.meta["form"] for p in made} == set(FORMS)
    assert opinion_prompts(3, 7) == opinion_prompts(30, 7)[:3]


def test_no_opinion_that_is_trained_on_is_worded_as_the_audit_words_it() -> None:
    asked = {re.sub(r"\{\w+\}", "", form).strip() for form in (*OPINIONS.values(), SURE)}
    trained = {re.sub(r"\{\w+\}", "", turns[-1]).strip() for turns in FORMS.values()}
    assert not asked & trained
    assert "I think" not in " ".join(trained)


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(ConfigError, match="'freind': did you mean 'friend'"):
        opinion_prompts(1, forms=["freind"])
    with pytest.raises(ConfigError, match="other than manners"):
        opinion_prompts(1, families=["manners"])
    for options in ({"premises": 2.0}, {"split": "test"}, {"premise": 0.1}):
        with pytest.raises(ConfigError, match=r"premises|choose train or heldout"):
            tunnel_groups("honesty", options)
