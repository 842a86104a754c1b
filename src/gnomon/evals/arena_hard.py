"""Arena-Hard: five grades of verdict on a model's and a baseline's answers, in both orders (Li et
al. 2024, arXiv 2406.11939)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

from gnomon.data.values import shown
from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Unanswered
from gnomon.evals.items import CATEGORY, field, find_file, rows_of, word_of
from gnomon.evals.mt_bench import filled
from gnomon.evals.pairs import Pair, orders
from gnomon.evals.pairwise import Entry, Pairwise, PairwiseOptions, by_category, pair_row
from gnomon.evals.rows import FAILED
from gnomon.evals.subject import Subject
from gnomon.evals.suite import Files, Measured, Row, Work, readable
from gnomon.files import fingerprint
from gnomon.judges.ai import AIJudge
from gnomon.judges.answers import Reply
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.prompting import Question, Template, conversation
from gnomon.judges.reading import UNREAD
from gnomon.records import Message, Prompt
from gnomon.stats.arena import Battle, win_rates
from gnomon.stats.intervals import weighted_proportion

GRADE = re.compile(r"\[\[\s*([AB]\s*(?:>>|<<|[><=])\s*[AB])\s*\]\]")
GRADES: Mapping[str, tuple[float, bool]] = {
    "A>>B": (1.0, True),
    "A>B": (1.0, False),
    "A=B": (0.5, False),
    "B>A": (0.0, False),
    "B>>A": (0.0, True),
    "B<<A": (1.0, True),
    "B<A": (1.0, False),
    "B=A": (0.5, False),
    "A<B": (0.0, False),
    "A<<B": (0.0, True),
}
"""What answer A wins by a grade, and whether it is a strong one."""
ID = ("uid", "question_id", "id")
PROMPT_FILE = Path(__file__).parents[1] / "judges" / "prompts" / "grades.txt"


class ArenaHardOptions(PairwiseOptions):
    """Options of the suite ``arena_hard``."""

    others: Files = Field(
        default_factory=list,
        description="files of verdicts on other models (rows of this suite, or Arena-Hard's "
        "model_judgment files), placed beside this one by Bradley and Terry's model",
    )
    judge_prompt: str | None = Field(
        None,
        description="the judge's prompt: a template of your own, or Arena-Hard's judge settings "
        "(YAML with system_prompt and prompt_template); default: gnomon's own",
    )
    strong: int = Field(3, ge=1, description="verdicts that one of [[A>>B]] counts for")


@dataclass(frozen=True)
class Games:
    """A judge's verdicts on a model's and the baseline's answer to one question.

    Attributes:
        second, first: the grade where the model's answer was shown as B, and where as A.
    """

    model: str
    second: str
    first: str
    baseline: str = ""

    @property
    def wins(self) -> tuple[tuple[float, bool], tuple[float, bool]]:
        """What the model wins where it is shown first and where second, and whether strongly."""
        (b, strong), first = GRADES[self.second], GRADES[self.first]
        return first, (1.0 - b, strong)

    def battles(self, question: str, model: str, baseline: str, strong: int) -> Iterator[Battle]:
        """As verdicts with their weights."""
        for win, much in self.wins:
            yield Battle(question, model, baseline, win, strong if much else 1)


@dataclass(frozen=True)
class Fought(Entry):
    """An item with its verdicts, where its file holds them; no grades where the judge failed."""

    games: Games | None = None


class ArenaHard(Pairwise[Fought]):
    """Compares a model's answers with a baseline's as Arena-Hard does.

    An AI judge behind an endpoint says why and ends with one of five grades, [[A>>B]] to [[B>>A]];
    each question is asked in both orders, and a strong verdict counts three times. ``win_rate`` is
    the win rate against the baseline by Bradley and Terry's model, with a bootstrap over questions;
    ``others`` are placed beside it. An answer without one grade, or with several, is a failed item,
    never a tie.
    """

    title: ClassVar[str] = "arena_hard"
    summary: ClassVar[str] = "Arena-Hard: five grades in both orders against a baseline"
    options_class: ClassVar = ArenaHardOptions
    scores: ClassVar[tuple[str, ...]] = (
        *("win_rate", "win_rate_unweighted", "win_rate/", "much_better", "much_worse"),
        *("ties", "flips", "first"),
    )

    def is_judged(self, file: Path) -> bool:
        answered = (row for _, row in rows_of(file) if "games" in row or FAILED not in row)
        return "games" in next(answered, {})

    def read_judged(self, file: Path) -> list[Fought]:
        found = list(read_games(file))
        for what in ("model", "baseline"):
            names = {getattr(item.games, what) for item in found if item.games is not None}
            if len(names) > 1:
                some = ", ".join(sorted(names))[:80]
                raise DataError(
                    f"{file}: it holds verdicts on {len(names)} {what}s ({some}): keep each one's "
                    "in a file of its own, and give the others' as others"
                )
        if any(g is not None and g.model == g.baseline for g in (item.games for item in found)):
            raise DataError(f"{file}: model and baseline have one name; rename one in its rows")
        return found

    def entry(self, prompt: Prompt, other: str | None) -> Fought:
        return Fought(prompt, other)

    def files(self) -> list[Path]:
        given = [self.options.judge_prompt] if self.options.judge_prompt else []
        return [*super().files(), *(find_file(file, self.base) for file in given)]

    def check(self) -> None:
        super().check()
        if self.options.samples != 1:
            raise ConfigError("suite arena_hard asks once: remove samples")
        _ = self._question

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        if self._against is not None and self._against.name == subject.name:
            raise ConfigError(
                f"suite arena_hard: the model ({_place(subject)}) and the baseline "
                f"({_place(self._against)}) are both called {subject.name!r}: rename the folder or "
                "file of one; of two stages of a run, give the run, and --against the stage's name"
            )
        if self._judge is not None and not (
            isinstance(self._judge, AIJudge) and isinstance(self._judge.answerer, Endpoint)
        ):
            raise ConfigError(
                "suite arena_hard: the judge writes one of five grades, so it must be an AI judge "
                "behind an endpoint: '{builtin: ai, options: {model: NAME, url: URL}}'; the suite "
                "win_rate takes any other"
            )

    @property
    def judge_version(self) -> str:
        """The judge's model, the SHA-256 of the prompt for grades, a hash of its settings."""
        assert isinstance(self._judge, AIJudge)
        own = {k: v for k, v in self._judge.answerer.settings().items() if k != "url"}
        own |= {"logprobs": None}  # none are asked for
        digest = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self._judge.model} prompt={self._question.sha256} settings={digest[:8]}"

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        return facts | ({"judge_version": self.judge_version} if self._judge is not None else {})

    @cached_property
    def _question(self) -> _Own | _Published:
        """What the judge is asked."""
        given = self.options.judge_prompt
        file = PROMPT_FILE if given is None else find_file(given, self.base)
        if file.suffix in (".yaml", ".yml"):
            return _Published.read(file)
        return _Own(Template.read(file, "pairs"))

    # -- verdicts ----------------------------------------------------------------------------------

    def ask(self, subject: Subject, items: Sequence[Fought], work: Work) -> list[Row]:
        if all(item.games is not None for item in items):
            return [self._row({"category": item.prompt.category}, item.games) for item in items]
        pairs = self.pairs(subject, items)
        found = iter(self._grades([p for p in pairs if isinstance(p, Pair)]))
        return [
            {"error": pair.reason}
            if isinstance(pair, Unanswered)
            else self._told(subject, pair, next(found))
            for pair in pairs
        ]

    def _grades(self, pairs: Sequence[Pair]) -> list[tuple[Reply, Reply]]:
        """The judge's replies: the baseline's answer first, then the model's."""
        assert isinstance(self._judge, AIJudge)
        questions = []
        for pair in pairs:
            text, own, other = conversation(pair.prompt), pair.own.text, pair.other.text
            questions += [self._question(text, other, own), self._question(text, own, other)]
        replies = iter(self._judge.book.ask(self._judge.answerer, questions))
        return list(zip(replies, replies, strict=True))

    def _told(self, subject: Subject, pair: Pair, replies: tuple[Reply, Reply]) -> Row:
        row = pair_row(pair)
        read = [_grade(reply) for reply in replies]
        row |= {
            "tokens": sum(reply.tokens for reply in replies),
            "money": sum(reply.money for reply in replies),
        }
        errors = [error for _, error in read if error]
        if errors:
            return {**row, "error": errors[0]}
        against = "" if self._against is None else self._against.name
        games = Games(subject.name, str(read[0][0]), str(read[1][0]), against)
        told = [{"score": g, "judgment": r.text} for (g, _), r in zip(read, replies, strict=True)]
        return {**self._row(row, games), "games": told}

    def _row(self, row: Row, games: Games | None) -> Row:
        if games is None or not games.second:
            return {**row, "error": "the file has no verdict on it"}
        (first, _), (second, _) = games.wins
        return {
            **row,
            "model": games.model,
            "baseline": games.baseline,
            "games": [{"score": games.second}, {"score": games.first}],
            "score": (first + second) / 2,
        }

    # -- figures -----------------------------------------------------------------------------------

    def measure(self, items: Sequence[Fought], rows: Sequence[Row]) -> Measured:
        games = [Games("", *(str(g["score"]) for g in row["games"])) for row in rows]
        ids = [item.prompt.id for item in items]
        strong = self.options.strong
        own = str(rows[0].get("model") or "this model")
        baseline = str(rows[0].get("baseline") or "the baseline")
        battles = [
            battle
            for id, game in zip(ids, games, strict=True)
            for battle in game.battles(id, own, baseline, strong)
        ]
        others = list(self._others_battles(own, baseline))
        try:
            rates = win_rates([*battles, *others], baseline, seed=self.options.seed)
        except ValueError as error:
            raise DataError(f"suite arena_hard: {error}; verdicts are joined by models") from error
        verdicts = [(*verdict, id) for id, g in zip(ids, games, strict=True) for verdict in g.wins]
        by = [id for _, _, id in verdicts]

        def share(values: Sequence[float]) -> Any:
            return weighted_proportion(values, clusters=by)

        scores = {
            "win_rate": rates.pop(own),
            "win_rate_unweighted": share([w for w, *_ in verdicts]),
        }
        scores |= {f"win_rate/{name}": rate for name, rate in rates.items()}
        scores |= {
            "much_better": share([float(w == 1 and much) for w, much, _ in verdicts]),
            "much_worse": share([float(w == 0 and much) for w, much, _ in verdicts]),
            "ties": share([float(w == 0.5) for w, *_ in verdicts]),
        }
        seen = orders([(g.wins[0][0], g.wins[1][0]) for g in games], ids)
        measured = Measured.of(
            scores,
            main="win_rate",
            item_score="win_rate_unweighted",
            by_category=by_category(
                items, [row["score"] for row in rows], name="win_rate_unweighted"
            ),
            against="the file's own answers" if baseline == "the baseline" else baseline,
            judge="recorded verdicts" if self._judge is None else self._judge.name,
            judge_version="" if self._judge is None else self.judge_version,
        )
        if seen is not None:
            measured.scores |= {"flips": seen.flips, "first": seen.first}
            warning = seen.warning()
            measured.notes += [warning] if warning else []
        return measured

    def _others_battles(self, own: str, baseline: str) -> Iterator[Battle]:
        for name in self.options.others:
            file = find_file(name, self.base)
            for item in read_games(file):
                if item.games is None or not item.games.second:
                    continue
                model, against = item.games.model, item.games.baseline or baseline
                if model in (own, against):
                    what = "the model that is measured" if model == own else "the baseline itself"
                    raise DataError(f"{file}: it holds verdicts on {model}, {what}; leave it out")
                yield from item.games.battles(item.id, model, against, self.options.strong)


