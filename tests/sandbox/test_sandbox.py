"""The sandbox on honest programs, and on the test code, limits and options around them."""

from __future__ import annotations

import ast
import gzip
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.code import CodeReward, complete_program, extract_code
from gnomon.judges.protocol import Sample
from gnomon.records import Prompt
from gnomon.sandbox import CallTest, InputTest, Limits, Sandbox, SandboxError, probe
from gnomon.sandbox.inside import wire
from gnomon.sandbox.run import BadTestsError, free_names, same_value
from judging import score_safely


@pytest.fixture(params=["bubblewrap", "landlock"], scope="module")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    backend, reason = probe(request.param)
    if backend is None:
        pytest.skip(f"{request.param} does not work here: {reason}")
    return Sandbox(request.param, limits=Limits(wall_s=60))


def test_calls_are_compared_outside(sandbox: Sandbox) -> None:
    tests = [
        CallTest("add", [1, 2], 3),
        CallTest("add", ["a", "b"], "ab"),
        CallTest("add", [1, 1], 3),
    ]
    result = sandbox.run_calls("def add(a, b):\n    return a + b\n", tests)
    assert list(result.passed) == [True, True, False]
    assert result.share == pytest.approx(2 / 3)
    assert "gave 2" in result.detail


def test_inputs_run_as_scripts_each_in_a_fresh_process(sandbox: Sandbox) -> None:
    source = "seen = globals().setdefault('seen', 0) + 1\nprint(int(input()) * 2, seen)"
    tests = [InputTest("2\n", "4 1\n"), InputTest("21", "42 1"), InputTest("1", "3 1")]
    result = sandbox.run_inputs(source, tests, stop_early=False)
    assert list(result.passed) == [True, True, False]


def test_a_script_that_fails_after_the_right_output_fails(sandbox: Sandbox) -> None:
    result = sandbox.run_inputs("print(1)\nraise ValueError('late')", [InputTest("", "1")])
    assert not result.all_passed
    assert "late" in result.detail


def test_large_inputs_and_outputs_pass_through(sandbox: Sandbox) -> None:
    text = "x" * 300_000
    assert sandbox.run_inputs("print(input())", [InputTest(text, text)]).all_passed


def test_asserts_see_values_exceptions_and_helpers(sandbox: Sandbox) -> None:
    source = "def f(x):\n    if x < 0:\n        raise ValueError('no')\n    return (x, {x: [x]})\n"
    good = "assert f(2) == (2, {2: [2]})"
    raises = "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False"
    helper = "assert helper(f(1)) == 1"
    setup = "def helper(pair):\n    return pair[0]\n"
    result = sandbox.run_asserts(source, [good, raises, helper, "assert f(1) == 2"], setup=setup)
    assert list(result.passed) == [True, True, True, False]


def test_a_test_that_never_calls_the_program_does_not_pass(sandbox: Sandbox) -> None:
    assert not sandbox.run_asserts("def f(): pass", ["assert True"], functions=["f"]).all_passed


def test_broken_tests_are_not_the_programs_fault(sandbox: Sandbox) -> None:
    with pytest.raises(BadTestsError, match="set-up"):
        sandbox.run_asserts("def f(): pass", ["f()"], setup="1/0")
    with pytest.raises(BadTestsError, match="set-up"):
        sandbox.run_asserts("def f(): pass", ["f("], functions=["f"])
    with pytest.raises(BadTestsError, match="plain"):
        sandbox.run_asserts("def f(x): pass", ["f(lambda: 1)"])
    with pytest.raises(BadTestsError, match="values"):
        sandbox.run_calls("def f(x): pass", [CallTest("f", [object()], 1)])


def test_syntax_errors_and_early_ends_fail(sandbox: Sandbox) -> None:
    for source in ("def f(:", "raise SystemExit(0)", "import os; os._exit(0)", "", "f = 3"):
        assert not sandbox.run_asserts(source, ["assert f(1) == 1"]).all_passed, source
        assert not sandbox.run_calls(source, [CallTest("f", [1], 1)]).all_passed, source
        assert not sandbox.run_inputs(source, [InputTest("", "1")]).all_passed, source


def test_threads_run(sandbox: Sandbox) -> None:
    source = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def f(n):\n    with ThreadPoolExecutor(4) as p: return sum(p.map(abs, range(n)))\n"
    )
    assert sandbox.run_calls(source, [CallTest("f", [10], 45)]).all_passed


def test_python_path_makes_folders_importable(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "extra_module.py").write_text("VALUE = 7\n")
    test = [CallTest("f", [], 7)]
    source = "def f():\n    import extra_module\n    return extra_module.VALUE\n"
    name = sandbox.backend.name
    limits = Limits(wall_s=60)
    reads = Sandbox(name, python_path=[str(tmp_path)], limits=limits)
    assert reads.run_calls(source, test).all_passed
    assert not Sandbox(name).run_calls(source, test).all_passed


