"""``feedback:FILE`` in a recipe, and ``gnomon label`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_world import filled, ranking

from gnomon.cli.main import main
from gnomon.errors import ConfigError, DataError
from gnomon.feedback.store import Store
from gnomon.recipe.schema import DataSpec
from gnomon.records import Group
from gnomon.stages.sources import DataReport, StageData, check_source, read_specs

PAIR = {"prompt": "What is it?", "chosen": "It is a cup.", "rejected": "Cup."}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Six items: kim and lee agree on five; of the last they disagree."""
    file = tmp_path / "labels.db"
    with filled(file) as store:
        items = list(store.items())
        store.add_labels(ranking(f"k{n}", i) for n, i in enumerate(items))
        store.add_labels(
            ranking(f"l{n}", i, "lee", better=int(n == 5)) for n, i in enumerate(items)
        )
    return file


def read(base: Path, wanted: str = "preferences", **entry: Any) -> list[Group]:
    spec = DataSpec(path="feedback:labels.db", **entry)
    check_source(spec, base)
    return read_specs([spec], base=base, stage_groups=Path, kind=wanted, report=DataReport())


def test_a_recipe_reads_what_labellers_said(labelled: Path) -> None:
    base = labelled.parent
    calibrated = read(base)
    assert len(calibrated) == 5  # of the last, both sides are as likely: nothing to learn
    assert 0.5 < calibrated[0].comparisons[0].probability < 1
    assert len(read(base, options={"votes": "each"})[0].comparisons) == 2
    majority = read(base, options={"votes": "majority", "campaign": "c"})
    assert [g.comparisons[0].tie for g in majority] == [False] * 5 + [True]
    assert len(read(base, "unpaired", options={"votes": "majority"})) == 10
    assert len(read(base, "demonstrations")) == 6
    assert len(read(base, "prompts")) == 6
    assert len(read(base, limit=2)) == 2
    first = read(base, options={"first": 3})
    assert len(first) == 3


