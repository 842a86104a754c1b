"""Rewards: failures stay with their samples, functions are loaded, ensembles are combined."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_world as tw
from gnomon.errors import ConfigError
from gnomon.judges.build import Mixture, build_judge, one_judge
from gnomon.judges.function import FunctionReward, function_reward
from gnomon.judges.learned import LearnedReward
from gnomon.judges.protocol import Sample, SampleJudge, Score, trainable
from gnomon.models.heads import RewardNormaliser
from gnomon.models.roles import Role
from gnomon.plugins import load_own
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Judgement, Message, Prompt
from gnomon.stages.reward_checks import check_labels
from judging import group_of, score_safely


def sample(text: str, prompt_ids: Sequence[int] = (), ids: Sequence[int] = ()) -> Sample:
    return Sample(Prompt("p", (Message("user", "hi"),)), text, prompt_ids, ids)


THREE = [sample("a"), sample("bad"), sample("ccc")]


def reward(function: Any, **options: Any) -> FunctionReward:
    return FunctionReward(partial(function, **options), "mine")


def values(scores: Sequence[Score]) -> list[float | None]:
    return [s.value for s in scores]


def test_good_results_of_every_kind_are_taken() -> None:
    for result in (
        [1, 2.0, True],
        (1.0, 2.0, 1.0),
        np.array([1.0, 2.0, 1.0]),
        torch.tensor([1.0, 2.0, 1.0]),
        torch.tensor([[1.0], [2.0], [1.0]], dtype=torch.bfloat16, requires_grad=True),
        np.array([[1], [2], [1]]),
        (x for x in (1.0, 2.0, 1.0)),
        [np.array([1.0]), torch.tensor([2.0]), np.bool_(True)],
        [Decimal(1), Fraction(2), True],
        [Score(1.0), Score(2.0), Score(1.0)],
        [(1.0, {"a": 3}), (2.0, {"a": 4}), (1.0, {"a": 5})],
        [np.float32(1), torch.tensor(2.0), 1],
        [[1.0], [2.0], [1.0]],
    ):
        assert values(score_safely(reward(lambda s, r=result: r), THREE)) == [1.0, 2.0, 1.0]
    scores = score_safely(reward(lambda s: [(1.0, {"a": 3})] * 3), THREE)
    assert scores[0].parts == {"a": 3.0}


def test_one_bad_sample_does_not_take_the_others_with_it() -> None:
    calls: list[int] = []

    def fussy(samples: Sequence[Sample]) -> list[float]:
        calls.append(len(samples))
        if any(s.text == "bad" for s in samples):
            raise ValueError("cannot read 'bad'")
        return [float(len(s.text)) for s in samples]

    scores = score_safely(reward(fussy), THREE)
    assert values(scores) == [1.0, None, 3.0]
    line = fussy.__code__.co_firstlineno + 3
    where = f"{__file__}:{line}, in fussy"
    assert scores[1].error == f"mine: ValueError: cannot read 'bad' ({where})"
    assert calls == [3, 1, 1, 1]


@pytest.mark.parametrize(
    "item",
    [
        None, math.nan, math.inf, "0.5", b"0.5", [1.0], {"a": 1}, (1.0, {"a": "x"}), object(),
        10**400, 1j, Score("0.5"), Score(10**400), Score(1.0, {"a": b"1"}), np.zeros(2),
    ],
)  # fmt: skip
def test_an_item_that_is_no_number_is_an_error_of_its_own_sample(item: Any) -> None:
    scores = score_safely(reward(lambda samples: [1.0, item, 2.0]), THREE)
    assert values(scores) == [1.0, None, 2.0]
    assert scores[1].error is not None
    assert scores[1].error.startswith("mine: ")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "NoneType"),
        (3.0, "float"),
        ("abc", "str"),
        ({"a": 1}, "dict"),
        ([1.0, 2.0], "2 scores for 3"),
        ([], "0 scores for 3"),
        (np.zeros((3, 2)), "[0.0, 0.0]"),
        (torch.tensor(1.0), "float"),
        (np.zeros((1, 3)), "1 scores for 3"),
        (b"abc", "bytes"),
    ],
)
def test_a_result_of_the_wrong_shape_is_an_error_of_every_sample(result: Any, message: str) -> None:
    scores = score_safely(reward(lambda samples: result), THREE)
    assert values(scores) == [None] * 3
    assert all(message in str(s.error) for s in scores)


def test_a_reward_object_that_gives_plain_numbers_is_told_what_it_lacks() -> None:
    class Plain(SampleJudge):
        name = "plain"

        def __call__(self, samples: Sequence[Sample]) -> Any:
            return [1.0, Score("high"), Score(2.0)]  # type: ignore[arg-type]

    scores = score_safely(Plain(), THREE)
    assert values(scores) == [None, None, 2.0]
    assert "not a Score" in str(scores[0].error)
    assert "'high'" in str(scores[1].error)


def test_parts_of_any_number_type_can_be_stored_and_others_are_errors() -> None:
    parts = {"a": np.float32(0.5), "b": torch.tensor(2), "c": True}

    def mine(samples: Sequence[Sample]) -> list[Score]:
        return [Score(1.0, parts), Score(2.0, {"a": "much"}), Score(None, parts, "no")]  # type: ignore[dict-item]

    good, bad, failed = score_safely(FunctionReward(mine, "mine"), [sample("x")] * 3)
    assert json.dumps([good.parts, failed.parts]) == json.dumps(
        [{"a": 0.5, "b": 2.0, "c": 1.0}] * 2
    )
    assert bad.value is None
    assert "not all numbers" in str(bad.error)
    assert failed.error == "mine: no"


def test_nothing_is_scored_when_there_is_nothing() -> None:
    def never(samples: Sequence[Sample]) -> list[float]:
        raise AssertionError

    assert score_safely(reward(never), []) == []


def test_stopping_the_program_is_no_reward_error() -> None:
    def stop(samples: Sequence[Sample]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_safely(reward(stop), THREE)


# -- whatever it raises ---------------------------------------------------------------------------


class Stranger(BaseException):
    """As some libraries raise."""


@pytest.mark.parametrize(
    "error", [SystemExit(), SystemExit(0), SystemExit("no key"), GeneratorExit(), Stranger("odd")]
)
def test_leaving_the_program_is_an_error_of_the_sample(error: BaseException) -> None:
    def leave(samples: Sequence[Sample]) -> list[float]:
        if any(s.text == "bad" for s in samples):
            raise error
        return [1.0] * len(samples)

    async def leave_later(samples: Sequence[Sample]) -> list[float]:
        await asyncio.sleep(0)
        return leave(samples)

    for function in (leave, leave_later):
        scores = score_safely(reward(function), THREE)
        assert values(scores) == [1.0, None, 1.0]
        assert type(error).__name__ in str(scores[1].error)
        assert f"{__file__}:{leave.__code__.co_firstlineno + 2}, in leave" in str(scores[1].error)


def test_the_place_is_the_users_line_also_below_a_library() -> None:
    def parse(samples: Sequence[Sample]) -> list[float]:
        return [json.loads("{") for _ in samples]

    (score,) = score_safely(reward(parse), [sample("x")])
    assert f"{__file__}:{parse.__code__.co_firstlineno + 1}, in " in str(score.error)
    assert "JSONDecodeError" in str(score.error)


def test_an_error_that_cannot_be_printed() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail(samples: Sequence[Sample]) -> list[float]:
        raise MuteError

    (score,) = score_safely(reward(fail), [sample("x")])
    assert "MuteError: an error that cannot be printed" in str(score.error)


# -- coroutines -----------------------------------------------------------------------------------


async def lengths(samples: Sequence[Sample], extra: float = 0.0) -> list[float]:
    await asyncio.sleep(0)
    return [len(s.text) + extra for s in samples]


async def one_by_one(samples: Sequence[Sample]) -> Any:
    for s in samples:
        await asyncio.sleep(0)
        yield float(len(s.text))


def an_awaitable_each(samples: Sequence[Sample]) -> list[Any]:
    async def one(s: Sample) -> float:
        await asyncio.sleep(0)
        if s.text == "bad":
            sys.exit("bad")
        return float(len(s.text))

    return [one(s) for s in samples]


class AsyncReward(SampleJudge):
    name = "later"

    async def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(v) for v in await lengths(samples)]


def test_coroutines_are_awaited() -> None:
    assert values(score_safely(reward(lengths), THREE)) == [1.0, 3.0, 3.0]
    assert values(score_safely(reward(lengths, extra=1), THREE)) == [2.0, 4.0, 4.0]
    assert values(score_safely(reward(one_by_one), THREE)) == [1.0, 3.0, 3.0]
    assert values(score_safely(AsyncReward(), THREE)) == [1.0, 3.0, 3.0]
    scores = score_safely(reward(an_awaitable_each), THREE)
    assert values(scores) == [1.0, None, 3.0]
    assert "SystemExit: bad" in str(scores[1].error)
    assert "in one" in str(scores[1].error)


def test_coroutines_run_where_a_loop_is_running_and_keep_their_own() -> None:
    loops: list[Any] = []
    gate = asyncio.Semaphore(1)

    async def gated(samples: Sequence[Sample]) -> list[float]:
        async def one(s: Sample) -> float:
            async with gate:  # bound to the first loop that waits at it
                await asyncio.sleep(0)
                return float(len(s.text))

        loops.append(asyncio.get_running_loop())
        return list(await asyncio.gather(*map(one, samples)))

    async def main() -> list[Score]:
        return score_safely(reward(gated), THREE)

    assert values(asyncio.run(main())) == values(score_safely(reward(gated), THREE)) == [1, 3, 3]
    assert loops[0] is loops[1]


def test_a_coroutine_may_call_a_reward_of_its_own() -> None:
    async def outer(samples: Sequence[Sample]) -> list[float | None]:
        return values(score_safely(reward(lengths), samples))

    assert values(score_safely(reward(outer), THREE)) == [1.0, 3.0, 3.0]


def test_the_loop_survives_what_tasks_raise() -> None:
    async def fails(samples: Sequence[Sample]) -> list[float]:
        async def leave() -> None:
            sys.exit(0)

        await asyncio.create_task(leave())
        return [0.0]

    assert "SystemExit" in str(score_safely(reward(fails), THREE[:1])[0].error)
    assert values(score_safely(reward(lengths), THREE)) == [1.0, 3.0, 3.0]


def test_an_interrupt_within_a_coroutine_stops_the_program() -> None:
    async def stop(samples: Sequence[Sample]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_safely(reward(stop), THREE)

    def each(samples: Sequence[Sample]) -> list[Any]:
        return [stop(samples) for _ in samples]

    with pytest.raises(KeyboardInterrupt):
        score_safely(reward(each), THREE)


# -- sizes ----------------------------------------------------------------------------------------


def test_rewards_that_float32_cannot_square_are_errors() -> None:
    assert trainable(Score(1e18)).value == 1e18
    for value in (1e38, -1e38, 1e19):
        score = trainable(Score(value, {"a": 1.0}))
        assert (score.value, score.parts) == (None, {"a": 1.0})
        assert "scale it" in str(score.error)


# -- mixtures -------------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_sum_with_its_parts() -> None:
    one = FunctionReward(lambda s: [(1.0, {"x": 7}), (2.0, {}), (3.0, {})], "one")
    two = FunctionReward(lambda s: [10.0, 20.0, 30.0], "two")
    scores = score_safely(Mixture([(one, 2.0), (two, -0.5)]), THREE)
    assert values(scores) == [-3.0, -6.0, -9.0]
    assert scores[0].parts == {"one": 1.0, "two": 10.0, "one/x": 7.0}


def test_where_a_part_fails_there_is_no_partial_sum() -> None:
    one = FunctionReward(lambda s: [1.0, None, 3.0], "one")
    two = FunctionReward(lambda s: [10.0, 20.0, math.nan], "two")
    scores = score_safely(Mixture([(one, 1.0), (two, 1.0)]), THREE)
    assert values(scores) == [11.0, None, None]
    assert "one" in str(scores[1].error)
    assert "two" in str(scores[2].error)
    assert scores[1].parts == {"two": 20.0}


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, "1", None])
def test_a_weight_that_is_no_number_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match="'one': its weight"):
        Mixture([(FunctionReward(lambda s: [1.0], "one"), weight)])
    with pytest.raises(ConfigError, match="at least one"):
        Mixture([])


def test_a_sum_beyond_all_numbers_is_an_error() -> None:
    one = FunctionReward(lambda s: [1e308], "one")
    (score,) = score_safely(Mixture([(one, 1.0), (one, 1.0)]), [sample("x")])
    assert score.value is None
    assert "inf" in str(score.error)


# -- loading --------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("BONUS = 2\n")
    (tmp_path / "mine.py").write_text(
        "import helper\n"
        "def score(samples, bonus=0):\n    return [helper.BONUS + bonus for s in samples]\n"
        "NUMBER = 3\n"
        "class Kind:\n"
        "    def __init__(self, scale=1): self.scale = scale\n"
        "    def __call__(self, samples):\n"
        "        from gnomon.rewards.protocol import Score\n"
        "        return [Score(self.scale) for s in samples]\n"
        "class Dull:\n    pass\n"
        "class Picky:\n    def __init__(self): raise RuntimeError('no key')\n"
    )
    yield tmp_path
    sys.modules.pop("helper", None)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]


def test_functions_and_classes_are_found_in_a_file_or_a_module(base: Path) -> None:
    made = function_reward("mine.py:score", base, {"bonus": 3}, "named")
    assert made.name == "named"
    assert values(made(THREE)) == [5.0] * 3  # with the module beside it
    kind = function_reward("mine.py:Kind", base, {"scale": 4}, "kind")
    assert (kind.name, values(kind(THREE))) == ("kind", [4] * 3)
    assert load_own("os.path:basename", base, "reward function")("/a/b") == "b"


def test_modules_of_two_recipes_are_not_mixed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mixed_up.py").write_text(f"def name():\n    return {folder!r}\n")
    first = load_own("mixed_up:name", tmp_path / "one", "reward function")
    assert first() == "one"
    assert load_own("mixed_up:name", tmp_path / "one", "reward function") is first
    with pytest.raises(ConfigError, match=r"two/mixed_up.py is meant.* file: mixed_up.py:name$"):
        load_own("mixed_up:name", tmp_path / "two", "reward function")
    assert load_own("mixed_up.py:name", tmp_path / "two", "reward function")() == "two"
    sys.modules.pop("mixed_up")


def test_loading_leaves_nothing_behind(base: Path) -> None:
    before = sorted(base.rglob("*"))
    function_reward("mine.py:score", base, {}, "x")
    assert sorted(base.rglob("*")) == before


BROKEN = {
    "mine.py": "write module:name",
    ":score": "write module:name",
    "mine.py:": "write module:name",
    "none.py:score": "no file",
    "no.such.module:score": "No module named",
    "mine.py:scor": "did you mean 'score'?",
    "mine.py:zzz": "it has score, Kind, Dull, Picky",
    "mine.py:NUMBER": "has no 'NUMBER'",
}


@pytest.mark.parametrize("reference", BROKEN)
def test_a_reference_that_leads_nowhere_says_why(base: Path, reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function_reward(reference, base, {}, "x")
    message = str(caught.value)
    assert repr(reference) in message
    assert BROKEN[reference] in message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('boom')", "ValueError('boom')"),
        ("1 / 0", "ZeroDivisionError"),
        ("import not_installed", "No module named 'not_installed'"),
        ("def f(:", "invalid syntax"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("\n\nraise ValueError('late')", "broken.py:3"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "broken.py:2"),
    ],
)
def test_a_file_that_raises_at_import_is_named(base: Path, code: str, message: str) -> None:
    (base / "broken.py").write_text(code)
    with pytest.raises(ConfigError) as caught:
        load_own("broken.py:f", base, "reward function")
    assert message in str(caught.value)
    assert "broken.py" in str(caught.value)


def test_an_interrupt_at_import_stops_the_program(base: Path) -> None:
    (base / "broken.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_own("broken.py:f", base, "reward function")


@pytest.mark.parametrize("body", ["import sys; sys.exit(0)", "raise GeneratorExit"])
def test_a_class_that_leaves_when_made_is_named(base: Path, body: str) -> None:
    (base / "leaves.py").write_text(f"class Kind:\n    def __init__(self):\n        {body}\n")
    with pytest.raises(ConfigError, match=r"could not be made: .*leaves\.py:3, in __init__"):
        function_reward("leaves.py:Kind", base, {}, "x")


def test_options_are_checked_against_the_signature(base: Path) -> None:
    with pytest.raises(ConfigError, match="bonsu"):
        function_reward("mine.py:score", base, {"bonsu": 1}, "x")
    with pytest.raises(ConfigError, match="scal"):
        function_reward("mine.py:Kind", base, {"scal": 1}, "x")
    with pytest.raises(ConfigError, match="no key"):
        function_reward("mine.py:Picky", base, {}, "x")
    with pytest.raises(ConfigError, match="__call__"):
        function_reward("mine.py:Dull", base, {}, "x")


# -- reward models --------------------------------------------------------------------------------


def member(seed: int, outputs: int = 1) -> Role:
    return Role(f"m{seed}", tw.trunk(seed), head=tw.head(seed, outputs=outputs))


def samples() -> list[Sample]:
    """Two prompts, the first one twice in a row and once more at the end; mixed lengths."""
    d = tw.Draw(2)
    a, b = d.ids(4), d.ids(6)
    return [sample("", p, d.ids(n)) for p, n in ((a, 3), (a, 5), (b, 1), (a, 2))]


def groups() -> list[Group]:
    """The same samples: two of the first prompt, then one each."""
    a, b, c, d = samples()
    return [group_of(a, b), group_of(c), group_of(d)]


def flat(judgements: Sequence[Judgement]) -> list[Score]:
    return [score for judgement in judgements for score in judgement.scores]


def naive(role: Role) -> torch.Tensor:
    rows = []
    for s in samples():
        ids = torch.tensor([[*s.prompt_ids, *s.response_ids]])
        hidden = role.trunk.model.model(input_ids=ids).last_hidden_state[0, -1]
        rows.append(role.head(hidden).detach())
    return torch.stack(rows)


def test_scores_are_each_samples_own_in_order_whatever_the_batching() -> None:
    role = member(1)
    for tokens in (1, 10_000):
        learned = LearnedReward([role], RewardNormaliser(), tokens_per_microbatch=tokens)
        found = torch.tensor(values(flat(learned.judge(groups()))))
        torch.testing.assert_close(found, naive(role)[:, 0], rtol=1e-4, atol=1e-5)


def test_ensembles_as_mean_worst_case_and_mean_less_spread() -> None:
    one, two = member(1, outputs=2), member(2)
    normaliser = RewardNormaliser(mean=(0.1, 0.2, 0.3), length_coef=(0.0, 0.01, 0.0))
    raw = torch.cat([naive(one), naive(two)], 1)
    lengths = torch.tensor([[3.0], [5.0], [1.0], [2.0]])
    scores = raw - lengths * torch.tensor([0.0, 0.01, 0.0]) - torch.tensor([0.1, 0.2, 0.3])
    mean, spread = scores.mean(1), scores.std(1, correction=0)
    for ensemble, expected in (
        ("mean", mean),
        ("min", scores.min(1).values),
        ("mean-std", mean - 0.5 * spread),
        ("mean-var", mean - 0.5 * ((scores - mean[:, None]) ** 2).sum(1) / 3),
    ):
        learned = LearnedReward([one, two], normaliser, ensemble=ensemble, std_coef=0.5)
        found = flat(learned.judge(groups()))
        torch.testing.assert_close(torch.tensor(values(found)), expected, rtol=1e-4, atol=1e-5)
        assert found[0].parts["std"] == pytest.approx(float(spread[0]), rel=1e-3)
    assert LearnedReward([two], RewardNormaliser()).judge(groups())[0].scores[0].parts == {}


@pytest.mark.parametrize(
    "options", [{"ensemble": "median"}, {"std_coef": math.nan}, {"std_coef": math.inf}]
)
def test_options_of_a_learned_reward_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LearnedReward([member(1)], RewardNormaliser(), **options)
    with pytest.raises(ConfigError, match="needs a reward model"):
        LearnedReward([], RewardNormaliser())


def test_a_sample_without_tokens_is_its_own_error() -> None:
    learned = LearnedReward([member(1)], RewardNormaliser(), name="rm")
    scores = score_safely(learned, [*samples(), sample("", [5, 6], [])])
    assert [s.value is None for s in scores] == [False] * 4 + [True]
    assert str(scores[-1].error).startswith("rm: ")


def test_scoring_keeps_no_graph_and_no_dropout() -> None:
    role = member(1)
    role.trunk.model.config.attention_dropout = 0.5
    role.trunk.model.train()  # left on by somebody
    learned = LearnedReward([role], RewardNormaliser())
    first = values(flat(learned.judge(groups())))
    assert values(flat(learned.judge(groups()))) == first


# -- from a recipe --------------------------------------------------------------------------------


def none(name: str) -> Any:
    raise AssertionError("nothing to load")


def test_a_single_reward_is_itself_and_several_are_a_mixture(tmp_path: Path) -> None:
    gold = RewardSpec(builtin="gold")
    assert build_judge([gold], base=tmp_path, load=none).name == "gold"
    heavy = build_judge([RewardSpec(builtin="gold", weight=2)], base=tmp_path, load=none)
    assert heavy.name == "mixture"


def test_unknown_builtins_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'gold'"):
        one_judge(RewardSpec(builtin="glod"), base=tmp_path, load=none)
    with pytest.raises(ConfigError, match="nope"):
        one_judge(RewardSpec(builtin="gold", options={"nope": 1}), base=tmp_path, load=none)


def test_names_that_would_hide_a_metric_or_each_other_are_refused() -> None:
    twice = [RewardSpec(function="a.py:f"), RewardSpec(function="b.py:f")]
    with pytest.raises(ConfigError, match="two rewards are called 'f'"):
        check_labels(twice, [], ())
    with pytest.raises(ConfigError, match=r"'length'.*name: my_length"):
        check_labels([], [RewardSpec(function="a.py:length")], ("length",))
    check_labels([RewardSpec(builtin="gold")], [RewardSpec(builtin="gold")], ())
