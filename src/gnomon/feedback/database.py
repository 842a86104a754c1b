"""A store's database: SQLite in a file or PostgreSQL by URL, its connections and its schema.

SQLite is opened with a write-ahead log, so that any number of processes read while one writes, and
those that want to write wait for each other; in PostgreSQL a lock does the same. A store of an
older schema is migrated when it is opened, after a copy is made (SQLite; a PostgreSQL migration is
one transaction); one that a newer gnomon wrote is refused.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from gnomon.errors import ConfigError, DataError, RunError
from gnomon.feedback.schema import VERSION_TABLE, metadata
from gnomon.files import first_line, make_folder, plain_errors, write_file

_BUSY_SECONDS = 60.0
READERS_SECONDS = 5.0
"""How long those are waited for who read what is being erased."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_CACHE_KB = 32 * 1024
"""What a connection to SQLite keeps of the file at most: rows under a hash are all over it, and
with SQLite's own 2 MB a large import reads and writes the same pages again and again."""
_LOCK = 0x676E6F6D6F6E
"""The advisory lock of whoever writes to a store in PostgreSQL."""


class Database:
    """Connections to one store.

    Args:
        where: a file (made if it is missing), or a URL: ``postgresql://USER@HOST/DATABASE``.
        create: make what is missing; else a store that is not there is an error.

    Raises:
        ConfigError: a URL that is none, a missing driver.
        DataError: not there (with ``create`` False), not a store, or written by a newer gnomon.
        RunError: the database cannot be reached.
    """

    def __init__(self, where: str | Path, create: bool = True) -> None:
        self.url = _url(where)
        self.name = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.name = str(self.url.database)
            self._check_file(Path(self.name), create)
        self.engine = self._engine()
        try:
            with self.errors():
                self._prepare(create)
        except BaseException:
            self.engine.dispose()
            raise

    # -- transactions -----------------------------------------------------------------------------

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[Connection]:
        """A transaction that writes: whole, or not at all.

        Args:
            durable: it is on the disk when this ends. What may be lost with the machine's power (an
                assignment, a draft; never with the process alone) need not wait for that.
        """
        with (
            self.errors(),
            self.engine.connect().execution_options(writes=True, durable=durable) as connection,
            connection.begin(),
        ):
            if not self.is_sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads: one moment's state, whatever others write meanwhile."""
        with self.errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the database cannot do into an error that says what to do."""
        try:
            with plain_errors(Path(self.name)) if self.is_sqlite else contextlib.nullcontext():
                yield
        except DBAPIError as error:
            raise self._explained(error) from error

    def _explained(self, error: DBAPIError) -> Exception:
        said = first_line(error.orig) if error.orig is not None else first_line(error)
        if "append-only" in said:
            return DataError(f"{self.name}: {said}; a label is corrected by another one (replaces)")
        if "not a database" in said or "malformed" in said:
            return DataError(f"{self.name} is not a store, or it is damaged ({said})")
        if "full" in said and self.is_sqlite:
            return RunError(
                f"{self.name}: the disk is full; free some space. Nothing saved is lost"
            )
        if "locked" in said:
            return RunError(
                f"{self.name}: another process has been writing for {_BUSY_SECONDS:.0f} s; try "
                "again later"
            )
        if isinstance(error, OperationalError):
            return RunError(f"{self.name} cannot be used: {said}")
        return error

    def overwrite_erased(self) -> None:
        """Leave nothing of what was deleted in SQLite's log; deleted rows are overwritten in the
        file itself (``secure_delete``).

        Raises:
            RunError: somebody reads the store, so that its log could not be emptied.
        """
        if self.is_sqlite:
            with self.errors(), self.engine.connect() as connection:
                _wait(connection, READERS_SECONDS)
                try:
                    found = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                finally:
                    _wait(connection, _BUSY_SECONDS)
            if found[0]:
                raise RunError(
                    f"{self.name}: it is erased, but another process reads the store (an export, "
                    f"a run, a backup), so that it still stands in {self.name}-wal. Run this again "
                    "when that has ended"
                )

    def copies(self) -> list[Path]:
        """Copies that were made before migrations."""
        file = Path(self.name)
        return sorted(file.parent.glob(f"{file.name}.schema-*")) if self.is_sqlite else []

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    # -- opening ----------------------------------------------------------------------------------

    def _check_file(self, file: Path, create: bool) -> None:
        if file.is_dir():
            raise DataError(f"{file} is a folder; a store is a file, say {file / 'labels.db'}")
        if not file.exists():
            if not create:
                raise DataError(f"{file}: no such store. `gnomon label new {file} NAME` makes one")
            make_folder(file.parent)

    def _engine(self) -> Engine:
        try:
            if self.is_sqlite:
                engine = sa.create_engine(
                    self.url,
                    pool_size=10,
                    max_overflow=50,
                    connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
                )
                event.listen(engine, "connect", _set_up_sqlite)
                event.listen(engine, "begin", _begin)
                return engine
            return sa.create_engine(self.url, pool_size=10, max_overflow=50, pool_pre_ping=True)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"{self.name}: {error}. A store is a SQLite file or postgresql://USER@HOST/DATABASE,"
                " which needs pip install 'gnomon-rlhf[postgres]'"
            ) from error

    def _prepare(self, create: bool) -> None:
        """Make the tables, or migrate them.

        Raises:
            DataError: another program's tables, or a newer schema.
        """
        script = alembic.script.ScriptDirectory.from_config(_config())
        head = script.get_current_head()
        with self.engine.connect() as connection, connection.begin():
            now = _revision(connection)
            found = set(sa.inspect(connection).get_table_names())
        if now == head:
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if now is not None and now not in known:
            raise DataError(
                f"{self.name} has schema {now}, and this gnomon knows schemas up to {head}: a "
                "newer one wrote it. Update gnomon (pip install -U gnomon-rlhf)"
            )
        if now is None and (taken := sorted(found & set(metadata.tables))):
            raise DataError(
                f"{self.name} holds tables of another program ({', '.join(taken)}); take another "
                "file, or a database or schema of its own"
            )
        if now is None and not create:
            raise DataError(f"{self.name} holds no store. `gnomon label new` makes one")
        self._migrate(now, head)

    def _migrate(self, now: str | None, head: str | None) -> None:
        if now is not None and self.is_sqlite:
            self._keep_copy(now)
        with self.write() as connection:
            if _revision(connection) == head:
                return  # another process was faster
            config = _config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    def _keep_copy(self, now: str) -> None:
        """A copy of a store as it was before its schema changes."""
        file = Path(self.name)
        copy = file.with_name(f"{file.name}.schema-{now}")
        if copy.exists():
            return
        with (
            write_file(copy) as tmp,
            contextlib.closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(tmp)) as target,
        ):
            source.backup(target)


def _url(where: str | Path) -> URL:
    text = str(where)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(f"{text.split('@')[-1]!r} is no database URL: {error}") from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql") or (backend == "sqlite" and not url.database):
        raise ConfigError(
            f"{url.render_as_string(hide_password=True)}: a store is a SQLite file or "
            "postgresql://USER@HOST/DATABASE"
        )
    return url


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where they are begun, see _begin
    cursor = connection.cursor()
    settings = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
    for setting in (*settings, f"cache_size=-{_CACHE_KB}"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("writes"):
        durable = "FULL" if options.get("durable", True) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous={durable}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    context = alembic.migration.MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    )
    return context.get_current_revision()


def _wait(connection: Connection, seconds: float) -> None:
    """How long a connection to SQLite waits for others."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(1000 * seconds)}")
