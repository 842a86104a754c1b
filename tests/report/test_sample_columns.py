"""Samples whose columns hold another kind of value than they should: read, cast, or left out."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gnomon.audit.detectors import audit_run
from gnomon.report.html import write_report
from gnomon.report.samples import browser
from gnomon.runs.read import read_run
from gnomon.view.samples import Filter, Samples


def _change(run, change):
    """The samples of the PPO stage with every row changed."""
    file = next(run.glob("stages/*ppo/samples.parquet"))
    rows = [{**row, **change(i, row)} for i, row in enumerate(pq.read_table(file).to_pylist())]
    pq.write_table(pa.Table.from_pylist(rows), file)
    (file.with_suffix(".jsonl")).unlink(missing_ok=True)
    return file.parent


CASES = {
    "category a number": (lambda i, r: {"category": 4}, "category", "4", None),
    "category a list": (lambda i, r: {"category": ["a", "b"]}, "category", None, "every value"),
    "reward a text": (lambda i, r: {"reward": "0.75"}, "reward", 0.75, None),
    "reward a word": (lambda i, r: {"reward": "good"}, "reward", None, "every value"),
    "length a text": (lambda i, r: {"length": "17"}, "length", 17, None),
    "length not a number": (
        lambda i, r: {"length": math.nan if i == 0 else 17.0}, "length", 17, "1 of",
    ),
    "length infinite": (lambda i, r: {"length": math.inf}, "length", None, "every value"),
    "length a fraction": (lambda i, r: {"length": 17.5}, "length", None, "every value"),
    "step a text": (lambda i, r: {"step": str(r["step"])}, "length", None, None),
    "error a number": (lambda i, r: {"error": 3}, "error", "3", None),
    "finished a count": (lambda i, r: {"finished": 1}, "finished", True, None),
    "parts a mapping": (lambda i, r: {"parts": {"own": 1.5}}, "parts", '{"own": 1.5}', None),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_report_audit_and_view_read_samples_of_another_kind(run_dir, case):
    change, name, value, lost = CASES[case]
    folder = _change(run_dir, change)
    run = read_run(run_dir)
    samples = next(stage.samples for stage in run.stages if stage.samples)
    if value is not None or lost == "every value":
        assert samples[-1][name] == value
    said = [problem for problem in run.problems if f"column {name} of the samples" in problem]
    assert len(said) == (lost is not None)
    assert all(lost in problem for problem in said)
    assert browser(run).rows
    page = write_report(run_dir).read_text()
    assert "ppo" in page
    assert all(problem in page for problem in said)
    audit_run(run_dir)
    assert Samples().page(folder, True, Filter()).rows


def test_a_held_out_row_stays_held_out_whatever_its_mark(run_dir):
    _change(run_dir, lambda i, r: {"evaluation": "the first" if i % 2 else None})
    run = read_run(run_dir)
    samples = next(stage.samples for stage in run.stages if stage.samples)
    assert [row["evaluation"] for row in samples[:2]] == [None, "the first"]
    write_report(run_dir)
