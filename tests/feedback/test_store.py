"""The store on both databases: what is kept, what is refused, and what nobody can undo."""

from __future__ import annotations

import random
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store_world import ENGINES, filled, item, place, ranking

from gnomon.errors import ConfigError, DataError
from gnomon.feedback.people import Personal
from gnomon.feedback.records import Item, Label, votes
from gnomon.feedback.store import Campaign, Expense, Guideline, Store
from gnomon.records import Cost, Message, Prompt, Response, Source

HOSTILE = (
    "'; DROP TABLE labels; --",
    "<script>alert(1)</script>",
    "a\0b\x1a0000\x1b[31m\r\n\ud800 \udfff \U0001f600 \x7f",
    "\x1a",
    "x" * 1_000_000,
)


@pytest.fixture(params=ENGINES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request.param, tmp_path)


def test_all_of_an_item_and_a_label_is_kept_whatever_it_holds(where: str) -> None:
    whole = Item(
        "item-1",
        Prompt("p", (Message("user", HOSTILE[2]),), None, Source("a.jsonl", 3), "maths",
               {"answer": [1, {"x": HOSTILE[2]}]}),
        tuple(
            Response(
                (Message("assistant", text), Message("user", "?")), str(i), None, {"m": i}, (i,),
                i > 1,
            )
            for i, text in enumerate(HOSTILE)
        ),
        "c\u00e9'",
        (1.0, 2.0, 2.0, 4.0, 5.0),
        {"run": "r", "step": 7},
    )  # fmt: skip
    raw = replace(whole, id="item-2", prompt=Prompt("q", text=HOSTILE[0]), gold=None)
    label = Label(
        "label-1", "item-1", "k\u00efm", "rating", ratings=(1.5, None, 2.0, 0.0, -1.0),
        shown=(4, 3, 2, 1, 0), confidence=0.25, tags=("hm", HOSTILE[2]), comment=HOSTILE[2],
        flag=HOSTILE[0], guideline="v1", principle="p@2", at="2026-01-02T03:04:05+00:00",
        cost=Cost(1.5, 2**40, 0.03),
    )  # fmt: skip
    edit = Label("label-2", "item-1", "k\u00efm", "edit", edit=HOSTILE[4] + HOSTILE[2], at=label.at)
    with Store.open(where) as store:
        store.add_items([whole, raw])
        store.add_labels([label, edit], add_labellers="simulated")
    with Store.open(where, create=False) as store:
        assert list(store.items()) == [whole, raw] == list(store.items("c\u00e9'"))
        assert store.item("item-2") == raw
        assert list(store.labels()) == [label, edit]
        assert store.labellers() == ["k\u00efm"]


def test_responses_are_stored_once(where: str) -> None:
    with Store.open(where) as store:
        store.add_items(item("one question", "yes", f"no {i}") for i in range(5))
        with store.db.read() as connection:
            for table, count in (("prompts", 1), ("responses", 6), ("items", 5)):
                assert connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) == count


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE labels SET ranks = '[2.0,1.0]'",
        "UPDATE labels SET comment = ''",
        "DELETE FROM labels",
        "UPDATE items SET campaign = campaign",
        "DELETE FROM item_responses",
        "UPDATE prompts SET text = 'x'",
        "UPDATE responses SET messages = '[]'",
        "UPDATE guidelines SET text = 'x'",
        "DELETE FROM gold",
        "TRUNCATE labels CASCADE",
        "INSERT OR REPLACE INTO labels SELECT seq, id, item, labeller, 'skip', ranks, ratings, "
        "approvals, edit, shown, confidence, tags, comment, flag, guideline, principle, at, "
        "seconds, tokens, money, replaces FROM labels",
        "INSERT OR REPLACE INTO responses SELECT id, '[]' FROM responses",
    ],
)
def test_the_database_itself_refuses_to_change_what_was_said(where: str, statement: str) -> None:
    only = {"TRUNCATE": "postgresql", "INSERT OR": "sqlite"}
    engine = next((e for start, e in only.items() if statement.startswith(start)), None)
    with filled(where) as store:
        if engine not in (None, store.db.engine.dialect.name):
            return  # not a statement of this database
        first = next(store.items())
        store.add_labels([ranking("l", first, comment="mine")])
        store.set_gold(first.id, [1, 2])
        store.add_guideline(Guideline("v1", "Be fair."))
        before = (list(store.labels()), list(store.items()), store.guidelines())
        ignored = statement.startswith("INSERT OR REPLACE INTO responses")
        refusal = pytest.raises(sa.exc.DBAPIError, match="append-only")
        with nullcontext() if ignored else refusal, store.db.engine.begin() as connection:
            connection.execute(sa.text(statement))
        assert (list(store.labels()), list(store.items()), store.guidelines()) == before


