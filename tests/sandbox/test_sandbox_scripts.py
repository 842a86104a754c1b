"""How a script ends: as under Python itself, whatever it leaves running or unwritten."""

# ruff: noqa: E501  (programs in strings read better unbroken)

from __future__ import annotations

import time

import pytest

from gnomon.sandbox import CallTest, InputTest, Limits, Sandbox

DOUBLE = [InputTest("3\n", "6\n"), InputTest("5", "10")]
LATE = "import threading, time\ndef main():\n    n = int(input())\n    time.sleep(0.2)\n    print(n * 2)\n"

RIGHT = {
    "exit": "print(int(input()) * 2)\nexit()",
    "exit with a zero": "print(int(input()) * 2)\nexit(0)",
    "quit in a function": "def main():\n    print(int(input()) * 2)\n    quit()\nmain()\nprint('x')",
    "a thread nobody waits for": LATE + "threading.Thread(target=main).start()",
    "a thread, and exit": (
        "import threading, time\nn = int(input())\ndef main():\n    time.sleep(0.2)\n    print(n * 2)\n"
        "threading.Thread(target=main).start()\nexit()"
    ),
    "a pool nobody closes": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "ThreadPoolExecutor(2).submit(lambda: print(int(input()) * 2))"
    ),
    "atexit writes": (
        "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
        "atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))\n"
        "print(int(input()) * 2)"
    ),
    "atexit after the threads": (
        "import atexit, threading, time\nout = []\natexit.register(lambda: print(*out))\n"
        "def main():\n    time.sleep(0.1)\n    out.append(int(input()) * 2)\n"
        "threading.Thread(target=main).start()"
    ),
    "a file on stdout left open": "out = open(1, 'w')\nout.write(str(int(input()) * 2))",
    "stdout put aside": "import io, sys\nprint(int(input()) * 2)\nsys.stdout = io.StringIO()",
    "stdout closed": "import sys\nprint(int(input()) * 2)\nsys.stdout.close()",
    "a daemon left behind": (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n"
        "print(int(input()) * 2)"
    ),
    "atexit fails": "import atexit\natexit.register(lambda: 1 / 0)\nprint(int(input()) * 2)",
}
WRONG = {
    "another status": "print(int(input()) * 2)\nexit(3)",
    "a message as status": "print(int(input()) * 2)\nexit('no')",
    "exit before the answer": "exit(0)",
    "exit without an answer": "input()\nquit()",
    "an error, then a good status at exit": (
        "import atexit, sys\natexit.register(sys.exit, 0)\nprint(int(input()) * 2)\n1 / 0"
    ),
    "atexit prints a wrong answer": "import atexit\natexit.register(print, 7)",
    "atexit prints marks of success": (
        "import atexit, json, os\n"
        "def forge():\n"
        "    for m in ({'out': '6', 'err': '', 'status': 0, 'ended': 'end'}, {'done': True}):\n"
        "        data = json.dumps(m).encode()\n"
        "        for fd in range(64):\n"
        "            try: os.write(fd, len(data).to_bytes(4, 'little') + data)\n"
        "            except OSError: pass\n"
        "atexit.register(forge)\nprint('passed OK')"
    ),
    "the runner patched for the way out": (
        "import sys\n"
        "wire, confine = sys.modules['inside.wire'], sys.modules['inside.confine']\n"
        "runner = sys.modules['inside.runner']\n"
        "wire.ClosedError = confine.ConfineError = BaseException\n"
        "wire.send = lambda *a: None\n"
        "runner._one_run = lambda *a: {'out': '6', 'err': '', 'status': 0, 'ended': 'end'}\n"
        "exit()"
    ),
    "a thread that patches": (
        "import os, sys, threading\n"
        "def patch():\n"
        "    runner = sys.modules['inside.runner']\n"
        "    for key in [k for k in vars(runner) if k[:2] != '__']:\n"
        "        setattr(runner, key, lambda *a, **k: {'out': '6', 'status': 0, 'ended': 'end'})\n"
        "threading.Thread(target=patch).start()"
    ),
}
FORGE = (
    "import atexit, os, sys, threading\n"
    "from json import dumps\n"
    "def forge(*_):\n"
    "    for m in ({'passed': [True], 'detail': ''}, {'ok': 1}, {'answer': {'ok': 1}}):\n"
    "        data = dumps(m).encode()\n"
    "        for fd in range(64):\n"
    "            try: os.write(fd, len(data).to_bytes(4, 'little') + data)\n"
    "            except OSError: pass\n"
)
UNANSWERED = {
    "exit": "exit(0)\ndef f(x): return 1",
    "exit when called": "def f(x): exit(0)",
    "quit when called": "def f(x): quit()",
    "forged at exit": FORGE + "atexit.register(forge)\nexit(0)",
    "forged at exit, when called": FORGE + "atexit.register(forge)\ndef f(x): sys.exit(0)",
    "other builtins": "import builtins\nbuiltins.exit = builtins.quit = print\ndef f(x): return exit",
}


@pytest.mark.parametrize("script", RIGHT)
def test_a_right_script_passes_however_it_ends(name: str, script: str) -> None:
    result = Sandbox(name, limits=Limits(wall_s=60)).run_inputs(RIGHT[script], DOUBLE)
    assert result.all_passed, result.detail


@pytest.mark.parametrize("script", WRONG)
def test_no_way_to_end_makes_a_wrong_script_pass(name: str, script: str) -> None:
    sandbox = Sandbox(name, limits=Limits(wall_s=10))
    assert not any(sandbox.run_inputs(WRONG[script], DOUBLE, stop_early=False).passed)


@pytest.mark.parametrize("trick", UNANSWERED)
def test_ending_early_answers_no_call(name: str, trick: str) -> None:
    sandbox = Sandbox(name, limits=Limits(wall_s=10))
    assert not any(sandbox.run_calls(UNANSWERED[trick], [CallTest("f", [1], 1)]).passed)
    assert not any(sandbox.run_asserts(UNANSWERED[trick], ["assert f(1) == 1"]).passed)


@pytest.mark.parametrize(
    "left",
    [
        "import threading\nthreading.Thread(target=time.sleep, args=(999,)).start()",
        "import atexit\natexit.register(time.sleep, 999)",
        "import atexit\ndef spin():\n    while True: pass\natexit.register(spin)",
        "import atexit, sys\natexit.register(time.sleep, 999)\nsys.stdout.flush()\nimport os\n"
        "os.close(1)\nos.close(2)",
    ],
)
def test_what_is_left_running_ends_at_the_wall_clock(name: str, left: str) -> None:
    began = time.monotonic()
    sandbox = Sandbox(name, limits=Limits(wall_s=1))
    assert not sandbox.run_inputs(f"import time\nprint(6)\n{left}", DOUBLE[:1]).all_passed
    assert time.monotonic() - began < 30


def test_the_message_of_an_exit_is_told(name: str) -> None:
    result = Sandbox(name).run_inputs("import sys\nsys.exit('no such city')", DOUBLE[:1])
    assert "no such city" in result.detail
