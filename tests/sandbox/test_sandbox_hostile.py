"""Programs that attack the sandbox or the grader: each is stopped, and none passes by tampering."""

# ruff: noqa: E501  (programs in strings read better unbroken)

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from gnomon.sandbox import CallTest, InputTest, Limits, Sandbox, supervise
from gnomon.sandbox.compare import same_value, shown

ONE = [CallTest("f", [1], 1)]
LONG = 60.0
"""Seconds for a program that ends by itself, on whatever machine."""


@contextmanager
def soon(seconds: float = 10.0) -> Iterator[None]:
    """So much of the processor at most is taken here, and no long wait."""
    wall, own = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - own < seconds
    assert time.monotonic() - wall < LONG + seconds


def attempt(name: str, body: str, **limits: float) -> str:
    """What came back from ``body`` (which sets ``out``), run inside; errors as their text."""
    inner = body.replace("\n", "\n    ")
    source = f"def f(x):\n    import os, sys\n    out = None\n    {inner}\n    return repr(out)\n"
    sandbox = Sandbox(name, limits=Limits(**{"wall_s": LONG, **limits}))  # type: ignore[arg-type]
    result = sandbox.run_calls(source, ONE)
    assert not result.all_passed
    return result.detail


# -- using up the machine --------------------------------------------------------------------------


def test_fork_bomb_is_refused(name: str) -> None:
    for call in (
        "os.fork()",
        "os.posix_spawn('/bin/sh', ['sh'], {})",
        "os.execv('/bin/sh', ['sh'])",
    ):
        assert "PermissionError" in attempt(name, f"out = {call}"), call


def test_fork_bomb_is_contained_where_processes_are_allowed(name: str) -> None:
    body = (
        "n = 0\n"
        "while n < 300:\n"
        "    try:\n        pid = os.fork()\n"
        "    except OSError:\n        break\n"
        "    if pid == 0:\n        import time; time.sleep(60); os._exit(0)\n"
        "    n += 1\n"
        "out = n"
    )
    detail = attempt(name, body, processes=5, threads=0)
    count = int(detail.removeprefix("gave ").strip("'\""))
    assert 1 <= count <= 8


def test_no_orphan_survives(name: str) -> None:
    marker = f"orphan{os.getpid() % 10**6}{name[0]}"
    body = (
        "import ctypes, signal, time\n"
        "for s in range(1, 30):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0:\n"
        "        try: os.setsid()\n"
        "        except OSError: pass\n"
        f"        ctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\n"
        "        time.sleep(100)\n"
        "out = 'left behind'"
    )
    assert "left behind" in attempt(name, body, processes=6)
    deadline = time.monotonic() + LONG
    while marker in _names() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marker not in _names()


def _names() -> set[str]:
    names = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.add(path.read_text().strip())
        except OSError:
            continue
    return names


def test_memory_bomb(name: str) -> None:
    assert "MemoryError" in attempt(name, "out = len(bytearray(3 * 10**9))", memory_mb=256)
    detail = attempt(name, "out = []\nwhile True: out.append('x' * 10**7)", memory_mb=256)
    assert "MemoryError" in detail or "ended" in detail or "killed" in detail


@pytest.mark.parametrize("body", ["while True: pass", "__import__('time').sleep(999)"])
def test_endless_loops_end_at_the_wall_clock(name: str, body: str) -> None:
    sandbox = Sandbox(name, limits=Limits(wall_s=0.5))
    with soon():
        result = sandbox.run_calls(f"def f(x):\n    {body}\n", ONE)
        assert not result.all_passed
        assert result.ending == "timeout" or "signal 9" in result.detail
        late = sandbox.run_inputs(body, [InputTest("", ""), InputTest("", "")], stop_early=False)
        assert list(late.passed) == [False, False]


def test_endless_output(name: str) -> None:
    sandbox = Sandbox(name, limits=Limits(wall_s=LONG))
    result = sandbox.run_inputs("while True: print('x' * 10000)", [InputTest("", "x")])
    assert (result.ending, result.all_passed) == ("output", False)
    result = sandbox.run_calls("def f(x): return 'x' * 10**8", ONE)
    assert not result.all_passed


def test_files_are_limited_in_size_and_number(name: str) -> None:
    body = "open('big', 'wb').write(b'x' * 3 * 2**20)"
    assert "OSError" in attempt(name, body, file_mb=1) or "signal" in attempt(name, body, file_mb=1)
    body = "for i in range(1000): open(f'f{i}', 'wb').write(b'x' * 2**20)"
    sandbox = Sandbox(name, limits=Limits(wall_s=LONG, file_mb=2, scratch_mb=4))
    result = sandbox.run_calls(f"def f(x):\n    {body}\n    return 1\n", ONE)
    assert not result.all_passed
    assert result.ending == "scratch" or "space" in result.detail
    assert "OSError" in attempt(name, "out = [open('/dev/null') for _ in range(999)]")