def test_a_label_sent_twice_is_one_and_never_another(where: str) -> None:
    with filled(where) as store:
        first = next(store.items())
        label = ranking("l", first)
        assert store.add_labels([label, label]).new == 1
        assert store.add_labels([label]).known == 1
        with pytest.raises(DataError, match=r"another content.*replaces='l'"):
            store.add_labels([ranking("l", first, better=1)])
        store.add_labels([ranking("m", first, "lee")])  # two people, one item: both stand
        assert [v.labeller for v in store.votes()] == ["kim", "lee"]


def test_a_correction_replaces_one_label_once(where: str) -> None:
    with filled(where) as store:
        one, two, *_ = store.items()
        store.add_labels([ranking("l", one), ranking("of lee".replace(" ", "-"), one, "lee")])
        right = ranking("m", one, better=1, replaces="l")
        store.add_labels([right, right])
        assert len(list(store.labels())) == 3
        assert [label.id for label in store.labels(standing=True)] == ["of-lee", "m"]
        assert [v.won for v in store.votes()] == [1.0, 0.0]
        for wrong, said in (
            (ranking("n", one, better=1, replaces="l"), "replaced by 'm' already"),
            (ranking("n", two, replaces="m"), "about item"),
            (ranking("n", one, "lee", replaces="m"), "of 'kim'"),
            (ranking("n", one, replaces="?"), "no such label"),
            (ranking("n", one, replaces="n"), "no such label"),
        ):
            with pytest.raises(DataError, match=said):
                store.add_labels([wrong])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": "none"}, "no item 'none'"),
        ({"labeller": "kimm"}, "1 unknown labellers: 'kimm'. did you mean 'kim'"),
        ({"ranks": (1.0,)}, "1 ranks for 2 responses"),
        ({"ranks": (1.0, float("nan"))}, "not a number"),
        ({"kind": "guess"}, "unknown kind 'guess'"),
        ({"kind": "rating", "ratings": (None, None)}, "judges nothing is a skip"),
        ({"kind": "edit"}, "edit without a text"),
        ({"shown": (0, 2)}, "no order of the 2"),
        ({"shown": (0, 0)}, "no order of the 2"),
        ({"confidence": 1.5}, "confidence 1.5"),
        ({"at": "yesterday"}, "'yesterday' is no time"),
        ({"cost": Cost(seconds=-1)}, "cost below zero"),
        ({"id": "two words"}, "is no id"),
        ({"id": "x" * 65}, "is no id"),
        ({"id": "\0"}, "is no id"),
    ],
)
def test_labels_that_cannot_be_are_refused_with_their_chunk(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with filled(tmp_path / "l.db") as store:
        good = ranking("good", next(store.items()))
        with pytest.raises(DataError, match=said):
            store.add_labels([good, replace(good, **{"id": "bad", **change})])
        assert list(store.labels()) == []


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "\ud800", "x" * 201])
def test_names_that_no_screen_shows_are_refused(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "l.db") as store:
        with pytest.raises(DataError, match="control characters"):
            store.add_labeller(name)
        with pytest.raises(DataError, match="control characters"):
            store.add_guideline(Guideline(name, "x"))


def test_an_id_with_another_content_is_refused(where: str) -> None:
    with filled(where, 1) as store:
        (known,) = store.items()
        other = replace(known, responses=tuple(reversed(known.responses)))
        with pytest.raises(DataError, match="another content"):
            store.add_items([other])
        with pytest.raises(DataError, match="cannot be stored as JSON"):
            store.add_items([replace(known, id="x", origin={"when": object()})])
        with pytest.raises(DataError, match="nothing to judge"):
            store.add_items([replace(known, id="x", responses=())])
        assert list(store.items()) == [known]


