"""Sinks: TensorBoard's files read back; W&B and trackio through stand-ins with their interface."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gnomon.errors import ConfigError
from gnomon.training.sinks import make_sinks

SAMPLES = [
    {"step": 2, "prompt": "1+1?", "response": "<b>2</b>", "reward": 1.0, "error": None},
    {"step": 2, "prompt": "2+2?", "response": "5", "reward": 0.0, "extra": "x"},
]


class Recorder(types.ModuleType):
    """Records calls like wandb and trackio; ``init`` gives the run (wandb logs through it)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = 0
        self.Table = lambda **kwargs: ("table", kwargs)

    def init(self, **kwargs: Any) -> Recorder:
        self.inits.append(kwargs)
        return self

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append((metrics, step))

    def finish(self) -> None:
        self.finished += 1


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [(e.step, e.value) for e in accumulator.Scalars(tag)]


def test_tensorboard_files_hold_what_was_logged(tmp_path: Path) -> None:
    (sink,) = make_sinks(["tensorboard"], tmp_path, "my-run", {"lr": 0.1, "path": tmp_path})
    sink.log(1, {"loss": 2.0, "kl": 1, "note": "text", "missing": None})
    sink.log(2, {"loss": 1.5})
    sink.text(2, SAMPLES)
    sink.close()

    assert scalars(tmp_path, "loss") == [(1, 2.0), (2, 1.5)]
    assert scalars(tmp_path, "kl") == [(1, 1.0)]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == {"loss", "kl"}
    texts = {
        tag: accumulator.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in accumulator.Tags()["tensors"]
    }
    assert "response: <b>2</b>" in texts["samples/0/text_summary"]
    assert "error" not in texts["samples/0/text_summary"]
    assert "extra: x" in texts["samples/1/text_summary"]
    assert "my-run" in texts["config/text_summary"]


def test_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    (sink,) = make_sinks(["tensorboard"], tmp_path, "r", {})
    for step in (1, 2, 3):
        sink.log(step, {"loss": 1.0})
    sink.close()
    (sink,) = make_sinks(["tensorboard"], tmp_path, "r", {}, resume_step=2)
    sink.log(3, {"loss": 5.0})
    sink.close()
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_wandb_calls_and_the_same_run_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (sink,) = make_sinks(["wandb"], tmp_path, "my-run", {"lr": 0.1})
    sink.log(1, {"loss": 2, "note": "text", "missing": None})
    sink.text(2, SAMPLES)
    sink.close()
    make_sinks(["wandb"], tmp_path, "my-run", {}, resume_step=2)
    make_sinks(["wandb"], tmp_path, "my-run", {})

    first, resumed, anew = wandb.inits
    assert (first["project"], first["name"], first["config"]) == ("gnomon", "my-run", {"lr": 0.1})
    assert resumed["id"] == first["id"] != anew["id"]
    assert wandb.logged[0] == ({"loss": 2.0}, 1)
    (_, table), step = wandb.logged[1][0]["samples"], wandb.logged[1][1]
    assert step == 2
    assert table["columns"] == ["step", "prompt", "response", "reward", "error", "extra"]
    assert table["data"][1] == [2, "2+2?", "5", 0.0, None, "x"]
    assert wandb.finished == 1


def test_trackio_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = Recorder("trackio")
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setenv("TRACKIO_PROJECT", "ours")
    (sink,) = make_sinks(["trackio"], tmp_path, "my-run", {"lr": 0.1})
    sink.log(1, {"loss": 2.0})
    sink.text(2, SAMPLES)
    sink.close()
    make_sinks(["trackio"], tmp_path, "my-run", {}, resume_step=2)
    assert trackio.inits[0] == {
        "project": "ours",
        "name": "my-run",
        "config": {"lr": 0.1},
        "resume": "never",
    }
    assert trackio.inits[1]["resume"] == "allow"
    assert trackio.logged == [
        ({"loss": 2.0}, 1),
        ({"samples": ("table", {"data": SAMPLES})}, 2),
    ]
    assert trackio.finished == 1


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "tracking"), ("wandb", "wandb"), ("trackio", "trackio")]
)
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # makes its import fail
    with pytest.raises(ConfigError, match=rf"gnomon-rlhf\[{extra}\]"):
        make_sinks([name], tmp_path, "r", {})


def test_a_sink_that_cannot_be_opened_closes_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError):
        make_sinks(["wandb", "trackio"], tmp_path, "r", {})
    assert wandb.finished == 1


def test_a_sink_that_fails_is_dropped_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (sink,) = make_sinks(["wandb"], tmp_path, "r", {})

    def offline(metrics: dict[str, Any], step: int) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(wandb, "log", offline)
    with pytest.warns(UserWarning, match=r"wandb sink failed.*offline.*the run continues"):
        sink.log(1, {"loss": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink.log(2, {"loss": 1.0})
        sink.close()
