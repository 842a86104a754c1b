"""``gnomon eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Run, runs
from gnomon.cli.main import main
from judge_server import JudgeServer, prefers
from ports import free_port
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


def test_one_judge_is_named_alike_by_every_command(gnomon: Run, tmp_path: Path) -> None:
    """In a file, elsewhere too, and as KEY=VALUE it is the judge that was calibrated."""
    other = [{"prompt": f"how to do {i}", "response": "No.", "model": "other"} for i in range(6)]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    labels = [{"prompt": f"{i}?", "chosen": f"It is {i}.", "rejected": "Hm."} for i in range(60)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges/words.txt").write_text(
        "[user]\n{{question}}\n\n{{answer_a}}\n\n{{answer_b}}\n\n{{form}}\n"
    )
    measure = ("eval", "answers.jsonl", "--suite", "win_rate", "--against", "other.jsonl")
    with JudgeServer(prefers(lambda text: float(len(text)))) as server:
        about = {"model": "m", "url": server.url, "template": "words.txt"}
        (tmp_path / "judges/mine.yaml").write_text(json.dumps(about))
        code, said = gnomon("calibrate", "labels.jsonl", "--judge", "judges/mine.yaml")
        assert code == 0, said
        code, said = gnomon(*measure, "--judge", "judges/mine.yaml")
        assert code == 0, said
        assert "win_rate 1.000" in said
        assert "no calibration of the judge" not in said
        by_hand = [f"{key}={value}" for key, value in about.items()]
        by_hand[-1] = "template=judges/words.txt"
        code, said = gnomon(*measure, *(word for key in by_hand for word in ("--judge", key)))
        assert code == 0, said
    (calibration,) = (tmp_path / "calibrations").glob("ai-*.json")
    result = json.loads(next((tmp_path / "evals/mine").rglob("*other*.json")).read_text())
    assert json.loads(calibration.read_text())["version"] == result["judge_version"]


def test_a_judge_that_answers_nothing_has_no_win_rate_of_answers_alike(
    gnomon: Run, tmp_path: Path
) -> None:
    """Answers that are alike are ties without asking: they are no half of the wins."""
    texts = ("I'm sorry, but I cannot help with that.", "Another.")
    other = [{"prompt": f"how to do {i}", "response": texts[i % 2]} for i in range(6)]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    asked = ("--judge", "model=m", "--judge", "retries=0", "--judge")
    measure = ("eval", "answers.jsonl", "--suite", "win_rate", "--against", "other.jsonl", *asked)
    code, said = gnomon(*measure, f"url=http://127.0.0.1:{free_port()}/v1")
    assert code == 1
    assert "all 3 items that were asked (of 6) failed" in said
    assert "win_rate 0.5" not in said
    with JudgeServer(prefers(lambda text: float(len(text)))) as server:
        code, said = gnomon(*measure, f"url={server.url}")
    assert code == 0, said
    assert "win_rate 0.750" in said


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
