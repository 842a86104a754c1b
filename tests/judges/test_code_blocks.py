"""Which block of a response is the program, and how it joins the prompt's own code."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gnomon.judges.code import complete_program
from gnomon.judges.fences import Block, blocks_of
from gnomon.judges.programs import extract_code

PROGRAM = "n = int(input())\nif n:\n    print(n * 2)\n"
DEEPER = "".join(f"   {line}\n" for line in PROGRAM.splitlines())
DOCUMENTED = (
    'def f(x):\n    """Double.\n\n    ```\n    >>> f(1)\n    ```\n    """\n    return 2 * x\n'
)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"```python\n{PROGRAM}```\nFor 3 it prints\n```\n6\n```", PROGRAM),
        (f"```Python\n{PROGRAM}```\n```\n>>> f(1)\n2\n```\n```bash\npython a.py\n```", PROGRAM),
        (f"```python\n{PROGRAM}```\n```python\n>>> f(1)\n2\n```\n```python\n\n```", PROGRAM),
        (f"```\n$ python a.py\n```\n```\n{PROGRAM}```\n```\n$ python a.py\n```", PROGRAM),
        (f"```python\na = 1\n```\n```\nb = 2\n```\n```py\n{PROGRAM}```", PROGRAM),
        (f"```\na = 1\n```\n```\n{PROGRAM}```", PROGRAM),
        (f"```{{.python}}\n{PROGRAM}```", PROGRAM),
        (f"```python title=a.py\r\n{PROGRAM}```\r\n", PROGRAM),
        (f"1. So:\n\n   ```python\n{DEEPER}   ```\n\n2. Done.", PROGRAM),
        (f"1. ```python\n{DEEPER}   ```\n", PROGRAM),
        (f"1. So:\n\n   ```python\n{DEEPER}```\nDone, 6.", PROGRAM),
        (f"   ```python\n{PROGRAM}   ```\n", PROGRAM),
        ("\t```python\n\tif a:\n\t\tb()\n\t```\n", "if a:\n\tb()\n"),
        (f"```python\n{DOCUMENTED}```\nDone.", DOCUMENTED),
        (f"```python\n{DOCUMENTED} ```\nDone.", DOCUMENTED),
        (f"- So:\n\n  ~~~~py\n{PROGRAM}~~~\n```\n  ~~~~\n", f"{PROGRAM}~~~\n```\n"),
        (f"````python\n'''\n```\n'''\n{PROGRAM}````\n", f"'''\n```\n'''\n{PROGRAM}"),
        (f"```python\ndraft(\n\nAgain:\n```python\n{PROGRAM}```", PROGRAM),
        (f"<think>\n```python\ndraft(\n</think>\n```python\n{PROGRAM}```", PROGRAM),
        (f"<think>```python\ndraft(\n```</think>\n```python\n{PROGRAM}```", PROGRAM),
        (f"Here it is: ```python\n{PROGRAM}```", PROGRAM),
        (f"Not ```this``` but\n```\n{PROGRAM}```", PROGRAM),
        ("```python\n    return a + b\n```", "    return a + b\n"),
        ("```python\ncut o", "cut o"),
        ("print(1)", "print(1)"),
        ("```text\n6\n```", "```text\n6\n```"),
    ],
)
def test_the_program_of_a_response(text: str, program: str) -> None:
    assert extract_code(text) == program


def test_blocks_have_their_language_and_their_lines() -> None:
    text = "```C++ x\n1\n```\n~~~\n\n~~~\n```\n```\nand\n  ```\n   a\n b\n"
    assert blocks_of(text) == [
        Block("c++", "1\n"),
        Block("", "\n"),
        Block("", ""),
        Block("", " a\nb\n"),
    ]


@pytest.mark.parametrize(
    "line", ["```a\n ```\n  ```x\n", " " * 40, "- " * 40, "`" * 40, "~~~\n ```\n"]
)
def test_long_responses_are_read_in_time(line: str) -> None:
    began = time.process_time()
    extract_code(line * 5000)
    assert time.process_time() - began < 5


PREFIX = 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """Their sum."""\n'


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\n\ndef add(a: List[X], b): return a + b",
        '"""Sums."""\n# mine\nfrom __future__ import (\n    annotations,\n    division,\n)\n'
        "import math\ndef add(a: X, b): return a + b",
        "from __future__ import annotations; import math\ndef add(a: X, b): return a + b",
        "from __future__ import annotations  # why\nc = 0\ndef add(a: X, b): return a + b + c",
        "def add(a, b):\n    return a + b",
        "    return a + b\n",
        "return a + b\n",
        "c = a + b\nif c:\n    return c\nreturn 0\n",
        "    def inner():\n        return a + b\n    return inner()\n",
    ],
)
@pytest.mark.parametrize("first", ["", "from __future__ import division\n"])
def test_programs_join_the_prompts_code(code: str, first: str) -> None:
    space: dict[str, Any] = {}
    exec(
        compile(complete_program(first + PREFIX, code, "add"), "x", "exec", dont_inherit=True),
        space,
    )
    assert space["add"](1, 2) == 3


def test_what_only_looks_like_an_import_from_the_future_stays() -> None:
    text = 'def add(a, b):\n    return """\nfrom __future__ import annotations\n"""\n'
    assert complete_program(PREFIX, text, "add").endswith(text)
    late = "x = 1\nfrom __future__ import annotations\ndef add(a, b): return 3"
    with pytest.raises(SyntaxError):
        compile(complete_program(PREFIX, late, "add"), "x", "exec")
