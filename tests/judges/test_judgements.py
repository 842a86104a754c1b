"""What every kind of judge says of a group: scores or comparisons, who, which version, the cost."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

import tiny_world as tw
from gnomon.data.batch import pack
from gnomon.data.readers import fingerprint, read_groups
from gnomon.errors import DataError, Pending, RunError
from gnomon.judges.build import Mixture
from gnomon.judges.function import FunctionReward, GroupReward, function_reward
from gnomon.judges.human import HumanQueue
from gnomon.judges.learned import LearnedReward
from gnomon.judges.protocol import Judge, Sample, judged, win_shares
from gnomon.judges.tally import Tally
from gnomon.judges.verifiers.rewards import exact, verifier
from gnomon.models.heads import RewardNormaliser
from gnomon.models.roles import Role
from gnomon.records import (
    Comparison,
    Cost,
    Group,
    Judgement,
    Message,
    Prompt,
    Response,
    Score,
    TokenGroup,
    TokenResponse,
    comparisons_from_ranks,
)
from gnomon.stages.collect import ranks_of
from judging import group_of


def group(name: str, *texts: str, ids: Sequence[int] = (5, 6)) -> Group:
    prompt = Prompt(name, (Message("user", name),), meta={"answer": "yes"})
    return group_of(*(Sample(prompt, t, (3, 4), ids) for t in texts))


GROUPS = [group("one", "yes", "no", "yes and no"), group("two", "no", "yes")]


def values(judgement: Judgement) -> list[float | None]:
    return [score.value for score in judgement.scores]


class Own:
    """A user's object; ``answer(group)`` makes what it says of one group."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[int] = []
        self.rounds: list[int] = []

    def begin(self, round: int) -> None:
        self.rounds.append(round)

    def judge(self, groups: Sequence[Group]) -> list[Any]:
        self.asked.append(len(groups))
        return [self.answer(g) for g in groups]


def own(answer: Any) -> GroupReward:
    return GroupReward(Own(answer), "mine", "v1")


# -- each kind ------------------------------------------------------------------------------------


def test_a_verifier_scores_every_response_of_every_group() -> None:
    judgements = judged(exact(), GROUPS)
    assert [values(j) for j in judgements] == [[1.0, 0.0, 0.0], [0.0, 1.0]]
    assert {j.judge for j in judgements} == {"exact"}
    assert all(j.comparisons is None and j.error is None for j in judgements)


def test_a_reward_model_says_which_it_is_and_how_many_tokens_it_read() -> None:
    def learned(seed: int, count: int = 1) -> LearnedReward:
        roles = [Role(f"m{i}", tw.trunk(seed), head=tw.head(seed + i)) for i in range(count)]
        return LearnedReward(roles, RewardNormaliser(), name="rm")

    groups = [group("one", "a", "b", ids=(5, 6, 7)), group("two", "c", ids=(5,))]
    one, two = judged(learned(1), groups)
    # the prompt's two tokens once, and each response's own
    assert (one.cost.tokens, two.cost.tokens) == (2 + 3 + 3, 2 + 1)
    assert [j.cost.tokens for j in judged(learned(1, count=3), groups)] == [24, 9]
    versions = {learned(seed).version for seed in (1, 1, 2)}
    assert one.version in versions
    assert len(versions) == 2


def test_a_function_and_a_class_carry_the_sha256_of_their_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def longest(samples):\n    return [len(s.text) for s in samples]\n"
        "class Place:\n"
        "    def judge(self, groups):\n"
        "        return [sorted(range(len(g.responses)), key=lambda i: g.responses[i].text)\n"
        "                for g in groups]\n"
        "def verify(text, answer):\n    return text == answer\n"
    )
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    for name, found in (("longest", [3.0, 2.0, 10.0]), ("Place", [1.0, 0.0, 2.0])):
        made = function_reward(f"mine.py:{name}", tmp_path, {}, "mine")
        judgement = judged(made, GROUPS)[0]
        assert (judgement.judge, judgement.version) == ("mine", expected)
        assert values(judgement) == found
    assert verifier(f"{file}:verify", workers=1).version == expected


def test_a_judge_of_groups_sees_them_whole() -> None:
    def above_the_mean(g: Group) -> list[float]:
        lengths = [len(r.text) for r in g.responses]
        return [length - sum(lengths) / len(lengths) for length in lengths]

    judge = own(above_the_mean)
    assert [values(j) for j in judged(judge, GROUPS)] == [[-2.0, -3.0, 5.0], [-0.5, 0.5]]
    judge.begin(3)
    assert (judge.own.asked, judge.own.rounds) == ([2], [3])