def test_without_walls_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="allow_unsafe"):
        Sandbox("none")
    with pytest.raises(SandboxError, match="choose auto"):
        Sandbox("docker")
    monkeypatch.setattr("gnomon.sandbox.backends.probe", lambda name: (None, "not here"))
    with pytest.raises(SandboxError, match="bubblewrap: not here; landlock: not here"):
        Sandbox()
    unsafe = Sandbox(allow_unsafe=True, limits=Limits(wall_s=60))
    assert unsafe.backend.name == "none"
    assert unsafe.run_calls("def f(): return 1", [CallTest("f", [], 1)]).all_passed


def test_a_sandbox_that_does_not_start_is_an_error_not_a_zero(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sandbox.backend), "command", lambda *_: ["/bin/false"])
    with pytest.raises(SandboxError, match="did not come up"):
        sandbox.run_calls("def f(): return 1", [CallTest("f", [], 1)])


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="wall_s"):
        Limits(wall_s=0)
    with pytest.raises(ConfigError, match=r"code reward: sandbox limit wall_s: 0 is not"):
        CodeReward(wall_s=0)
    with pytest.raises(ConfigError, match=r"code reward: sandbox 'docker': choose auto"):
        CodeReward(backend="docker")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**80,
        -1.5,
        float("inf"),
        "é\ud800",
        b"\x00\xff",
        [1, (2, {3})],
        {(1, 2): None},
        frozenset({1}),
        1j,
        Fraction(1, 3),
        range(3),
        {"d": [1]},
        [[]],
        bytearray(b"x"),
    ],
)
def test_values_cross_unchanged(value: Any) -> None:
    back = wire.decode(json.loads(json.dumps(wire.encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_only_plain_values_cross() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    assert wire.decode(wire.encode(Liar(3))) != 4
    for value in (object(), lambda: 1, type, iter([])):
        with pytest.raises(wire.UnsupportedError):
            wire.encode(value)
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(wire.UnsupportedError, match="nested"):
        wire.encode(deep)
    began = time.process_time()
    many = [{"i": hex(k * (2**61 - 1))} for k in range(100_000)]
    slow = (
        {"s": many},
        {"f": many},
        {"d": [[k, 0] for k in many]},
        {"q": ["f" * 10**6, "7" * 10**6]},
    )
    for bad in ({"z": 1}, {"d": 3}, {"i": "x", "t": []}, {"r": [0, 1, 0]}, *slow):
        with pytest.raises(wire.UnsupportedError):
            wire.decode(bad)
    assert time.process_time() - began < 10


def test_values_compare_strictly() -> None:
    assert same_value([1, 2.0], [1, 2])
    assert same_value(0.1 + 0.2, 0.3, rel_tol=1e-9)
    assert not same_value(0.1 + 0.2, 0.3)
    assert not same_value(True, 1)
    assert not same_value((1,), [1])
    assert same_value(float("nan"), float("nan"))


def test_names_the_program_must_provide() -> None:
    names = free_names(["import math\n", "assert f(math.pi, [x for x in y]) == g(len('a'))"])
    assert sorted(names) == ["f", "g", "y"]


def test_code_is_taken_from_the_last_block() -> None:
    text = "Try\n```python\na = 1\n```\nor better\n```python\nb = 2\n```\nDone.\n```text\nout\n```"
    assert extract_code(text) == "b = 2\n"
    assert extract_code("def f():\n    pass") == "def f():\n    pass"
    assert extract_code("```py\ncut off") == "cut off"


def test_a_completion_goes_on_or_starts_anew() -> None:
    prefix = "import math\ndef f(x):\n    '''doc'''\n"
    assert complete_program(prefix, "    return x\n", "f") == prefix + "    return x\n"
    anew = complete_program(prefix, "def f(x):\n    return math.pi\n", "f")
    space: dict[str, Any] = {}
    exec(anew, space)
    assert space["f"](1) == pytest.approx(3.14159, abs=1e-4)


# -- the reward ------------------------------------------------------------------------------------


def _reward(**options: Any) -> CodeReward:
    try:
        return CodeReward(wall_s=60, **options)
    except ConfigError as error:
        pytest.skip(str(error))


def test_reward_kinds_of_tests_and_errors() -> None:
    reward = _reward(score="share")
    io = Prompt(
        "io", meta={"tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "3"}]}
    )
    call = Prompt("c", meta={"entry_point": "f", "tests": [{"args": [1], "expected": 2}]})
    mbpp = Prompt("m", meta={"test_list": ["assert f(1) == 2", "assert f(2) == 4"]})
    none = Prompt("n", meta={"answer": "3"})
    lacks = Prompt("l", meta={"tests": [{"args": [1]}]})
    add = "```python\ndef f(x):\n    return x + 1\n```"
    scores = score_safely(
        reward, [Sample(io, "print(input())")] + [Sample(p, add) for p in (call, mbpp, none, lacks)]
    )
    assert [s.value for s in scores] == [0.5, 1.0, 0.5, None, None]
    assert "prompt n" in str(scores[3].error)
    assert "answer" in str(scores[3].error)
    assert "expected" in str(scores[4].error)
    with pytest.raises(ConfigError):
        CodeReward(score="most")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({}, "no tests in its fields (nothing)"),
        ({"answer": "3"}, "no tests in its fields (answer)"),
        ({"test_list": []}, "no tests"),
        ({"tests": []}, "no tests"),
        ({"tests": None, "test": None, "entry_point": None}, "no tests"),
        ({"test_list": "assert f(1)"}, "not a list"),
        ({"tests": [{"args": [1]}]}, "expected"),
        ({"tests": ["assert f(1)"]}, "neither input"),
        ({"tests": [{"args": [1], "expected": 1}]}, "name a function"),
        ({"test_list": ["assert f(1)", 3]}, "not a list"),
        ({"test_list": {"a": "assert f(1)"}}, "not a list"),
        ({"tests": [{"input": [3], "output": "6"}]}, "input or output is [3]"),
        ({"tests": [{"input": "3", "output": {"a": 6}}]}, "input or output is {'a': 6}"),
        ({"tests": [{"input": "3", "output": [["6"]]}]}, "input or output is [['6']]"),
        ({"tests": [{"input": "3", "output": True}]}, "input or output is True"),
        ({"tests": [{"input": b"3", "output": "3"}]}, "input or output is b'3'"),
        ({"tests": [{"function": "f", "args": "ab", "expected": 1}]}, "args are 'ab'"),
        ({"tests": [{"function": "f", "args": {"x": 1}, "expected": 1}]}, "args are {'x': 1}"),
        ({"tests": [{"function": "f", "args": [], "kwargs": [1], "expected": 1}]}, "kwargs are"),
    ],
)
def test_a_prompt_without_tests_is_said_before_anything_runs(
    meta: dict[str, Any], said: str
) -> None:
    reward = _reward()
    prompt = Prompt("p7", meta=meta)
    (score,) = score_safely(reward, [Sample(prompt, "def f(x): return x")])
    assert score.value is None
    assert "p7" in str(score.error)
    assert said in str(score.error)


def test_lists_of_lines_are_put_in_and_compared_as_lines() -> None:
    tests = [
        {"input": ["3", "4"], "output": ["6", "8"]},
        {"input": ["3\n", "4\n"], "output": ("6\n", "8\n")},
        {"input": "3\n4", "output": ["6", "8"]},
        {"input": ["3", "4"], "output": "6\n8"},
    ]
    prompt = Prompt("p", meta={"tests": [*tests, {"input": 3, "output": 6}]})
    right = "import sys\nfor line in sys.stdin: print(int(line) * 2)"
    wrong = right.replace("2", "3")
    scores = score_safely(_reward(), [Sample(prompt, right), Sample(prompt, wrong)])
    assert [s.value for s in scores] == [1.0, 0.0]


def test_fields_filled_up_with_none_do_not_hide_the_tests() -> None:
    padded = {"input": None, "output": None, "function": "f", "args": [2], "expected": None}
    meta = {"test": None, "entry_point": None, "test_list": None, "tests": [padded]}
    prompt = Prompt("p", meta=meta)
    (score,) = score_safely(_reward(), [Sample(prompt, "def f(x): return None")])
    assert score.value == 1.0


def _humaneval(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


class _ReturnNone(ast.NodeTransformer):
    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.Constant(None))


def test_humaneval_solutions_pass_and_mutants_fail(shared_data: Path) -> None:
    reward = _reward()
    rows = _humaneval(shared_data)[::9]
    prompts = [Prompt(r["task_id"], text=r["prompt"], meta=r) for r in rows]
    right = [Sample(p, r["canonical_solution"]) for p, r in zip(prompts, rows, strict=True)]
    trees = [ast.parse(r["prompt"] + r["canonical_solution"]) for r in rows]
    wrong = [
        Sample(p, f"```python\n{ast.unparse(_ReturnNone().visit(tree))}\n```")
        for p, tree in zip(prompts, trees, strict=True)
    ]
    scores = score_safely(reward, right + wrong)
    assert [s.value for s in scores] == [1.0] * len(rows) + [0.0] * len(rows), [
        s.error for s in scores if s.error
    ]
