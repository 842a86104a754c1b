"""Proxy against gold reward as the policy moves away from the reference.

After Gao, Schulman & Hilton 2022, "Scaling laws for reward model overoptimization" (arXiv
2210.10760): x is d = sqrt(KL(policy || reference)) with the KL in nats per response, and under RL
the gold reward follows R(d) = d (alpha - beta log d), counted from the start of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.audit.kinds import entry_kind, grader
from gnomon.audit.readings import latest
from gnomon.audit.truths import reward_entries
from gnomon.errors import DataError
from gnomon.report import style
from gnomon.report.format import number
from gnomon.report.kinds import stage_specs
from gnomon.runs.peak import kept_results
from gnomon.runs.read import RunView, StageView
from gnomon.runs.rows import Column
from gnomon.stats.best_of import best_of_kl

Source = RunView | StageView | Mapping[str, Column]
_MIN_HELD_OUT = 5


@dataclass(frozen=True)
class Trajectory:
    """What a run did, in order of training: KL (nats per response), proxy and gold reward, [n].

    ``gold`` is None where no gold program was observed. ``held_out`` says whether the figures come
    from the held-out prompts or from the training rollouts.
    """

    kl: Column
    proxy: Column
    gold: Column | None
    held_out: bool = False

    @property
    def distance(self) -> Column:
        """sqrt(KL), in square roots of a nat; a KL estimated below 0 counts as 0."""
        out: Column = np.sqrt(np.maximum(self.kl, 0.0))
        return out


@dataclass(frozen=True)
class GoldFit:
    """R(d) = start + d (alpha - beta ln d), least squares, with its share of variance explained."""

    start: float
    alpha: float
    beta: float
    r2: float

    def __call__(self, d: Column) -> Column:
        safe = np.maximum(d, 1e-12)
        out: Column = self.start + d * (self.alpha - self.beta * np.log(safe))
        return out


@dataclass(frozen=True)
class BestOf:
    """What the best of n answers of a stage's start model is worth, by n.

    Attributes:
        kl: [n] nats from that model, at most.
        values: [n] the expected reward of the best.
        gold: the true reward says so, or else the one that the stage was trained on.
    """

    kl: Column
    values: Column
    gold: bool


def best_of_curves(run: RunView, stage: StageView) -> list[BestOf]:
    """Best-of-n as evals of a run measured it on the model that a stage started from, by the
    stage's own reward and by the true one; empty where none did."""
    spec = stage_specs(run).get(stage.name, {})
    trained = reward_entries(spec.get("reward") or [])
    start = Path(str(stage.info.start.get("from") or "")).parent.name.partition("-")[2]
    found = []
    after = [r for r in run.results if r.model == start and r.step is None]
    for result in after or latest(kept_results(run), start):
        ns = sorted(int(n) for name in result.scores
                    if (n := name.removeprefix("best_of_")).isdecimal())  # fmt: skip
        kind = entry_kind(grader(result), trained) if grader(result) else "other"
        if not ns or not start or kind not in ("trained", "truth"):
            continue
        figures = [(n, figure.value) for n in ns if (figure := result.scores[f"best_of_{n}"])]
        kl = np.array([best_of_kl(n) for n, _ in figures])
        values = np.array([value for _, value in figures])
        found.append(BestOf(kl, values, gold=kind == "truth"))
    return found


def trajectory(source: Source) -> Trajectory | None:
    """KL and rewards of a run's last stage that has them, or of a stage, or of plain columns.

    Held-out columns (``eval/kl`` and so on) are taken when they have at least 5 points, since
    training rollouts are noisier and their prompts are the ones optimised on. None when there are
    fewer than two points either way.
    """
    if isinstance(source, RunView):
        found = [t for s in reversed(source.stages) if (t := trajectory(s)) is not None]
        return found[0] if found else None
    columns = source.metrics if isinstance(source, StageView) else source
    held_out = _read(columns, "eval/")
    if held_out is not None and held_out.kl.size >= _MIN_HELD_OUT:
        return held_out
    return _read(columns, "") or held_out


def fit_gold(distance: Column, gold: Column) -> GoldFit | None:
    """Fit the paper's form to (d, R); None below 6 points or without spread in d."""
    if distance.size < 6 or np.ptp(distance) < 1e-6:
        return None
    d = np.maximum(distance, 1e-12)
    design = np.stack([np.ones_like(d), d, -d * np.log(d)], axis=1)
    (start, alpha, beta), *_ = np.linalg.lstsq(design, gold, rcond=None)
    residual = float(((gold - design @ np.array([start, alpha, beta])) ** 2).sum())
    spread = float(((gold - gold.mean()) ** 2).sum())
    return GoldFit(
        float(start), float(alpha), float(beta), 1 - residual / spread if spread else 0.0
    )


