"""Answers that were joined to other rows' prompts, side by side (chosen, rejected, good, bad), and
what to tell of it; the measure is :mod:`gnomon.stats.joins`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnomon.data.parts import part, prompt_text
from gnomon.records import Group
from gnomon.stats.joins import ENOUGH, Joined, joined

SHOWN = 3
"""Rows that are shown of those whose answers stray."""
LETTERS = 100
"""Letters that are shown of a text."""
_FILE = 10**9
"""Between the numbers of two files' rows: more than a file has."""


@dataclass(frozen=True)
class StrayRow:
    """A row whose answer fits another row's prompt; texts are shortened.

    Attributes:
        row, prompt, answer: what stands there.
        fits, asks: the row whose prompt the answer fits, and that prompt.
    """

    row: int
    prompt: str
    answer: str
    fits: int
    asks: str

    def __str__(self) -> str:
        return (
            f"row {self.row} asks {self.prompt!r} and is answered {self.answer!r}, which fits row "
            f"{self.fits}: {self.asks!r}"
        )


@dataclass(frozen=True)
class Side:
    """How one kind of answers stands to the prompts beside it.

    Attributes:
        part: chosen, rejected, good, bad or response.
        joined: the figures.
        rows: the clearest of those that stray.
        first: the first row whose answer strays; None where none does.
    """

    part: str
    joined: Joined
    rows: tuple[StrayRow, ...] = ()
    first: int | None = None

    @property
    def answers(self) -> str:
        """What they are called in a sentence."""
        return "answers" if self.part == "response" else f"{self.part} answers"

    @property
    def line(self) -> str:
        """What was seen, and what would have been."""
        found = self.joined
        if not found.looked:
            return (
                f"not looked at: {found.judged} of {found.answers} {self.answers} take up enough "
                f"words of a prompt to be judged, and it takes {ENOUGH}"
            )
        seen = "" if found.detectable is None else f"; {found.detectable:.0%} would have been told"
        return (
            f"{_share(found)} of the {found.judged} {self.answers} that could be judged (of "
            f"{found.answers}) fit another row's prompt{'' if found.told else seen}"
        )

    @property
    def warning(self) -> str:
        """The sentence and the cure, where answers are at the wrong prompts; empty where not."""
        found = self.joined
        if not found.told:
            return ""
        told = (
            f"{self.answers} stand beside the wrong prompts: {_share(found)} of the {found.judged} "
            f"that could be judged fit another row's prompt far better than their own, the first "
            f"in row {self.first}"
        )
        if found.shift is None:
            return (
                f"{told}. Look at how they were joined (a shuffled column, a key that is not "
                "unique) and make the file again; leave it if they are meant to miss their prompt "
                "(negatives drawn at random) or share no words with it (translations)"
            )
        step = f"{abs(found.shift)} row{'' if abs(found.shift) == 1 else 's'}"
        way = "down" if found.shift > 0 else "up"
        return (
            f"{told}. {found.explained} of these {len(found.strayed)} fit the prompt {step} "
            f"further {way}: the column of answers is shifted. Move it {way} by {step}, and make "
            "the file again"
        )


def _share(found: Joined) -> str:
    share = found.share
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


def look(groups: Sequence[Group]) -> list[Side]:
    """How the answers of each side stand to their prompts; nothing where there are none."""
    prompts = [prompt_text(group.prompt) for group in groups]
    if not any(prompts):
        return []
    numbers = _numbers(groups)
    sides: dict[str, list[tuple[int, str]]] = {}
    for place, group in enumerate(groups):
        for index, response in enumerate(group.responses):
            sides.setdefault(part(group, response, index), []).append((place, response.text))
    return [
        _side(name, prompts, answers, numbers)
        for name, answers in sides.items()
    ]  # fmt: skip


def _numbers(groups: Sequence[Group]) -> list[int]:
    """The number of each group's row, those of several files far apart."""
    files: dict[str, int] = {}
    found = []
    for place, group in enumerate(groups):
        source = group.prompt.source
        if source is None:
            found.append(place + 1)
        else:
            found.append(_FILE * files.setdefault(source.file, len(files)) + source.row)
    return found


def _side(
    name: str, prompts: Sequence[str], answers: Sequence[tuple[int, str]], numbers: Sequence[int]
) -> Side:
    found = joined(prompts, answers, numbers)
    rows = tuple(
        StrayRow(
            numbers[row] % _FILE,
            _shortened(prompts[row]),
            _shortened(text),
            numbers[other] % _FILE,
            _shortened(prompts[other]),
        )
        for (row, other), text in zip(found.strayed[:SHOWN], found.texts, strict=False)
    )
    first = min((row for row, _ in found.strayed), default=None)
    return Side(name, found, rows, None if first is None else numbers[first] % _FILE)


def _shortened(text: str) -> str:
    """A text's beginning on one line; of a long one, its end too."""
    line = " ".join(text.split())
    if len(line) <= LETTERS:
        return line
    return f"{line[: LETTERS // 2]} ... {line[-LETTERS // 2 :]}"
