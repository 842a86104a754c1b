"""Files of several labellers' rows: read as votes, settled in a recipe, reported on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.data.readers import read_groups
from gnomon.errors import DataError
from gnomon.feedback.from_groups import voted
from gnomon.recipe.schema import DataSpec
from gnomon.records import Group
from gnomon.stages.sources import DataReport, read_specs


def rows(pairs: int = 12) -> list[dict[str, object]]:
    """Three labellers each, who err now and then; the third says the contrary, and sees the answers
    turned."""
    out: list[dict[str, object]] = []
    for n in range(pairs):
        good, bad = f"answer {n}", f"nonsense {n}"
        for who in ("ann", "bob", "eve"):
            turned = (who == "eve") != (n % {"ann": 17, "bob": 13, "eve": 19}[who] == 12)
            first, second = (bad, good) if turned else (good, bad)
            out.append(
                {"prompt": f"question {n}", "response_a": first, "response_b": second,
                 "preference": "a", "labeller": who}
            )  # fmt: skip
    return out


def write(path: Path, data: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def read(path: Path, votes: str, kind: str = "rankings") -> list[Group]:
    spec = DataSpec.model_validate({"path": str(path), "votes": votes})
    return read_specs(
        [spec], base=path.parent, stage_groups=lambda name: path, kind=kind, report=DataReport()
    )


def test_rows_of_one_question_are_one_item_whichever_way_they_are_written(tmp_path: Path) -> None:
    found = voted(read_groups(write(tmp_path / "v.jsonl", rows()), kind="rankings").groups)
    assert (len(found.items), len(found.votes)) == (12, 36)
    for one in found.items:
        won = {v.labeller: v.won for v in found.votes if v.item == one.id}
        assert won["ann"] == won["bob"] == 1.0 - won["eve"]
        assert one.responses[0 if won["ann"] else 1].text.startswith("answer")


def test_a_recipe_settles_votes(tmp_path: Path) -> None:
    file = write(tmp_path / "v.jsonl", rows())
    each, most, weighed = (read(file, votes) for votes in ("each", "majority", "calibrated"))
    assert (len(each), len(most), len(weighed)) == (36, 12, 12)
    for group in most:
        (c,) = group.comparisons
        assert group.responses[c.better].text.startswith("answer")
        assert c.probability == 1.0
    for group in weighed:
        (c,) = group.comparisons
        assert group.responses[c.better].text.startswith("answer")
        assert 0.9 < c.probability <= 1.0
    unpaired = read(file, "calibrated", "unpaired")
    assert len(unpaired) == 24
    assert all(0.8 < g.weight <= 1.0 for g in unpaired)


def test_a_row_without_a_labeller_is_named(tmp_path: Path) -> None:
    data = rows(2)
    del data[4]["labeller"]
    with pytest.raises(DataError, match=r"row 5: nothing says who"):
        read(write(tmp_path / "v.jsonl", data), "calibrated")


def test_the_command_reports_in_words_and_as_json(tmp_path: Path) -> None:
    file = str(write(tmp_path / "v.jsonl", rows(60)))
    said = CliRunner().invoke(app, ["label", "believe", file])
    assert said.exit_code == 0, said.output
    assert "Krippendorff's alpha of pairs, nominal" in said.output
    assert "labeller 'eve' names the worse side" in said.output
    found = json.loads(CliRunner().invoke(app, ["label", "believe", file, "--json"]).stdout)
    assert found["pairs"] == 60
    assert [row["name"] for row in found["labellers"]] == ["ann", "bob", "eve"]
    assert found["labellers"][2]["ability"]["high"] < 0.5


def test_the_command_reads_a_store(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from gnomon.feedback.identity import make_item
    from gnomon.feedback.opening import open_store
    from gnomon.feedback.records import Label
    from gnomon.records import Message, Prompt, Response

    where = tmp_path / "labels.db"
    store = open_store(where, create=True)
    answers = [Response((Message("assistant", text),)) for text in ("good", "bad")]
    items = [
        make_item(Prompt(f"{n}", (Message("user", f"{n}"),)), answers, gold=(1, 2))
        for n in range(5)
    ]
    store.add_items(items)
    for who in ("ann", "bob"):
        store.add_labeller(who)
    ranks = [item.gold or () for item in items]
    store.add_labels(
        Label(f"{who}{n}", item.id, who, "ranking", ranks=gold, at="2026-01-01T00:00:00+00:00")
        for who in ("ann", "bob")
        for n, (item, gold) in enumerate(zip(items, ranks, strict=True))
    )
    store.close()
    shown = CliRunner().invoke(app, ["label", "believe", str(where), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["labellers"][0]["gold"]["value"] == 1.0
    assert found["labellers"][0]["gold"]["n"] == 5
    wrong = CliRunner().invoke(app, ["label", "believe", str(where), "--campaign", "piolt"])
    assert isinstance(wrong.exception, DataError)
    assert "no campaign 'piolt'" in str(wrong.exception)
