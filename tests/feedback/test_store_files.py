"""What files say comes into a store as it was meant, and out of it whole."""

from __future__ import annotations

import datetime
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from store_world import filled, item, ranking

from gnomon.cli.label_next import _one_more
from gnomon.cli.label_plan import _pilot
from gnomon.data.readers import read_groups
from gnomon.errors import DataError, RunError
from gnomon.feedback.agreement import rating_scales
from gnomon.feedback.campaigns import Expense
from gnomon.feedback.exchange import import_file, own_rows, write_rows
from gnomon.feedback.from_groups import voted
from gnomon.feedback.groups import learned_groups
from gnomon.feedback.labellers import report_on
from gnomon.feedback.ledger import Tariff
from gnomon.feedback.people import Personal
from gnomon.feedback.records import Label
from gnomon.feedback.source import feedback_groups
from gnomon.feedback.store import Store
from gnomon.records import Cost


def lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def imported(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Store:
    store = Store.open(folder / "l.db")
    file = lines(folder / "rows.jsonl", rows)
    import_file(store, file, **{"labeller": "kim", "add_labellers": True, **options})
    return store


def responses(*texts: str, **by_text: list[Any]) -> list[dict[str, Any]]:
    return [
        {"text": text, **{name: values[i] for name, values in by_text.items()}}
        for i, text in enumerate(texts)
    ]


# -- what comes in ---------------------------------------------------------------------------------


def test_longer_rankings_among_pairs_stay_whole(tmp_path: Path) -> None:
    two = {"responses": responses("a", "b", rank=[1, 2])}
    four = {"responses": responses("a", "b", "c", "d", rank=[4, 3, 2, 1])}
    rows = [{"prompt": f"q{i}", **(two if i < 3 else four)} for i in range(5)]
    with imported(tmp_path, rows) as store:
        assert sorted(len(one.responses) for one in store.items()) == [2, 2, 2, 4, 4]
        assert sorted(len(label.ranks) for label in store.labels()) == [2, 2, 2, 4, 4]
    assert read_groups(tmp_path / "rows.jsonl").kind == "rankings"
    assert read_groups(lines(tmp_path / "two.jsonl", rows[:3])).kind == "preferences"


def test_ratings_of_two_answers_stay_ratings(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "responses": responses("a", "b", score=[2.0, 1.0])}]
    with imported(tmp_path, rows) as store:
        (label,) = store.labels()
        assert (label.kind, sorted(v or 0 for v in label.ratings)) == ("rating", [1.0, 2.0])
    where = f"feedback:{tmp_path / 'l.db'}"
    groups, _, _ = feedback_groups(where, {"good_from": 5}, tmp_path, "unpaired")
    assert [g.responses[0].meta["label"] for g in groups] == [False, False]


def test_what_is_switched_off_says_nothing_in_a_store_either(tmp_path: Path) -> None:
    live = {"better": "a", "worse": "b", "labeller": "kim"}
    off = [{"better": "b", "worse": "a", "labeller": who, "weight": 0} for who in ("lee", "mo")]
    pair = {"responses": [{"id": "a", "text": "yes"}, {"id": "b", "text": "no"}]}
    judged = {"prompt": "q", **pair, "comparisons": [live, *off]}
    rows = [
        {"prompt": "r", "chosen": "yes", "rejected": "no", "labeller": "kim"},
        {"prompt": "r", "chosen": "no", "rejected": "yes", "labeller": "lee", "weight": 0},
    ]
    with imported(tmp_path, rows, labeller="") as store:
        import_file(store, lines(tmp_path / "judged.jsonl", [judged]))
        assert {label.labeller for label in store.labels()} == {"kim"}
        groups = learned_groups(store.items(), list(store.labels()))
    assert len(groups) == 2
    for group in groups:
        (said,) = group.comparisons
        assert (group.responses[said.better].text, group.weight) == ("yes", 1.0)
    assert list(voted(read_groups(tmp_path / "rows.jsonl").groups).weights.values()) == [1.0]


def test_gold_is_what_most_say(tmp_path: Path) -> None:
    row = {"instruction": "q", "response1": "one", "response2": "two"}
    row |= {"annotator1": 2, "annotator2": 1, "annotator3": 1}
    with imported(tmp_path, [row], use="gold", labeller="") as store:
        (one,) = store.items()
        assert one.gold is not None
        assert one.responses[one.gold.index(1.0)].text == "one"
        for bad, says in (
            ({**row, "annotator3": 0}, "contradict each other"),
            ({"prompt": "p", "completion": "bad", "label": False}, "needs two answers"),
        ):
            file = lines(tmp_path / "bad.jsonl", [bad])
            with pytest.raises(DataError, match=says):
                import_file(store, file, labeller="kim", add_labellers=True, use="gold")