@pytest.mark.parametrize("made", [list, np.array, torch.tensor, iter])
def test_groups_of_one_response_keep_their_lists(made: Any) -> None:
    class Single:
        def judge(self, groups: Sequence[Group]) -> Any:
            return made([[float(i)] for i, _ in enumerate(groups)])

    groups = [group(name, "yes") for name in ("one", "two", "three")]
    judgements = judged(GroupReward(Single(), "single"), groups)
    assert [values(j) for j in judgements] == [[0.0], [1.0], [2.0]]


def test_a_judge_of_groups_may_be_a_coroutine() -> None:
    class Later:
        async def judge(self, groups: Sequence[Group]) -> list[list[float]]:
            return [[1.0] * len(g.responses) for g in groups]

    assert values(judged(GroupReward(Later(), "later"), GROUPS)[1]) == [1.0, 1.0]


def test_comparisons_alone_give_scores_too_the_share_of_them_won() -> None:
    def two_pairs(g: Group) -> Judgement:
        return Judgement("anna", comparisons=(Comparison(0, 1), Comparison(0, 2, tie=True)))

    (judgement,) = judged(own(two_pairs), GROUPS[:1])
    assert (judgement.judge, judgement.version) == ("anna", "v1")
    assert judgement.comparisons == (Comparison(0, 1), Comparison(0, 2, tie=True))
    assert values(judgement) == [0.75, 0.0, 0.5]
    assert win_shares([], 2) == [0.5, 0.5]


def test_a_mixture_adds_costs_and_joins_versions_and_reasons() -> None:
    def said(name: str, seconds: float) -> GroupReward:
        def answer(g: Group) -> Judgement:
            scores = (Score(1.0),) * len(g.responses)
            return Judgement(
                name,
                scores,
                cost=Cost(seconds, 7, 0.5),
                reason=f"{name} says so",
                principle=f"p-{name}@1",
            )

        return GroupReward(Own(answer), name, f"{name}-1")

    mixture = Mixture([(said("a", 2.0), 1.0), (said("b", 3.0), 2.0)])
    (judgement,) = judged(mixture, GROUPS[:1])
    assert values(judgement) == [3.0] * 3
    assert judgement.cost == Cost(5.0, 14, 1.0)
    assert judgement.reason == "a: a says so; b: b says so"
    assert judgement.version == "a: a-1; b: b-1"
    assert judgement.principle == "p-a@1; p-b@1"


def test_a_mixture_begins_rounds_and_asks_like_its_parts(tmp_path: Path) -> None:
    part = own(lambda g: [0.0] * len(g.responses))
    mixture = Mixture([(part, 1.0), (HumanQueue(tmp_path), 1.0)])
    mixture.begin(2)
    assert part.own.rounds == [2]
    assert mixture.in_rounds
    assert not Mixture([(part, 1.0)]).in_rounds
    with pytest.raises(Pending, match="round 2"):
        judged(mixture, GROUPS)


# -- cost -----------------------------------------------------------------------------------------


def test_a_judge_that_does_not_count_its_seconds_is_timed() -> None:
    for judge in (exact(), FunctionReward(lambda s: [0.0] * len(s), "f")):
        judgements = judged(judge, GROUPS)
        assert all(j.cost.seconds > 0 for j in judgements)
        per_response = [j.cost.seconds / len(j.scores) for j in judgements]
        assert per_response[0] == pytest.approx(per_response[1])