# -- reading and writing what is not its own -------------------------------------------------------


def test_home_etc_and_proc_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("TOPSECRET")
    home = Path.home()
    paths = [str(tmp_path / "secret"), "/etc/passwd", "/etc/shadow", "/etc/hostname"]
    paths += [str(home / ".bashrc"), str(home / ".profile"), str(Path(__file__)), "/proc/self/maps"]
    paths += [
        "/proc/self/environ",
        "/proc/1/environ",
        f"/proc/{os.getpid()}/environ",
        "/proc/self/mem",
    ]
    body = (
        f"out = []\nfor p in {paths!r}:\n"
        "    try: out.append(open(p, 'rb').read(20))\n"
        "    except OSError as e: pass\n"
    )
    assert attempt(name, body) == "gave '[]'"
    listing = f"try: out = os.listdir({str(tmp_path)!r})\nexcept OSError: out = 'refused'"
    assert "refused" in attempt(name, listing)


def test_nothing_outside_scratch_can_be_written(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("unharmed")
    mode = victim.stat().st_mode
    body = (
        "out = []\n"
        f"for p in [{str(victim)!r}, {str(tmp_path / 'new')!r}, '/etc/x', '/usr/lib/x', '/x', '/dev/x', sys.prefix + '/x', os.path.expanduser('~root/x')]:\n"
        "    try: open(p, 'w').write('harm'); out.append(p)\n"
        "    except OSError: pass\n"
        f"for act in (os.unlink, os.rmdir, lambda p: os.truncate(p, 0), lambda p: os.chmod(p, 0), lambda p: os.utime(p), lambda p: os.rename(p, 'x'), lambda p: os.link(p, 'y')):\n"
        f"    try: act({str(victim)!r}); out.append('acted')\n"
        "    except OSError: pass\n"
    )
    assert attempt(name, body) == "gave '[]'"
    assert victim.read_text() == "unharmed"
    assert victim.stat().st_mode == mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["victim"]


def test_secrets_of_the_environment_stay_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_TOPSECRET")
    detail = attempt(name, "import subprocess\nout = [dict(os.environ)]")
    assert "PATH" in detail
    assert "TOPSECRET" not in detail


def test_links_and_archives_do_not_lead_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("TOPSECRET")
    body = (
        "import zipfile, tarfile, io\n"
        f"os.symlink({str(tmp_path)!r}, 'door'); os.symlink('/etc', 'etc')\n"
        "out = []\n"
        "for p in ('door/secret', 'etc/passwd', '../../../../etc/passwd'):\n"
        "    try: out.append(open(p).read(20))\n"
        "    except OSError: pass\n"
        "try: open('door/new', 'w').write('x'); out.append('wrote')\n"
        "except OSError: pass\n"
        "info = tarfile.TarInfo('../../../../../../tmp/slipped-gnomon'); info.size = 1\n"
        "with tarfile.open('a.tar', 'w') as t: t.addfile(info, io.BytesIO(b'x'))\n"
        "try:\n    with tarfile.open('a.tar') as t: t.extractall('.')\n"
        "except Exception: pass\n"
        f"z = zipfile.ZipFile('a.zip', 'w'); z.writestr('../..{tmp_path}/slip', 'x'); z.close()\n"
        "try: zipfile.ZipFile('a.zip').extractall('/')\n"
        "except Exception: pass\n"
    )
    assert attempt(name, body) == "gave '[]'"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret"]
    assert not Path("/tmp/slipped-gnomon").exists()


def test_a_maze_of_folders_is_cleared_away(name: str) -> None:
    body = (
        "for _ in range(1200):\n    os.mkdir('d'); os.chdir('d')\n"
        "os.symlink('/', 'root')\nos.mkdir('shut')\n"
        "out = 'built'"
    )
    before = set(Path("/tmp").glob("gnomon-sandbox-*"))
    assert attempt(name, body) in ("gave \"'built'\"", "too many files")
    assert set(Path("/tmp").glob("gnomon-sandbox-*")) <= before


def test_zip_bomb(name: str) -> None:
    body = (
        "import zlib\n"
        "bomb = zlib.compress(b'0' * 2**24)\n"
        "out = len(zlib.decompress(zlib.compress(b'0' * 2**26)) * 64)"
    )
    assert "MemoryError" in attempt(name, body, memory_mb=256)


# -- the network and other processes ---------------------------------------------------------------


def test_no_network(name: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        port = server.getsockname()[1]
        body = (
            "import socket\nout = []\n"
            f"for where in (('127.0.0.1', {port}), ('192.0.2.1', 80)):\n"
            "    try: socket.create_connection(where, 0.5); out.append(where)\n"
            "    except OSError: pass\n"
            "for kind in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):\n"
            "    for sort in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):\n"
            "        try: socket.socket(kind, sort); out.append(kind)\n"
            "        except OSError: pass\n"
        )
        assert attempt(name, body) == "gave '[]'"
        with pytest.raises(TimeoutError):
            server.accept()


def test_signals_reach_nobody_else(name: str) -> None:
    body = (
        "out = []\n"
        f"for pid in (os.getppid(), 1, 2, 0, -1, {os.getpid()}):\n"
        "    try: os.kill(pid, 9); out.append(pid)\n"
        "    except OSError: pass\n"
        "try: os.killpg(0, 9); out.append('group')\n"
        "except OSError: pass\n"
    )
    assert attempt(name, body) == "gave '[]'"


def test_signals_with_processes_allowed_leave_the_grader_alone(name: str) -> None:
    body = f"for pid in (os.getppid(), 1, {os.getpid()}, {os.getppid()}):\n    try: os.kill(pid, 9)\n    except OSError: pass"
    attempt(name, body, processes=4)
    os.kill(os.getppid(), 0)


def test_kernel_doors_are_shut(name: str) -> None:
    body = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nout = []\n"
        "for number, args in ((101, (16, os.getppid(), 0, 0)), (272, (0x10000000,)), (272, (0x20000,)),\n"
        "        (165, (b'none', b'/scratch', b'tmpfs', 0, 0)), (310, (os.getppid(), 0, 0, 0, 0, 0)),\n"
        "        (319, (b'm', 0)), (425, (8, 0)), (321, (0, 0, 0)), (29, (0, 4096, 512)), (435, (0, 0)),\n"
        "        (434, (1, 0)), (161, (b'/scratch',)), (105, (0,)), (999, ())):\n"
        "    if libc.syscall(number, *args) != -1: out.append(number)\n"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("call numbers of x86_64")
    assert attempt(name, body) == "gave '[]'"


def test_limits_cannot_be_raised(name: str) -> None:
    body = (
        "import resource\nout = []\n"
        "for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n"
        "    try: resource.setrlimit(which, (2**40, 2**40)); out.append(which)\n"
        "    except (OSError, ValueError): pass\n"
    )
    assert attempt(name, body) == "gave '[]'"


# -- tampering with the verdict --------------------------------------------------------------------

SECRET = 8675309123
TESTS = [f"expected = {SECRET}\nassert f(1) == expected", "assert f(2) == 'quince'"]

TAMPERING = {
    "exit": "import os\nos._exit(0)",
    "exit when called": "import os\ndef f(x): os._exit(0)",
    "system exit": "import sys\ndef f(x): sys.exit(0)",
    "equal to all": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef f(x): return E()",
    "equal string": "class S(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\ndef f(x): return S('a')",
    "equal number": "class N(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(x): return N(3)",
    "no assertions": (
        "import builtins\nclass Quiet(Exception): pass\nbuiltins.AssertionError = Quiet\n"
        "builtins.compile = lambda *a, **k: None\nbuiltins.exec = lambda *a: None\ndef f(x): return 0"
    ),
    "patched harness": (
        "import sys\nfor name in list(sys.modules):\n"
        "    if name.startswith('inside'):\n"
        "        for key in list(vars(sys.modules[name])):\n"
        "            if callable(getattr(sys.modules[name], key)) and key[:2] != '__':\n"
        "                setattr(sys.modules[name], key, lambda *a, **k: {'ok': True, 'passed': [True] * 9})\n"
        "def f(x): return 0"
    ),
    "spoofed frames": (
        "import os, json\n"
        "def f(x):\n"
        "    for m in ({'passed': [True, True], 'detail': ''}, {'done': True}, {'answer': {'ok': 1}}):\n"
        "        data = json.dumps(m).encode(); data = len(data).to_bytes(4, 'little') + data\n"
        "        for fd in range(64):\n"
        "            try: os.write(fd, data)\n"
        "            except OSError: pass\n"
        "    return 0"
    ),
    "spoofed when loaded": (
        "import os, json\n"
        "for m in ({'ready': True}, {'passed': [True, True], 'detail': ''}, {'done': True}):\n"
        "    data = json.dumps(m).encode(); data = len(data).to_bytes(4, 'little') + data\n"
        "    for fd in range(64):\n"
        "        try: os.write(fd, data)\n"
        "        except OSError: pass\n"
        "os._exit(0)"
    ),
    "atexit and threads": (
        "import atexit, os, threading\natexit.register(os._exit, 0)\n"
        "threading.Timer(0.01, os._exit, (0,)).start()\ndef f(x):\n    while True: pass"
    ),
    "raises the test's own way out": "def f(x): raise StopIteration",
    "kills the tests": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)",
    "an answer that cannot be printed": "def f(x): return 7 ** 20000",
    "an answer no test survives": "def f(x): return float('nan') if x == 1 else 10 ** 400",
    "no answer at all": (
        'import os\ndef f(x):\n    data = b\'{"ok": {"z": 1}}\'\n'
        "    os.write(4, len(data).to_bytes(4, 'little') + data)\n    return 0"
    ),
    "an error the tests' runner knows": "def f(x): raise SyntaxError('broken')",
    "frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        if 'expected' in frame.f_globals: return frame.f_globals['expected']\n"
        "        frame = frame.f_back\n    return 0"
    ),
    "other file descriptors": (
        "import os\ndef f(x):\n    for fd in range(64):\n"
        "        try:\n            os.set_blocking(fd, False)\n            data = os.read(fd, 1 << 20)\n"
        "        except OSError: continue\n"
        f"        if b'{str(SECRET)[:5]}' in data: return {SECRET}\n    return 0"
    ),
}