def test_votes_in_columns_are_those_of_the_records(where: str) -> None:
    draw = random.Random(0)
    with Store.open(where) as store:
        items = [item(f"q{i}", *(f"a{i} {k}" for k in range(4))) for i in range(10)]
        store.add_items(items)
        labels = []
        for n in range(200):
            order = draw.sample(range(4), 4)
            kind = draw.choice(["ranking", "rating", "approval", "skip", "all_bad"])
            labels.append(
                Label(
                    f"l{n}", draw.choice(items).id, f"w{n % 7}", kind,  # type: ignore[arg-type]
                    ranks=tuple(float(draw.randint(1, 3)) for _ in order),
                    ratings=(*(draw.choice([None, 1.0, 2.0, 3.0]) for _ in range(3)), 1.0),
                    approvals=(*(draw.choice([None, True, False]) for _ in range(3)), True),
                    shown=tuple(order) if n % 3 else (),
                    confidence=draw.choice([None, 0.0, 0.5]), at="2026-01-01T00:00:00+00:00",
                )
            )  # fmt: skip
            if n % 11 == 10:
                old = next(label for label in labels if label.labeller == labels[-1].labeller)
                if all(label.replaces != old.id for label in labels) and old is not labels[-1]:
                    labels[-1] = replace(labels[-1], replaces=old.id, item=old.item)
        assert any(label.replaces for label in labels)
        store.add_labels(labels, add_labellers="simulated")
        columns = store.vote_columns()
        assert list(columns) == votes(labels) == [columns[i] for i in range(len(columns))]
        assert list(columns[3:90:7]) == votes(labels)[3:90:7]
        assert list(store.vote_columns(first=150)) == votes(labels[:150])
        assert list(store.labels(first=20, standing=True)) == [
            label for label in labels[:20] if label.id not in {x.replaces for x in labels[:20]}
        ]
        assert len(store.vote_columns("another")) == 0


def test_erasing_a_person_keeps_their_labels_and_nothing_else(where: str) -> None:
    with filled(where) as store:
        first = next(store.items())
        store.add_labels([ranking("l", first, comment="call me: 0123")])
        store.add_labels([ranking("m", first, "lee", comment="fine")])
        told = Personal("Kim Kimsson", "kim@example.org", {"age": "30-39"}, {"card": "2026-01-01"})
        store.people.set_personal("kim", told)
        assert replace(store.people.personal("kim") or told, at="") == told
        secret = store.people.add_token("kim")
        store.queue.save_draft("kim", first.id, {"comment": "half"})
        about = store.people.everything_about("kim")
        assert about["personal"][0]["contact"] == "kim@example.org"
        assert about["labels"][0]["comment"] == "call me: 0123"
        assert secret not in str(about)

        erased = store.people.erase("kim")
        assert erased == {"personal": 1, "drafts": 1, "access": 1, "comments": 1}
        left = str(store.people.everything_about("kim"))
        assert not [word for word in ("Kimsson", "example.org", "30-39", "0123") if word in left]
        assert [(x.id, x.comment) for x in store.labels()] == [("l", ""), ("m", "fine")]
        assert len(store.vote_columns()) == 2
        assert store.people.access(secret) is None
        with pytest.raises(DataError, match="no longer active"):
            store.queue.assign("kim", "c")
        again = ranking("l", first, comment="call me: 0123")
        assert store.add_labels([again]).known == 1  # an older export comes back
        assert next(store.labels()).comment == ""


def test_erased_words_are_gone_from_the_file(tmp_path: Path) -> None:
    with filled(tmp_path / "l.db") as store:
        store.people.set_personal("kim", Personal("Kim Kimsson", consent={"name": "2026"}))
        store.add_labels([ranking("l", next(store.items()), comment="Kimsson was here")])
        files = [tmp_path / "l.db", tmp_path / "l.db-wal"]
        assert any(b"Kimsson" in f.read_bytes() for f in files)
        store.people.erase("kim")
        assert not any(b"Kimsson" in f.read_bytes() for f in files if f.exists())


def test_personal_data_needs_consent_and_small_groups_stay_hidden(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(12)]
    with filled(tmp_path / "l.db", labellers=names) as store:
        with pytest.raises(DataError, match="without consent"):
            store.people.set_personal("w0", Personal("W"))
        for i, name in enumerate(names):
            told = {"age": "20-29" if i < 6 else f"{i}0s", "city": "A" if i < 11 else "B"}
            store.people.set_personal(name, Personal(demographics=told, consent={"card": "2026"}))
        assert store.people.demographics() == {
            "age": {"20-29": 6, "other": 6},
            "city": {"A": 11},
        }


