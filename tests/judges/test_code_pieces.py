"""Of several blocks the solution is run: not how it is used, not what it prints, not a draft."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gnomon.judges.code import CodeReward
from gnomon.judges.programs import extract_code
from gnomon.judges.protocol import Sample, Score, judged
from gnomon.records import Group, Message, Prompt, Response


def fenced(*bodies: str, language: str = "python") -> str:
    return "Then:\n".join(f"```{language}\n{body}\n```\n" for body in bodies)


def graded(texts: Sequence[str], meta: Mapping[str, Any]) -> list[float | None]:
    prompt = Prompt("p", (Message("user", "Write it."),), meta=dict(meta))
    return [score.value for score in CodeReward()([Sample(prompt, text) for text in texts])]


CUBE = "def cube(n):\n    return n ** 3"
WRONG = "def cube(n):\n    return n * 3"
FUTURE = "from __future__ import"
HELPED = "def cube(n):\n    return power(n, 3)"
HELPER = "import math\n\ndef power(a: int, b=(1)):\n    return int(math.pow(a, b))"

OF_FUNCTIONS = [
    fenced(CUBE, "print(cube(3))"),
    fenced(CUBE, "numbers = [cube(n) for n in range(9)]\nassert numbers[2] == 8"),
    fenced(CUBE, "from mine import cube\n\nfor n in (1, 2):\n    print(f'{cube(n)}')"),
    fenced(CUBE, "def test_cube():\n    assert cube(2) == 8\n\ntest_cube()"),
    fenced(CUBE, "27"),
    fenced(WRONG, CUBE, "print(cube(3))  # 27"),
    fenced(WRONG, f"# Corrected:\n{CUBE}"),
    fenced(HELPER, HELPED),
    fenced(HELPER, HELPED, "cube(3)"),
    fenced(HELPED, HELPER, "cube(3)"),
    fenced(f"{FUTURE} annotations\n{HELPER}", f"{FUTURE} division\n{HELPED}"),
    fenced("import math as m", "def cube(n):\n    return int(m.pow(n, 3))"),
    fenced("EXPONENT = 3", "def cube(n):\n    return n ** EXPONENT", "cube(2)"),
    fenced(f"{WRONG}\n\n{HELPER}", HELPED),
    fenced("cube = lambda n: n ** 3", "print(cube(2))"),
    fenced(CUBE, language="") + "Usage:\n" + fenced("print(cube(3))"),
    fenced(CUBE) + "In JavaScript:\n" + fenced("function cube(n) { return 0 }", language="js"),
    fenced(CUBE, "class Example:\n    def run(self):\n        print(cube(3))"),
]  # fmt: skip


@pytest.mark.parametrize("tests", [
    {"test_list": ["assert cube(3) == 27", "assert cube(2) == 8"]},
    {"tests": [{"function": "cube", "args": [3], "expected": 27}]},
    {"test": "def check(candidate):\n    assert candidate(3) == 27\n", "entry_point": "cube",
     "prompt": "def cube(n):\n    '''The cube.'''\n"},
])  # fmt: skip
def test_functions_are_taken_from_where_they_are_defined(tests: Mapping[str, Any]) -> None:
    got = graded(OF_FUNCTIONS, tests)
    assert [text for text, value in zip(OF_FUNCTIONS, got, strict=True) if value != 1.0] == []
    assert graded([fenced(CUBE, WRONG), fenced(WRONG, "print(cube(3))")], tests) == [0.0, 0.0]


def test_functions_from_several_blocks_are_put_together() -> None:
    text = fenced("def up(n):\n    return n + 1", "def down(n):\n    return n - 1", "up(down(3))")
    assert graded([text], {"test_list": ["assert up(1) == 2", "assert down(up(1)) == 1"]}) == [1.0]


def test_a_body_that_continues_the_prompt_is_found_beside_its_usage() -> None:
    tests = {"entry_point": "cube", "prompt": "def cube(n):\n    '''The cube.'''\n",
             "test": "def check(candidate):\n    assert candidate(3) == 27\n"}  # fmt: skip
    body = "    return n ** 3"
    before = [
        fenced("n = 3\nprint(cube(n))", body),
        fenced("n = 3\nprint(cube(n))", "return n ** 3"),
    ]
    assert graded([fenced(body, "print(cube(3))"), *before], tests) == [1.0] * 3
    head = "def cube(n: int):\n    '''The cube.'''"
    assert graded([fenced(head, body), fenced(CUBE, "return n * 3")], tests) == [1.0, 1.0]
    tests["prompt"] = f"import math\n\n\n{tests['prompt']}"
    body = "    return int(math.pow(n, 3))"
    assert graded([fenced("import math", body)], tests) == [1.0]


SCRIPT = "n = int(input())\nprint(n ** 3)"
MAIN = f"{CUBE}\n\ndef main():\n    print(cube(int(input())))"
OF_SCRIPTS = [
    fenced(f"{MAIN}\n\nmain()", "print(cube(3))"),
    fenced(f"{MAIN}\n\nif __name__ == '__main__':\n    main()", "cube(2)\ncube(3)"),
    fenced(MAIN, "if __name__ == '__main__':\n    main()"),
    fenced(MAIN, "main()", "print(cube(3))"),
    fenced(CUBE, "print(cube(int(input())))"),
    fenced(f"{HELPER}\n\nprint(power(2, 3))".replace("print", "# print"), f"{HELPED}\n{SCRIPT}"),
    fenced("n = int(input())", "print(n ** 3)"),
    fenced("n = int(input())\nprint(n * 3)", SCRIPT),
    fenced(SCRIPT, "27"),
    fenced(SCRIPT, "# Without input:\nn = 3\nprint(n ** 3)"),
    fenced(f"{MAIN}\n\nmain()", "import io, sys\nsys.stdin = io.StringIO('3')\nmain()"),
    fenced(f"{MAIN}\n\nmain()", "import unittest\n\nclass TestCube(unittest.TestCase):\n"
           "    def test_it(self):\n        self.assertEqual(cube(3), 27)\n\nunittest.main()"),
    fenced("import sys", "print(int(sys.stdin.read()) ** 3)"),
    fenced(SCRIPT, language="") + "For 3 it prints\n" + fenced("27", language=""),
]  # fmt: skip


def test_scripts_are_run_without_what_shows_their_use() -> None:
    tests = {"tests": [{"input": "3\n", "output": "27\n"}, {"input": "2\n", "output": "8\n"}]}
    got = graded(OF_SCRIPTS, tests)
    assert [text for text, value in zip(OF_SCRIPTS, got, strict=True) if value != 1.0] == []
    assert graded([fenced(SCRIPT, "n = int(input())\nprint(n * 3)")], tests) == [0.0]


def test_scripts_without_input() -> None:
    tests = {"tests": [{"input": "", "output": "27\n"}]}
    texts = [
        fenced(f"{CUBE}\n\nprint(cube(3))", "cube(2)"),
        fenced(CUBE, "for n in (3,):\n    print(cube(n))"),
        fenced("print(3 * 3)", "print(3 ** 3)", "27"),
    ]
    assert graded(texts, tests) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "line",
    [
        "def f(", "import (", "for x ", "lambda x ", '"""', "'", 'f"""', "(" * 50, " " * 80,
        "a, " * 30, "from __future__ import (", "x = ", "as (a, ", "\\", "input", "cube(" * 20,
        'f"{', "def f((((", "class A(", "iter(input",
        "import a.", "import a as ", "(x", "x(", "x = a(",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("names", [None, ["cube"]])
def test_long_pieces_are_read_in_time(line: str, end: str, names: list[str] | None) -> None:
    began = time.process_time()
    extract_code(fenced((line + end) * (60_000 // len(line)), "print(cube(3))"), names)
    assert time.process_time() - began < 3


class Lenient(CodeReward):
    """A reward of one's own."""

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(max(0.5, score.value or 0.0)) for score in super().__call__(samples)]


def test_a_reward_that_builds_on_it_is_asked_in_its_own_way() -> None:
    prompt = Prompt(
        "p", (Message("user", "Write it."),), meta={"test_list": ["assert cube(3) == 27"]}
    )
    said = tuple(Response((Message("assistant", fenced(code)),)) for code in (CUBE, WRONG))
    (found,) = judged(Lenient(), [Group(prompt, said)])
    assert [score.value for score in found.scores] == [1.0, 0.5]