@pytest.mark.parametrize("trick", TAMPERING)
def test_no_program_passes_by_tampering(name: str, trick: str) -> None:
    sandbox = Sandbox(name, limits=Limits(wall_s=1))
    assert not any(sandbox.run_asserts(TAMPERING[trick], TESTS).passed)
    calls = [CallTest("f", [1], SECRET), CallTest("f", [2], "quince")]
    assert not any(sandbox.run_calls(TAMPERING[trick], calls).passed)
    script = f"{TAMPERING[trick]}\nprint(f(1))"
    assert not sandbox.run_inputs(script, [InputTest("", str(SECRET))]).all_passed


def test_an_honest_program_passes_the_same_tests(name: str) -> None:
    honest = f"def f(x): return {SECRET} if x == 1 else 'quince'"
    assert Sandbox(name, limits=Limits(wall_s=LONG)).run_asserts(honest, TESTS).all_passed


def test_expected_answers_are_not_in_the_programs_memory(name: str) -> None:
    body = (
        "import gc\n"
        "word = ''.join(['quin', 'ce'])\n"
        "seen, stack = set(), list(gc.get_objects())\n"
        "out = False\n"
        "while stack:\n"
        "    x = stack.pop()\n"
        "    if id(x) in seen: continue\n"
        "    seen.add(id(x))\n"
        "    if type(x) is str and x is not word and word in x: out = True\n"
        "    if type(x) is bytes and word.encode() in x: out = True\n"
        "    if type(x) is str: continue\n"
        "    stack += gc.get_referents(x)\n"
    )
    source = "def f(x):\n    " + body.replace("\n", "\n    ") + "\n    return out\n"
    sandbox = Sandbox(name, limits=Limits(wall_s=LONG))
    test = "answer = 'quince'\nassert f(1) is False"
    assert sandbox.run_asserts(source, [test]).all_passed
    # the search does find it where it is: the test fails when the answer is in the program
    assert not sandbox.run_asserts(source + "KNOWN = ['quin' 'ce']\n", [test]).all_passed


