"""Ctrl-C and SIGTERM: what is done is saved, and the resumed run ends with the same bytes."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import raw_recipe, results

from gnomon.algorithms.dpo import DPO
from gnomon.cli import main as cli
from gnomon.errors import RunStopped
from gnomon.recipe.load import parse_recipe
from gnomon.stages import run as pipeline
from gnomon.training.loop import Loop
from gnomon.training.update import Updater
from gnomon.training.watch import Stop


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No plots, one thread."""
    monkeypatch.setattr(pipeline, "write_report", lambda folder: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(model: Path, output: Path, resume: bool = False) -> Path:
    recipe = parse_recipe(raw_recipe(model, output))
    return pipeline.run_recipe(recipe, base=Path.cwd(), resume=resume, announce=lambda text: None)


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda folder: None)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        folder = run(tiny_folder, tmp_path_factory.mktemp("straight"))
        torch.set_num_threads(threads)
        return folder


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Signals are heard, whatever started the tests (a shell's background job ignores SIGINT)."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def at(patch: pytest.MonkeyPatch, n: int, number: int = signal.SIGINT) -> list[str]:
    """Send the signal when the run asks the n-th time whether to go on; lists the places."""
    real: Callable[..., None] = Stop.check
    asked: list[str] = []

    def check(self: Stop, what: str = "") -> None:
        asked.append(what)
        if len(asked) == n:
            signal.raise_signal(number)
        real(self, what)

    patch.setattr(Stop, "check", check)
    return asked


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    straight: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        asked = at(patch, 0)
        run(tiny_folder, tmp_path / "all")
    assert len(asked) > 40  # iterations, evaluations, rollouts, chunks, policies compared
    output, stops = tmp_path / "stopped", range(2, len(asked), 5)
    for n in stops:  # each resumed run gets a little further, and is stopped again
        with monkeypatch.context() as patch:
            at(patch, n)
            with contextlib.suppress(RunStopped):
                run(tiny_folder, output, resume=n > stops[0])
                break
    else:
        run(tiny_folder, output, resume=True)
    assert n > 10
    assert results(output / "run") == results(straight)
    assert not list(output.rglob(".*.tmp-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_training_saves_a_checkpoint_that_was_not_due(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    raw = raw_recipe(tiny_folder, tmp_path)
    raw["stages"] = raw["stages"][:1]
    raw["stages"][0]["train"] = {"steps": 9, "batch_size": 2, "lr": 1e-2, "checkpoint_every": 100}
    del raw["compare"]
    before = signal.getsignal(number)
    real = Loop._iteration

    def iteration(self: Loop, i: int) -> None:
        real(self, i)
        if i == 4:
            signal.raise_signal(number)

    monkeypatch.setattr(Loop, "_iteration", iteration)
    recipe = parse_recipe(raw)
    with pytest.raises(RunStopped, match=r"stopped in stage sft .*iteration 5 of 9 is saved") as e:
        pipeline.run_recipe(recipe, base=Path.cwd(), announce=lambda text: None)
    assert e.value.signal == number
    assert signal.getsignal(number) is before
    stage = tmp_path / "run" / "stages" / "01-sft"
    info = json.loads((stage / "stage.json").read_text())
    assert (info["status"], info["planned_iterations"]) == ("stopped", 9)
    assert [p.name for p in (stage / "checkpoints").iterdir()] == ["step-000005"]


def test_the_second_one_stops_at_once(
    straight: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Updater.step

    def step(self: Updater, *args: Any, **options: Any) -> Any:
        if type(self.learner.algorithm) is DPO and args[0].step.iteration == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "step", step)
        with pytest.raises(RunStopped, match=r"in stage dpo .at once; what was saved before"):
            run(tiny_folder, tmp_path)
    assert results(run(tiny_folder, tmp_path, resume=True)) == results(straight)


def test_elsewhere_than_in_the_main_thread_nothing_is_listened_to(
    straight: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(straight.parent, tmp_path / "copy")
    handler = signal.getsignal(signal.SIGINT)
    folders: list[Path] = []
    thread = threading.Thread(
        target=lambda: folders.append(run(tiny_folder, tmp_path / "copy", resume=True))
    )
    thread.start()
    thread.join()
    assert folders == [tmp_path / "copy" / "run"]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_so_and_exits_as_shells_expect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def app() -> None:
        raise RunStopped(
            "stopped in stage sft. Resume with: gnomon run 'a b.yaml' --resume", number
        )

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == code
    assert "Resume with: gnomon run 'a b.yaml' --resume" in " ".join(
        capsys.readouterr().err.split()
    )
