"""Bradley and Terry's model over models that met in pairs, with a bootstrap over questions: how
Arena-Hard turns its judge's five grades into win rates against a baseline (Li et al. 2024, "From
crowdsourced data to high-quality benchmarks: Arena-Hard and BenchBuilder pipeline", arXiv
2406.11939).

The strengths s maximise sum_ij w_ij log sigmoid(s_i - s_j), w_ij the weight of the verdicts for i
over j; a tie is half of each. A model's win rate against the baseline b is sigmoid(s_m - s_b): the
weighted share of its verdicts where it met only the baseline, and what all meetings say together
where models met each other too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]

from gnomon.stats.intervals import Floats, Interval, weighted_proportion

PRECISION = 1e-4
"""Of a normal prior of each strength around the baseline's: it changes no figure that is shown, and
makes the strength of a model that won everything finite."""
ROUNDS = 1000
_ALIKE = 1e-3
"""The width of an interval below which the draws do not differ, and how far from 0 and 1 a win rate
is that is neither."""
_STEPS, _LONGEST, _CLOSE = 200, 2.0, 1e-9


@dataclass(frozen=True)
class Battle:
    """A verdict on two models' answers to one question.

    Attributes:
        win: what ``model`` wins: 1, 1/2 or 0.
        weight: what the verdict counts.
    """

    question: str
    model: str
    other: str
    win: float
    weight: float = 1.0


def strengths(won: Floats) -> Floats:
    """[..., M] log-strengths from the weights [..., M, M] of verdicts for the row's model over the
    column's; model 0 is the baseline, whose strength is 0. By Newton's steps, all of them at once.
    """
    met = won + np.swapaxes(won, -1, -2)
    s = np.zeros(won.shape[:-1])
    free = np.arange(won.shape[-1]) > 0
    eye = np.eye(won.shape[-1])
    for _ in range(_STEPS):
        p = expit(s[..., :, None] - s[..., None, :])
        slope = np.where(free, (won - met * p).sum(-1) - PRECISION * s, 0.0)
        bent = met * p * (1.0 - p)
        curve = (bent.sum(-1) + PRECISION)[..., None] * eye - bent
        curve = np.where(free[:, None] & free, curve, eye)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        s = s + np.clip(step, -_LONGEST, _LONGEST)
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    return s


def win_rates(
    battles: Sequence[Battle], baseline: str, *, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Each model's win rate against the baseline, with the percentile interval of a bootstrap over
    questions: a question is drawn with all its verdicts, which are not independent.

    Where every question says the same of a model (it won everything; the judge prefers a place, so
    that the two orders of each question are a win and a loss) so does every draw, and the interval
    is that of its verdicts' share.

    Raises:
        ValueError: no battle, or a model that no chain of battles joins to the baseline.
    """
    names = [baseline, *sorted({m for b in battles for m in (b.model, b.other)} - {baseline})]
    place = {name: i for i, name in enumerate(names)}
    questions = {q: i for i, q in enumerate(dict.fromkeys(b.question for b in battles))}
    won = np.zeros((len(questions), len(names), len(names)))
    for b in battles:
        q, i, j = questions[b.question], place[b.model], place[b.other]
        won[q, i, j] += b.weight * b.win
        won[q, j, i] += b.weight * (1.0 - b.win)
    lost = _apart(won.sum(0) > 0, names)
    if lost or not battles:
        raise ValueError(f"no verdicts join {', '.join(lost) or 'anything'} to {baseline}")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)), ROUNDS)
    flat = won.reshape(len(questions), -1)
    rounds = expit(strengths((drawn @ flat).reshape(ROUNDS, len(names), len(names))))
    rates = expit(strengths(won.sum(0)))
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(rounds, [tail, 100.0 - tail], axis=0)
    found = {}
    for name, i in place.items():
        if name == baseline:
            continue
        own = won[:, i].sum(-1) + won[:, :, i].sum(-1) > 0
        value, ends = float(rates[i]), (float(low[i]), float(high[i]))
        found[name] = Interval(
            value, min(ends[0], value), max(ends[1], value), float(own.sum()), level
        )
        if ends[1] - ends[0] >= _ALIKE:
            continue
        if _ALIKE < value < 1 - _ALIKE:
            found[name] = _all_alike(value, battles, name, level)
        else:
            found[name] = weighted_proportion([float(round(value))] * int(own.sum()), level=level)
    return found


def _all_alike(value: float, battles: Sequence[Battle], name: str, level: float) -> Interval:
    """A win rate with the interval of the share of its verdicts that the model won."""
    own = [b for b in battles if name in (b.model, b.other)]
    wins = [b.win if b.model == name else 1.0 - b.win for b in own]
    share = weighted_proportion(
        wins, [b.weight for b in own], level, clusters=[b.question for b in own]
    )
    low, high = value - (share.value - share.low), value + (share.high - share.value)
    return Interval(value, max(0.0, low), min(1.0, high), share.n, level)


def _apart(met: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    """The models that nothing joins to the first one."""
    joined = np.zeros(len(names), dtype=bool)
    joined[0] = True
    for _ in names:
        joined |= ((met | met.T) & joined).any(-1)
    return [name for name, there in zip(names, joined, strict=True) if not there]
