"""``gnomon data inspect``: a file is read as a recipe's data entry would read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnomon.cli.main import main, parse_mapping
from gnomon.errors import ConfigError


@pytest.fixture
def inspected(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command and returns its exit code and all it said, on one line."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gnomon", "data", "inspect", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return code, " ".join((seen.out + " " + seen.err).split())

    return run


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


VERDICT = {"q": "Hi", "one": "a", "two": "b", "said": 1, "topic": "x"}


def test_columns_and_labels(inspected, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", VERDICT, {**VERDICT, "q": "Ho", "said": 2})
    code, said = inspected(file)
    assert code == 1
    assert "no known format" in said
    mapping = "prompt=q,response_a=one,response_b=two,preference=said"
    code, said = inspected(
        file, "--columns", mapping, "--columns", "category=topic", "--labels", "1=a,2=b"
    )
    assert code == 0
    assert "format verdict (preferences)" in said
    assert "2 (0 skipped)" in said
    assert "categories 1: x 2" in said


def test_kind_limit_and_caps(inspected, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a" * 5000, "rejected": "b", "note": 1} for i in range(9)]
    file = write(tmp_path / "a.jsonl", *rows)
    code, said = inspected(file, "--kind", "unpaired", "--limit", "3", "--sample-seed", "1")
    assert code == 0
    assert "rows 3 (0 skipped)" in said
    assert "3 good, 3 bad" in said
    assert "not for the model note" in said
    code, said = inspected(file, "--max-gb", "0.0001")
    assert code == 1
    assert "raise max_gb" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--columns", "prompt"], "write NAME=VALUE"),
        (["--columns", "promt=q"], "did you mean 'prompt'"),
        (["--columns", "prompt=topc"], "did you mean 'topic'"),
        (["--labels", "1=c"], "labels"),
        (["--kind", "pairs"], "kind"),
        (["--sample-seed", "1"], "together with limit"),
    ],
)
def test_wrong_options_are_named(
    inspected, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, said = inspected(write(tmp_path / "a.jsonl", VERDICT), *arguments)
    assert code == 1
    assert expected in said
    assert "Traceback" not in said


def test_a_damaged_file_is_an_error_not_an_abort(inspected, tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    code, said = inspected(str(tmp_path / "a.csv.gz"))
    assert code == 1
    assert "broken gzip" in said
    assert "Aborted" not in said


def test_mappings_may_be_repeated_and_names_may_hold_commas() -> None:
    assert parse_mapping("--columns", ["a=b,c=d", "e=f, g"]) == {"a": "b", "c": "d", "e": "f, g"}
    for wrong in (["a="], ["=b"], ["a"], ["a=b", "a=c"]):
        with pytest.raises(ConfigError):
            parse_mapping("--columns", wrong)