# -- answers that cost the grader time -------------------------------------------------------------

COLLIDING = "','.join('{\"i\": \"%s\"}' % hex(k * (2**61 - 1)) for k in range(150_000))"
PAIRS = "','.join('[{\"i\": \"%s\"}, 0]' % hex(k * (2**61 - 1)) for k in range(150_000))"
WANTED: list[Any] = [
    Fraction(1, 3),
    {1, 2},
    {1: 2},
    2**80,
    1.5,
    Decimal("1.5"),
    [1, [2]],
    (1,),
    "text",
    b"x",
    1j,
    range(3),
    {frozenset(range(1000))},
    None,
]
COSTLY = {
    "a fraction": "'{\"q\": [\"%s\", \"%s\"]}' % ('f' * 4_000_000, '7' * 4_000_000)",
    "fractions": "'[' + ','.join(['{\"q\": [\"%s\", \"%s\"]}' % ('f' * 30_000, '7' * 30_000)] * 120) + ']'",
    "a set": f"'{{\"s\": [' + {COLLIDING} + ']}}'",
    "a set in a set": f"'{{\"s\": [{{\"f\": [' + {COLLIDING} + ']}}]}}'",
    "a dict": f"'{{\"d\": [' + {PAIRS} + ']}}'",
    "an integer": "'{\"i\": \"0x%s\"}' % ('f' * 2_000_000)",
    "a decimal integer": "'7' * 2_000_000",
    "a long float": "'0.' + '7' * 2_000_000",
    "a decimal": "'{\"n\": \"%s\"}' % ('7' * 2_000_000)",
    "a decimal with an exponent": '\'{"n": "1e999999999999999999"}\'',
    "a signal": '\'{"n": "sNaN"}\'',
    "a string": "'\"%s\"' % ('x' * 2_000_000)",
    "escapes": "'\"%s\"' % ('\\\\u0001' * 300_000)",
    "bytes": "'{\"b\": \"%s\"}' % ('00' * 1_000_000)",
    "empty lists": "'[' + ','.join(['[]'] * 700_000) + ']'",
    "empty objects": "'[' + ','.join(['{}'] * 700_000) + ']'",
    "nesting": "'[' * 4_000_000 + ']' * 4_000_000",
    "nested tuples": "'{\"t\": [' * 400 + ']}' * 400",
    "a range": '\'{"r": [0, {"i": "0x%s"}, 1]}\' % (\'f\' * 4_000_000)',
    "a range without steps": "'{\"r\": [0, 3, 0]}'",
    "a complex": '\'{"c": [{"i": "0x%s"}, 0]}\' % (\'f\' * 4_000_000)',
    "many tags": "'{' + ','.join('\"%d\": 0' % i for i in range(150_000)) + '}'",
    "no json": "'nothing of the kind'",
    "twin members": "'{\"s\": [1, 1]}'",
    "twin keys": "'{\"d\": [[1, 2], [1, 2]]}'",
    "half a pair": "'{\"d\": [[1]]}'",
    "a list as member": "'{\"s\": [[1], [2]]}'",
}


