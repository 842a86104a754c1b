"""What suites share that compare a model's answers with another's: prompts with the other answer,
and both models' answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from gnomon.errors import ConfigError
from gnomon.evals.asking import Ask, Unanswered
from gnomon.evals.items import IDS, PROMPTS, find_file, prompt_of, rows_of, text_of, word_of
from gnomon.evals.judging import JudgeSpec, check_spec, described, open_judge
from gnomon.evals.pairs import Pair, text_pair
from gnomon.evals.sampling import SampleOptions
from gnomon.evals.subject import Stored, Subject, plain
from gnomon.evals.suite import Files, ItemSuite, Row
from gnomon.evals.verdict_files import prompt_id
from gnomon.judges.protocol import Judge
from gnomon.records import Prompt, Response
from gnomon.stats.intervals import Interval, weighted_proportion

OTHER = ("output", "reference", "output_1", "response")
"""Names of the answer that a row brings to compare with, where no other model is named."""


class PairwiseOptions(SampleOptions):
    """Options of suites that compare."""

    against: str | None = Field(
        None,
        description="whom to compare with: a model, or a file of its answers; default: the answer "
        "that each row brings (`output`, `reference`)",
    )
    judge: JudgeSpec = Field(
        None, description="who compares; not for files that hold verdicts already"
    )
    others: Files = Field(default_factory=list, description="files of verdicts on other models")


@dataclass(frozen=True)
class Entry:
    """An item: a prompt, and the answer to compare with where its row brings one."""

    prompt: Prompt
    other: str | None = None

    @property
    def id(self) -> str:
        return self.prompt.id


E = TypeVar("E", bound=Entry)


class Pairwise(ItemSuite[E]):
    """A suite of two answers to each prompt. Its files hold prompts, or verdicts that a judge gave
    elsewhere, which take the place of model and judge."""

    opinion: ClassVar[bool] = True

    def __init__(self, options: Any, base: Path) -> None:
        super().__init__(options, base)
        self._against: Subject | None = None
        self._file: Path | None = None
        self._entries: list[E] | None = None
        self._theirs: dict[tuple[str, str], Response | Unanswered] = {}

    # -- what a suite says of its files ------------------------------------------------------------

    def is_judged(self, file: Path) -> bool:
        """Whether a file holds verdicts."""
        raise NotImplementedError

    def read_judged(self, file: Path) -> list[E]:
        """The items of a file that holds them."""
        raise NotImplementedError

    def entry(self, prompt: Prompt, other: str | None) -> E:
        """The item of a prompt."""
        return Entry(prompt, other)  # type: ignore[return-value]

    # -- a suite -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        against = self.options.against
        if self.options.name or against is None:
            return super().name
        return f"{super().name}-vs-{Path(against).name.split('.')[0]}"

    def check(self) -> None:
        self.files()
        for name in self.options.data:
            file = find_file(name, self.base)
            if self.is_judged(file):
                raise ConfigError(
                    f"{file} holds verdicts on a model's answers: give it in place of the model, "
                    f"gnomon eval {name} --suite {self.title}"
                )
        if self.options.data:
            check_spec(self.options.judge, f"suite {self.title}")
        for file in self.options.others:
            find_file(file, self.base)

    def files(self) -> list[Path]:
        given = [*self.options.data, *self.options.others]
        return [find_file(file, self.base) for file in given]

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.options.judge is not None:
            version = self.judge.version
            facts = {"judge": described(self.options.judge), "judge_version": version}
        if self._against is not None:
            facts["against_sha256"] = self._against.sha256
        return facts

    @property
    def judge(self) -> Judge:
        """Who compares."""
        assert self._judge is not None
        return self._judge

    def prepare(self, subject: Subject) -> None:
        if self.options.against is not None and self._against is None:
            self._against = subject.other(self.options.against, self.base)
        if self.options.judge is not None and self._judge is None:
            self._judge = open_judge(self.options.judge, self.base, subject)
        if not self.options.data and isinstance(subject, Stored):
            self._file = subject.file
        elif not self.options.data:
            raise ConfigError(
                f"suite {self.title} needs a file of prompts: --data FILE (`prompt` or "
                "`instruction`, and `output` for the answer to compare with, unless --against is "
                "given)"
            )

    def request_of(self, item: E) -> str:
        return identity(item.prompt)

    def needs_no_asking(self, row: Row) -> bool:
        return "own" in row and row["own"] == row.get("other")  # the same text twice is a tie

    def items(self) -> list[E]:
        if self._entries is None:
            files = [find_file(f, self.base) for f in self.options.data]
            files = files or [f for f in [self._file] if f is not None]
            self._entries = [entry for file in files for entry in self._read(file)]
        return self._entries

    def _read(self, file: Path) -> list[E]:
        if self.is_judged(file):
            if self.options.judge is not None or self.options.against is not None:
                raise ConfigError(f"{file} holds verdicts already: leave out judge and against")
            return self.read_judged(file)
        check_spec(self.options.judge, f"suite {self.title}")
        if file == self._file and self._against is None:
            raise ConfigError(
                f"{file} holds the answers that are measured, and nothing to compare them with: "
                "give --against, or --data with other answers (`output`)"
            )
        found = []
        for source, row in rows_of(file, (PROMPTS,)):
            other = None if self._against is not None else text_of(row, OTHER, source)
            category = word_of(row, ("category", "dataset"))
            prompt = prompt_of(row, source, category=category, meta=row)
            if word_of(row, IDS) is None:
                prompt = replace(prompt, id=identity(prompt))
            found.append(self.entry(prompt, other))
        return found

    # -- answers -----------------------------------------------------------------------------------

    def pairs(self, subject: Subject, items: Sequence[E]) -> list[Pair | Unanswered]:
        """Both answers to each prompt, or why there are none."""
        prompts = [item.prompt for item in items]
        own = subject.answer(prompts, self._ask)
        others = (
            [text_pair(i.prompt, "", i.other or "").other for i in items]
            if self._against is None
            else self._others(self._against, prompts)
        )
        return [
            mine
            if isinstance(mine, Unanswered)
            else theirs
            if isinstance(theirs, Unanswered)
            else Pair(prompt, mine.responses[0], theirs)
            for prompt, mine, theirs in zip(prompts, own, others, strict=True)
        ]

    @property
    def _ask(self) -> Ask:
        """One answer an item: a prompt that is asked more often is as many items."""
        ask: Ask = self.options.ask()
        return replace(ask, samples=1)

    def _others(self, against: Subject, prompts: Sequence[Prompt]) -> list[Response | Unanswered]:
        """The other model's answers; each prompt is asked once, however often models are measured
        against it."""
        keys = [(prompt.id, identity(prompt)) for prompt in prompts]  # two files may share ids
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True)
               if key not in self._theirs}  # fmt: skip
        found = against.answer(list(new.values()), self._ask) if new else []
        for key, answer in zip(new, found, strict=True):
            one = answer if isinstance(answer, Unanswered) else answer.responses[0]
            self._theirs[key] = one
        return [self._theirs[key] for key in keys]


def identity(prompt: Prompt) -> str:
    """The same in every file that asks it: of one turn by its text, of several by all of them; of
    a prompt whose words are not known its id."""
    if not any(turn.content.strip() for turn in prompt.messages) and not prompt.text:
        return prompt.id
    if len(prompt.messages) < 2:
        return prompt_id(plain(prompt))
    return prompt_id("\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt.messages))


def pair_row(pair: Pair) -> Row:
    """A pair as it is kept."""
    return {
        "category": pair.prompt.category,
        "prompt": plain(pair.prompt),
        "own": pair.own.text,
        "other": pair.other.text,
        "finished": pair.own.finished,
        "cut": [pair.own.finished, pair.other.finished].count(False),
    }


def clusters(items: Sequence[Entry]) -> list[str]:
    """What each item asks, which those share that ask it again."""
    return [identity(item.prompt) for item in items]


def by_category(
    items: Sequence[Entry],
    wins: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    name: str = "win_rate",
) -> dict[str, dict[str, Interval]]:
    """The win rate in each category, by the name of the score that it is a part of."""
    by = clusters(items)
    again = len(set(by)) < len(by)
    found: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        if item.prompt.category:
            found.setdefault(item.prompt.category, []).append(i)
    return {
        category: {
            name: weighted_proportion(
                [wins[i] for i in places],
                None if weights is None else [weights[i] for i in places],
                clusters=[by[i] for i in places] if again else None,
            )
        }
        for category, places in sorted(found.items())
    }
