"""The reward for following instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, SampleJudge, Score
from gnomon.judges.verifiers.instructions.kinds import KINDS, obeys
from gnomon.judges.verifiers.rewards import MISSING, answer_of, missing_field


class InstructionReward(SampleJudge):
    """How far a response obeys its prompt's instructions.

    ``Prompt.meta[field]`` is a list of ``{"kind": name, "params": {...}}``. Parts: ``followed``
    (the share obeyed), ``all`` (1 if every one), and ``kind/<name>`` for each.

    Args:
        score: share, or all (1 only where every instruction is obeyed).
        unfinished: the value of a response that was cut off; None judges it like any other.

    Raises:
        ConfigError: score is neither.
    """

    def __init__(
        self,
        field: str = "instructions",
        *,
        score: Literal["share", "all"] = "share",
        unfinished: float | None = None,
    ) -> None:
        if score not in ("share", "all"):
            raise ConfigError(f"instructions reward: score is share or all, not {score!r}")
        self.name = "instructions"
        self.field, self.mode, self.unfinished = field, score, unfinished

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [self.score(sample) for sample in samples]

    def score(self, sample: Sample) -> Score:
        """The score of one sample; an instruction that cannot be read is its error."""
        asked = answer_of(sample.prompt, self.field)
        if asked is MISSING:
            return Score(None, error=missing_field(sample.prompt, self.field))
        try:
            results = follow(sample.text, asked)
        except (KeyError, TypeError, AttributeError) as error:
            known = ", ".join(sorted(KINDS))
            return Score(
                None,
                error=f"prompt {sample.prompt.id}: an instruction cannot be checked "
                f"({type(error).__name__}: {error}); kinds are {known}",
            )
        if self.unfinished is not None and not sample.finished:
            return Score(self.unfinished)
        good = [obeyed for _, obeyed in results]
        share, every = sum(good) / len(good), float(all(good))
        parts = {"followed": share, "all": every}
        parts |= {f"kind/{name}": float(obeyed) for name, obeyed in results}
        return Score(share if self.mode == "share" else every, parts)


def follow(text: str, asked: Sequence[Any]) -> list[tuple[str, bool]]:
    """(kind, obeyed) for each instruction.

    Raises:
        KeyError: an unknown kind or a missing parameter.
    """
    return [(a["kind"], obeys(text, a["kind"], a.get("params", {}))) for a in asked]
