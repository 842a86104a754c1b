"""Subjects and judges of known behaviour."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.evals.asking import Answered, Ask, Unanswered
from gnomon.evals.subject import Subject, Watch, plain
from gnomon.judges.protocol import Judge
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response


class Speaker(Subject):
    """Answers as a function says; None is no answer."""

    def __init__(self, answer: Callable[[str], str | None], name: str = "speaker") -> None:
        self.say, self.name, self.sha256 = answer, name, name
        self.asked: list[str] = []

    def answer(
        self, prompts: Sequence[Prompt], ask: Ask, watch: Watch | None = None
    ) -> list[Answered]:
        return [self._one(prompt, ask.samples) for prompt in prompts]

    def _one(self, prompt: Prompt, samples: int) -> Answered:
        self.asked.append(prompt.id)
        text = self.say(plain(prompt))
        if text is None:
            return Unanswered(f"prompt {prompt.id} does not fit")
        return Group(prompt, (Response((Message("assistant", text),)),) * samples)


class Chooser(Subject):
    """Finds choices as likely as a function of question and choice says."""

    name, sha256 = "chooser", "chooser"

    def __init__(self, score: Callable[[str, str], float]) -> None:
        self.score = score

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]] | Unanswered]:
        return [
            [(self.score(plain(prompt), text), 1) for text in texts]
            for prompt, texts in zip(prompts, choices, strict=True)
        ]


class Orderly(Judge):
    """Compares two answers by a function of the two texts in the order that they are shown in: 1
    where the first is better, 0 where the second is, 1/2 for a tie."""

    groupwise = True
    version = "1"

    def __init__(self, first: Callable[[str, str], float]) -> None:
        self.name = "orderly"
        self.first = first

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        out = []
        for group in groups:
            one, two = (r.text for r in group.responses)
            win = self.first(one, two)
            better, worse = (0, 1) if win >= 0.5 else (1, 0)
            comparison = Comparison(better, worse, tie=win == 0.5)
            out.append(Judgement(self.name, comparisons=(comparison,), version=self.version))
        return out


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file.name
