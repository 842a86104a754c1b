"""A run's logged responses as detectors read them: typed, in order, and without any truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gnomon.audit.truths import Truths
from gnomon.runs.audit import Exhibit
from gnomon.runs.read import StageView
from gnomon.runs.rows import SampleRow
from gnomon.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class Sample:
    """A response that the policy was sampled while it trained, or at an evaluation.

    Attributes:
        reward: what it is trained on; None where that failed (``error`` says why).
        parts: of the reward, and of judges that are held out; of no truth.
        length: in tokens (in words, where another trainer logged none).
        finished: False where it was cut off at the length limit; None where nobody says.
        held_out: on a prompt that is never trained on.
    """

    step: int
    prompt_id: str
    prompt: str
    response: str
    reward: float | None
    parts: Mapping[str, float]
    category: str | None
    error: str | None
    length: int
    finished: bool | None
    held_out: bool

    def exhibit(self, shows: str) -> Exhibit:
        """It as a sample that shows a finding."""
        return Exhibit(
            prompt=self.prompt,
            response=self.response,
            reward=self.reward,
            step=self.step,
            shows=shows,
        )


def read_samples(
    stage: StageView, truths: Truths, expected: bool = False
) -> tuple[list[Sample], list[str]]:
    """The samples in order of training, and in words how many rows are none.

    Args:
        expected: the stage samples its policy, so that it is to be said where there are none.
    """
    if not stage.samples and expected:
        return [], [f"stages/{stage.folder.name} has no samples, which most checks read"]
    made = [_sample(row, truths) for row in stage.samples]
    kept = sorted((s for s in made if s is not None), key=lambda sample: sample.step)
    if len(kept) == len(made):
        return kept, []
    first = next(i for i, sample in enumerate(made, start=1) if sample is None)
    wrong = f"stages/{stage.folder.name}/samples: {len(made) - len(kept)} of {len(made)} rows"
    return kept, [f"{wrong} have no step, prompt or response as text (the first is row {first})"]


def _sample(row: SampleRow, truths: Truths) -> Sample | None:
    step, prompt, response = row.get("step"), row.get("prompt"), row.get("response")
    if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step):
        return None
    if not isinstance(prompt, str) or not isinstance(response, str):
        return None
    category, error, length = row.get("category"), row.get("error"), row.get("length")
    finished, identity = row.get("finished"), row.get("prompt_id")
    return Sample(
        step=int(step),
        prompt_id=identity if isinstance(identity, str) and identity else prompt,
        prompt=prompt,
        response=response,
        reward=_number(row.get("reward")),
        parts=_parts(row.get("parts"), truths),
        category=category if isinstance(category, str) else None,
        error=error if isinstance(error, str) else None,
        length=length if isinstance(length, int) else len(response.split()),
        finished=finished if isinstance(finished, bool) else None,
        held_out=_is_held_out(row),
    )


def _is_held_out(row: Mapping[str, Any]) -> bool:
    """Whether a row is an evaluation's: it says so, or is not of an iteration of training."""
    if row.get("evaluation") is not None:
        return True
    return "policy_iteration" in row and row.get("policy_iteration") is None


def _parts(raw: Any, truths: Truths) -> dict[str, float]:
    try:
        read = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError:
        return {}
    if not isinstance(read, Mapping):
        return {}
    parts = {str(name): _number(value) for name, value in read.items()}
    return {k: v for k, v in parts.items() if v is not None and not truths.part(k)}


def _number(raw: Any) -> float | None:
    found = Interval.parse(raw) if isinstance(raw, int | float) else None
    return None if found is None else found.value
