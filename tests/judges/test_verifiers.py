"""Verifiers, adapter and shaping, against labelled answers, hand-worked values and broken input."""

from __future__ import annotations

import select
import time
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.build import BUILTIN, build_judge
from gnomon.judges.protocol import Sample
from gnomon.judges.verifiers import rewards
from gnomon.judges.verifiers.rewards import VerifierReward
from gnomon.judges.verifiers.schema import violations
from gnomon.judges.verifiers.shaping import FormatReward, LengthReward, RepetitionReward
from gnomon.judges.verifiers.text import parse_json
from gnomon.plugins import load_builtin
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Prompt, Source
from judging import score_safely


def sample(text: str, finished: bool = True, **meta: Any) -> Sample:
    return Sample(Prompt("p1", meta=meta, source=Source("d.jsonl", 7)), text, finished=finished)


def values(reward: Any, *samples: Sample) -> list[float | None]:
    return [score.value for score in score_safely(reward, samples)]


# -- text, patterns, JSON --------------------------------------------------------------------------


def test_exact_compares_the_whole_answer() -> None:
    reward = rewards.exact(extract=["phrase", "all"])
    got = values(
        reward,
        sample("Paris!", answer="paris"),
        sample("The answer is Paris.", answer=["Rome", "Paris"]),
        sample("Paris, Rome, Berlin", answer="paris"),
        sample("", answer="paris"),
    )
    assert got == [1.0, 1.0, 0.0, 0.0]
    assert values(rewards.exact(case=True), sample("paris", answer="Paris")) == [0.0]


def test_a_missing_answer_is_named() -> None:
    for meta in ({}, {"answer": None}, {"answer": " "}, {"answer": []}):
        (score,) = score_safely(rewards.exact(), [sample("x", gold="3", **meta)])
        assert score.value is None
        assert "d.jsonl, row 7" in str(score.error)
        assert "gold" in str(score.error)


def test_a_pattern_that_runs_away_costs_one_sample() -> None:
    reward = rewards.regex(r"^(a+)+$", timeout_s=1.0, workers=1)
    began = time.monotonic()
    scores = score_safely(
        reward, [sample("aaa"), sample("a" * 40 + "b"), sample("aa"), sample("b")]
    )
    assert [s.value for s in scores] == [1.0, 0.0, 1.0, 0.0]
    assert [dict(s.parts) for s in scores] == [{"timed_out": float(i == 1)} for i in range(4)]
    assert time.monotonic() - began < 60


def test_patterns_are_checked_before_the_run() -> None:
    for pattern in ("(", "a*", "^$|x"):
        with pytest.raises(ConfigError):
            rewards.regex(pattern)
    with pytest.raises(ConfigError, match="either"):
        rewards.regex()


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "tags": {
            "type": "array",
            "items": {"enum": ["a", "b"]},
            "uniqueItems": True,
            "maxItems": 2,
        },
        "next": {"$ref": "#"},
    },
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def json_reward() -> VerifierReward:
    return rewards.json_schema(SCHEMA, workers=1)


@pytest.mark.parametrize(
    ("text", "parses", "valid"),
    [
        ('{"name": "Ada", "age": 36}', 1, 1),
        ('```json\n{"name": "Ada", "age": 36.0, "tags": ["a", "b"]}\n```', 1, 1),
        ('{"name": "Ada", "age": 1, "next": {"name": "B", "age": 2}}', 1, 1),
        ('{"name": "Ada", "age": 1, "next": {"name": "b", "age": 2}}', 1, 0),
        ('{"name": "Ada", "age": true}', 1, 0),
        ('{"name": "Ada", "age": 150}', 1, 0),
        ('{"name": "Ada", "age": 3, "tags": ["a", "a"]}', 1, 0),
        ('{"name": "Ada", "age": 3, "x": 1}', 1, 0),
        ('{"name": "", "age": 3}', 1, 0),
        ("[]", 1, 0),
        ('{"name": "Ada", "age": NaN}', 0, 0),
        ('{"name": "Ada", "age": 1, "age": 2}', 0, 0),
        ('Here: {"name": "Ada", "age": 1}', 0, 0),
        ("[" * 100_000, 0, 0),
        ("", 0, 0),
    ],
)
def test_json_against_a_schema(
    json_reward: VerifierReward, text: str, parses: int, valid: int
) -> None:
    (score,) = score_safely(json_reward, [sample(text)])
    assert (score.value, dict(score.parts)) == (valid, {"parses": parses, "valid": valid})


def test_a_schemas_pattern_that_runs_away_costs_one_sample() -> None:
    reward = rewards.json_schema({"type": "string", "pattern": "^(a+)+$"}, timeout_s=0.5, workers=1)
    good, runaway = sample('"aa"'), sample('"' + "a" * 40 + 'b"')
    assert values(reward, good, runaway, good) == [1.0, 0.0, 1.0]


