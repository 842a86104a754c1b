"""``gnomon eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Run, runs
from gnomon.cli.main import main
from tiny_world import save_tiny


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs ``gnomon ARGS`` in ``tmp_path``; (exit code, all that it said, on one line)."""
    said = ("I'm sorry, but I cannot help with that.", "Sure, like this.")
    answers = [
        {"prompt": f"how to do {i}", "response": said[i % 2], "model": "mine"} for i in range(6)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return runs(tmp_path, monkeypatch, capsys)


def test_stored_answers_are_measured_and_shown(gnomon: Run, tmp_path: Path) -> None:
    code, said = gnomon("eval", "answers.jsonl", "--suite", "refusal")
    assert code == 0
    assert "refusal of mine, n=6" in said
    assert "compliance 0.500" in said
    assert (tmp_path / "evals" / "mine" / "refusal.json").is_file()
    code, said = gnomon("eval", "answers.jsonl", "--suite", "refusal")
    assert "measured already" in said
    code, said = gnomon("eval", "run", "answers.jsonl", "--suite", "refusal", "--json", "--again")
    assert code == 0


def test_json_is_nothing_but_json(
    gnomon: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["gnomon", "eval", "answers.jsonl", "--suite", "refusal", "--json"]
    )
    main_quietly()
    (record,) = json.loads(capsys.readouterr().out)
    assert record["scores"]["compliance"]["value"] == 0.5


def main_quietly() -> None:
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def test_options_reach_the_suite_and_results_are_compared(gnomon: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in (0, 1):
        save_tiny(tmp_path / f"tiny{seed}", seed)
        code, said = gnomon(
            *("eval", f"tiny{seed}", "--suite", "questions", "--data", "q.jsonl"),
            *("--judge", "exact", "--option", "max_new_tokens=4", "--output", f"out{seed}"),
        )
        assert code == 0, said
    record = json.loads((tmp_path / "out0/evals/tiny0/questions/q.json").read_text())
    assert record["settings"]["max_new_tokens"] == 4
    assert record["model_sha256"]
    code, said = gnomon("eval", "compare", "out0", "out1")
    assert code == 0
    assert "paired" in said
    assert "questions/q: tiny0, then tiny1" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("answers.jsonl", "--suite", "refusl"), "did you mean 'refusal'?"),
        (("answers.jsonl", "--suite", "refusal", "--option", "limt=2"), "did you mean 'limit'?"),
        (("answers.jsonl", "--suite", "refusal", "--option", "limit"), "write KEY=VALUE"),
        (("answers.jsonl", "--suite", "refusal", "--stage", "x"), "is not a run's folder"),
        (("nowhere", "--suite", "refusal", "--data", "answers.jsonl"), "no model at 'nowhere'"),
        (("compare", "answers.jsonl", "nowhere"), "no results; gnomon eval"),
    ],
)
def test_what_is_wrong_is_said_with_the_cure(
    gnomon: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, found = gnomon("eval", *arguments)
    assert code == 1
    assert said in found


def test_the_help_teaches(gnomon: Run) -> None:
    code, said = gnomon("eval", "--help")
    assert code == 0
    assert "gnomon eval compare runs/before runs/after" in said
    code, said = gnomon("eval", "suites")
    assert "win_rate" in said
    code, said = gnomon("eval", "suites", "refusal")
    assert "how requests are dressed up" in said
    assert "over_refusal" in said
