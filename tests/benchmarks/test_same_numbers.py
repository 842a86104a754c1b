"""The comparison of two checkouts sees a difference of one bit, and a method left out."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from gnomon.algorithms.registry import METHODS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from same_numbers import differing, distance, stages


def weights(folder: Path, value: float) -> Path:
    (folder / "model").mkdir(parents=True)
    save_file({"w": torch.tensor([1.0, value])}, folder / "model" / "model.safetensors")
    return folder


def test_every_method_of_the_registry_is_run() -> None:
    assert set(METHODS) <= {stage["algorithm"] for stage in stages(3)}


def test_the_last_bit_of_a_weight_counts(tmp_path: Path) -> None:
    one = weights(tmp_path / "one", 2.0)
    assert distance(one, weights(tmp_path / "same", 2.0)) == 0.0
    nearly = float(torch.nextafter(torch.tensor(2.0), torch.tensor(3.0)))
    assert 0.0 < distance(one, weights(tmp_path / "nearly", nearly)) < 1e-6
    (tmp_path / "none").mkdir()
    assert distance(one, tmp_path / "none") == float("inf")


def test_metrics_are_compared_as_they_are_written() -> None:
    assert differing([{"loss": float("nan")}], [{"loss": float("nan")}]) == []
    assert differing([{"loss": 0.1}], [{"loss": 0.1 + 1e-18}]) == []
    assert differing([{"loss": 0.1}], [{"loss": 0.1 + 2e-17}]) == ["loss"]
    assert differing([{"a": 1}], [{"b": 1}]) == ["a", "b"]
    assert differing([{"a": 1}], []) == ["1 rows against 0"]
