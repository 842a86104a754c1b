"""Hours, euros, labels and energy by hand; what is not priced; hardware by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gnomon.errors import ConfigError
from gnomon.feedback.plan import Prices
from gnomon.plan.bill import Labels, ai_prices, bill
from gnomon.plan.cost import Speed, step_seconds
from gnomon.plan.hardware import Hardware, gpus, parse_hardware, table_date
from gnomon.plan.job import Job
from gnomon.plan.shapes import shape_of

JOB = Job(
    "grpo", shape_of("Qwen/Qwen3-8B"), 64, 8, 200, 1000, 150.0, 400.0, 8192, precision="mixed"
)
EIGHT = parse_hardware("8xH100", price=2.0)


def test_hours_money_and_energy_by_hand() -> None:
    speed = Speed(1e15, 1e13)
    found = bill(JOB, EIGHT, 100, speed=speed, pue=1.2)
    seconds = sum(step_seconds(JOB, speed, 8).values())
    hours = 100 * seconds / 3600
    assert found.hours == pytest.approx(hours)
    assert found.gpu_hours == pytest.approx(8 * hours)
    assert found.compute_euros == pytest.approx(8 * hours * 2.0)
    assert found.kilowatt_hours == pytest.approx(hours * 8 * 0.7 * 1.2)
    assert found.euros == found.compute_euros  # no labels
    assert sum(found.seconds.values()) == pytest.approx(3600 * hours)


def test_utilisation_is_of_the_data_sheet() -> None:
    found = bill(JOB, EIGHT, 1)
    training = next(p for p in found.phases if p.name == "training")
    assert found.utilisation == pytest.approx(training.flop / training.seconds / (8 * 989e12))
    assert 0.2 < found.utilisation < 0.4


def test_labels_of_people_and_models() -> None:
    labels = Labels(human=100, ai=1000, votes=3, human_prices=Prices(0.5, 36.0),
                    ai_prices=Prices(0.01))  # fmt: skip
    found = bill(JOB, EIGHT, 1, labels=labels)
    assert found.human_label_euros == pytest.approx(100 * 3 * 0.5)
    assert found.human_hours == pytest.approx(100 * 3 * 36 / 3600)
    assert found.ai_label_euros == pytest.approx(1000 * 3 * 0.01)
    assert found.euros == pytest.approx(found.compute_euros + 150 + 30)


def test_a_judge_is_paid_by_the_token() -> None:
    # 350 + 150 + 2 x 400 tokens read and 120 written, in both orders
    assert ai_prices(JOB, 2.0, 8.0).price == pytest.approx(2 * (1300 * 2 + 120 * 8) / 1e6)


def test_everything_is_in_the_json() -> None:
    said = json.loads(json.dumps(bill(JOB, EIGHT, 3, labels=Labels(human=5)).to_json()))
    assert said["steps"] == 3
    assert said["label_euros"] == pytest.approx(3.0)
    assert {p["name"] for p in said["phases"]} >= {"training", "decoding", "optimizer"}
    assert any("euros an hour" in line for line in said["assumptions"])


def test_what_nobody_knows_the_price_of_is_null_and_not_nothing() -> None:
    free = Hardware(1, replace(EIGHT.gpu, price=0.0))
    said = bill(JOB, free, 1, labels=Labels(human=10)).to_json()
    assert said["label_euros"] == pytest.approx(6.0)
    assert said["compute_euros"] is said["euros"] is None
    said = bill(JOB, EIGHT, 1, labels=Labels(human=10, ai=5, votes=2)).to_json()
    assert said["unpriced"] == 10
    assert said["compute_euros"] > 0
    assert said["ai_label_euros"] is said["label_euros"] is said["euros"] is None


# -- hardware -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100", 8, "H100"),
        ("h100", 1, "H100"),
        ("4x A100-40GB", 4, "A100-40GB"),
        ("2 RTX 4090", 2, "RTX4090"),
        ("8x NVIDIA H100 80GB SXM5", 8, "H100"),
        ("16×H200", 16, "H200"),
        ("8xA100-80GB", 8, "A100"),
    ],
)
def test_hardware_as_people_write_it(text: str, count: int, name: str) -> None:
    found = parse_hardware(text)
    assert (found.count, found.gpu.name) == (count, name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8xH10", "Did you mean H100"),
        ("4xRTX409", "Did you mean RTX4090"),
        ("8xTPU", "no GPU 'TPU' in the table"),
        ("8x", "as in 8xH100"),
        ("", "as in 8xH100"),
        ("-1xH100", "as in 8xH100"),
        ("0xH100", "at least one GPU"),
    ],
)
def test_hardware_that_is_none(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_hardware(text)


def test_every_gpu_has_a_source_and_figures_that_can_be() -> None:
    assert len(table_date()) == 7
    for gpu in gpus().values():
        assert gpu.source
        assert 20e9 < gpu.memory < 300e9
        assert 50e12 < gpu.flops < 3e15
        assert gpu.network <= gpu.link < gpu.bandwidth
        assert 0 < gpu.price < 10
    assert sum(bool(gpu.checked) for gpu in gpus().values()) >= 8