def sender(form: str, kind: str = "ok") -> str:
    """A program that writes such an answer past the runner's encoder."""
    return (
        f"import os\nDATA = ('{{\"{kind}\": ' + {COSTLY[form]} + '}}').encode()\n"
        "def f(x):\n    view = memoryview(len(DATA).to_bytes(4, 'little') + DATA)\n"
        "    while view: view = view[os.write(4, view):]\n    return 0\n"
    )


QUICK = Limits(wall_s=2, memory_mb=2048)


@pytest.mark.parametrize("form", COSTLY)
def test_no_answer_holds_the_grader_up(form: str) -> None:
    test = CallTest("f", [1], {1, 2})
    with soon():
        result = Sandbox("landlock", limits=QUICK).run_calls(sender(form), [test])
    assert not result.all_passed
    assert len(result.detail) <= 500
    answer = _frame(COSTLY[form])
    for want in WANTED:
        with soon(1.0):
            assert not same_value(answer, want)
    assert len(shown(answer, 500)) <= 500


@pytest.mark.parametrize("form", ["a fraction", "nesting", "empty lists", "many tags"])
def test_no_error_holds_the_grader_up(form: str) -> None:
    sandbox = Sandbox("landlock", limits=QUICK)
    with soon():
        assert not sandbox.run_calls(sender(form, "error"), [CallTest("f", [1], 1)]).all_passed


def _frame(expression: str) -> Any:
    """The answer as the grader sees it; None where it cannot even be read."""
    try:
        return supervise.parsed(b'{"ok": ' + eval(expression).encode() + b"}")["ok"]
    except (ValueError, RecursionError):
        return {"refused": True}


def test_as_large_an_answer_as_expected_is_compared_in_time() -> None:
    """The worst a program can do with an answer of the right shape and size."""
    prime = 2**61 - 1
    hostile = [{"i": hex(k * prime)} for k in range(1, 50_001)]
    honest = set(range(50_000))
    with soon():
        assert not same_value({"s": hostile}, honest)
        assert not same_value({"d": [[k, 0] for k in hostile]}, dict.fromkeys(honest, 0))
        assert not same_value({"s": [{"f": hostile}]}, {frozenset(honest)})
    assert same_value({"s": [{"f": [2, 1.0, 0]}]}, {frozenset(range(3))})


@pytest.mark.parametrize("form", ["a fraction", "a set", "an integer", "nesting", "empty lists"])
def test_asserts_decode_within_the_clock(form: str) -> None:
    with soon():
        result = Sandbox("landlock", limits=QUICK).run_asserts(sender(form), ["assert f(1) == 3"])
    assert not result.all_passed