def test_tokens_open_once_or_until_they_end(where: str) -> None:
    with filled(where) as store:
        people = store.people
        secret = people.add_token("kim", "admin", campaign=None)
        found = people.access(secret)
        assert found is not None
        assert (found.labeller, found.role) == ("kim", "admin")
        assert people.access("no such secret \ud800") is None
        assert people.access(people.add_token("kim", minutes=-1)) is None
        assert people.use_token(secret) == found
        assert people.use_token(secret) is None  # a token reused
        assert people.revoke(labeller="kim") == 2
        assert people.access(secret) is None
        other = people.add_token("lee")
        people.set_active("lee", False)
        assert people.access(other) is None
        with pytest.raises(DataError, match="unknown labellers"):
            people.add_token("who")


def test_campaigns_guidelines_gold_and_expenses(where: str) -> None:
    with filled(where) as store:
        pilot = Campaign("pilot", "spotcheck", 3, 0.1, 30.0, "v1", {"tags": ["a"]}, True, "2026")
        store.set_campaign(pilot)
        store.set_campaign(replace(pilot, overlap=5, open=False))
        assert store.campaign("pilot") == replace(pilot, overlap=5, open=False)
        with pytest.raises(DataError, match="did you mean 'pilot'"):
            store.campaign("pilott")
        with pytest.raises(DataError, match="overlap"):
            store.set_campaign(replace(pilot, overlap=0))
        store.add_guideline(Guideline("v1", "Be fair.", "2026"))
        store.add_guideline(Guideline("v1", "Be fair."))
        with pytest.raises(DataError, match="new version"):
            store.add_guideline(Guideline("v1", "Be quick."))
        assert store.guidelines() == [Guideline("v1", "Be fair.", "2026")]
        first = next(store.items())
        store.set_gold(first.id, [2, 1], "lee")
        assert store.item(first.id).gold == (2.0, 1.0)
        store.set_gold(first.id, None)
        assert store.item(first.id).gold is None
        with pytest.raises(DataError, match="3 ranks for 2"):
            store.set_gold(first.id, [1, 2, 3])
        with pytest.raises(DataError, match="no such item"):
            store.set_gold("none", None)
        wage = Expense("an hour", Cost(3600.0, 0, 15.0), "pilot", "kim", "2026")
        store.add_expense(wage)
        assert store.expenses("pilot") == [wage] == store.expenses()
        assert store.expenses("c") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_many_write_at_once_and_nothing_is_lost_or_doubled(engine: str, tmp_path: Path) -> None:
    where = place(engine, tmp_path)
    with filled(where, 4) as store:
        items = list(store.items())
        problems: list[BaseException] = []

        def write(own: Store, number: int) -> None:
            try:
                for n in range(5):
                    own.add_items([item(f"shared {n}"), item(f"of {number} {n}")])
                    own.add_labels(
                        [ranking(f"{number}-{n}", items[n % 4]), ranking(f"all-{n}", items[0])]
                    )
            except BaseException as error:
                problems.append(error)

        others = [Store.open(where) for _ in range(2)]
        threads = [threading.Thread(target=write, args=(others[n % 2], n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for other in others:
            other.close()
        assert problems == []
        ids = [label.id for label in store.labels()]
        assert len(ids) == len(set(ids)) == 6 * 5 + 5
        assert len(list(store.items())) == 4 + 5 + 6 * 5


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("mysql://u:secret@h/d", ConfigError, r"mysql://u:\*\*\*@h/d: a store is a SQLite file"),
        ("sqlite://", ConfigError, "a store is a SQLite file"),
        ("postgresql://u:secret@/d?host=/nowhere", Exception, "cannot be used"),
        ("://", ConfigError, "no database URL"),
    ],
)
def test_urls_that_lead_nowhere(where: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        Store.open(where)
    assert "secret" not in str(caught.value)


def test_files_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such store"):
        Store.open(tmp_path / "none.db", create=False)
    with pytest.raises(DataError, match="is a folder"):
        Store.open(tmp_path)
    (tmp_path / "text.db").write_text("hello, this is a text file and not a database at all\n" * 99)
    with pytest.raises(DataError, match="is not a store"):
        Store.open(tmp_path / "text.db")
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE labels (x INTEGER)"))
    with pytest.raises(DataError, match=r"tables of another program \(labels\)"):
        Store.open(tmp_path / "other.db")
