"""The schema: the tables are those of the migrations, older stores are brought up to date with a
copy kept, newer ones are refused."""

from __future__ import annotations

import threading
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from store_world import ENGINES, filled, item, place, ranking

from gnomon.errors import DataError
from gnomon.feedback import database
from gnomon.feedback.database import Database
from gnomon.feedback.schema import VERSION_TABLE, metadata
from gnomon.feedback.store import Store


@pytest.fixture(params=ENGINES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request.param, tmp_path)


def test_migrations_make_the_tables_that_the_code_uses(where: str) -> None:
    with Store.open(where) as store, store.db.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def older(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a store as the first schema had it, with an item, a gold question and two labels."""
    upgrade = alembic.command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(alembic.command, "upgrade", lambda config, _: upgrade(config, "0001"))
        first = Database(where)
    with first.write() as connection:
        for statement in (
            "INSERT INTO campaigns VALUES ('c', 'labels', 1, 0, 60, '', '{}', true, '2025')",
            "INSERT INTO prompts VALUES ('p', '[[\"user\",\"q\"]]', NULL)",
            "INSERT INTO responses VALUES ('r', '[[\"assistant\",\"a\"]]')",
            "INSERT INTO labellers VALUES ('kim', 'person', 'labeller', true, '2025')",
            *(
                "INSERT INTO items (id, campaign, prompt, size, name) "
                f"VALUES ('{i}', 'c', 'p', 1, 'n')"
                for i in ("i1", "i2")
            ),
            "INSERT INTO item_responses VALUES ('i1', 0, 'r', NULL), ('i2', 0, 'r', NULL)",
            "INSERT INTO gold (item, ranks, who, at) VALUES ('i2', '[1.0]', '', '2025')",
            *(
                "INSERT INTO labels (id, item, labeller, kind, approvals, at, seconds, tokens, "
                f"money) VALUES ('{i}', 'i1', 'kim', '{kind}', '[true]', '2025', 1, 0, 0)"
                for i, kind in (("l1", "approval"), ("l2", "skip"))
            ),
        ):
            connection.exec_driver_sql(statement)
    first.close()


def test_an_older_store_is_brought_up_to_date(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(where, monkeypatch)
    with Store.open(where, create=False) as store:
        assert [i.id for i in store.items()] == ["i1", "i2"]
        assert [label.id for label in store.labels()] == ["l1", "l2"]
        with store.db.read() as connection:
            rows = connection.execute(sa.text("SELECT item, gold, taken FROM queue ORDER BY item"))
            assert [(i, bool(g), n) for i, g, n in rows] == [("i1", False, 1), ("i2", True, 0)]
        copies = store.db.copies()
    assert [copy.name for copy in copies] == (
        ["labels.db.schema-0001"] if where.endswith(".db") else []
    )
    for copy in copies:  # it is whole, and still what it was
        with sa.create_engine(f"sqlite:///{copy}").connect() as connection:
            assert "queue" not in sa.inspect(connection).get_table_names()
            assert connection.scalar(sa.text("SELECT COUNT(*) FROM labels")) == 2


def test_a_migration_that_fails_changes_nothing(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(where, monkeypatch)
    upgrade = alembic.command.upgrade

    def fail(config: object, to: str) -> None:
        upgrade(config, to)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(alembic.command, "upgrade", fail)
        with pytest.raises(KeyboardInterrupt):
            Store.open(where)
    engine = sa.create_engine(database._url(where))
    with engine.connect() as connection:
        assert "queue" not in sa.inspect(connection).get_table_names()
        assert connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) == "0001"
    engine.dispose()
    with Store.open(where) as store:
        assert len(list(store.labels())) == 2


def test_a_newer_store_is_refused_in_words(where: str) -> None:
    with Store.open(where) as store, store.db.write() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0099'"))
    with pytest.raises(DataError, match=r"schema 0099.*up to 0002.*Update gnomon"):
        Store.open(where)


def test_many_open_a_store_that_is_not_there_yet(where: str) -> None:
    problems: list[BaseException] = []

    def begin(number: int) -> None:
        try:
            with filled(where, 2, ()) as store:
                store.add_labels(
                    [ranking(f"l{number}", item("question 0"))], add_labellers="person"
                )
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Store.open(where, create=False) as store:
        assert len(list(store.labels())) == 4
        assert len(list(store.items())) == 2