def test_schema_combinations_and_refusals() -> None:
    either = {"oneOf": [{"type": "integer"}, {"minimum": 5}], "not": {"const": 7}}
    assert [not violations(v, either) for v in (3, 5.5, 6, 7, "x")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert violations(0.3, {"multipleOf": 0.1}) == []
    assert violations(1e300, {"multipleOf": 1e-300}) == []
    assert violations(0.35, {"multipleOf": 0.1})
    assert parse_json(" [1] ") == [1]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"minLenght": 3}}}, "'minLenght'; did you mean 'minLength'"),
        ({"anyOf": [{"items": {"$vocabulary": {}}}]}, "unknown keyword '\\$vocabulary'"),
        ({"properties": {"a": {"type": "text"}}}, r"\$\.properties\.a\.type: no type 'text'"),
        ({"items": {"pattern": "("}}, r"items\.pattern"),
        ({"required": "a"}, "required"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"not": {"$ref": "http://127.0.0.1:1/schema"}}, "leads out of the schema"),
        ([], "not a schema"),
    ],
)
def test_a_schema_that_would_not_be_checked_in_full_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rewards.json_schema(schema)


def test_what_is_nested_too_deep_breaks_its_schema() -> None:
    deep: Any = 3
    for _ in range(400):
        deep = [deep]
    assert violations(deep, {"items": {"$ref": "#"}}) == ["$: nested too deep"]
    assert violations(3, {"$ref": "#"}) == ["$: nested too deep"]


def test_a_huge_value_is_not_repeated_in_the_problem() -> None:
    (problem,) = violations({"x": "a" * 10_000}, {"properties": {"x": {"type": "integer"}}})
    assert problem.startswith("$.x: 'aaa")
    assert problem.endswith("is not of type 'integer'")
    assert len(problem) < 300


# -- the adapter -----------------------------------------------------------------------------------


def test_failures_stay_with_their_samples() -> None:
    def verify(text: str, answer: Any) -> Any:
        outcomes: dict[str, Any] = {
            "none": None,
            "nan": float("nan"),
            "inf": float("inf"),
            "text": "1",
            "list": [1, 2, 3],
            "parts": (0.5, {"a": 1}),
            "yes": True,
        }
        if text == "raise":
            raise RuntimeError("boom")
        return outcomes[text]

    reward = VerifierReward(verify, "mine", field=None)
    names = ["none", "nan", "inf", "text", "list", "raise", "parts", "yes"]
    scores = score_safely(reward, [sample(name) for name in names])
    assert [s.value for s in scores] == [None] * 6 + [0.5, 1.0]
    assert all(s.error for s in scores[:6])
    assert "boom" in str(scores[5].error)
    assert scores[6].parts == {"a": 1.0}


def test_a_users_verifier_that_hangs_dies_or_prints(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import os, time\n"
        "def verify(text, answer, bonus=0):\n"
        "    print('chatter')\n"
        "    if text == 'hang':\n        time.sleep(600)\n"
        "    if text == 'die':\n        os._exit(1)\n"
        "    if text == 'raise':\n        raise ValueError('bad sample')\n"
        "    return (text == answer) + bonus, {'length': len(text)}\n"
    )
    options = {"bonus": 1}
    reward = rewards.verifier(f"{file}:verify", options=options, timeout_s=2.0, workers=1)
    texts = ["x", "die", "raise", "x"]
    scores = score_safely(reward, [sample(t, answer="x") for t in texts])
    assert [s.value for s in scores] == [2.0, None, None, 2.0]
    assert "died" in str(scores[1].error)
    assert "bad sample" in str(scores[2].error)
    assert scores[0].parts == {"length": 1.0}
    (hung,) = score_safely(reward, [sample("hang", answer="x")])
    assert (hung.value, hung.parts, hung.error) == (0.0, {"timed_out": 1.0}, None)
    strict = rewards.verifier(f"{file}:verify", timeout_s=1.0, timed_out=None, workers=1)
    (hung,) = score_safely(strict, [sample("hang", answer="x")])
    assert "longer than 1 s" in str(hung.error)
    assert "d.jsonl, row 7" in str(hung.error)
    with pytest.raises(ConfigError):
        rewards.verifier(f"{file}:missing")


def test_a_verifier_that_never_answers_is_at_fault_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.judges.verifiers.rewards.MAX_UNANSWERED", 2)
    file = tmp_path / "stuck.py"
    file.write_text("import time\ndef verify(text, answer):\n    time.sleep(600)\n")
    reward = rewards.verifier(f"{file}:verify", timeout_s=0.5, workers=1)
    scores = reward([sample("x", answer="x")] * 4)
    assert [s.value for s in scores] == [0.0] * 2 + [None] * 2
    assert "raise timeout_s" in str(scores[-1].error)


