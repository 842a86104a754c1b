"""What can be put against each other in a blind A/B: two sets of answers to the same prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gnomon.errors import DataError
from gnomon.records import Message
from gnomon.runs.answers import ANSWERS, Answer, read_answers
from gnomon.view.library import Library
from gnomon.view.samples import Samples


@dataclass(frozen=True)
class Said:
    """An answer to a prompt; ``turns`` is the whole conversation, where the prompt is its end."""

    prompt: str
    response: str
    prompt_id: str = ""
    category: str = ""
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Side:
    """One of the two: ``key`` names it in a link, ``label`` on the page."""

    key: str
    label: str
    read: Callable[[], Iterable[Said]]


@dataclass(frozen=True)
class Pair:
    """Two different answers to a prompt; ``id`` is of the texts alone."""

    id: str
    a: Said
    b: Said


@dataclass(frozen=True)
class Contest:
    """Two sides and what they answered to the same prompts.

    Attributes:
        same: prompts to which both answered the same, which nobody needs to judge.
        apart: prompts that only one of them answered.
    """

    a: Side
    b: Side
    pairs: list[Pair]
    same: int
    apart: int

    @property
    def id(self) -> str:
        """Of the two sides, in whichever order they are named."""
        return hashlib.sha256("\0".join(sorted((self.a.key, self.b.key))).encode()).hexdigest()[:10]


def sides(library: Library, samples: Samples) -> dict[str, Side]:
    """Every side of every run that can be read, by its key."""
    found: dict[str, Side] = {}
    for name in library.names():
        try:
            for side in _of_run(library, samples, name):
                found[side.key] = side
        except (DataError, OSError):
            continue  # the page of runs says what is wrong with it
    return found


def _of_run(library: Library, samples: Samples, name: str) -> Iterator[Side]:
    run = library.open(name).run
    if (run.path / ANSWERS).exists():
        answers = _answers(run.path)
        for model in dict.fromkeys(answer.model for answer in answers):
            own = [a for a in answers if a.model == model and a.sample == 0 and a.error is None]
            said = [Said(a.prompt, a.response, a.prompt_id, a.category or "") for a in own]
            yield Side(f"{name}/answers/{model}", f"{name}: {model}", _always(said))
    elif run.comparison.samples:
        for model in dict.fromkeys(k for s in run.comparison.samples for k in s if k != "prompt"):
            said = [
                Said(s["prompt"], s[model])
                for s in run.comparison.samples
                if model in s and "prompt" in s
            ]
            yield Side(f"{name}/shown/{model}", f"{name}: {model} (shown samples)", _always(said))
    for stage in run.stages:
        if any((stage.folder / f"samples.{kind}").exists() for kind in ("parquet", "jsonl")):
            done = stage.info.status == "done"
            for when, last in (("first", False), ("last", True)):
                yield Side(
                    f"{name}/{stage.folder.name}/{when}",
                    f"{name}: {when} evaluation of {stage.name}",
                    _evaluated(samples, stage.folder, done, last),
                )


def _answers(run: Path) -> tuple[Answer, ...]:
    about = (run / ANSWERS).stat()
    return _read_answers(run, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _read_answers(run: Path, changed: int, size: int) -> tuple[Answer, ...]:
    """A run's answers, read again when the file has changed."""
    return tuple(read_answers(run)[0])


def _always(said: list[Said]) -> Callable[[], Iterable[Said]]:
    return lambda: said


def _evaluated(
    samples: Samples, folder: Path, done: bool, last: bool
) -> Callable[[], Iterable[Said]]:
    def read() -> Iterator[Said]:
        for row in samples.evaluation(folder, done, last):
            yield Said(
                str(row.get("prompt") or ""), str(row.get("response") or ""),
                str(row.get("prompt_id") or ""), str(row.get("category") or ""),
            )  # fmt: skip

    return read


def contest(found: dict[str, Side], a: str, b: str) -> Contest:
    """Two sides by their keys, and the prompts that both answered: the same text, whatever its id.

    Raises:
        DataError: there is no such side, both are one, or they have no prompt in common.
    """
    for key in (a, b):
        if key not in found:
            raise DataError(f"there are no answers {key!r}: choose two again")
    if a == b:
        raise DataError("both sides are the same answers: choose two different ones")
    first, second = (_by_prompt(found[key].read()) for key in (a, b))
    for key, own in ((a, first), (b, second)):
        if not own:
            raise DataError(f"{found[key].label} holds no answers")
    both = [prompt for prompt in first if prompt in second]
    if not both:
        raise DataError(
            f"{found[a].label} and {found[b].label} answered no prompt in common: nothing can be "
            "compared"
        )
    differ = [p for p in both if first[p].response.strip() != second[p].response.strip()]
    pairs = [pair(first[p], second[p]) for p in differ]
    apart = len(first) + len(second) - 2 * len(both)
    return Contest(found[a], found[b], pairs, len(both) - len(differ), apart)


def _by_prompt(said: Iterable[Said]) -> dict[str, Said]:
    """The first answer to each prompt."""
    found: dict[str, Said] = {}
    for one in said:
        found.setdefault(one.prompt, one)
    return found


def pair(a: Said, b: Said) -> Pair:
    """Two different answers to one prompt."""
    asked = [a.prompt, *(f"{turn.role}:{turn.content}" for turn in a.turns)]
    texts = "\0".join([*asked, *sorted((a.response, b.response))])
    return Pair(hashlib.sha256(texts.encode("utf-8", "replace")).hexdigest()[:16], a, b)
