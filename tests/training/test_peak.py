"""Early stopping at a held-out judge's peak: which weights are kept, also over a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import tiny_world as tw
from gnomon.algorithms.base import Evaluation, Workbench
from gnomon.algorithms.offline_settings import SFTSettings
from gnomon.algorithms.sft import SFT
from gnomon.errors import RunStopped
from gnomon.models.roles import Role
from gnomon.recipe.training import PeakSpec
from gnomon.training.learner import GivenSource, Learner
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.peak import Peak
from gnomon.training.progress import Progress


class Judged(Learner):
    """SFT whose judge says of each evaluation what a test wants, by the weights it finds."""

    values: Sequence[float | None]
    seen: dict[float, float | None]
    stop_at: int | None = None

    def evaluate(self) -> Evaluation:
        mark = float(sum(p.detach().double().sum() for _, p in self.named_parameters()))
        if mark not in self.seen:
            if len(self.seen) == self.stop_at:
                raise RunStopped("asked to", 2)
            self.seen[mark] = self.values[len(self.seen)]
        value = self.seen[mark]
        metrics = {} if value is None else {"eval/judge": value}
        return Evaluation(metrics, {"judge": value}, [{"response": f"judged {value}"}])


def make(folder: Path, values: Sequence[float | None], *, patience: int = 2, **more: Any) -> Loop:
    policy = Role("policy", tw.trunk(), trainable=True)
    bench = Workbench({"policy": policy}, batch_size=2, iterations=6, tokens_per_microbatch=50)
    learner = Judged(SFT(SFTSettings(), bench), GivenSource(bench_algorithm(bench), DATA))
    learner.values, learner.seen = values, {}
    peak = PeakSpec(judge="judge", patience=patience)
    options = {"lr": 1e-2, "checkpoint_every": 1, "eval_every": 1, "seed": 3} | more
    progress = Progress("test", 6, enabled=False, console=Console(quiet=True))
    return Loop(learner, LoopOptions(6, stop_at_peak=peak, **options), folder, progress)


DATA = tw.demonstrations()


def bench_algorithm(bench: Workbench) -> SFT:
    return SFT(SFTSettings(), bench)


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in loop.parameters.items()}


def after(folder: Path, iterations: int) -> dict[str, torch.Tensor]:
    """The weights of a run without early stopping after so many iterations."""
    loop = make(folder, [0.0] * 20)
    loop.state.peak = None
    kept: dict[int, dict[str, torch.Tensor]] = {}
    real = loop._iteration

    def watched(i: int) -> None:
        kept[i] = weights(loop)
        real(i)

    loop._iteration = watched  # type: ignore[method-assign]
    loop.run()
    kept[6] = weights(loop)
    return kept[iterations]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


CASES = [
    # the judge's means before each iteration and at the end, what is kept, where training stopped
    ([1, 2, 5, 4, 3, 0, 0], 2, 4),  # two without a new best
    ([1, 2, 3, 2, 4, 5, 6], 6, 6),  # one without is waited for; the end is the best
    ([1, 2, 3, 2, 4, 5, 4], 5, 6),  # the best is just before the end
    ([9, 1, 2, 3, 3, 3, 3], 0, 2),  # training does harm at once: the start model is kept
    ([None, 2, 1, None, 0, 0, 0], 1, 3),  # an evaluation on which the judge failed is no best
    ([2, 2, 2, 2, 2, 2, 2], 0, 2),  # no better is no new best
]


@pytest.mark.parametrize(("values", "best", "end"), CASES)
def test_the_best_evaluations_weights_are_kept(values, best, end, tmp_path: Path) -> None:
    loop = make(tmp_path / "peak", values)
    last = loop.run()
    assert same(weights(loop), after(tmp_path / "plain", best))
    assert loop.end == end
    assert loop.state.peak is not None
    assert loop.state.peak.summary(loop.end) == {
        "judge": "judge",
        "value": values[best],
        "iteration": best,
        "trained_until": end,
    }
    # what the stage's records say last is of the model that is kept
    assert last["eval/judge"] == values[best]
    assert json.loads((tmp_path / "peak" / "evals.json").read_text()) == {"judge": values[best]}
    final = rows(tmp_path / "peak", "metrics")[-1]
    assert (final["final"], final["eval/judge"]) == (1, values[best])
    shown = rows(tmp_path / "peak", "samples")[-1]
    assert (shown["evaluation"], shown["response"]) == (best, f"judged {values[best]}")
    assert shown["step"] == end


def test_every_evaluation_is_in_the_curve_once(tmp_path: Path) -> None:
    make(tmp_path, [1, 2, 5, 4, 3, 0, 0]).run()
    found = rows(tmp_path, "metrics")
    judged = [r["eval/judge"] for r in found if not r["final"]]
    assert judged == [1, 2, 5, 4, 3]
    make(tmp_path / "whole", [1, 2, 3, 2, 4, 5, 4]).run()
    judged = [r["eval/judge"] for r in rows(tmp_path / "whole", "metrics") if not r["final"]]
    assert judged == [1, 2, 3, 2, 4, 5, 4]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Loop, Path]]:
    """A run that nothing cut off, and its folder; made once for what its judge says."""

    @cache
    def run(*values: float | None) -> tuple[Loop, Path]:
        folder = tmp_path_factory.mktemp("straight")
        loop = make(folder, values)
        loop.run()
        return loop, folder

    return run


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(("values", "best", "end"), CASES[:4])
def test_a_run_that_was_cut_off_ends_with_the_same(
    values, best: int, end: int, stop: int, tmp_path: Path, straight
) -> None:
    whole, folder = straight(*values)
    cut = make(tmp_path / "cut", values)
    cut.learner.stop_at = stop  # in its evaluation number `stop`, from 0
    try:
        cut.run()
    except RunStopped:
        again = make(tmp_path / "cut", values)
        again.learner.seen = dict(cut.learner.seen)
        again.run(resume=True)
        cut = again
    assert same(weights(cut), weights(whole))
    assert cut.state.peak is not None
    assert whole.state.peak is not None
    assert cut.state.peak.summary(cut.end) == whole.state.peak.summary(whole.end)
    timing = ("seconds", "tokens_per_second", "peak_rss_gb")
    for name in ("metrics", "samples"):
        tables = [
            [{k: v for k, v in r.items() if k not in timing} for r in rows(run, name)]
            for run in (folder, tmp_path / "cut")
        ]
        assert tables[0] == tables[1], name


def test_a_peak_that_forgot_would_keep_other_weights(tmp_path: Path) -> None:
    """The test above can fail: what the checkpoint keeps of the peak matters."""
    values = CASES[0][0]
    cut = make(tmp_path, values)
    cut.learner.stop_at = 4
    with pytest.raises(RunStopped):
        cut.run()
    again = make(tmp_path, values)
    again.learner.seen = dict(cut.learner.seen)
    assert again.state.peak is not None
    again.state.peak.load_state_dict = lambda state: None  # type: ignore[method-assign]
    again.run(resume=True)
    assert not same(weights(again), after(tmp_path / "plain", 2))


def test_a_judge_that_never_answers_stops_nothing() -> None:
    peak = Peak(PeakSpec(judge="judge", patience=1))
    for i in range(5):
        peak.see(i, None, {})
    assert not peak.passed
    assert peak.iteration is None
