"""A weighted sum of rewards, each logged under its own name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnomon.errors import ConfigError
from gnomon.judges.guard import score_safely
from gnomon.judges.protocol import Reward, Sample, Score


class Mixture:
    """sum_i weight_i * reward_i; where any part fails the sample is an error, not a partial sum.

    Raises:
        ConfigError: no part, or a weight that is no finite number.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[tuple[Reward, float]]) -> None:
        self.parts = list(parts)
        if not self.parts:
            raise ConfigError("a mixture of rewards needs at least one")
        for reward, weight in self.parts:
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"reward {reward.name!r}: its weight is {weight!r}, not a number")

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        columns = [(r.name, w, score_safely(r, samples)) for r, w in self.parts]
        out: list[Score] = []
        for i in range(len(samples)):
            row = [(name, weight, scores[i]) for name, weight, scores in columns]
            errors = [score.error for _, _, score in row if score.error is not None]
            values = {name: score.value for name, _, score in row if score.value is not None}
            for name, _, score in row:
                values |= {f"{name}/{part}": value for part, value in score.parts.items()}
            if errors:
                out.append(Score(None, values, "; ".join(errors)))
            else:
                total = sum(w * s.value for _, w, s in row if s.value is not None)
                out.append(Score(total, values))
        return out
