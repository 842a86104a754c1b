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
from gnomon.training.callbacks import EvaluationDone, StageEnd, StageStart, StepDone
from gnomon.training.sinks import Sink

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


def opened(
    name: str, folder: Path, config: Any = None, resume_step: int | None = None, title: str = "r"
) -> Sink:
    sink = Sink(name, title, config or {})
    begin = StageStart(
        "s", folder, 0, 4, resume_step or 0, method="sft", resumed=resume_step is not None, roles={}
    )
    sink.on_start(begin)
    return sink


def step(number: int, metrics: Any, samples: Any = ()) -> StepDone:
    return StepDone("s", Path(), number, 4, number, metrics=metrics, samples=samples)


def close(sink: Sink) -> None:
    sink.on_end(StageEnd("s", Path(), 4, 4, 4, status="done"))


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [(e.step, e.value) for e in accumulator.Scalars(tag)]


def test_tensorboard_files_hold_what_was_logged(tmp_path: Path) -> None:
    config = {"lr": 0.1, "path": tmp_path}
    sink = opened("tensorboard", tmp_path, config, title="my-run")
    sink.on_step(step(1, {"loss": 2.0, "kl": 1, "note": "text", "missing": None}))
    sink.on_step(step(2, {"loss": 1.5}, SAMPLES))
    close(sink)

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
    sink = opened("tensorboard", tmp_path)
    for number in (1, 2, 3):
        sink.on_step(step(number, {"loss": 1.0}))
    close(sink)
    sink = opened("tensorboard", tmp_path, resume_step=2)
    sink.on_step(step(3, {"loss": 5.0}))
    close(sink)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_evaluations_are_shown_once_at_the_step_of_the_policy_they_measure(tmp_path: Path) -> None:
    sink = opened("tensorboard", tmp_path)
    sink.on_evaluation(EvaluationDone("s", tmp_path, 1, 2, 1, metrics={"eval/x": 1.0}))
    sink.on_step(step(2, {"loss": 1.0, "eval/x": 1.0}))
    sink.on_evaluation(EvaluationDone("s", tmp_path, 2, 2, 2, metrics={"eval/x": 2.0}, final=True))
    close(sink)
    assert scalars(tmp_path, "eval/x") == [(1, 1.0), (2, 2.0)]


def test_wandb_calls_and_the_same_run_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    sink = opened("wandb", tmp_path, {"lr": 0.1}, title="my-run")
    sink.on_step(step(1, {"loss": 2, "note": "text", "missing": None}))
    sink.on_evaluation(EvaluationDone("s", tmp_path, 2, 4, 2, metrics={}, samples=SAMPLES))
    close(sink)
    opened("wandb", tmp_path, resume_step=2)
    opened("wandb", tmp_path)

    first, resumed, anew = wandb.inits
    assert (first["project"], first["name"], first["config"]) == ("gnomon", "my-run", {"lr": 0.1})
    assert resumed["id"] == first["id"] != anew["id"]
    assert wandb.logged[0] == ({"loss": 2.0}, 1)
    (_, table), at = wandb.logged[1][0]["samples"], wandb.logged[1][1]
    assert at == 2
    assert table["columns"] == ["step", "prompt", "response", "reward", "error", "extra"]
    assert table["data"][1] == [2, "2+2?", "5", 0.0, None, "x"]
    assert wandb.finished == 1


def test_trackio_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = Recorder("trackio")
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setenv("TRACKIO_PROJECT", "ours")
    sink = opened("trackio", tmp_path, {"lr": 0.1}, title="my-run")
    sink.on_step(step(1, {"loss": 2.0}))
    sink.on_evaluation(EvaluationDone("s", tmp_path, 2, 4, 2, metrics={}, samples=SAMPLES))
    close(sink)
    opened("trackio", tmp_path, resume_step=2)
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
        opened(name, tmp_path)


def test_a_sink_that_fails_is_dropped_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    sink = opened("wandb", tmp_path)

    def offline(metrics: dict[str, Any], step: int) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(wandb, "log", offline)
    with pytest.warns(UserWarning, match=r"wandb sink failed.*offline.*the run continues"):
        sink.on_step(step(1, {"loss": 1.0}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sink.on_step(step(2, {"loss": 1.0}))
        close(sink)
