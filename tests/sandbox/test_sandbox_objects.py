"""Tests that hand the program's own objects back to it, and what they cannot see of them."""

# ruff: noqa: E501  (programs in strings read better unbroken)

from __future__ import annotations

import pytest

from gnomon.sandbox import Limits, Sandbox, SandboxError
from gnomon.sandbox.names import makers
from gnomon.sandbox.run import BadTestsError

CHAIN = [
    "assert chain([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)], 4) == 3",
    "assert chain([Pair(1, 2), Pair(3, 4)], 2) == 2",
]
LONGEST = """
def chain(pairs, n):
    best = [1] * n
    for i in range(1, n):
        for j in range(i):
            if pairs[i].a > pairs[j].b:
                best[i] = max(best[i], best[j] + 1)
    return max(best)
"""
PAIRS = {
    "a class": "class Pair(object):\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n",
    "a named tuple": "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\n",
    "a data class": "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: int\n    b: int\n",
    "a list": "class Pair(list):\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n",
}
LIARS = {
    "an object": "class L: pass\n",
    "equal to all": (
        "class L:\n    __eq__ = __ne__ = __lt__ = __gt__ = __contains__ = lambda s, o: True\n"
        "    __bool__ = lambda s: True\n    __hash__ = None\n"
    ),
    "patched": (
        "import sys\nw = sys.modules['inside.wire']\nw.Held.__eq__ = lambda s, o: True\n"
        "w.Held.__bool__ = lambda s: True\nclass L: pass\n"
    ),
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(limits=Limits(wall_s=60))
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", PAIRS)
def test_tests_pass_objects_of_the_program_back_to_it(sandbox: Sandbox, kind: str) -> None:
    result = sandbox.run_asserts(PAIRS[kind] + LONGEST, CHAIN)
    assert result.all_passed, result.detail
    wrong = PAIRS[kind] + "def chain(pairs, n): return pairs[0].a - 2"
    assert list(sandbox.run_asserts(wrong, CHAIN).passed) == [True, False]


def test_objects_are_kept_between_lines_and_stay_the_same(sandbox: Sandbox) -> None:
    source = (
        "class Stack:\n    def __init__(self): self.all = []\n"
        "def push(s, x):\n    s.all.append(x)\n    return s\n"
        "def size(s): return len(s.all)\n"
    )
    test = "s = Stack()\nassert push(s, 1) is s\npush(s, 2)\nassert size(s) == 2"
    result = sandbox.run_asserts(source, [test, "assert size(push(Stack(), 1)) == 1"])
    assert result.all_passed, result.detail


@pytest.mark.parametrize("kind", LIARS)
@pytest.mark.parametrize(
    "test",
    [
        *("assert f(1) == 2", "assert f(1) != 2", "assert f(1)", "assert not f(1)"),
        *("assert f(1) in [1, 2]", "assert f(1) in {2}", "assert 2 in [f(1)]", "assert f(1) > 0"),
        *("assert list(f(1)) == []", "assert str(f(1)) > ''", "assert [f(1)] == [2]"),
        *("assert f(1)._held == 2", "assert sorted([f(1), f(1)])", "assert g(f(1)) == 2"),
        *(
            "assert f(1) == f(1)",
            "assert {f(1): 1}",
            "assert f(1) or True",
            "assert len(f(1)) >= 0",
        ),
    ],
)
def test_no_test_passes_by_looking_at_an_object(sandbox: Sandbox, kind: str, test: str) -> None:
    source = LIARS[kind] + "def f(x): return L()\ndef g(x): return x\n"
    assert not sandbox.run_asserts(source, [test]).all_passed


@pytest.mark.parametrize(
    "answer",
    ["{'o': 0}", "{'o': -1}", "{'o': 10 ** 30}", "{'o': True}", "{'o': [1]}", "{'o': 'a'}"],
)
def test_a_made_up_number_is_no_answer(sandbox: Sandbox, answer: str) -> None:
    source = (
        f"import sys\nsys.modules['inside.wire'].encode = lambda v, **k: {answer}\n"
        "def f(x): return 1\n"
    )
    assert not sandbox.run_asserts(source, ["assert f(f(1)) == 1", "assert f(1)"]).passed[0]


def test_a_task_may_be_to_write_what_python_has(sandbox: Sandbox) -> None:
    tests = ["assert sum(10, 15) == 6", "assert sum(100, 150) == 93"]
    source = "def sum(a, b):\n    return 6 if a == 10 else 93"
    assert sandbox.run_asserts(source, tests).all_passed
    assert not any(sandbox.run_asserts("def add(a, b): return 6", tests).passed)
    assert sandbox.run_asserts("def f(x): return 3", ["assert f(sum([1, 2])) == 3"]).all_passed


@pytest.mark.parametrize("test", ["assert True", "assert sum(max(1, 2)) == 3", "x = 1\nassert x"])
def test_tests_that_call_nothing_of_the_program_are_an_error(sandbox: Sandbox, test: str) -> None:
    with pytest.raises(BadTestsError, match="call no function"):
        sandbox.run_asserts("def f(): pass", [test])


def test_whose_values_are_only_handed_back() -> None:
    names = ["f", "P", "Q", "R"]
    parts = ["f(P(1), [(P(2),)], {1: P(P(3))}, k=Q(1))", "Q(2)", "f(len(R(1)))"]
    assert makers(parts, names) == ["P"]
    assert makers(["f("], names) == []
