"""Each subcommand of benchmarks/gpu.py runs here at a tiny size, and refuses to pretend."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mode", ["full", "lora16"])
def test_a_step(gpu: ModuleType, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["step", "--device", "cpu", "--tiny", "--mode", mode])
    assert f"{mode} 64 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("parity", "three steps, twice: the same bytes"),
        ("attention", "blocks"),
        ("attention --deterministic", "blocks"),
        ("head", "head in float32"),
        ("decode", "4 rows"),
    ],
)
def test_a_subcommand(
    gpu: ModuleType, what: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main([*what.split(), "--device", "cpu", "--tiny"])
    out = capsys.readouterr().out
    assert said in out
    assert "not a measurement" in out


def test_without_a_gpu_it_says_so(gpu: ModuleType) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="there is no CUDA device"):
            gpu.main(["step"])
    with pytest.raises(SystemExit, match="goes with --tiny"):
        gpu.main(["step", "--device", "cpu"])
