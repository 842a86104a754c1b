"""Items of benchmarks/gpu_runs.py run here at a tiny size; one that fails does not end the rest."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_runs.py"


@pytest.fixture(scope="module")
def runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_runs_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FILE.parent))  # where its parts are
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.mark.walk
def test_items_of_each_kind(
    runs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    kinds = ["method grpo float32 lora", "bytes sft", "memory", "sampling float32", "transfer in"]
    runs.main(["--device", "cpu", "--tiny", "--log", str(log), "--only", *kinds])
    out = capsys.readouterr().out
    assert "7 items on a CPU: not a measurement" in out
    assert "bytes sft full: ok, 2 steps again, and resumed from 1: the same bytes" in out
    assert "memory runs out: skipped, it needs a GPU" in out
    assert "memory and dry run: ok, runs on the CPU in float32" in out
    assert "0 of 7 failed" in out
    assert "== sampling float32" in log.read_text()


def test_one_that_fails_does_not_end_the_rest(
    runs: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: object) -> str:
        raise ZeroDivisionError("of no use")

    def odd(bench: object) -> str:
        raise runs.UnexpectedError("a figure is odd")

    items = {"base": lambda bench: "fine", "broken": broken, "odd": odd, "last": lambda bench: "x"}
    monkeypatch.setattr(runs, "ITEMS", items)
    with pytest.raises(SystemExit, match="failed: broken, odd"):
        runs.main(["--device", "cpu", "--tiny"])
    out = capsys.readouterr().out
    assert "broken: FAILED, ZeroDivisionError: of no use" in out
    assert "in broken" in out
    assert "odd: FAILED, a figure is odd" in out
    assert "last: ok, x" in out


def test_without_a_gpu_it_says_so(runs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="there is no CUDA device"):
            runs.main([])
    with pytest.raises(SystemExit, match="goes with --tiny"):
        runs.main(["--device", "cpu"])
    runs.main(["--list", "--only", "bytes"])
    assert "bytes ppo full" in capsys.readouterr().out
