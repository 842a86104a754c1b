"""Callbacks in the loop: what they are told and when, what they may ask, what they cannot break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import make, rows, same, training_steps

from gnomon.errors import ConfigError, RunError, RunStopped
from gnomon.training.callbacks import (
    Callback,
    CheckpointSaved,
    EvaluationDone,
    Event,
    StageEnd,
    StageStart,
    StepDone,
    callback_maker,
    checked,
)


class Told(Callback):
    """Keeps every event; ``react`` may do something about it."""

    def __init__(self, react: Callable[[Event], Any] = lambda event: None) -> None:
        self.events: list[Any] = []
        self.react = react

    def keep(self, event: Any) -> None:
        self.events.append(event)
        self.react(event)

    on_start = on_step = on_evaluation = on_checkpoint = on_end = keep

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def with_(folder: Path, *callbacks: Callback, **options: Any) -> Any:
    loop = make(folder, **options)
    loop.callbacks += callbacks
    return loop


def test_events_come_in_the_order_of_the_run_and_say_what_is_recorded(tmp_path: Path) -> None:
    told = Told()
    loop = with_(tmp_path / "01-sft", told, eval_every=2, checkpoint_every=3, sample_every=2)
    last = loop.run()
    assert [(type(event).__name__, event.iteration) for event in told.events] == [
        ("StageStart", 0),
        *(("EvaluationDone", 0), ("StepDone", 1), ("StepDone", 2)),
        *(("EvaluationDone", 2), ("StepDone", 3), ("CheckpointSaved", 3), ("StepDone", 4)),
        *(("EvaluationDone", 4), ("CheckpointSaved", 4), ("StageEnd", 4)),
    ]
    kept = rows(loop.folder)
    for event, row in zip(told.of(StepDone), kept, strict=False):
        recorded = {k: v for k, v in row.items() if v is not None}
        assert dict(event.metrics) == recorded
        assert event.step == row["step"]
    assert [len(event.samples) for event in told.of(StepDone)] == [1, 1, 0, 1]
    assert [event.final for event in told.of(EvaluationDone)] == [False, False, True]
    assert all(event.metrics == {"eval/x": 1.0} for event in told.of(EvaluationDone))
    assert [event.samples[0]["evaluation"] for event in told.of(EvaluationDone)] == [0, 2, 4]
    start, end = told.of(StageStart)[0], told.of(StageEnd)[0]
    assert (start.stage, start.iterations, start.resumed) == ("01-sft", 4, False)
    assert start.roles is loop.learner.roles
    assert (end.status, end.metrics, end.error) == ("done", last, None)
    assert told.of(CheckpointSaved)[1].path == loop.checkpoints.path(4)
    assert told.of(CheckpointSaved)[1].path.is_dir()


def test_a_callback_that_draws_random_numbers_changes_nothing(tmp_path: Path) -> None:
    drawing = with_(tmp_path / "a", Told(lambda event: torch.rand(7)), eval_every=1)
    drawing.run()
    alone = make(tmp_path / "b", eval_every=1)
    alone.run()
    assert same(drawing, alone)


@pytest.mark.parametrize(
    ("kind", "iteration", "saved"),
    [(StepDone, 3, 3), (EvaluationDone, 2, 2), (CheckpointSaved, 2, 2), (StageEnd, 4, 4)],
)
def test_one_that_raises_stops_the_run_where_it_can_be_resumed(
    tmp_path: Path, kind: type[Event], iteration: int, saved: int
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, kind) and event.iteration == iteration:
            raise ValueError("no such plot")

    options: dict[str, Any] = {"eval_every": 2, "checkpoint_every": 2}
    straight = make(tmp_path / "straight", **options)
    straight.run()
    other = Told()
    loop = with_(tmp_path / "run", Told(fail), other, **options)
    with pytest.raises(RunError) as caught:
        loop.run()
    message = str(caught.value)
    assert "the callback Told failed" in message
    assert "ValueError: no such plot" in message
    assert f"{Path(__file__).name}:" in message  # where in the user's file
    assert f"checkpoint of iteration {saved} is intact" in message
    assert "--resume" in message
    assert [type(e) for e in other.events].count(StageEnd) == 1  # it may close what it opened
    again = with_(tmp_path / "run", other, **options)
    again.run(resume=True)
    assert same(again, straight)
    assert training_steps(tmp_path / "run") == [1, 2, 3, 4]
    begun = other.of(StageStart)[1]
    assert (begun.resumed, begun.iteration, begun.step) == (True, saved, saved)


def test_the_others_are_told_what_one_fails_at_and_do_not_miss_it(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, StepDone):
            raise ValueError("no")

    before, after = Told(), Told()
    with pytest.raises(RunError):
        with_(tmp_path, before, Told(fail), after).run()
    assert len(before.of(StepDone)) == len(after.of(StepDone)) == 1
    end = after.of(StageEnd)[0]
    assert end.status == "failed"
    assert "ValueError: no" in end.error


@pytest.mark.parametrize("kind", [StepDone, EvaluationDone, CheckpointSaved])
def test_stop_is_a_stop_that_can_be_resumed(tmp_path: Path, kind: type[Event]) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, kind) and event.iteration == 2:
            event.stop("enough for today")

    options: dict[str, Any] = {"eval_every": 2, "checkpoint_every": 2}
    straight = make(tmp_path / "straight", **options)
    straight.run()
    told = Told(stop)
    loop = with_(tmp_path / "run", told, **options)
    with pytest.raises(RunStopped, match="the checkpoint of iteration 2 of 4 is saved"):
        loop.run()
    assert loop.stop.reason == "enough for today"
    assert told.of(StageEnd)[0].status == "stopped"
    again = make(tmp_path / "run", **options)
    again.run(resume=True)
    assert same(again, straight)


@pytest.mark.parametrize("kind", [StepDone, EvaluationDone])
def test_finish_ends_training_there_with_its_evaluation(tmp_path: Path, kind: type[Event]) -> None:
    def finish(event: Event) -> None:
        if isinstance(event, kind) and event.iteration == 2:
            event.finish()

    told = Told(finish)
    loop = with_(tmp_path, told, eval_every=2)
    loop.run()
    assert loop.end == 2
    assert max(training_steps(tmp_path)) == 2
    assert told.of(EvaluationDone)[-1].final
    assert told.of(StageEnd)[0].status == "done"
    again = make(tmp_path, eval_every=2)
    again.run(resume=True)  # it stays ended
    assert again.end == 2
    assert same(again, loop)


@pytest.mark.parametrize("kind", [CheckpointSaved, EvaluationDone])
def test_finish_at_a_checkpoint_is_not_forgotten_by_a_resumed_run(
    tmp_path: Path, kind: type[Event]
) -> None:
    def finish(event: Event) -> None:
        if isinstance(event, kind) and event.iteration == 2:
            event.finish()
            event.stop("here")

    options: dict[str, Any] = {"eval_every": 2, "checkpoint_every": 2}
    with pytest.raises(RunStopped):
        with_(tmp_path, Told(finish), **options).run()
    again = make(tmp_path, **options)  # without the callback
    again.run(resume=True)
    assert again.end == 2
    assert max(training_steps(tmp_path)) == 2


def test_finish_before_the_first_iteration_leaves_the_model_it_began_with(tmp_path: Path) -> None:
    loop = with_(tmp_path, Told(lambda event: event.finish()), eval_first=True)
    start = {n: p.detach().clone() for n, p in loop.parameters.items()}
    loop.run()
    assert loop.step == 0
    assert all(torch.equal(p, start[n]) for n, p in loop.parameters.items())


class Every:
    """Not a callback."""


def test_what_is_no_callback_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"Told is a class; give Told\(\)"):
        checked([Told])
    with pytest.raises(ConfigError, match=r"derive its class from gnomon.Callback"):
        checked([Every()])


OWN = """
import gnomon

class Mine(gnomon.Callback):
    def __init__(self, every: int = 1):
        self.every = every

def broken():
    raise OSError("no disk")

def other():
    return 3
"""


def test_a_recipe_names_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    made: Any = callback_maker("mine.py:Mine", {"every": 3}, tmp_path)()
    assert made.every == 3
    wrong = [
        ("mine.py:Mini", {}, "did you mean 'Mine'"),
        ("mine.py:Mine", {"evry": 3}, "evry"),
        ("progress", {}, "write module:name or path/file.py:name"),
        ("mine.py:broken", {}, "no disk"),
        ("mine.py:other", {}, "is no callback"),
    ]
    for name, options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            callback_maker(name, options, tmp_path)()
