"""Who answers an AI judge's questions, and the answers on disk, so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gnomon.files import append_line, plain_errors
from gnomon.judges.prompting import Question
from gnomon.judges.protocol import total_cost
from gnomon.records import Cost

ANSWERS = "answers.jsonl"
_ABOUT = ("model", "question")


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none.

    Attributes:
        text: as it was written; empty where only its probabilities were computed.
        probabilities: of each choice; None without log-probs. Of an object: of its first choice,
            for each key (0 or 1 without log-probs).
        choice: the one that was written; an order as ``B > A = C``.
        error: why nothing can be read from it.
        came: whether an answer came at all (one that cannot be read did, and cost its price).
        gone: whether nobody was there to be asked.
        over: whether it was not asked since the budget is spent.
        finished: False where it was cut off at the length limit, of a question without choices.
        seconds, tokens, money: what it took.
    """

    text: str = ""
    probabilities: Mapping[str, float] | None = None
    choice: str | None = None
    error: str | None = None
    came: bool = True
    gone: bool = False
    over: bool = False
    finished: bool = True
    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0

    @property
    def cost(self) -> Cost:
        return Cost(self.seconds, self.tokens, self.money)

    @property
    def shares(self) -> Mapping[str, float]:
        """The probability of each choice: 1 for the one that was written, without log-probs."""
        if self.probabilities is not None:
            return self.probabilities
        return {} if self.choice is None else {self.choice: 1.0}


Done = Callable[[int, Reply], None]
"""Told of each reply as it comes, with the place of its question."""


class Answerer(Protocol):
    """A model that answers questions: behind an endpoint, or in this process.

    Attributes:
        model: its name.
    """

    model: str

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides its answers, the question apart."""
        ...

    def answer(self, questions: Sequence[Question], done: Done) -> None:
        """Answer them, in any order; one that cannot be is a reply with an error."""
        ...


class AnswerBook:
    """Answers by question, in memory and, with a folder, in its ``answers.jsonl``.

    A line is written as its answer comes, so that what a killed process has paid for is there when
    it starts again; it holds the question too, so that it says why a label is what it is. Errors of
    the way (no connection, say) are not kept; answers that are not in the form are.

    Args:
        folder: where they are kept; None forgets them with the process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.file = None if folder is None else folder / ANSWERS
        self._known: dict[str, Reply] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._read = False
        self.spent = Cost()

    def key(self, answerer: Answerer, question: Question) -> str:
        """What a question's answer is kept under."""
        return _key(_settings(answerer), question)

    def reply(self, key: str) -> Reply | None:
        """The answer that is kept under a key."""
        return self._known.get(key)

    def ask(self, answerer: Answerer, questions: Sequence[Question]) -> list[Reply]:
        """The answers, in order; only questions that were never answered are asked.

        The cost of an answer from disk is what it took when it was asked, and is given once.
        """
        self.load()
        settings = _settings(answerer)
        keys = [_key(settings, question) for question in questions]
        self._adopt(answerer, keys, questions)
        new = {key: q for key, q in zip(keys, questions, strict=True) if key not in self._known}
        names, failed = list(new), dict[str, Reply]()

        def done(place: int, reply: Reply) -> None:
            if reply.came:
                self._keep(answerer.model, names[place], reply, new[names[place]])
            else:
                failed[names[place]] = reply

        if new:
            answerer.answer(list(new.values()), done)
        lost = Reply(error="no answer came", came=False)
        return [self._tell(key, self._known.get(key) or failed.get(key, lost)) for key in keys]

    def _adopt(
        self, answerer: Answerer, keys: Sequence[str], questions: Sequence[Question]
    ) -> None:
        """Find what earlier versions kept, whose keys had the url in them."""
        settings = _settings(answerer, url=True)
        for key, question in zip(keys, questions, strict=True):
            if key not in self._known and (reply := self._known.get(_key(settings, question))):
                self._known[key] = reply

    def _tell(self, key: str, reply: Reply) -> Reply:
        if key in self._told:
            return replace(reply, seconds=0.0, tokens=0, money=0.0)
        self._told.add(key)
        return reply

    def load(self) -> None:
        """Read the file, once; lines that are damaged are asked again. ``spent`` is what all its
        answers took."""
        with self._lock:
            if not self._read and self.file is not None and self.file.is_file():
                self._load(self.file)
            self._read = True

    def _load(self, file: Path) -> None:
        with plain_errors(file):
            lines = file.read_bytes().splitlines()
        for line in lines:
            try:
                row = json.loads(line)
                key = row.pop("key")
                self._known[key] = Reply(**{k: v for k, v in row.items() if k not in _ABOUT})
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
        self.spent = total_cost(reply.cost for reply in self._known.values())

    def _keep(self, model: str, key: str, reply: Reply, question: Question) -> None:
        with self._lock:
            self._known[key] = reply
            self.spent = total_cost([self.spent, reply.cost])
            if self.file is None:
                return
            said = {k: v for k, v in asdict(reply).items() if k not in ("came", "gone", "over")}
            row = {"key": key, "model": model, **said}
            row["question"] = [question.system, question.user]
            append_line(self.file, json.dumps(row, ensure_ascii=True).encode())


def _settings(answerer: Answerer, url: bool = False) -> str:
    """Of a model, wherever it is served; or where it is, too."""
    said = {key: value for key, value in answerer.settings().items() if url or key != "url"}
    return json.dumps([answerer.model, said], sort_keys=True, default=str)


def _key(settings: str, question: Question) -> str:
    said = json.dumps([settings, asdict(question)], sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
