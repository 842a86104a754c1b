"""The benchmark of lm-eval's tasks runs, and both sides say the same."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))


def test_both_sides_give_the_same_scores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import evals

    monkeypatch.setattr(sys, "argv", ["evals.py", "--tiny", "--questions", "4", "--batch", "2"])
    evals.main()
    said = capsys.readouterr().out
    assert "4 questions, 16 requests" in said
    assert "greedy differs in 0 requests" in said
    assert "more than 1e-4: 0" in said


def test_questions_are_as_many_a_subject(shared_data: Path, tmp_path: Path) -> None:
    import evals

    _, files = evals.mmlu_stem(shared_data, tmp_path, 300)
    lines = files["test"].read_text().splitlines()
    assert len(lines) == 300
    assert not set(lines) & set(files["dev"].read_text().splitlines())