def test_an_answer_that_comes_as_time_runs_out_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, and its worker asleep again, when it is looked at why there was none."""
    file, go = tmp_path / "late.py", tmp_path / "go"
    file.write_text(
        "import time\nfrom pathlib import Path\n"
        "def verify(text, answer):\n"
        f"    while not Path({str(go)!r}).exists():\n        time.sleep(0.01)\n"
        "    return text == answer\n"
    )
    reward = rewards.verifier(f"{file}:verify", timeout_s=0.05, workers=1)
    assert reward._pool is not None
    (worker,) = reward._pool._free.queue
    worker._start()
    looks: list[int] = []

    def look(pid: int) -> tuple[float, bool]:
        looks.append(pid)
        if len(looks) == 2:  # the first is before it is asked
            go.touch()
            assert worker.process is not None
            assert select.select([worker.process.stdout], [], [], 60)[0]
        return 0.0, False

    monkeypatch.setattr("gnomon.judges.verifiers.workers._processor_seconds", look)
    assert values(reward, sample("x", answer="x")) == [1.0]
    assert len(looks) == 2


def test_a_verifier_that_exits_costs_its_sample(tmp_path: Path) -> None:
    file = tmp_path / "leaves.py"
    file.write_text("import sys\ndef verify(text, answer):\n    sys.exit(0)\n")
    reward = rewards.verifier(f"{file}:verify", workers=1)
    (score,) = score_safely(reward, [sample("x", answer="x")])
    assert score.value is None
    assert "SystemExit" in str(score.error)


def test_a_users_verifier_that_leaves_or_is_a_coroutine(tmp_path: Path) -> None:
    file = tmp_path / "later.py"
    file.write_text(
        "import asyncio, sys\n"
        "async def verify(text, answer):\n"
        "    await asyncio.sleep(0)\n"
        "    if text == 'leave':\n        sys.exit(0)\n"
        "    return text == answer\n"
    )
    reward = rewards.verifier(f"{file}:verify", timeout_s=30.0, workers=1)
    scores = score_safely(reward, [sample(t, answer="x") for t in ("x", "leave", "y")])
    assert [s.value for s in scores] == [1.0, None, 0.0]
    assert f"SystemExit: 0 ({file}:5, in verify)" in str(scores[1].error)


# -- shaping ---------------------------------------------------------------------------------------


def test_soft_overlong_punishment_by_hand() -> None:
    reward = LengthReward("tokens", low=10, high=100, ramp=50)
    lengths = {0: -1.0, 5: -0.5, 10: 0.0, 100: 0.0, 125: -0.5, 150: -1.0, 999: -1.0}
    assert {n: reward.penalty(n) for n in lengths} == lengths
    assert LengthReward("words", high=2)([sample("a b c d")])[0].value == -1.0
    for bad in ({}, {"low": 5, "high": 3}, {"high": 3, "ramp": 0}):
        with pytest.raises(ConfigError):
            LengthReward(**bad)


def test_format_tags() -> None:
    reward = FormatReward(["think", "answer"])
    good = "<think>so</think>\n<answer>3</answer>"
    texts = {
        good: 1.0,
        "<answer>3</answer><think>so</think>": 0.0,
        "<think></think><answer>3</answer>": 0.0,
        f"{good} and more": 0.0,
        f"{good}{good}": 0.0,
        "<think><answer>3</answer></think>": 0.0,
        "": 0.0,
    }
    assert {t: reward.value(t) for t in texts} == texts
    assert FormatReward(["think", "answer"], outside=True).value(f"Well: {good}") == 1.0
    assert FormatReward(["think", "answer"], partial=True).value("<think>so</think> 3") == 0.5


def test_repetition() -> None:
    reward = RepetitionReward(2)
    assert reward.share("a b c d") == 0
    assert reward.share("a b a b a b") == pytest.approx(3 / 5)
    assert reward.share("") == 0


# -- recipes ---------------------------------------------------------------------------------------


def test_recipes_name_builtins_and_mixtures() -> None:
    specs = [
        RewardSpec(builtin="maths", options={"workers": 1}),
        RewardSpec(builtin="format", weight=0.5, options={"outside": True, "tags": ["think"]}),
    ]
    reward = build_judge(specs, base=Path(), load=lambda name: pytest.fail(name))
    (score,) = score_safely(reward, [sample("<think>2+1</think> \\boxed{3}", answer="3")])
    assert score.value == 1.5
    assert score.parts == {"maths": 1.0, "maths/answered": 1.0, "format": 1.0}
    for spec in (
        RewardSpec(builtin="mathz"),
        RewardSpec(builtin="maths", options={"colour": "red"}),
        RewardSpec(builtin="length"),
    ):
        with pytest.raises(ConfigError):
            build_judge([spec], base=Path(), load=lambda name: pytest.fail(name))


def test_every_builtin_exists() -> None:
    for reference in BUILTIN.values():
        assert callable(load_builtin(reference))