def overoptimisation_plot(
    runs: Mapping[str, Source], path: str | Path, best_of: Sequence[BestOf] = ()
) -> Path:
    """Draw proxy (dashed) and gold (solid) reward against sqrt(KL), one colour per run, and
    best-of-n as crosses.

    The rewards share an axis when their scales allow it, and have a panel each otherwise.

    Raises:
        DataError: none of the runs logged a KL with a reward.
    """
    found = {label: t for label, source in runs.items() if (t := trajectory(source)) is not None}
    if not found:
        raise DataError(
            f"none of the runs ({', '.join(runs) or 'none given'}) logged `kl` with `reward`: "
            "the over-optimisation plot needs a PPO stage with at least two iterations"
        )
    split = not _share_axis(list(found.values()))
    with style.new_figure(8.6 if split else 5.2, 4.3) as figure:
        panels = figure.subplots(1, 2) if split else [figure.subplots()] * 2
        proxy_axis, gold_axis = panels[0], panels[1]
        for i, (label, t) in enumerate(found.items()):
            color = style.PALETTE[i % len(style.PALETTE)]
            name = f"{label}: " if len(found) > 1 else ""
            _draw(proxy_axis, t.distance, t.proxy, color, f"{name}proxy reward", dashed=True)
            if t.gold is not None:
                _draw(gold_axis, t.distance, t.gold, color, f"{name}gold reward", dashed=False)
                if len(found) == 1:  # one fit explains; several hide the curves
                    _draw_fit(gold_axis, t)
        for curve in best_of:
            _draw_best_of(gold_axis if curve.gold else proxy_axis, curve)
        if split:
            proxy_axis.set_title("Proxy reward (what is optimised)")
            gold_axis.set_title("Gold reward (what was meant)")
        for axis in dict.fromkeys(panels):
            _finish(axis)
        held = all(t.held_out for t in found.values())
        where = "held-out prompts" if held else "training prompts" if not any(
            t.held_out for t in found.values()) else "held-out prompts where logged"  # fmt: skip
        style.title(
            figure,
            "Proxy and gold reward against √KL",
            f"Dashed: proxy. Solid: gold, its highest point ringed.\nOn {where}, after Gao et al. "
            "2022.",
        )
        return style.save(figure, path)


def _read(columns: Mapping[str, Column], prefix: str) -> Trajectory | None:
    kl, proxy = columns.get(f"{prefix}kl"), columns.get(f"{prefix}reward")
    if kl is None or proxy is None:
        return None
    kl, proxy = np.asarray(kl, dtype=np.float64), np.asarray(proxy, dtype=np.float64)
    present = np.isfinite(kl) & np.isfinite(proxy)
    gold = columns.get(f"{prefix}gold")
    if gold is not None:
        gold = np.asarray(gold, dtype=np.float64)
        if np.isfinite(gold).sum() >= 2:
            present &= np.isfinite(gold)
        else:
            gold = None
    if present.sum() < 2:
        return None
    gold = None if gold is None else gold[present]
    return Trajectory(kl[present], proxy[present], gold, held_out=prefix != "")


def _share_axis(trajectories: list[Trajectory]) -> bool:
    """Whether one y axis shows every curve: none is squeezed into less than a fifth of it."""
    curves = [c for t in trajectories for c in (t.proxy, t.gold) if c is not None]
    curves = [style.smooth(c)[0] for c in curves]
    whole = max(float(c.max()) for c in curves) - min(float(c.min()) for c in curves)
    return all(np.ptp(c) >= whole / 5 for c in curves)


def _draw(axis: Any, d: Column, y: Column, color: str, label: str, *, dashed: bool) -> None:
    # Both coordinates are smoothed along training, so the curve may turn back if the KL does.
    x_mean, window = style.smooth(d)
    y_mean, _ = style.smooth(y)
    if window > 1:
        axis.plot(d, y, "o", color=color, alpha=0.16, markersize=2.6, markeredgewidth=0)
    axis.plot(
        x_mean, y_mean, color=color, linestyle=(0, (4, 1.6)) if dashed else "-", label=label,
        marker="" if window > 1 else "s" if dashed else "o", markersize=3.8,
        markerfacecolor="white" if dashed else color,
    )  # fmt: skip
    if not dashed:
        top = int(np.argmax(y_mean))
        axis.plot(
            x_mean[top], y_mean[top], "o", markersize=9, markerfacecolor="none",
            markeredgecolor=color, markeredgewidth=1.5,
        )  # fmt: skip


def _draw_fit(axis: Any, t: Trajectory) -> None:
    assert t.gold is not None
    fit = fit_gold(t.distance, t.gold)
    if fit is None or fit.r2 < 0.7 or min(fit.alpha, fit.beta) <= 0:
        return  # the form describes a rise and a fall; anything else it would only distort
    d = np.linspace(float(t.distance.min()), float(t.distance.max()), 200)
    label = f"fit d (α - β ln d): α {number(fit.alpha)}, β {number(fit.beta)}, R² {fit.r2:.2f}"
    axis.plot(d, fit(d), color=style.INK, linestyle=":", linewidth=1.2, label=label)


def _draw_best_of(axis: Any, curve: BestOf) -> None:
    axis.plot(
        np.sqrt(curve.kl), curve.values, color=style.INK, linewidth=0.8, marker="x", markersize=5,
        linestyle="-" if curve.gold else (0, (4, 1.6)),
        label=f"best of n: {'gold' if curve.gold else 'proxy'} reward",
    )  # fmt: skip


def _finish(axis: Any) -> None:
    axis.set(xlabel="√KL(policy ‖ reference), KL in nats per response", ylabel="mean reward")
    axis.set_xlim(left=0)
    axis.legend(loc="best", handlelength=3.2)
    style.tidy(axis)
