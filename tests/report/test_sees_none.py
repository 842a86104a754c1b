"""What would have been seen of a share is a share."""

import pytest
from card_world import build

from gnomon.audit.decide import detectable
from gnomon.report.card import run_card
from gnomon.report.findings import audit_lines
from gnomon.report.html import write_report
from gnomon.runs.audit import Audit, Finding
from gnomon.stats.intervals import Interval

FEW = Interval(0.6, 0.15, 0.95, 5)


@pytest.mark.parametrize(
    ("measure", "limit", "none"),
    [
        ("answers cut off at the length limit, share", 0.5, True),
        ("answers cut off at the length limit, share", 0.1, False),
        ("share of pairs of answers on which a and b disagree", 0.5, True),
        ("KL from the start model, nats per token", 0.5, False),
        ("share of the reward's gain that longer answers are paid", 0.5, False),
    ],
)
def test_of_a_share_that_none_can_be_none_would_have_been_seen(tmp_path, measure, limit, none):
    shown = detectable(FEW, limit)
    assert (shown > 1.0) == (limit == 0.5)
    finding = Finding(
        name="truncated_answers", detector="cut", stage="grpo", status="clear", measure=measure,
        figure=FEW, limit=limit, detectable=shown,
    )  # fmt: skip
    run = build(tmp_path / "made")
    Audit(findings=[finding]).write(run / "audit.json")
    line = next(line for line in run_card(run).splitlines() if "by cut, stage grpo" in line)
    page = write_report(run).read_text()
    assert ("none would have been seen" in line) == none
    said = " ".join(audit_lines(Audit(findings=[finding])))
    assert ("none would have been seen" in said) == none
    assert (f"{shown:.3f}" in line) != none
    assert (">none<" in page) == none
    assert "alarm" not in said
