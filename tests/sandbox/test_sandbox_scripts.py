"""How a script ends: as under Python itself, whatever it leaves running or unwritten."""

# ruff: noqa: E501  (programs in strings read better unbroken)

from __future__ import annotations

import time

import pytest

from gnomon.judges.code import CodeReward
from gnomon.judges.protocol import judged
from gnomon.records import Group, Message, Prompt, Response
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


POOL = "from multiprocessing.pool import ThreadPool\nn = int(input())\n"
THREADED = {
    "ThreadPool": POOL + "with ThreadPool(4) as pool:\n    print(sum(pool.map(int, '2' * n)))",
    "of its own size": POOL + "with ThreadPool() as pool:\n    print(sum(pool.map(int, '2' * n)))",
    "imap": POOL + "pool = ThreadPool(2)\nprint(sum(pool.imap_unordered(int, '2' * n)))\npool.close()\n"
    "pool.join()",
    "apply_async": POOL + "pool = ThreadPool(2)\nfound = [pool.apply_async(int, ('2',)) for _ in range(n)]\n"
    "print(sum(x.get() for x in found))",
    "an error comes back": POOL + "try:\n    ThreadPool(2).map(int, ['x'])\nexcept ValueError:\n"
    "    print(2 * n)",
    "dummy": "from multiprocessing.dummy import Pool\nprint(sum(Pool(2).map(int, '2' * int(input()))))",
    "executor": "from concurrent.futures import ThreadPoolExecutor\nfrom time import sleep\n"
    "def slow(x):\n    sleep(0.02)\n    return int(x)\nn = int(input())\nwith ThreadPoolExecutor() as pool:\n"
    "    print(sum(pool.map(slow, '1' * n + '1' * n + '0' * 90)))",
    "locks": "from multiprocessing import Condition, Event, Lock, Queue, RLock, Semaphore\n"
    "from threading import Timer\nqueue, event = Queue(), Event()\nqueue.put(int(input()))\n"
    "Timer(0.05, event.set).start()\nassert event.wait(20) and not Event().wait(0.01)\n"
    "lock, again, two, turn = Lock(), RLock(), Semaphore(2), Condition()\n"
    "with lock:\n    assert not lock.acquire(timeout=0.01)\nwith again, again:\n    pass\n"
    "assert two.acquire() and two.acquire(False) and not two.acquire(False)\n"
    "try:\n    lock.release()\nexcept ValueError:\n    print(2 * queue.get())\n"
    "with turn:\n    Timer(0.05, lambda: turn.__enter__() and (turn.notify(), turn.__exit__())).start()\n"
    "    assert turn.wait(20)",
    "shared values": POOL + "from ctypes import Structure, c_int\nfrom multiprocessing import Array, Value\n"
    "from multiprocessing.sharedctypes import RawArray, RawValue\n"
    "class Point(Structure):\n    _fields_ = [('x', c_int), ('y', c_int)]\n"
    "total, seen, raw, point = Value('q'), Array('i', 3), RawArray('d', [1.0, 2.0]), RawValue(Point, 1, 2)\n"
    "assert (list(seen), sum(raw), point.y, len(RawArray('i', 0))) == ([0, 0, 0], 3.0, 2, 0)\n"
    "def add(i):\n    with total.get_lock():\n        total.value += 2\n    seen[i % 3] = 1\n"
    "ThreadPool(4).map(add, range(n))\nprint(total.value)",
}  # fmt: skip


@pytest.mark.parametrize("script", THREADED)
def test_threads_by_way_of_multiprocessing(name: str, script: str) -> None:
    result = Sandbox(name, limits=Limits(wall_s=60)).run_inputs(THREADED[script], DOUBLE)
    assert result.all_passed, result.detail


def test_functions_may_use_thread_pools(name: str) -> None:
    source = (
        "from multiprocessing.pool import ThreadPool\ndef f(n): return ThreadPool(2).map(abs, n)"
    )
    sandbox = Sandbox(name, limits=Limits(wall_s=60))
    assert sandbox.run_calls(source, [CallTest("f", [[-1, 2]], [1, 2])]).all_passed
    assert sandbox.run_asserts(source, ["assert f([-1, 2]) == [1, 2]"]).all_passed


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import subprocess\nsubprocess.run(['true'])", "no more processes than 1"),
        ("import os\nos.fork()", "no more processes than 1"),
        ("from multiprocessing import Pool\nPool(2)", "no more processes than 1"),
        ("import threading\nthreading.stack_size(2**40)\nthreading.Thread(target=print).start()",
         "512 MB"),
        ("x = ' ' * 2**40", "512 MB"),
    ],
)  # fmt: skip
def test_a_limit_that_ends_a_script_is_named(name: str, script: str, said: str) -> None:
    result = Sandbox(name, limits=Limits(wall_s=30)).run_inputs(f"{script}\nprint(6)", DOUBLE[:1])
    assert not result.all_passed
    assert said in result.detail


def test_the_reward_says_why_programs_failed(name: str) -> None:
    meta = {"tests": [{"input": text.input, "output": text.output} for text in DOUBLE]}
    texts = ["print(int(input()) * 2)", "print(1)", "import os\nos.fork()"]
    group = Group(
        Prompt("p", (Message("user", "Double it."),), meta=meta),
        tuple(Response((Message("assistant", text),)) for text in texts),
    )
    (found,) = judged(CodeReward(backend=name, wall_s=30), [group])
    assert [score.value for score in found.scores] == [1.0, 0.0, 0.0]
    first, second = str(found.reason).split("\n3: ")
    assert first == r"2: wrote '1\n'"
    assert "no more processes than 1" in second
