"""Episodes of an environment: what the policy earns in them, and how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from gnomon.errors import ConfigError
from gnomon.evals.asking import Unanswered
from gnomon.evals.items import CATEGORY, IDS, PROMPTS, find_file, prompt_of, rows_of, word_of
from gnomon.evals.judging import mapping_in
from gnomon.evals.pairwise import identity
from gnomon.evals.questions import by_category
from gnomon.evals.rows import FAILED, key_of
from gnomon.evals.sampling import SampleOptions
from gnomon.evals.subject import Subject
from gnomon.evals.suite import ItemSuite, Measured, Row, Work
from gnomon.files import fingerprint
from gnomon.recipe.environment import EnvironmentSpec
from gnomon.records import Prompt
from gnomon.stats.prompts import over_items

if TYPE_CHECKING:
    from gnomon.agents.episodes import Episode

MADE = "agents:"
RETURN = "return"


def _environment(value: Any) -> Any:
    """An environment by name, or as a recipe's mapping (of the command line: as YAML)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = mapping_in(value)
    return {"name": value} if isinstance(value, str) else value


class EpisodeOptions(SampleOptions):
    """Options of the suite ``episodes``."""

    environment: Annotated[EnvironmentSpec | None, BeforeValidator(_environment)] = Field(
        None,
        description="what is played: a name, file.py:Name, or a recipe's environment as a mapping: "
        "'{name: rooms, calls: python, max_turns: 6}'",
    )
    games: dict[str, Any] = Field(
        default_factory=dict,
        description="options of a made source, as in data agents:rooms, games '{n: 64, rooms: 3}'",
    )


class Episodes(ItemSuite[Prompt]):
    """Has a policy play episodes of an environment, as ``compare`` and held-out evaluation do.

    ``data`` is a file of openings, one a row, whose other fields the environment reads, or a
    built-in source such as ``agents:rooms``. An episode that the environment failed is in no score;
    ``failed`` is their share.
    """

    title: ClassVar[str] = "episodes"
    summary: ClassVar[str] = "episodes of an environment: returns, and how they end"
    options_class: ClassVar = EpisodeOptions

    def check(self) -> None:
        if self.options.environment is None:
            raise ConfigError(
                f"suite {self.title} needs what is played: --option environment=NAME, or a "
                "recipe's mapping: --option 'environment={name: rooms, max_turns: 6}'"
            )
        if not self.options.data:
            raise ConfigError(
                f"suite {self.title} needs openings: --data FILE, or --data agents:NAME with "
                "--option 'games={n: 64}'"
            )
        if self.options.games and not self._made():
            raise ConfigError("games are the options of a made source, such as agents:rooms")
        super().check()
        for name in self._made():
            self._groups(name)

    def files(self) -> list[Path]:
        made = self._made()
        return [find_file(file, self.base) for file in self.options.data if file not in made]

    def items(self) -> list[Prompt]:
        found = [
            prompt_of(row, source, category=word_of(row, CATEGORY), meta=row)
            for file in self.files()
            for source, row in rows_of(file, (PROMPTS,))
        ]
        return found + [p for name in self._made() for p in self._groups(name)]

    def facts(self) -> dict[str, Any]:
        place = self.options.environment
        own = self.base / (place.name if place else "").rpartition(":")[0]
        code = {"environment_sha256": fingerprint(own)["sha256"]} if own.is_file() else {}
        return {"made": self._made(), **code}

    def ask(self, subject: Subject, items: Sequence[Prompt], work: Work) -> list[Row]:
        place = self.options.environment
        played = subject.play(items, self.options.ask(), place, self.base)
        return [
            {FAILED: own.reason} if isinstance(own, Unanswered) else _row(prompt, own)
            for prompt, own in zip(items, played, strict=True)
        ]

    def request_of(self, item: Prompt) -> str:
        """The opening: what is said first, and what else the environment reads in its row."""
        own = {name: value for name, value in item.meta.items() if name not in IDS}
        return key_of({"said": identity(item), "row": own})

    def measure(self, items: Sequence[Prompt], rows: Sequence[Row]) -> Measured:
        asked = [self.request_of(item) for item in items]
        scores = {RETURN: over_items([row["score"] for row in rows], asked)}
        for part in dict.fromkeys(name for row in rows for own in row["parts"] for name in own):
            values = [[own.get(part) for own in row["parts"]] for row in rows]
            scores[part] = over_items(values, asked)
        for name in ("turns", "tool_errors", "length"):
            scores[name] = over_items([row[name] for row in rows], asked)
        for name in ("finished", "failed"):
            scores[name] = over_items([row[name] for row in rows], asked, (0.0, 1.0))
        bad = [(row, i) for row in rows for i, failed in enumerate(row["failed"]) if failed]
        notes = []
        if bad:
            row, i = bad[0]
            notes = [f"{len(bad)} episodes failed and are in no score but 'failed'; the first: "
                     f"{row['errors'][i]}"]  # fmt: skip
        return Measured.of(
            scores,
            main=RETURN,
            item_score=RETURN,
            by_category=by_category(rows, asked, RETURN),
            notes=notes,
        )

    def _made(self) -> list[str]:
        return [name for name in self.options.data if name.startswith(MADE)]

    def _groups(self, name: str) -> list[Prompt]:
        from gnomon.tasks.sources import tunnel_groups

        where, _, what = name.partition(":")
        return [group.prompt for group in tunnel_groups(what, self.options.games, where)]


def _row(prompt: Prompt, episodes: Sequence[Episode]) -> Row:
    """A prompt's episodes: None in place of every figure of one that failed."""
    lost = [episode.error is not None for episode in episodes]

    def each(values: Sequence[float]) -> list[float | None]:
        return [None if no else value for value, no in zip(values, lost, strict=True)]

    row: Row = {
        "category": prompt.category,
        "answers": [episode.shown for episode in episodes],
        "score": [episode.value for episode in episodes],
        "parts": [{} if e.error is not None else _plain(e.parts) for e in episodes],
        "turns": each([episode.turns for episode in episodes]),
        "tool_errors": each([episode.tool_errors for episode in episodes]),
        "length": each([episode.written for episode in episodes]),
        "finished": each([float(episode.finished) for episode in episodes]),
        "failed": [float(no) for no in lost],
        "errors": [episode.error for episode in episodes],
    }
    if all(lost):
        row[FAILED] = episodes[0].error
    return row


def _plain(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in parts.items()}