def _place(subject: Subject) -> str:
    """Where a model or its answers are."""
    return str(getattr(subject, "source", "") or getattr(subject, "file", "") or subject.name)


# -- what is asked, and what is answered -----------------------------------------------------------


@dataclass(frozen=True)
class _Own:
    """A prompt in gnomon's form, with the texts between marks that none of them can hold."""

    template: Template

    @property
    def sha256(self) -> str:
        return self.template.sha256

    def __call__(self, prompt: str, a: str, b: str) -> Question:
        return replace(self.template.question(prompt, a, b), choices=(), reason=False)


@dataclass(frozen=True)
class _Published:
    """Arena-Hard's own settings, of either version."""

    system: str
    user: str
    sha256: str

    @classmethod
    def read(cls, file: Path) -> _Published:
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{file} cannot be read as YAML: {error}") from error
        given = given if isinstance(given, dict) else {}
        user = given.get("prompt_template")
        user = user[0] if isinstance(user, list) and len(user) == 1 else user
        if not isinstance(user, str):
            raise ConfigError(f"{file}: it needs prompt_template, a text (and system_prompt)")
        known = [("question_1", "QUESTION"), ("answer_1", "ANSWER_A"), ("answer_2", "ANSWER_B")]
        for names in known:
            if not any(f"{{{name}}}" in user for name in names):
                raise ConfigError(f"{file}: prompt_template has no place {{{names[0]}}}")
        digest = str(fingerprint(file)["sha256"])
        return cls(str(given.get("system_prompt") or ""), user, digest)

    def __call__(self, prompt: str, a: str, b: str) -> Question:
        fills = {"question_1": prompt, "answer_1": a, "answer_2": b}
        fills |= {"QUESTION": prompt, "ANSWER_A": a, "ANSWER_B": b}
        return Question(self.system, filled(self.user, fills), ())


