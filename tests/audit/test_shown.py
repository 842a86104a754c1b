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
    "kl": ("settings.beta", "reward_hacking"),
    "tax_kl": ("settings.beta", "alignment_tax"),
    "collapse_kl": ("settings.beta", "mode_collapse"),
    "entropy_bonus": ("settings.entropy_coef", "mode_collapse"),
    "averaging": ("train.average_with_reference", "alignment_tax"),
    "sft_averaging": ("train.average_with_reference", "alignment_tax"),
    "ensemble_mean_std": ("ensemble", "reward_hacking"),
}
"""The measured cures, with the keys by which the audit names them and the alarm."""


def verdict(name: str) -> str:
    lines = benchmark.table(read_rows(benchmark.ROWS)).splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
    return line.rstrip("|").rpartition("|")[2].strip()


@pytest.mark.parametrize("name", TRIED)
def test_a_cure_is_called_shown_only_where_the_rows_show_it(name: str) -> None:
    key, alarm = TRIED[name]
    assert f"{key}=" in str(CURES[name].overrides)
    method = SICKNESSES[CURES[name].sickness].method
    said, found = remark(alarm, f"policy.{key}=1", method), verdict(name)
    assert (found == "shown") == (said == "")
    assert ("harm" in said) == ("harm" in found)


def test_nothing_is_called_shown_that_was_not_tried() -> None:
    tried = {
        (key, SICKNESSES[CURES[name].sickness].method, alarm)
        for name, (key, alarm) in TRIED.items()
    }
    called = {
        (key, method, alarm)
        for key, measured in SHOWN.items()
        for method, alarms in measured.items()
        for alarm in alarms
    }
    assert called <= tried
    assert set(NOT_SHOWN) <= {key for key, _, _ in tried}


def test_what_was_not_tried_is_said_to_be_not_measured() -> None:
    beta = "policy.settings.beta=0.1"
    assert remark("reward_hacking", "policy.train.lr=1e-5", "ppo") == UNMEASURED
    assert remark("reward_hacking", beta, "ppo") == ""
    assert remark("sycophancy", beta, "ppo") == "shown against reward_hacking only"
    assert "harm" in remark("reward_hacking", "policy.reward.0.ensemble=mean-std", "ppo")
    assert remark("reward_hacking", "policy.settings.betas=0.1", "ppo") == UNMEASURED


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "dapo", "online_dpo", ""])
def test_what_was_tried_with_one_algorithm_is_not_measured_for_another(algorithm: str) -> None:
    """A finding of the stage says which algorithm that is, and what people read follows it."""
    spec = {"settings": {"beta": 0.1}}
    evidence = Evidence("run", "policy", spec=spec, info=StageInfo(algorithm=algorithm))
    cure = "policy.settings.beta=0.2"
    fields = {"status": "alarm", "text": "it is fooled", "cures": [cure]}
    finding = evidence.finding("reward_hacking", "invariance", **fields)
    said = remark(finding.name, cure, finding.algorithm)
    assert said == f"not measured for {algorithm or 'this method'}, only for ppo, grpo"
    assert any(f"{cure} ({said})" in line for line in audit_lines(Audit(findings=[finding])))
