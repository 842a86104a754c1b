"""Whether a mathematical answer is the right one.

Strict means: an answer is extracted first and compared as a value; the truth is never looked for in
the text, and no answer, or an empty one, is wrong. The rules are in :mod:`.comparison`;
``docs/rewards.md`` says what counts as the same, kind by kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gnomon.judges.verifiers.asides import without_asides, without_lead
from gnomon.judges.verifiers.comparison import Rules
from gnomon.judges.verifiers.extract import final_answer, worked_answer
from gnomon.judges.verifiers.notation import canonical, depth_of
from gnomon.judges.verifiers.shapes import read_choice

MAX_ANSWER = 600
"""Characters of an answer; longer ones are wrong."""


def equivalent(answer: str, truth: str, rel_tol: float = 0.0) -> bool:
    """True if ``answer`` says the same as ``truth``.

    The parser and sympy take as long as they need within the bounds on size and depth; for a hard
    limit use the reward, whose processes are killed.

    Args:
        rel_tol: relative error allowed between numbers; 0 for exact.
    """
    if not answer.strip() or len(answer) > MAX_ANSWER or len(truth) > MAX_ANSWER:
        return False
    whole, wanted = without_lead(canonical(answer)), without_lead(canonical(truth))
    if not _says_something(wanted) or max(depth_of(whole), depth_of(wanted)) > 100:
        return False
    readings = dict.fromkeys((without_asides(whole), whole))
    rules = Rules(rel_tol)
    return any(_says_something(given) and rules.same(given, wanted) for given in readings)


def _says_something(text: str) -> bool:
    return bool(re.search(r"[^\W_]|\\[{a-zA-Z]|[°%$€£]", text))


def _other_letter(answer: str, truths: Sequence[str]) -> bool:
    """Whether an answer is a choice with its text whose letter the truths contradict."""
    letters = {choice[0] for truth in truths if (choice := read_choice(canonical(truth)))}
    given = read_choice(without_lead(canonical(answer))) if letters else None
    return given is not None and bool(given[1]) and given[0] not in letters


class MathsVerifier:
    """``verify(text, answer)`` of the maths reward, as a worker makes it."""

    def __init__(self, extract: Sequence[str], rel_tol: float) -> None:
        self.methods = tuple(extract)
        self.rel_tol = rel_tol

    def __call__(self, text: str, answer: Any) -> tuple[float, dict[str, float]]:
        """1 where the final answer of ``text`` is (one of) the truth, else 0.

        Raises:
            ValueError: the truth is not an answer: empty, or far too long.
        """
        truths = self.truths(answer)
        found = final_answer(text, self.methods)
        if found is None:
            return 0.0, {"answered": 0.0}
        try:
            right = not _other_letter(found, truths) and any(
                equivalent(found, truth, self.rel_tol) for truth in truths
            )
        except (MemoryError, RecursionError, ArithmeticError, ValueError):
            self.check(answer)  # raises if the truth cannot be read
            right = False
        return float(right), {"answered": 1.0}

    def check(self, answer: Any) -> None:
        """Read the truth alone, without a time limit.

        Raises:
            ValueError: it is not an answer.
        """
        for truth in self.truths(answer):
            Rules(self.rel_tol).same("0", without_lead(canonical(truth)))

    def truths(self, answer: Any) -> list[str]:
        """The reference answers of one prompt: one, or a list of which each will do.

        Raises:
            ValueError: it holds no answer, or is too long to be one.
        """
        given = answer if isinstance(answer, list | tuple) else [answer]
        truths = [worked_answer(str(truth)) for truth in given]
        for raw, truth in zip(given, truths, strict=True):
            if len(truth) <= MAX_ANSWER and not _says_something(canonical(truth)):
                raise ValueError(f"the reference answer {str(raw)[:80]!r} holds no answer")
            if len(truth) > MAX_ANSWER:
                raise ValueError(
                    f"the reference answer is {len(truth)} characters long ({truth[:40]!r}...) and "
                    "marks no final answer; mark it with \\boxed{}, #### or 'The answer is'"
                )
        return truths


def maths_verifier(extract: Sequence[str], rel_tol: float) -> MathsVerifier:
    """The verifier of the maths reward (made in each worker)."""
    return MathsVerifier(extract, rel_tol)