def test_dates_and_numbered_labellers_of_tables_come_in(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = datetime.datetime(2026, 1, 2, 3, 4)
    rows = [
        {"prompt": f"q{i}", "chosen": "a", "rejected": "b", "created_at": at, "labeller": who}
        for i, who in enumerate((1.0, 2.0, None))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with Store.open(tmp_path / "l.db") as store:
        import_file(store, tmp_path / "rows.parquet", labeller="unknown", add_labellers=True)
        assert {label.labeller for label in store.labels()} == {"1", "2", "unknown"}
        assert {one.prompt.meta["created_at"] for one in store.items()} == {"2026-01-02T03:04:00"}


# -- what is learned -------------------------------------------------------------------------------


def test_what_everybody_calls_bad_is_no_demonstration(tmp_path: Path) -> None:
    with filled(tmp_path / "l.db", 0) as store:
        good, bad = item("good", "fine", "awful"), item("bad", "awful one", "awful two")
        store.add_items([good, bad])
        for who in ("kim", "lee"):
            marks = tuple(r.text == "fine" for r in good.responses)
            store.add_labels([
                Label(f"g{who}", good.id, who, "approval", approvals=marks),
                Label(f"b{who}", bad.id, who, "approval", approvals=(False, False)),
            ])  # fmt: skip
    where = f"feedback:{tmp_path / 'l.db'}"
    groups, skipped, _ = feedback_groups(where, {}, tmp_path, "demonstrations")
    assert [g.responses[0].text for g in groups] == ["fine"]
    assert "labelled bad" in skipped[0].reason
    ranked, _, _ = feedback_groups(where, {}, tmp_path, "rankings")
    assert not any("label" in r.meta for g in ranked for r in g.responses)


def test_gold_questions_are_no_prompts_to_train_on(tmp_path: Path) -> None:
    with filled(tmp_path / "l.db", 2) as store:
        store.add_items([item("known", gold=(1.0, 2.0))])
        store.add_labels([ranking("l", next(store.items()))])
    groups, _, _ = feedback_groups(f"feedback:{tmp_path / 'l.db'}", {}, tmp_path, "prompts")
    assert {g.prompt.id for g in groups} == {"question 0", "question 1"}


# -- figures ---------------------------------------------------------------------------------------


def test_agreement_is_of_one_scale_at_a_time() -> None:
    """Chance alone, but ratings are 3 to 5 and approvals 0 and 1: together they look like
    agreement."""
    items = [item(f"q{i}", "only", campaign="ab"[i % 2]) for i in range(40)]
    labels = []
    for i, one in enumerate(items):
        for k, who in enumerate(("kim", "lee")):
            value = (i // 2 + k * (i // 4)) % 3
            said = {"ratings": (3.0 + value,)} if i % 2 else {"approvals": (value > 0,)}
            kind = "rating" if i % 2 else "approval"
            labels.append(Label(f"{i}{who}", one.id, who, kind, **said))
    scales, notes = rating_scales(labels, items)
    assert list(scales) == ["good or bad in a", "ratings in b"]
    assert not notes
    report = report_on(items, labels)
    assert all(alphas["interval"].value < 0.5 for alphas in report.rating_alphas.values())


def test_more_ratings_than_a_scale_has_do_not_stop_anything() -> None:
    items = [item(f"q{i}", "a", "b", "c") for i in range(100)]
    labels = [
        Label(f"l{i}", one.id, "rm", "rating", ratings=(i + 0.1, i + 0.2, i + 0.3))
        for i, one in enumerate(items)
    ]
    report = report_on(items, labels)
    assert any("agreement of ratings is not known" in note for note in report.notes)
    assert not report.rating_alphas


def test_what_is_skipped_is_no_label(tmp_path: Path) -> None:
    with filled(tmp_path / "l.db", 4) as store:
        asked = list(store.items())
        for i, one in enumerate(asked):
            kind = {"kind": "skip", "ranks": ()} if i % 2 else {"kind": "ranking"}
            said = {"ranks": (1.0, 2.0)} | kind
            label = Label(f"l{i}", one.id, "kim", cost=Cost(10.0, 0, 0.4 * (1 - i % 2)), **said)
            store.add_labels([label])
        assert _one_more(store, [one.id for one in asked[:2]], None) == {
            asked[0].id: 2, asked[1].id: 1,
        }  # fmt: skip
        (skip,) = [label for label in store.labels() if label.item == asked[1].id]
        assert Tariff(price={"person": 0.4}).of(skip, "person") == 0.0
    _, money, seconds = _pilot(str(tmp_path / "l.db"), None)
    assert (money, seconds) == (pytest.approx(0.4), pytest.approx(20.0))


# -- out and away ----------------------------------------------------------------------------------


def test_expenses_and_the_order_of_labels_come_back(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", 3) as store:
        first, second, third = store.items()
        for i, one in enumerate((second, first, third, first, second)):
            who = "kim" if i < 3 else "lee"
            store.add_labels([ranking(f"l{i}", one, who)])
        store.add_expense(Expense("wages", Cost(0.0, 0, 600.0), "c", "kim"))
        store.add_expense(Expense("wages", Cost(0.0, 0, 600.0), "c", "kim", "2026"))
        write_rows(tmp_path / "l.jsonl", own_rows(store))
        said, paid = [label.id for label in store.labels()], store.expenses()
    with Store.open(tmp_path / "b.db") as store:
        for _ in range(2):  # read again, it doubles nothing
            import_file(store, tmp_path / "l.jsonl", add_labellers=True)
            assert [label.id for label in store.labels()] == said
            assert store.expenses() == paid


def test_an_erasure_that_a_reader_holds_up_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.feedback.database.READERS_SECONDS", 0.05)
    with filled(tmp_path / "l.db") as store:
        store.people.set_personal("kim", Personal("Kim Kimsson", consent={"name": "2026"}))
        reader = sqlite3.connect(tmp_path / "l.db")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM labels").fetchone()
        store.db.engine.dispose()
        with pytest.raises(RunError, match="another process reads the store"):
            store.people.erase("kim")
        reader.rollback()
        reader.close()
        store.people.erase("kim")
        logs = [tmp_path / "l.db", tmp_path / "l.db-wal"]
        assert not any(b"Kimsson" in file.read_bytes() for file in logs if file.exists())