def _grade(reply: Reply) -> tuple[str | None, str | None]:
    """The one grade in a reply, or why there is none; as in the original, several different ones
    are no verdict."""
    if reply.error is not None:
        return None, reply.error
    found = {re.sub(r"\s", "", text) for text in GRADE.findall(reply.text)} & set(GRADES)
    if len(found) == 1:
        return found.pop(), None
    if found:
        return (
            None,
            f"{UNREAD}, several grades ({', '.join(sorted(found))}): {readable(reply.text)}",
        )
    cut = "" if reply.finished else "cut off at max_tokens before its verdict (raise it): "
    return (
        None,
        f"{cut}{UNREAD}, no grade such as [[A>B]]: {readable(reply.text) or 'it wrote nothing'}",
    )


# -- files of verdicts -----------------------------------------------------------------------------


def read_games(file: Path) -> Iterator[Fought]:
    """The verdicts of a file: rows of this suite, or Arena-Hard's ``model_judgment`` (``uid`` or
    ``question_id``, ``model``, two ``games`` with a ``score``, the baseline's answer first as A in
    the first of them).

    Raises:
        DataError: a row without them, with another number of games, or a grade that is none; two
            rows of one question and model.
    """
    seen = set()
    for source, row in rows_of(file, (ID,)):
        if FAILED in row and "games" not in row:  # a failed item of this suite
            continue
        id, games = word_of(row, ID), field(row, ("games",), source)
        model = str(row.get("model") or file.name.split(".")[0])
        if not (isinstance(games, list) and len(games) == 2):
            raise DataError(f"{source}: 'games' must be two verdicts, one in each order")
        if id is None:
            raise DataError(f"{source}: the question has no id: fill {' or '.join(ID)}")
        if (id, model) in seen:
            raise DataError(f"{source}: there are verdicts on {model} and question {id} before")
        seen.add((id, model))
        scores = [g.get("score") if isinstance(g, Mapping) else None for g in games]
        for score in scores:
            if score is not None and score not in GRADES:
                raise DataError(
                    f"{source}: a score must be one of {', '.join(list(GRADES)[:5])}, not "
                    f"{shown(score)}"
                )
        failed = None in scores
        graded = ("", "") if failed else (str(scores[0]), str(scores[1]))
        prompt = Prompt(
            id,
            (Message("user", str(row.get("prompt") or "")),),
            source=source,
            category=word_of(row, CATEGORY),
        )
        yield Fought(prompt, None, Games(model, *graded, str(row.get("baseline") or "")))
