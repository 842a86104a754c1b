"""What is said of a cure is what the measurement of cures found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cures as benchmark
from cures_plan import CURES, SICKNESSES
from gnomon.audit.evidence import Evidence
from gnomon.audit.shown import NOT_SHOWN, SHOWN, UNMEASURED, remark
from gnomon.report.findings import audit_lines
from gnomon.runs.audit import Audit
from gnomon.runs.records import StageInfo
from planted_runs import read_rows

TRIED = {
    "settings.beta": ("kl",),
    "ensemble": ("ensemble_mean_std",),
}
"""By the key that the audit names, the measured cures that have it."""


def verdicts(*names: str) -> list[str]:
    rows = read_rows(benchmark.ROWS)
    lines = benchmark.table(rows).splitlines()
    found = [line for name in names for line in lines if line.startswith(f"| `{name}` |")]
    return [line.rstrip("|").rpartition("|")[2].strip() for line in found]


@pytest.mark.parametrize("key", [*SHOWN, *NOT_SHOWN])
def test_a_cure_is_called_shown_only_where_the_rows_show_it(key: str) -> None:
    assert all(f"{key}=" in str(CURES[name].overrides) for name in TRIED[key])
    found = verdicts(*TRIED[key])
    assert len(found) == len(TRIED[key])
    assert (found == ["shown"] * len(found)) == (key in SHOWN)
    methods = {SICKNESSES[CURES[name].sickness].method for name in TRIED[key]}
    assert key not in SHOWN or set(SHOWN[key]) == methods


def test_what_was_not_tried_is_said_to_be_not_measured() -> None:
    beta = "policy.settings.beta=0.1"
    assert remark("reward_hacking", "policy.train.lr=1e-5", "ppo") == UNMEASURED
    assert remark("reward_hacking", beta, "ppo") == ""
    assert remark("sycophancy", beta, "ppo") == "shown against reward_hacking only"
    assert "harm" in remark("reward_hacking", "policy.reward.0.ensemble=mean-std", "ppo")
    assert remark("reward_hacking", "policy.settings.betas=0.1", "ppo") == UNMEASURED


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "grpo", "online_dpo", ""])
def test_what_was_tried_with_one_algorithm_is_not_measured_for_another(algorithm: str) -> None:
    """A finding of the stage says which algorithm that is, and what people read follows it."""
    spec = {"settings": {"beta": 0.1}}
    evidence = Evidence("run", "policy", spec=spec, info=StageInfo(algorithm=algorithm))
    cure = "policy.settings.beta=0.2"
    fields = {"status": "alarm", "text": "it is fooled", "cures": [cure]}
    finding = evidence.finding("reward_hacking", "invariance", **fields)
    said = remark(finding.name, cure, finding.algorithm)
    assert said == f"not measured for {algorithm or 'this method'}, only for ppo"
    assert any(f"{cure} ({said})" in line for line in audit_lines(Audit(findings=[finding])))