def test_what_is_asked_again_in_pieces_costs_what_the_pieces_cost() -> None:
    def fussy(samples: Sequence[Sample]) -> list[float]:
        if any(s.text == "no" for s in samples):
            raise ValueError
        return [1.0] * len(samples)

    judgements = judged(FunctionReward(fussy, "f"), GROUPS)
    assert [values(j) for j in judgements] == [[1.0, None, 1.0], [None, 1.0]]
    assert all(j.cost.seconds > 0 for j in judgements)


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_group_that_a_judge_raises_on_takes_no_other_with_it_and_is_not_split() -> None:
    def answer(g: Group) -> list[float]:
        if g.prompt.id == "one":
            raise ValueError("cannot read it")
        return [1.0] * len(g.responses)

    judge = own(answer)
    failed, good = judged(judge, GROUPS)
    assert judge.own.asked == [2, 1, 1]
    assert values(good) == [1.0, 1.0]
    assert values(failed) == [None] * 3
    assert str(failed.error).startswith("mine: ValueError: cannot read it (")
    assert {score.error for score in failed.scores} == {failed.error}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3.0, "returned float, expected a list with one reward per response"),
        ([1.0, 2.0], "gave 2 scores for 3 responses"),
        (Judgement("x"), "gave 0 scores for 3 responses"),
        (Judgement("x", comparisons=(Comparison(0, 3),)), "no pair of the 3 responses"),
        (Judgement("x", comparisons=(Comparison(-1, 0),)), "no pair of the 3 responses"),
        (Judgement("x", comparisons=(Comparison(1, 1),)), "no pair of the 3 responses"),
        (Judgement("x", comparisons=(Comparison(0.0, 1.0),)), "no pair of the 3 responses"),  # type: ignore[arg-type]
        (Judgement("x", comparisons=((0, 1),)), "gave a tuple, not a Comparison"),  # type: ignore[arg-type]
        (Judgement("x", comparisons=(Comparison(0, 1, weight=float("nan")),)), "the weight nan"),
        (Judgement("x", comparisons=(Comparison(0, 1, weight=-1.0),)), "the weight -1.0"),
        (Judgement("x", comparisons=(Comparison(0, 1, margin=float("inf")),)), "the margin inf"),
        (Judgement("x", scores=None), "gave 0 scores for 3 responses"),  # type: ignore[arg-type]
        (Judgement("x", error="endpoint is down"), "endpoint is down"),
        (Judgement("x", error=503), "503"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_of_the_group(answer: Any, said: str) -> None:
    (judgement,) = judged(own(lambda g: answer), GROUPS[:1])
    assert values(judgement) == [None] * 3
    assert said in str(judgement.error)
    assert all(str(score.error).startswith("mine: ") for score in judgement.scores)


def test_what_a_judgement_says_beside_its_scores_can_be_stored() -> None:
    scores = (Score(1.0), Score(2.0), Score(3.0))
    careless = Judgement("x", scores, cost=None, reason={"because": 1})  # type: ignore[arg-type]
    (judgement,) = judged(own(lambda g: careless), GROUPS[:1])
    assert values(judgement) == [1.0, 2.0, 3.0]
    assert judgement.reason == "{'because': 1}"
    assert judgement.cost.seconds > 0


def test_a_comparison_of_weight_0_counts_nowhere() -> None:
    said = Judgement("x", comparisons=(Comparison(0, 1, weight=0.0), Comparison(2, 1)))
    (judgement,) = judged(own(lambda g: said), GROUPS[:1])
    assert judgement.comparisons == (Comparison(2, 1),)
    assert values(judgement) == [0.5, 0.0, 1.0]


def test_what_begin_raises_ends_the_run_in_words() -> None:
    class Closed(Own):
        def begin(self, round: int) -> None:
            raise self.answer

    judge = GroupReward(Closed(ValueError("no key")), "mine")
    with pytest.raises(RunError, match=r"reward 'mine': begin\(3\): ValueError: no key \(.*"):
        judge.begin(3)
    for error in (Pending("people think"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            GroupReward(Closed(error), "mine").begin(1)


def test_a_class_that_asks_in_rounds_is_asked_in_rounds() -> None:
    class Slow(Own):
        in_rounds = True

    assert GroupReward(Slow(None), "mine").in_rounds
    assert not own(None).in_rounds


def test_one_bad_score_is_that_responses_error() -> None:
    (judgement,) = judged(own(lambda g: [1.0, float("nan"), "high"]), GROUPS[:1])
    assert values(judgement) == [1.0, None, None]
    assert judgement.error is None
    assert "nan" in str(judgement.scores[1].error)
    assert "'high'" in str(judgement.scores[2].error)


def test_the_wrong_number_of_judgements_is_an_error_of_all() -> None:
    class Few(Judge):
        name = "few"

        def judge(self, groups: Sequence[Group]) -> list[Judgement]:
            return [Judgement("few", (Score(1.0),))]

    judgements = judged(Few(), GROUPS)
    assert [values(j) for j in judgements] == [[None] * 3, [None] * 2]
    assert "returned 1 judgements for 2 groups" in str(judgements[0].error)


def test_what_is_no_judgement_is_said() -> None:
    class Plain(Judge):
        name = "plain"

        def judge(self, groups: Sequence[Group]) -> Any:
            return [1.0 for _ in groups]

    assert "gave a float, not a Judgement" in str(judged(Plain(), GROUPS)[0].error)


# -- rankings -------------------------------------------------------------------------------------


def test_ranks_are_read_back_from_the_comparisons_they_imply() -> None:
    draw = random.Random(3)
    for _ in range(200):
        numbers = [draw.randrange(4) for _ in range(draw.randint(2, 6))]
        ranks = [1.0 + sum(other < n for other in numbers) for n in numbers]
        comparisons = list(comparisons_from_ranks(ranks))
        draw.shuffle(comparisons)
        assert ranks_of(comparisons, len(ranks)) == ranks
        assert ranks_of(comparisons[1:], len(ranks)) is None


@pytest.mark.parametrize(
    "comparisons",
    [
        [Comparison(0, 1), Comparison(1, 2), Comparison(2, 0)],
        [Comparison(0, 1, tie=True), Comparison(1, 2, tie=True), Comparison(0, 2)],
        [Comparison(0, 1), Comparison(0, 1), Comparison(0, 1)],
        [Comparison(0, 1, weight=0.5), Comparison(0, 2), Comparison(1, 2)],
        [Comparison(0, 1, margin=2.0), Comparison(0, 2), Comparison(1, 2)],
    ],
)
def test_comparisons_that_contradict_each_other_or_say_more_are_no_ranking(
    comparisons: list[Comparison],
) -> None:
    assert ranks_of(comparisons, 3) is None


# -- probabilities ---------------------------------------------------------------------------------


def test_a_probability_is_not_a_weight() -> None:
    """Of 2 judgements with the same strength, the one that is surer wins more."""
    sure, heavy = Comparison(0, 1, weight=0.5), Comparison(0, 1, probability=0.75)
    assert sure.strength == heavy.strength == 0.5
    assert win_shares([sure], 2) == [1.0, 0.0]
    assert win_shares([heavy], 2) == [0.75, 0.25]
    assert win_shares([Comparison(0, 1, tie=True, probability=0.9)], 2) == [0.5, 0.5]
    assert Comparison(0, 1, tie=True, probability=0.5, weight=2.0).strength == 2.0


@pytest.mark.parametrize("bad", [0.4, 1.1, float("nan"), "sure"])
def test_a_probability_that_is_none_is_an_error(bad: Any) -> None:
    class Odd(Judge):
        name, groupwise = "odd", True

        def judge(self, groups: Sequence[Group]) -> list[Judgement]:
            return [Judgement("odd", comparisons=(Comparison(0, 1, probability=bad),))] * len(
                groups
            )

    texts = [Response((Message("assistant", t),)) for t in ("x", "y")]
    (found,) = judged(Odd(), [Group(Prompt("p"), tuple(texts))])
    assert "probability" in str(found.scores[0].error)


def test_training_counts_a_pair_by_how_sure_it_is() -> None:
    """The gradient of the weighted loss at equal rewards is that of the loss with soft labels."""
    responses = tuple(TokenResponse((5 + i,), (True,)) for i in range(2))
    compared = (Comparison(1, 0, weight=3.0, probability=0.9),)
    weight = pack([TokenGroup("g", (1,), responses, compared)]).pair_weight
    gap = torch.zeros(1, requires_grad=True)
    soft = -3.0 * (0.9 * logsigmoid(gap) + 0.1 * logsigmoid(-gap))
    (theirs,) = torch.autograd.grad(soft.sum(), gap)
    (ours,) = torch.autograd.grad((-weight * logsigmoid(gap)).sum(), gap)
    torch.testing.assert_close(ours, theirs)
    even = TokenGroup("g", (1,), responses, (Comparison(0, 1, probability=0.5),))
    assert len(pack([even]).pairs) == 0


def test_a_probability_is_read_back_from_a_file(tmp_path: Path) -> None:
    def groups(**more: Any) -> list[Group]:
        pair = {"better": "a", "worse": "b", **more}
        texts = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
        row = {"prompt": "q", "responses": texts, "comparisons": [pair]}
        (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
        return read_groups(tmp_path / "f.jsonl").groups

    plain, soft = groups(), groups(probability=0.7)
    assert soft[0].comparisons == (Comparison(0, 1, probability=0.7),)
    assert fingerprint(plain) != fingerprint(soft)
    assert fingerprint(plain) == fingerprint(groups(probability=1))
    with pytest.raises(DataError, match="swap better and worse"):
        groups(probability=0.3)


def test_totals_count_an_iteration_once() -> None:
    def said(n: int, error: str | None = None) -> list[Judgement]:
        scores = (Score(None if error else 1.0, error=error),) * n
        return [Judgement("j", scores, version="v", cost=Cost(1.0, 10, 0.5))]

    tally = Tally()
    tally.add(said(2), 0)
    tally.add(said(2), 1)
    tally.add(said(3, "no"))  # an evaluation
    again = Tally()
    again.load_state_dict(json.loads(json.dumps(tally.state_dict())))
    again.add(said(2), 1)  # drawn again after a stop
    again.add(said(2), 2)
    expected = {
        "version": "v",
        "judged": 9,
        "errors": 3,
        "seconds": 4.0,
        "tokens": 40,
        "money": 2.0,
    }
    assert again.totals() == {"j": expected}
