"""Files out of a store and into one: nothing lost, nothing doubled, TRL and gnomon read them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from store_world import filled, item, ranking

from command import runs
from gnomon.cli.main import main
from gnomon.data.readers import read_groups
from gnomon.errors import DataError, Pending
from gnomon.feedback.exchange import import_file, own_rows, write_rows
from gnomon.feedback.people import Personal
from gnomon.feedback.records import Label
from gnomon.feedback.store import Campaign, Guideline, Store
from gnomon.judges.human import HumanQueue
from gnomon.records import Group, Message, Prompt, Response

PAIRS = [
    {"prompt": f"question {i}", "response_a": f"yes {i}", "response_b": f"no {i}",
     "preference": "a" if i % 3 else "tie", "labeller": "kim" if i % 2 else "lee"}
    for i in range(12)
]  # fmt: skip


def lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def everything(store: Store) -> Any:
    return list(store.items()), list(store.labels()), store.campaigns(), store.guidelines()


@pytest.mark.parametrize("name", ["l.jsonl", "l.jsonl.gz", "l.parquet"])
def test_a_store_comes_back_from_its_own_form(tmp_path: Path, name: str) -> None:
    odd = item("\0 \ud800 \x1a", "<b>", "'; --", "\x1a001a", campaign="odd", gold=(1, 2, 2))
    with filled(tmp_path / "a.db") as store:
        first = next(store.items())
        store.set_campaign(Campaign("c", overlap=3, settings={"x": [1]}))
        store.add_guideline(Guideline("v1", "Be \0 fair."))
        store.add_items([odd])
        store.add_labeller("gpt", "model")
        old = ranking("l", first, comment="\ud800", guideline="v1", confidence=0.1)
        rated = Label("n", odd.id, "gpt", "rating", ratings=(1.0, None, 0.1), tags=("\0",))
        store.add_labels([old, ranking("m", first, better=1, replaces="l"), rated])
        store.people.set_personal("kim", Personal("Kim Kimsson", consent={"name": "2026"}))
        write_rows(tmp_path / name, own_rows(store), texts=("body",))
        before, people = everything(store), store.people.all()
    with Store.open(tmp_path / "b.db") as store:
        import_file(store, tmp_path / name, add_labellers=True)
        assert everything(store) == before
        kinds = {p.name: (p.kind, p.role) for p in store.people.all()}
        assert kinds == {p.name: (p.kind, p.role) for p in people}
        done = import_file(store, tmp_path / name)
        assert (done.items.new, done.labels.new, done.labels.known) == (0, 0, 3)
    assert b"Kimsson" not in (tmp_path / name).read_bytes()


def test_unknown_and_unnamed_labellers_are_counted_and_nothing_is_stored(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", PAIRS)
    bare = [{k: v for k, v in row.items() if k != "labeller"} for row in PAIRS[:5]]
    with Store.open(tmp_path / "l.db") as store:
        with pytest.raises(
            DataError, match=r"2 labellers are not in the store: 'lee' \(6 labels\)"
        ):
            import_file(store, file)
        with pytest.raises(DataError, match=r"5 of 5 judgements name no labeller.*--labeller"):
            import_file(store, lines(tmp_path / "b.jsonl", bare))
        evil = [{**PAIRS[0], "labeller": "a\0b"}]
        with pytest.raises(DataError, match="control characters"):
            import_file(store, lines(tmp_path / "e.jsonl", evil), add_labellers=True)
        assert everything(store)[:2] == ([], [])
        done = import_file(store, file, add_labellers=True)
        assert (done.labels.new, dict(done.labellers)) == (12, {"kim": 6, "lee": 6})
        done = import_file(store, tmp_path / "b.jsonl", labeller="someone", add_labellers=True)
        assert (done.items.new, done.items.known, done.labels.new) == (0, 5, 5)


def test_a_file_that_says_a_thing_twice_says_it_twice_however_often_it_is_read(
    tmp_path: Path,
) -> None:
    file = lines(tmp_path / "p.jsonl", [*PAIRS, *PAIRS[:4]])
    with Store.open(tmp_path / "l.db") as store:
        for new in (16, 0):
            assert import_file(store, file, add_labellers=True).labels.new == new


def test_an_import_that_is_killed_goes_on_and_doubles_nothing(tmp_path: Path) -> None:
    rows = [{**PAIRS[1], "prompt": f"q{i}"} for i in range(2000)]
    file = lines(tmp_path / "p.jsonl", rows)
    program = textwrap.dedent(
        """
        import os, signal, sys
        from gnomon.feedback.exchange import import_file
        from gnomon.feedback.store import Store
        def kill(done, total):
            if done >= 2000:  # items and labels
                os.kill(os.getpid(), signal.SIGKILL)
        import_file(Store.open(sys.argv[1]), sys.argv[2], add_labellers=True, progress=kill)
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path / "l.db"), str(file)]
    done = subprocess.run(command, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    with Store.open(tmp_path / "l.db") as store:
        assert len(list(store.labels())) == 1000
        again = import_file(store, file, add_labellers=True)
        assert (again.labels.known, again.labels.new) == (1000, 1000)
        assert len(list(store.items())) == len(list(store.labels())) == 2000


def test_broken_rows_of_the_own_form_are_named(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", 2) as store:
        rows = list(own_rows(store))
    whole = next(row for row in rows if row["gnomon_store"] == "item")
    broken = [{"gnomon_store": "item", "id": "x"}, {**whole, "labels": [{"id": 1}]}]
    broken += [{"gnomon_store": "wish"}, {**whole, "messages": 3}]
    file = lines(tmp_path / "l.jsonl", [*rows, *broken])
    with Store.open(tmp_path / "b.db") as store:
        done = import_file(store, file, add_labellers=True)
        assert done.items.new == 2
        assert len(done.skipped) == 4
        assert "l.jsonl, row" in str(done.skipped[0])


def test_who_was_stopped_stays_so_in_another_store(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", 1) as store:
        store.people.erase("kim")
        file = lines(tmp_path / "l.jsonl", list(own_rows(store)))
    with Store.open(tmp_path / "b.db") as store:
        import_file(store, file, add_labellers=True)
        assert {who.name: who.active for who in store.people.all()} == {"kim": False, "lee": True}


def test_gnomon_reads_what_is_exported_as_groups(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", PAIRS)
    run("label", "import", tmp_path / "l.db", file, "--campaign", "x", "--add-labellers")
    for name in ("g.jsonl", "g.parquet"):
        for votes in ("each", "majority", "calibrated"):
            run(
                "label",
                "export",
                tmp_path / "l.db",
                tmp_path / name,
                "--as",
                "groups",
                "--votes",
                votes,
            )
            read = read_groups(tmp_path / name)
            assert (read.format, len(read.groups), read.skipped) == ("gnomon", 12, [])
            ties = [g.comparisons[0].tie for g in read.groups]
            assert sum(ties) == 4
            if votes == "each":
                assert {g.prompt.meta["labellers"] for g in read.groups} == {("kim",), ("lee",)}
        run(
            "label",
            "import",
            tmp_path / "again.db",
            tmp_path / name,
            "--labeller",
            "all",
            "--add-labellers",
        )


def run(*arguments: object) -> int:
    before, sys.argv = sys.argv, ["gnomon", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("plain", [False, True])
def test_trl_reads_what_is_exported(tmp_path: Path, ending: str, plain: bool) -> None:
    datasets = pytest.importorskip("datasets")
    data_utils = pytest.importorskip("trl.data_utils")
    file = lines(tmp_path / "p.jsonl", PAIRS)
    with Store.open(tmp_path / "l.db") as store:
        import_file(store, file, add_labellers=True, as_text=plain)
    wanted = {
        "preference": ({"prompt", "chosen", "rejected"}, 8),
        "unpaired": ({"prompt", "completion", "label"}, 16),
        "demonstrations": ({"prompt", "completion"}, 12),
    }
    for form, (columns, count) in wanted.items():
        out = tmp_path / f"{form}.{ending}"
        assert run("label", "export", tmp_path / "l.db", out, "--as", form) == 0
        kind = "json" if ending == "jsonl" else "parquet"
        cache = str(tmp_path / "cache")
        data = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=cache)
        assert (set(data.column_names), len(data)) == (columns, count)
        row = data[0]
        assert data_utils.is_conversational(row) is not plain
        if form == "preference" and not plain:
            assert (row["chosen"][0]["role"], row["chosen"][0]["content"][:3]) == (
                "assistant",
                "yes",
            )
        if form == "unpaired":
            assert sorted(set(data["label"])) == [False, True]


def test_labels_of_a_runs_human_stage_come_in_by_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very files that the queue writes and people fill in."""
    queue = HumanQueue(tmp_path / "queue")
    answers = [Response((Message("assistant", text),)) for text in ("yes", "no", "maybe")]
    asked = [Group(Prompt(f"p{i}", (Message("user", f"question {i}"),)), tuple(answers[: 2 + i]))
             for i in range(2)]  # fmt: skip
    with pytest.raises(Pending):
        queue.judge(asked)
    rows = [
        {"id": "001-0001", "better": "r2", "worse": "r1", "labeller": "kim"},
        {"id": "001-0001", "ranks": {"r1": 1, "r2": 1}},  # nobody is named
        {"id": "001-0002", "ranking": ["r3", ["r1", "r2"]], "labeller": "kim"},
        {"id": "001-0002", "skip": True, "labeller": "lee"},
        {"id": "001-0009", "better": "r1", "worse": "r2", "labeller": "kim"},
    ]
    file = lines(queue.labels, rows)
    with Store.open(tmp_path / "labels.db") as store:
        done = import_file(store, file, campaign="c", labeller="ann", add_labellers=True)
        assert [str(s.reason) for s in done.skipped] == ["no prompt '001-0009' was asked"]
        items = {one.prompt.id: one for one in store.items("c")}
        texts = [r.text for r in items["p0"].responses]
        said = {(x.labeller, x.kind): x for x in store.labels("c")}
        assert len(list(store.labels("c"))) == 4
        three = [r.text for r in items["p1"].responses]
        first, second = items["p0"].id, items["p1"].id
        pair = next(x for x in store.labels("c") if (x.item, x.labeller) == (first, "kim"))
        best = [texts[i] for i, rank in enumerate(pair.ranks) if rank == 1]
        assert best == ["no"]
        assert said["ann", "ranking"].ranks == (1.0, 1.0)
        whole = next(x for x in store.labels("c") if (x.item, x.labeller) == (second, "kim"))
        ranks = dict(zip(three, whole.ranks, strict=True))
        assert ranks["maybe"] < ranks["yes"] == ranks["no"]
        assert ("lee", "skip") in said
        again = import_file(store, file, campaign="c", labeller="ann")
        assert (again.items.new, again.labels.new) == (0, 0)
    gnomon = runs(tmp_path, monkeypatch, capsys, "label", "import", "labels.db")
    assert gnomon(str(file), "--labeller", "ann")[0] == 0
    queue.file.unlink()
    code, said = gnomon(str(file), "--labeller", "ann")
    assert code == 1
    assert "round-001.jsonl is not beside it" in said


@pytest.mark.parametrize("name", ["l.jsonl", "l.parquet"])
def test_who_is_asked_what_next_is_the_same_in_a_store_that_came_from_an_export(
    tmp_path: Path, name: str
) -> None:
    def order(store: Store) -> list[str]:
        """What one labeller is given, one after the other."""
        given: list[str] = []
        while (next := store.queue.assign("kim", "c")) is not None:
            given.append(next.item)
            store.add_labels([ranking(next.id, next.item)])
        return given

    with filled(tmp_path / "a.db") as store:
        ids = sorted(item.id for item in store.items())
        store.queue.set_priority({ids[4]: float("inf"), ids[2]: 1.0, ids[0]: -1.0})
        store.queue.set_overlap({ids[1]: 0, ids[4]: 2})
        run("label", "export", tmp_path / "a.db", tmp_path / name)
        expected = order(store)
    assert expected == [ids[4], ids[2], ids[3], ids[5], ids[0]]
    run("label", "import", tmp_path / "b.db", tmp_path / name, "--add-labellers")
    with Store.open(tmp_path / "b.db") as store:
        assert store.queue.told()[ids[4]].overlap == 2
        store.queue.set_priority({ids[4]: 0.0})
        import_file(store, tmp_path / name)  # read again, it changes nothing of what is there
        assert store.queue.told()[ids[4]].priority == 0
        store.queue.set_priority({ids[4]: 2.0})
        assert order(store) == expected
