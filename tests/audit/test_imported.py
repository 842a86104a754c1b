"""Logs of other trainers as runs. ``trl_grpo`` is what TRL 1.16's GRPOTrainer wrote with
log_completions=True: a random model of 2 layers, two reward functions (``words``, and ``digits``,
which gives None to every seventh answer and has weight 0.5), 4 steps of 8 answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made import evidence_of
from test_detectors import STEPS, leaky, rollouts
from typer.testing import CliRunner

from gnomon.audit.detectors import audit_run
from gnomon.cli.main import app
from gnomon.errors import DataError
from gnomon.runs.imported import import_run
from gnomon.runs.read import read_run

TRL = Path(__file__).parent / "trl_grpo"
runner = CliRunner()


def test_trl_as_it_was_logged(tmp_path: Path) -> None:
    made = import_run(TRL, tmp_path / "run", weights={"digits": 0.5})
    assert (made.trainer, made.samples, made.rows) == ("trl", 32, 4)
    assert made.rewards == {"words": 1.0, "digits": 0.5}
    assert not any("give the weights" in note for note in made.notes)
    evidence = evidence_of(tmp_path / "run")
    history = json.loads((TRL / "trainer_state.json").read_text())["log_history"]
    for row in history[:4]:  # the rewards are those that TRL itself says it trained on
        own = [s.reward for s in evidence.samples if s.step == row["step"]]
        assert len(own) == 8
        assert sum(own) / 8 == pytest.approx(row["reward"], abs=1e-5)
    _, kl = evidence.series("kl")
    per_token = [row["kl"] * row["completions/mean_length"] for row in history[:4]]
    assert kl.tolist() == pytest.approx(per_token)
    cut = [row["completions/clipped_ratio"] for row in history[:4]]
    assert evidence.series("finished")[1].tolist() == [1 - share for share in cut]
    sample = evidence.samples[0]
    assert sample.prompt.startswith("What is ")
    assert set(sample.parts) <= {"words", "digits"}
    assert sample.finished is None
    row: Any = read_run(tmp_path / "run").stages[0].samples[0]
    assert "advantage" in row


def test_trl_without_its_weights_is_seen_through(tmp_path: Path) -> None:
    made = import_run(TRL, tmp_path / "run")
    (note,) = [note for note in made.notes if "give the weights" in note]
    assert "the rewards of step 1 are 4.625 on average and the metrics say 4.312" in note


def every_ten(folder: Path, weight: float, *, nones: bool = False) -> Path:
    """As TRL logs by default: means over ten steps, the answers of the last of them."""
    (folder / "completions").mkdir(parents=True)
    history = []
    for step in (10, 20, 30):
        answers = [
            {"step": step, "prompt": f"p{i % 4}", "completion": f"a {i} {step}", "advantage": 0.0}
            | {"right": float(i % 2), "form": None if nones and i % 3 == 0 else float(i % 4 == 0)}
            for i in range(16)
        ]
        file = folder / "completions" / f"completions_{step:05d}.jsonl"
        file.write_text("\n".join(map(json.dumps, answers)))
        right, form = 0.2 + step / 100, 0.6  # of all ten steps, not of these answers
        means = {"rewards/right/mean": right, "rewards/form/mean": form}
        history.append({"step": step, "reward": right + weight * form, **means})
    state = {"log_history": [*history, {"step": 30, "train_loss": 0.1}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_means_over_ten_steps_are_not_compared_with_the_answers_of_one(tmp_path: Path) -> None:
    source = every_ten(tmp_path / "out", 0.25)
    asked = {}
    for name, weights in (("bare", {}), ("told", {"form": 0.25})):
        notes = import_run(source, tmp_path / name, weights=weights).notes
        asked[name] = [note for note in notes if "give the weights" in note]
    (note,) = asked["bare"]
    assert "the rewards of step 10 are 0.9 on average and the metrics say 0.45" in note
    assert asked["told"] == []
    one = import_run(every_ten(tmp_path / "one", 1.0), tmp_path / "run")
    assert not any("give the weights" in note for note in one.notes)
    gaps = import_run(every_ten(tmp_path / "gaps", 0.5, nones=True), tmp_path / "left")
    assert not any("give the weights" in note for note in gaps.notes)  # nothing tells


def test_a_loss_that_was_not_finite_is_told(tmp_path: Path) -> None:
    source = every_ten(tmp_path / "out", 1.0)
    state = json.loads((source / "trainer_state.json").read_text())
    for row in state["log_history"][1:3]:
        row |= {"loss": float("nan"), "grad_norm": float("inf") if row["step"] == 30 else 1.0}
    (source / "trainer_state.json").write_text(json.dumps(state))
    notes = import_run(source, tmp_path / "run").notes
    assert "metric loss is not finite in 2 rows, first at step 20: left out there" in notes
    assert "metric grad_norm is not finite in 1 row, first at step 30: left out there" in notes


def test_page_and_card_say_that_another_trainer_made_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    import_run(every_ten(tmp_path / "out", 1.0), run)
    audit_run(run)
    for command in (["report", str(run)], ["card", str(run)]):
        result = runner.invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "gnomon eval " + str(run) not in result.output  # it has no model
    page, card = (run / "report.html").read_text(), (run / "model_card.md").read_text()
    assert "imported from TRL&#39;s logs" in page
    assert "length is not logged for each answer: words are counted" in page
    assert "add gates to the recipe" not in page  # which cannot be run
    assert "gnomon run" not in page
    assert "Trained by TRL, whose logs gnomon imported as the run `run`" in card
    assert "- length is not logged for each answer: words are counted" in card
    assert "| iterations | 30 |" in card
    assert "| policy | policy | n/a | n/a | not known | not known |" in card  # no tokens, not 0
    form = runner.invoke(app, ["card", str(run), "--form", "eu", "--json"])
    fields = {field["number"]: field for field in json.loads(form.stdout)["fields"]}
    assert fields["7.5"]["state"] == "missing"


def test_a_weight_of_nought_is_a_held_out_judge(tmp_path: Path) -> None:
    made = import_run(TRL, tmp_path / "run", weights={"digits": 0.0})
    assert made.judges == ["digits"]
    assert evidence_of(tmp_path / "run").judges == ["digits"]
    import_run(TRL, tmp_path / "told", weights={"digits": 0.0}, truths=["digits"])
    told = evidence_of(tmp_path / "told")
    assert told.judges == []
    assert not any(s.parts for s in told.samples)


def verl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as verl's ``_dump_generations`` writes them, and its FileLogger's metrics."""
    folder.mkdir()
    for step in sorted({row["step"] for row in rows}):
        lines = [
            {
                "input": f"user\n{row['prompt']}\nassistant\n",
                "output": row["response"],
                "gts": "42",
                "score": row["reward"],
                "step": step,
                "acc": row["reward"],
            }
            for row in rows
            if row["step"] == step
        ]
        text = "\n".join(json.dumps(line) for line in lines) + "\n"
        (folder / f"{step}.jsonl").write_text(text)
    metrics = [
        {
            "step": step,
            "data": {
                "critic/score/mean": 0.5,
                "actor/entropy": 0.4,
                "response_length/mean": 9.0,
                "response_length/clip_ratio": 0.25,
                "actor/kl_loss": 0.01,
                "training/global_step": step,
            },
        }
        for step in range(1, 12)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
    return folder


def test_verl_is_audited(tmp_path: Path) -> None:
    source = verl(tmp_path / "rollouts", rollouts(STEPS, leaky))
    result = runner.invoke(app, ["import", str(source), "--to", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "768 answers and 11 rows of metrics of verl" in result.output
    assert "acc, gts" in result.output
    audit = audit_run(tmp_path / "run")
    assert "contradiction" in {f.detector for f in audit.alarms}
    evidence = evidence_of(tmp_path / "run")
    assert evidence.series("finished")[1][0] == 0.75
    assert "entropy" in evidence.metrics
    assert not any("42" in str(sample) and "gts" in str(sample) for sample in evidence.samples)
    assert runner.invoke(app, ["report", str(tmp_path / "run")]).exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_rows_that_are_wrong_are_left_out_and_named(tmp_path: Path) -> None:
    source = verl(tmp_path / "rollouts", rollouts((1, 2), leaky))
    file = source / "1.jsonl"
    lines = file.read_text().splitlines()
    lines[3] = json.dumps({"prompt": "x", "answer": "y"})
    lines[5] = lines[5][:30]
    file.write_text("\n".join(lines))
    made = import_run(source, tmp_path / "run")
    assert made.samples == 254
    assert made.skipped == [
        "1.jsonl, row 4: no input (it has prompt, answer)",
        "1.jsonl, row 6: not a JSON object",
    ]
    assert read_run(tmp_path / "run").stages[0].info.skipped.count == 2


def test_a_damaged_file_and_missing_metrics(tmp_path: Path) -> None:
    source = tmp_path / "out"
    shutil.copytree(TRL, source)
    (source / "completions" / "completions_00002.parquet").write_bytes(b"PAR1")
    (source / "trainer_state.json").unlink()
    made = import_run(source, tmp_path / "run")
    assert made.samples == 24
    assert "completions_00002.parquet cannot be read" in made.skipped[0]
    assert any("no metrics: trainer_state.json is not in" in note for note in made.notes)
    assert any("which columns are rewards is not logged" in note for note in made.notes)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no rollouts that are known"):
        import_run(tmp_path / "empty", tmp_path / "run")
    with pytest.raises(DataError, match="is there already"):
        import_run(TRL, tmp_path)
    with pytest.raises(DataError, match="no column 'digit' to weigh; there are"):
        import_run(TRL, tmp_path / "run", weights={"digit": 1.0})
    assert not (tmp_path / "run").exists()
    result = runner.invoke(app, ["import", str(TRL), "--to", str(tmp_path / "r"), "--weight", "x"])
    assert "write NAME=NUMBER" in str(result.exception)


@pytest.mark.parametrize("last", [4, 6])
def test_of_a_resumed_run_the_later_metrics_count(tmp_path: Path, last: int) -> None:
    """Killed after step 5, resumed from the checkpoint of step 2: verl logs into the same file.
    What the first attempt logged beyond the second one's end is gone, too."""
    source = verl(tmp_path / "rollouts", rollouts(range(1, last + 1), leaky))
    steps = [1, 2, 3, 4, 5, *range(3, last + 1)]
    lines = [{"step": s, "data": {"actor/entropy": float(i)}} for i, s in enumerate(steps)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    made = import_run(source, tmp_path / "run", metrics=file)
    (stage,) = read_run(tmp_path / "run").stages
    step, entropy = stage.series("entropy")
    assert (step.tolist(), entropy.tolist()) == ([*range(1, last + 1)], [0, 1, *range(5, 3 + last)])
    assert any("3 rows of metrics (steps 3 to 5) were logged before" in note for note in made.notes)
