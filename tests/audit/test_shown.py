"""What is said of a cure is what the measurement of cures found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cures as benchmark
from cures_plan import CURES
from gnomon.audit.shown import NOT_SHOWN, SHOWN, UNMEASURED, remark
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


def test_what_was_not_tried_is_said_to_be_not_measured() -> None:
    assert remark("reward_hacking", "policy.train.lr=1e-5") == UNMEASURED
    assert remark("reward_hacking", "policy.settings.beta=0.1") == ""
    assert remark("sycophancy", "policy.settings.beta=0.1") == "shown against reward_hacking only"
    assert "harm" in remark("reward_hacking", "policy.reward.0.ensemble=mean-std")
    assert remark("reward_hacking", "policy.settings.betas=0.1") == UNMEASURED
