"""Progress in a log and on a terminal, with a clock and console of the test's own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gnomon.training.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def log_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=60)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_at_most_every_five_seconds_and_at_the_end() -> None:
    console, clock = log_console(), Clock()
    with Progress("03-ppo", 20, console=console, clock=clock) as progress:
        for i in range(20):
            clock.now += 1
            progress.update(i + 1, {"reward": i / 10})
    lines = text_of(console).splitlines()
    assert [line.split()[1] for line in lines] == ["1/20", "6/20", "11/20", "16/20", "20/20"]
    assert lines[1] == "03-ppo 6/20  reward 0.500  ETA 0:00:14"


def test_the_last_line_comes_once_and_also_when_the_run_fails() -> None:
    console, clock = log_console(), Clock()

    def fail() -> None:
        with Progress("sft", 9, console=console, clock=clock) as progress:
            progress.update(1, {"loss": 2.0})
            progress.update(2, {"loss": float("nan")})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [line.split("  ")[:2] for line in text_of(console).splitlines()] == [
        ["sft 1/9", "loss 2"],
        ["sft 2/9", "loss nan"],
    ]

    console = log_console()
    with Progress("sft", 1, console=console, clock=clock) as progress:
        progress.update(1, {})
    assert text_of(console).splitlines() == ["sft 1/1  ETA 0:00:00"]


def test_the_numbers_that_matter_in_their_order() -> None:
    metrics = {
        "noise": 1.0,
        "tokens_per_second": 12345.6,
        "accuracy": 0.71234,
        "loss/tokens": 1.5,
        "loss": 0.000012,
        "entropy": 2.25,
        "length": 41.5,
        "kl": 0.0312,
        "reward": -1.2345,
        "category": "maths",
    }
    progress = Progress("x", 10, console=log_console())
    progress.update(1, metrics)
    assert progress.line().split("  ")[1:-1] == [
        "reward -1.234",
        "KL 0.031",
        "length 41.5",
        "entropy 2.25",
        "loss 1.2e-05",
        "accuracy 0.712",
        "tokens/s 12,346",
    ]


def test_the_pace_follows_recent_iterations_and_not_those_before_a_resume() -> None:
    clock = Clock()
    progress = Progress("x", 110, console=log_console(), clock=clock)
    clock.now += 1000  # loading the model and the checkpoint
    progress.resume(100)
    assert progress.eta() == "?"
    clock.now += 10
    progress.update(101, {})
    assert progress.eta() == "0:01:30"  # nine more of ten seconds
    clock.now += 20
    progress.update(102, {})
    assert progress.eta() == "0:01:44"  # eight more of 0.3 * 20 + 0.7 * 10 = 13 seconds
    clock.now += 3600
    progress.update(103, {})
    assert progress.eta() == "2:07:04"  # seven of 0.3 * 3600 + 0.7 * 13 = 1089.1 seconds


def test_phases_show_while_an_iteration_runs() -> None:
    console, clock = log_console(), Clock()
    with Progress("ppo", 5, console=console, clock=clock) as progress:
        progress.phase("rollout", 1, 32)
        clock.now += 4
        progress.phase("rollout", 8, 32)  # too soon for a line
        clock.now += 4
        progress.phase("rollout", 16, 32)
        clock.now += 4
        progress.update(1, {})
        assert "rollout" not in progress.line()
    assert text_of(console).splitlines() == [
        "ppo 0/5  rollout 1/32  ETA ?",
        "ppo 0/5  rollout 16/32  ETA ?",
        "ppo 1/5  ETA 0:00:48",
    ]


def test_a_terminal_gets_a_live_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Progress("03-ppo", 4, console=console) as progress:
        progress.update(2, {"reward": 0.5})
        progress.phase("rollout", 3, 8)
    shown = text_of(console)
    assert "03-ppo" in shown
    assert "2/4" in shown
    assert "rollout 3/8" in shown
    assert "reward 0.500" in shown


def test_disabled_shows_nothing() -> None:
    console = log_console()
    with Progress("x", 4, enabled=False, console=console) as progress:
        progress.update(1, {"reward": 1.0})
        progress.phase("rollout", 1, 2)
    assert text_of(console) == ""


def test_markup_in_a_title_is_not_interpreted() -> None:
    console = log_console()
    with Progress("[red]x", 1, console=console) as progress:
        progress.update(1, {})
    assert text_of(console).startswith("[red]x 1/1")