def test_who_was_believed_is_said_and_noted(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = DataReport()
    spec = DataSpec(path="feedback:labels.db")
    how: dict[str, Any] = {"base": labelled.parent, "stage_groups": Path, "kind": "preferences"}
    read_specs([spec], report=report, **how)
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    record = report.labels["feedback:labels.db"]
    assert (record.votes, record.labellers, record.method) == (12, 2, "dawid_skene")
    assert set(record.weights) == {"kim", "lee"}
    # of 24 values 13 and 11 of each kind once mirrored: by hand, 12 units, 2 of them torn
    observed, expected = 4 / 24, 2 * 12 * 12 / (24 * 23)
    assert record.alpha is not None
    assert record.alpha.value == pytest.approx(1 - observed / expected)
    assert "feedback:labels.db: Krippendorff's alpha of pairs 0.681" in text
    assert "12 votes of 2 labellers weighed by dawid_skene" in text
    assert f"kim: {record.weights['kim'].value:.3f}" in text  # type: ignore[union-attr]
    read_specs([DataSpec(path=spec.path, options={"first": 6})], report=report, **how)
    assert "alpha of pairs n/a" in " ".join("".join(capsys.readouterr()).split())  # no overlap
    for votes, word in (("majority", "each counts alike"), ("each", "each counts by itself")):
        read_specs([DataSpec(path=spec.path, options={"votes": votes})], report=report, **how)
        assert word in "".join(capsys.readouterr())


def test_what_leads_nowhere_is_said_before_anything_is_read(labelled: Path) -> None:
    for options, said in (
        ({"campain": "c"}, "unknown option 'campain'; did you mean 'campaign'"),
        ({"campaign": "d"}, "no campaign 'd'"),
        ({"votes": "calibrate"}, "did you mean 'calibrated'"),
        ({"method": "x"}, "method is 'x'"),
        ({"first": "3"}, "not a number"),
        ({"first": 0}, "give 1 or more"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            check_source(DataSpec(path="feedback:labels.db", options=options), labelled.parent)
    with pytest.raises(DataError, match="no such store"):
        check_source(DataSpec(path="feedback:none.db"), labelled.parent)
    with pytest.raises(ConfigError, match="PGPASSWORD"):
        check_source(DataSpec(path="feedback:postgresql://u:secret@h/d"), labelled.parent)
    with pytest.raises(ConfigError, match="split mean something for files only"):
        read(labelled.parent, split="test")
    with pytest.raises(ConfigError, match="there are 12 labels"):
        read(labelled.parent, options={"first": 13})
    with Store.open(labelled.parent / "empty.db"):
        spec = DataSpec(path="feedback:empty.db")
        with pytest.raises(ConfigError, match="0 items and 0 labels"):
            read_specs(
                [spec],
                base=labelled.parent,
                stage_groups=Path,
                kind="unpaired",
                report=DataReport(),
            )


def test_a_run_resumes_with_the_labels_that_it_began_with(labelled: Path) -> None:
    """Labels that came in meanwhile change the data, unless the recipe says how many it reads."""
    from gnomon.recipe.schema import StageSpec

    def data(options: dict[str, Any]) -> StageData:
        entry = {"path": "feedback:labels.db", "options": options}
        stage = StageSpec(name="rm", algorithm="reward_model", data=[entry])
        found = StageData(stage, labelled.parent, Path, 0)
        found.groups("preferences")
        return found

    notes = [labelled.parent / "all.json", labelled.parent / "first.json"]
    all_of_them, first = data({}), data({"first": 12})
    all_of_them.note(notes[0], resume=False)
    first.note(notes[1], resume=False)
    data({}).note(notes[0], resume=True)
    with Store.open(labelled) as store:
        store.add_labels([ranking("new", next(store.items()), "ann", 1)], add_labellers="person")
    with pytest.raises(ConfigError, match=r"labels\.db changed since"):
        data({}).note(notes[0], resume=True)
    data({"first": 12}).note(notes[1], resume=True)


# -- the command line -----------------------------------------------------------------------------

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gnomon", "label", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_a_campaign_from_beginning_to_end(gnomon: Run, tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"What is thing {i}?"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "gold.jsonl").write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "rules-v1.md").write_text("Be fair.")
    assert gnomon("show", "labels.db") == (
        1,
        "error: labels.db: no such store. `gnomon label new labels.db NAME` makes one\n",
    )
    made = gnomon("new", "labels.db", "pilot", "--overlap", 2, "--guideline", "rules-v1.md")
    assert made[0] == 0
    assert "4 items added" in gnomon("add", "labels.db", "pilot", "pairs.jsonl")[1]
    assert "(4 were there)" in gnomon("add", "labels.db", "pilot", "pairs.jsonl")[1]
    assert gnomon("add", "labels.db", "pilto", "pairs.jsonl")[1].count("did you mean 'pilot'") == 1
    assert "1 items added" in gnomon("add", "labels.db", "pilot", "gold.jsonl", "--gold")[1]
    assert "lee" in gnomon("people", "labels.db", "kim", "lee")[1]
    assert gnomon("people", "labels.db", "gpt", "--kind", "robot")[0] == 1
    code, said = gnomon("import", "labels.db", "pairs.jsonl", "--campaign", "pilot")
    assert (code, "--labeller NAME" in said) == (1, True)
    code, said = gnomon(
        "import", "labels.db", "pairs.jsonl", "--campaign", "pilot", "--labeller", "kim"
    )
    assert (code, "4 labels added, of 1 labellers" in said) == (0, True)
    code, said = gnomon("show", "labels.db")
    assert [cell.strip() for cell in said.split("\n")[3].split("\u2502")[1:-1]] == [
        *("pilot", "4", "0", "4", "0", "2", "rules-v1")
    ]
    with Store.open(tmp_path / "labels.db") as store:
        (asked,) = [i for i in store.items() if i.gold]
        assert asked.responses[(asked.gold or ()).index(1.0)].text == PAIR["chosen"]
    assert gnomon("export", "labels.db", "out.txt")[0] == 1
    assert gnomon("export", "labels.db", "out.jsonl", "--as", "dpo")[0] == 1
    assert "4 rows written" in gnomon("export", "labels.db", "o.jsonl", "--as", "preference")[1]


def test_what_is_not_given_again_stays_as_it_is(gnomon: Run, tmp_path: Path) -> None:
    gnomon("new", "labels.db", "pilot", "--overlap", 3, "--ask", "rating", "--tag", "clear")
    gnomon("new", "labels.db", "pilot", "--scale", 7, "--closed")
    with Store.open(tmp_path / "labels.db") as store:
        (pilot,) = store.campaigns()
    assert (pilot.overlap, pilot.open) == (3, False)
    assert pilot.settings == {"ask": "rating", "scale": 7, "tags": ["clear"]}
    code, said = gnomon("new", "labels.db", "pilot", "--ask", "vibes")
    assert (code, "give ranking, rating" in said) == (1, True)


def test_personal_data_on_the_command_line(gnomon: Run) -> None:
    gnomon("new", "labels.db", "pilot")
    gnomon("people", "labels.db", "kim")
    assert "without consent" in gnomon("personal", "labels.db", "kim", "--told", "age=30")[1]
    noted = gnomon("personal", "labels.db", "kim", "--told", "age=30", "--consent", "card=2026")
    assert noted[0] == 0
    about = json.loads(gnomon("personal", "labels.db", "kim")[1])
    assert about["personal"][0]["demographics"] == {"age": "30"}
    assert "give --yes" in gnomon("erase", "labels.db", "kim")[1]
    assert "erased of 'kim': 1 personal" in gnomon("erase", "labels.db", "kim", "--yes")[1]
    assert json.loads(gnomon("personal", "labels.db", "kim")[1])["personal"] == []
    assert "unknown labellers: 'kimm'" in gnomon("erase", "labels.db", "kimm", "--yes")[1]
