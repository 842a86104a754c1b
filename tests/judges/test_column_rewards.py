"""Rewards that are functions of columns: called as TRL's trainer calls them, read as it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError
from gnomon.judges.build import Mixture
from gnomon.judges.columns import ColumnReward
from gnomon.judges.function import FunctionReward, function_reward
from gnomon.judges.protocol import judged
from gnomon.plugins import handed
from gnomon.records import Group, Message, Prompt, Response


def group(prompt: Prompt, *texts: str) -> Group:
    return Group(prompt, tuple(Response((Message("assistant", t),), ids=(1, 2)) for t in texts))


def asked(text: str, **meta: Any) -> Prompt:
    return Prompt(text, (Message("user", text),), meta=meta)


def made(function: Callable[..., Any], **options: Any) -> Any:
    with handed({"python:f": function}):
        return function_reward("python:f", Path(), options, "f")


def values(judge: Any, *groups: Group) -> list[Any]:
    return [score.value for one in judged(judge, groups) for score in one.scores]


def test_what_it_is_called_with_is_what_trls_trainer_gives() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.update(kwargs, prompts=prompts, completions=completions)
        return [float(len(c)) for c in completions]

    found = values(made(reward), group(asked("a", answer=1), "x", "yy"), group(asked("b"), "zzz"))
    assert found == [1.0, 2.0, 3.0]
    assert seen["prompts"] == ["a", "a", "b"]
    assert seen["completions"] == ["x", "yy", "zzz"]
    assert seen["completion_ids"] == [[1, 2]] * 3
    assert seen["answer"] == [1, 1, None]


def test_a_conversation_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": [{"role": "user", "content": "hi"}], "answer": "7"}\n')
    (conversation,) = read_groups(file, kind="prompts").groups
    file.write_text('{"prompt": "hi", "answer": "7"}\n')
    (text,) = read_groups(file, kind="prompts").groups
    seen: list[Any] = []

    def reward(prompts: Any, completions: Any, answer: Any) -> list[float]:
        seen.append((prompts, completions, answer))
        return [0.0]

    for one in (conversation, text):
        values(made(reward), group(one.prompt, "yes"))
    assert seen[0] == (
        [[{"role": "user", "content": "hi"}]],
        [[{"role": "assistant", "content": "yes"}]],
        ["7"],
    )
    assert seen[1] == (["hi"], ["yes"], ["7"])


def test_one_that_does_not_apply_leaves_the_sum_to_the_others() -> None:
    """TRL takes the weighted nansum of the functions."""
    first = ColumnReward(lambda completions: [1.0, None, None], "first", {})
    second = ColumnReward(lambda completions: [10.0, 20.0, None], "second", {})
    mixed = Mixture([(first, 1.0), (second, 0.5)])
    (found,) = judged(mixed, [group(asked("q"), "a", "b", "c")])
    assert [score.value for score in found.scores] == [6.0, 10.0, None]
    assert "does not apply" in str(found.scores[2].error)
    failing = FunctionReward(lambda samples: [1.0, float("nan"), 1.0], "third")
    (found,) = judged(Mixture([(second, 1.0), (failing, 1.0)]), [group(asked("q"), "a", "b", "c")])
    assert [score.value for score in found.scores] == [
        11.0,
        None,
        1.0,
    ]  # a failure is no abstention


def test_what_it_logs_is_kept() -> None:
    def reward(
        completions: Any, log_metric: Any, log_extra: Any, trainer_state: Any
    ) -> list[float]:
        log_metric("share", 0.5)
        log_extra("parsed", ["one", None])
        log_extra("words", [1, 2])
        return [float(trainer_state.global_step)] * 2

    judge = made(reward)
    judge.begin(4)
    (found,) = judged(judge, [group(asked("q"), "a", "b")])
    assert [score.value for score in found.scores] == [3.0, 3.0]
    assert found.scores[1].parts == {"share": 0.5, "words": 2.0}
    assert found.reason == "parsed: one"


def test_a_coroutine_and_options() -> None:
    async def reward(completions: Any, scale: float) -> list[float]:
        return [scale * len(c) for c in completions]

    assert values(made(reward, scale=2.0), group(asked("q"), "ab")) == [4.0]


def test_a_column_that_no_row_has_is_said_before_the_run() -> None:
    judge = made(lambda completions, anwser: [0.0])
    for one in (judge, Mixture([(judge, 1.0)])):
        with pytest.raises(ConfigError, match=r"needs the column 'anwser'.*did you mean 'answer'"):
            one.check_prompts([asked("q", answer=1)])


def test_a_column_that_a_batch_lacks_is_none_there() -> None:
    """Other rows of the data have it: a batch may hold none of them."""
    judge = made(lambda completions, tests: [None if t is None else 1.0 for t in tests])
    judge.check_prompts([asked("p", tests="x"), asked("q")])
    assert values(judge, group(asked("q"), "a", "b")) == [None, None]
    assert values(judge, group(asked("p", tests="x"), "a"), group(asked("q"), "a")) == [1.0, None]


def test_columns_are_as_the_row_has_them_whatever_the_source(tmp_path: Path) -> None:
    row = {"prompt": "hi", "id": 5, "weight": 2.0, "system": "be good", "label": 1, "tests": None}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    seen: list[dict[str, Any]] = []

    def reward(**kwargs: Any) -> list[float]:
        seen.append(kwargs)
        return [0.0]

    for source in (file, [row]):
        (read,) = read_groups(source, kind="prompts").groups
        values(made(reward), group(read.prompt, "yes"))
    for columns in seen:
        assert {k: columns[k] for k in row if k != "prompt"} == {
            k: [v] for k, v in row.items() if k != "prompt"
        }
    (read,) = read_groups([row], kind="prompts", columns={"answer": "label"}).groups
    values(made(reward), group(read.prompt, "yes"))
    assert (seen[-1]["answer"], seen[-1]["label"]) == ([1], [1])


def test_a_wrong_number_of_rewards_is_no_reward() -> None:
    (found,) = judged(made(lambda completions: [1.0]), [group(asked("q"), "a", "b")])
    assert [score.value for score in found.scores] == [None, None]
    assert "returned 1 rewards for 2 completions" in str(found.scores[0].error)


@pytest.mark.parametrize("function", [lambda: [1.0], lambda samples, other: [1.0]])
def test_a_wrong_signature(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be called .*takes a list of samples"):
        made(function)


def test_an_option_that_it_does_not_take() -> None:
    with pytest.raises(ConfigError, match="its options"):
        made(lambda completions: [], scale=1)


def test_gnomons_own_signature_and_objects_are_still_asked_as_they_were() -> None:
    class Own:
        def judge(self, groups: Any) -> Any:
            return [[1.0 for _ in g.responses] for g in groups]

    assert values(
        made(lambda samples: [len(s.text) for s in samples]), group(asked("q"), "ab")
    ) == [2.0]
    assert values(made(Own()), group(asked("q"), "a", "b")) == [1.0, 1.0]


def test_what_was_passed_from_python_says_so_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"passed from Python .*resume\(passed=\[f\]\)"):
        function_reward("python:f", Path(), {}, "f")
