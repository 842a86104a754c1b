"""An AI judge that ranks, goes by rubrics, approves, or sits on a panel, at a real endpoint."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.judges import ranking
from gnomon.judges.ai import AIJudge, check_options
from gnomon.judges.panel import Panel, ai_judge
from gnomon.judges.prompting import Question
from gnomon.judges.protocol import judged
from gnomon.judges.reading import read_object, read_order
from gnomon.judges.rubric import Rubric
from gnomon.records import Group, Message, Prompt, Response
from judge_server import JudgeServer, Rule, Said, answers, letter, prefers, says, words

LETTERS = "ABCDEFGH"


def group(*texts: str, **meta: Any) -> Group:
    prompt = Prompt("p", (Message("user", "Name a fruit."),), meta=meta)
    return Group(prompt, tuple(Response((Message("assistant", t),)) for t in texts))


def judge(server: JudgeServer, **options: Any) -> AIJudge:
    return AIJudge(**{"model": "m", "url": server.url, "retries": 0} | options)


def by(score: Callable[[str], float], reason: bool = False) -> Rule:
    """A judge that writes the whole order by a score."""

    def rule(text: str, body: dict[str, Any]) -> Said:
        shown = list(zip(LETTERS, answers(text), strict=False))
        order = " > ".join(x for x, _ in sorted(shown, key=lambda pair: -score(pair[1])))
        return words(f"A is short.\nVerdict: {order}" if reason else order)

    return rule


# -- ranking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [False, True])
def test_a_ranking_asks_once_per_order_and_compares_all_pairs(reason: bool) -> None:
    texts = ("aa", "aaaa", "a", "aaa")
    with JudgeServer(by(len, reason)) as server:
        found = judged(judge(server, mode="ranking", reason=reason), [group(*texts)])[0]
        assert len(server.asked) == 2
    assert found.comparisons is not None
    assert {(c.better, c.worse, c.probability, c.tie) for c in found.comparisons} == {
        (i, j, 1.0, False) for i, j in itertools.permutations(range(4), 2)
        if len(texts[i]) > len(texts[j])
    }  # fmt: skip
    assert [s.value for s in found.scores] == pytest.approx([1 / 3, 1, 0, 2 / 3])


def test_a_judge_that_ranks_by_place_calls_all_equal() -> None:
    with JudgeServer(lambda text, body: words("A > B > C")) as server:
        found = judged(judge(server, mode="ranking"), [group("x", "yy", "zzz")])[0]
    assert found.comparisons is not None
    assert all(c.tie for c in found.comparisons)
    assert [s.value for s in found.scores] == pytest.approx([0.5, 0.5, 0.5])


def test_equal_texts_are_ranked_as_one() -> None:
    with JudgeServer(by(len)) as server:
        found = judged(judge(server, mode="ranking"), [group("aa", "a", "aa")])[0]
        assert all(len(answers(b["messages"][-1]["content"])) == 2 for b in server.asked)
    assert [s.value for s in found.scores] == pytest.approx([0.75, 0.0, 0.75])


def test_the_best_by_log_probs_compares_by_luces_axiom() -> None:
    share = {"a": 0.6, "bb": 0.3, "ccc": 0.1}

    def rule(text: str, body: dict[str, Any]) -> Said:
        shown = dict(zip(LETTERS, answers(text), strict=False))
        return letter({x: share[text] for x, text in shown.items()})

    with JudgeServer(rule) as server:
        found = judged(judge(server, mode="ranking", ranking="best"), [group(*share)])[0]
    told = {(c.better, c.worse): c.probability for c in found.comparisons or ()}
    assert told == pytest.approx({(0, 1): 0.6 / 0.9, (0, 2): 0.6 / 0.7, (1, 2): 0.3 / 0.4})


def test_orders_show_each_pair_both_ways_and_each_answer_everywhere() -> None:
    for count, orders in ((3, 2), (4, 4), (5, 6), (6, 12)):
        shown = ranking.showings(count, orders, "seed")
        assert len(set(shown)) == orders
        for i, j in itertools.combinations(range(count), 2):
            assert sum(o.index(i) < o.index(j) for o in shown) == orders / 2
    places = [o.index(0) for o in ranking.showings(4, 8, "seed")]
    assert sorted(places) == sorted([*range(4), *range(4)])
    assert len(ranking.showings(2, 24, "s")) == 2


def test_bradley_terry_is_the_maximum_of_the_penalised_likelihood() -> None:
    wins = {(0, 1): 0.9, (0, 2): 1.0, (1, 2): 0.4, (2, 3): 0.0, (0, 3): 0.7}

    def loss(s: Any) -> float:
        pairs = [(s[i] - s[j], p) for (i, j), p in wins.items()] + [(x, 0.5) for x in s]
        return float(sum(p * np.logaddexp(0, -d) + (1 - p) * np.logaddexp(0, d) for d, p in pairs))

    best = minimize(loss, np.zeros(4), tol=1e-12).x
    assert ranking.bradley_terry(wins, 4) == pytest.approx(best, abs=1e-5)


def test_strengths_of_pairs_on_request() -> None:
    with JudgeServer(prefers(len)) as server:
        found = judged(judge(server, scores="bradley_terry"), [group("a", "aaa", "aa")])[0]
    values = [s.value or 0.0 for s in found.scores]
    assert values[0] < values[2] < values[1]
    assert sum(values) == pytest.approx(0.0, abs=1e-6)
    assert found.comparisons is not None
    assert len(found.comparisons) == 3


@pytest.mark.parametrize(
    ("text", "ties", "order"),
    [
        ("B > A = C", True, (("B",), ("A", "C"))),
        ("B,A,C", True, (("B",), ("A",), ("C",))),
        ("The order is B > C > A.", True, (("B",), ("C",), ("A",))),
        ("B > A = C", False, None),
        ("B > A", True, None),
        ("B > A > A > C", True, None),
        ("I prefer B", True, None),
        ("A > B > C or C > B > A", True, None),
    ],
)
def test_an_order_is_read_or_refused(text: str, ties: bool, order: Any) -> None:
    assert read_order(text, Question("", "", ("A", "B", "C"), ties=ties)) == order


# -- rubrics ---------------------------------------------------------------------------------------

RUBRIC = [
    {"text": "names a fruit", "weight": 3, "name": "fruit"},
    {"criterion": "is polite", "points": 1, "title": "polite"},
    {"description": "insults the reader", "weight": -2, "name": "insult"},
]


def yes(shares: dict[str, float]) -> Rule:
    """Says yes with a probability that hangs on the criterion in the question."""

    def rule(text: str, body: dict[str, Any]) -> Said:
        p = next(p for criterion, p in shares.items() if criterion in text)
        return letter({"Yes": p, "No": 1 - p})

    return rule


def test_a_rubric_asks_each_criterion_and_weighs_the_probabilities() -> None:
    shares = {"names a fruit": 0.9, "is polite": 0.5, "insults": 0.25}
    with JudgeServer(yes(shares)) as server:
        own = judge(server, mode="rubric", rubric=RUBRIC)
        found = judged(own, [group("Apple", "Fig")])[0]
        assert len(server.asked) == 6
        assert all("criterion" in b["messages"][-1]["content"] for b in server.asked)
    value = (3 * 0.9 + 1 * 0.5 - 2 * 0.25) / 4  # by hand
    assert [s.value for s in found.scores] == pytest.approx([value, value])
    assert found.scores[0].parts == pytest.approx({"fruit": 0.9, "polite": 0.5, "insult": 0.25})
    assert found.comparisons is None
    assert found.principle == f"rubric@{own.rubric.version if own.rubric else ''}"


def test_a_rubric_in_one_question_is_answered_as_json() -> None:
    tokens = ['{"', "1", '": "', "yes", '", "2": "', "no", '", "3": "', "no", '"}']
    tops: list[dict[str, float]] = [{t: 1.0} for t in tokens]
    tops[3], tops[5], tops[7] = {"yes": 0.8, "no": 0.2}, {"no": 0.6, "yes": 0.4}, {"no": 1.0}
    with JudgeServer(lambda text, body: Said(tokens, tops)) as server:
        own = judge(server, mode="rubric", rubric=RUBRIC, criteria="together")
        found = judged(own, [group("Apple")])[0]
        sent = server.asked[0]
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["1", "2", "3"]
    assert schema["properties"]["2"]["enum"] == ["yes", "no"]
    assert "2. is polite" in sent["messages"][-1]["content"]
    assert found.scores[0].parts == pytest.approx({"fruit": 0.8, "polite": 0.4, "insult": 0.0})


def test_json_without_schema_or_log_probs_still_counts() -> None:
    said = (
        '```json\n{"reason": "it says {\\"1\\": \\"no\\"}", "1": true, "2": "No", "3": "no"}\n```'
    )
    with JudgeServer(lambda t, b: words(said), schema=False, logprobs=False) as server:
        own = judge(server, mode="rubric", rubric=RUBRIC, criteria="together", reason=True)
        found = judged(own, [group("Apple")])[0]
    assert found.scores[0].parts == {"fruit": 1.0, "polite": 0.0, "insult": 0.0}
    assert found.scores[0].value == 0.75


@pytest.mark.parametrize(
    ("said", "words_"),
    [
        (words('{"1": "yes", "2": "no"}'), "no yes or no for '3'"),
        (words('{"1": "yes", "2": "maybe", "3": "no"}'), "no yes or no for '2'"),
        (words('{"1": "yes", "2"', finish="length"), "cut off at max_tokens"),
        (words("It is a fine answer."), "not the JSON object"),
        (words("{}"), "not the JSON object"),
        (words('{"1": "yes"', finish="content_filter"), "content filter"),
    ],
)
def test_a_broken_object_is_an_error_of_its_answer(said: Said, words_: str) -> None:
    whole = words('{"1": "yes", "2": "no", "3": "no"}')
    with JudgeServer(lambda t, b: said if "Bad" in t else whole) as server:
        own = judge(server, mode="rubric", rubric=RUBRIC, criteria="together")
        bad, good = judged(own, [group("Bad", "Good")])[0].scores
    assert words_ in str(bad.error)
    assert good.value == 0.75


def test_a_rubric_as_a_whole_is_one_score() -> None:
    with JudgeServer(lambda t, b: letter({"1": 0.5, "10": 0.5})) as server:
        own = judge(server, mode="rubric", rubric=RUBRIC, criteria="overall")
        found = judged(own, [group("Apple")])[0]
        assert "(-2) insults the reader" in server.asked[0]["messages"][-1]["content"]
    assert found.scores[0].value == pytest.approx(0.5)


def test_each_prompt_may_bring_its_own_rubric() -> None:
    own_rubric = [{"criterion": "is polite", "points": 5}, {"criterion": "insults", "points": -5}]
    with JudgeServer(yes({"is polite": 1.0, "insults": 0.5, "names": 0.25})) as server:
        shared = judge(server, mode="rubric", rubric_key="rubric", rubric=["names a fruit"])
        mine, none, broken = judged(
            shared, [group("x", rubric=own_rubric), group("x"), group("x", rubric=[{"texd": "y"}])]
        )
        bare = judge(server, mode="rubric", rubric_key="rubric")
        lost = judged(bare, [group("x")])[0]
    assert mine.scores[0].value == pytest.approx(1.0 - 0.5)
    assert mine.scores[0].parts == pytest.approx({"met": 1.0, "faults": 0.5})
    assert none.scores[0].value == pytest.approx(0.25)
    assert "criterion 1: it has no text; did you mean 'text'" in str(broken.scores[0].error)
    assert "no rubric 'rubric'" in str(lost.scores[0].error)


def test_a_prompts_own_text_joins_the_question_in_other_modes() -> None:
    with JudgeServer(says("7")) as server:
        own = judge(server, mode="score", rubric_key="criteria")
        good, bad = judged(own, [group("x", criteria="Spell it right."), group("x")])
        assert "Spell it right." in server.asked[0]["messages"][0]["content"]
    assert good.scores[0].value == 7
    assert good.principle.startswith("criteria@")
    assert "no text 'criteria'" in str(bad.scores[0].error)


@pytest.mark.parametrize(
    ("value", "met", "score"),
    [
        (["a", "b"], (1, 0), 0.5),
        ([{"text": "a", "weight": 2}, {"text": "b", "weight": -1}], (0, 1), -0.5),
        ([{"text": "a", "weight": -3}, {"text": "b", "weight": -1}], (1, 0), -0.75),
    ],
)
def test_scores_of_rubrics(value: Any, met: Any, score: float) -> None:
    assert Rubric.parse(value, "here").score(met).value == pytest.approx(score)


@pytest.mark.parametrize(
    ("value", "words_"),
    [
        ([], "is a list of criteria"),
        ("be good", "is a list of criteria"),
        ([{"text": "a", "weight": 0}], "weight is 0"),
        ([{"text": "a", "weight": "high"}], "weight is 'high'"),
        ([{"text": "a", "weight": math.nan}], "weight is nan"),
        ([{"weight": 2}], "criterion 1: it has no text"),
        ([3], "neither a text nor"),
    ],
)
def test_wrong_rubrics(value: Any, words_: str) -> None:
    with pytest.raises(ConfigError, match=words_):
        Rubric.parse(value, "here")


def test_a_rubric_in_a_file_has_a_version(tmp_path: Path) -> None:
    file = tmp_path / "manners.yaml"
    file.write_text("version: 3\ncriteria:\n- {text: is polite, weight: 2}\n- is short\n")
    assert str(Rubric.read(file)) == "manners@3"
    with JudgeServer(says("yes")) as server:
        one = judge(server, mode="rubric", rubric_file="manners.yaml", base=tmp_path)
        file.write_text("version: 3\ncriteria:\n- {text: is rude, weight: 2}\n- is short\n")
        two = judge(server, mode="rubric", rubric_file="manners.yaml", base=tmp_path)
    assert one.version != two.version


def test_an_object_in_prose_is_found() -> None:
    question = Question("", "", ("yes", "no"), form="object", keys=("1", "2"))
    text = 'Well {not json} then {"1": "YES", "2": "no"}'
    assert read_object(text, question) == {"1": ("yes", 28), "2": ("no", 40)}


# -- good or bad -----------------------------------------------------------------------------------


def test_approval_is_the_probability_of_good() -> None:
    def rule(text: str, body: dict[str, Any]) -> Said:
        p = 0.9 if "Apple" in text else 0.2
        return letter({"good": p, "bad": 1 - p})

    with JudgeServer(rule) as server:
        found = judged(judge(server, mode="approval"), [group("Apple", "Stone")])[0]
    assert [s.value for s in found.scores] == pytest.approx([0.9, 0.2])


# -- panels ----------------------------------------------------------------------------------------


def three(rules: dict[str, Callable[[str], float]], sharp: float = 1.0) -> Rule:
    """Three models behind one endpoint, each with its own liking."""

    def rule(text: str, body: dict[str, Any]) -> Said:
        return prefers(rules[body["model"]], sharp=sharp)(text, body)

    return rule


LIKES: dict[str, Callable[[str], float]] = {
    "long": lambda text: 0.3 * len(text),
    "longer": lambda text: 0.5 * len(text),
    "short": lambda text: -3.0 * len(text),
}


def panel(server: JudgeServer, **options: Any) -> Panel:
    members = [{"model": name} for name in LIKES]
    made = ai_judge(**{"url": server.url, "retries": 0, "panel": members} | options)
    assert isinstance(made, Panel)
    return made


def test_a_panel_gives_the_mean_or_the_majority_and_says_who_disagrees() -> None:
    with JudgeServer(three(LIKES), models=tuple(LIKES)) as server:
        mean = judged(panel(server, price_input=1.0), [group("aa", "a")])[0]
        vote = judged(panel(server, vote="majority"), [group("aa", "a")])[0]
        assert len(server.asked) == 12
    each = [1 / (1 + math.exp(-d)) for d in (0.3, 0.5, -3.0)]
    assert mean.scores[0].value == pytest.approx(sum(each) / 3, abs=1e-6)
    parts = dict(mean.scores[0].parts)
    assert parts.pop("disagreement") == pytest.approx(np.std(each), abs=1e-6)
    assert parts == pytest.approx(dict(zip(LIKES, each, strict=True)), abs=1e-6)
    assert mean.comparisons is not None
    assert mean.comparisons[0].better == 1  # short is the surest
    assert vote.comparisons is not None
    assert vote.comparisons[0].better == 0
    assert vote.comparisons[0].probability == pytest.approx(2 / 3)
    assert mean.cost.tokens == 6 * 101
    assert mean.cost.money == pytest.approx(6 * 100 / 1e6)


def test_a_member_that_fails_is_an_error_unless_a_quorum_answers() -> None:
    def rule(text: str, body: dict[str, Any]) -> Said:
        return words("no idea") if body["model"] == "short" else three(LIKES)(text, body)

    with JudgeServer(rule, models=tuple(LIKES)) as server:
        strict = judged(panel(server), [group("aa", "a")])[0]
        lax = judged(panel(server, quorum=2), [group("aa", "a")])[0]
    assert "1 of the panel's 3 members failed: short" in str(strict.scores[0].error)
    assert lax.scores[0].value == pytest.approx(sum(1 / (1 + math.exp(-d)) for d in (0.3, 0.5)) / 2)


def test_a_panels_answers_are_kept_together(tmp_path: Path) -> None:
    with JudgeServer(three(LIKES), models=tuple(LIKES)) as server:
        first = judged(panel(server, cache=str(tmp_path)), [group("aa", "a")])[0]
        again = judged(panel(server, cache=str(tmp_path)), [group("aa", "a")])[0]
        assert len(server.asked) == 6
    assert first.scores == again.scores
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted({row["model"] for row in rows}) == sorted(LIKES)
    assert all("aa" in row["question"][1] for row in rows)


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        ({"model": "m", "mode": "rubric"}, "needs rubric, rubric_file or rubric_key"),
        ({"model": "m", "mode": "rubric", "rubric": "be kind"}, "a list of criteria"),
        ({"model": "m", "rubric": ["be kind"]}, "for mode: rubric"),
        ({"model": "m", "mode": "rubric", "rubric": [{"texd": "x"}]}, "did you mean 'text'"),
        ({"model": "m", "mode": "rubric", "rubric_file": "none.yaml"}, "cannot be read"),
        ({"model": "m", "orders": 3}, "orders are for mode: ranking"),
        ({"model": "m", "mode": "score", "ties": False}, "for mode: pairs or ranking"),
        ({"local": "x", "mode": "ranking"}, "set ranking: best"),
        ({"local": "x", "mode": "rubric", "rubric": ["a"], "criteria": "together"}, "no JSON"),
        ({"model": "m", "budget": 1.0}, "needs price_input and price_output"),
        ({"panel": [{"model": "m"}]}, "two members or more"),
        ({"panel": [{"model": "m"}, {"modle": "n"}]}, "member 2.*modle"),
        ({"panel": [{"model": "m"}, {"model": "n", "mode": "score"}]}, "mode: of the whole panel"),
        ({"panel": [{"model": "m"}] * 2, "model": "x"}, "not both"),
        ({"panel": [{"model": "m"}] * 2, "mode": "score", "vote": "majority"}, "vote: mean"),
        ({"model": "m", "quorum": 2}, "for a panel"),
        ({"model": "m", "mode": "best"}, "mode"),
    ],
)
def test_wrong_options_are_said_before_anything_is_asked(
    options: dict[str, Any], words_: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words_):
        check_options(options, tmp_path)


def test_the_version_hangs_on_what_decides_verdicts_alone() -> None:
    with JudgeServer(says("A")) as server:
        plain = judge(server)
        same = judge(server, budget_tokens=5, patience_s=3.0, requests_per_minute=9.0)
        other = judge(server, scores="bradley_terry")
    assert plain.version == same.version != other.version


def test_one_group_more_does_not_change_another() -> None:
    texts = [f"{'x' * i}y" for i in range(5)]
    with JudgeServer(by(len)) as server:
        own = judge(server, mode="ranking", orders=4)
        alone = judged(own, [group(*texts)])[0]
        other = replace(group(*texts), prompt=Prompt("q", (Message("user", "And now?"),)))
        both = judged(own, [other, group(*texts)])[1]
    assert alone.scores == both.scores
