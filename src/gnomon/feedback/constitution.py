"""A constitution: the principles that a model's answers are criticised, revised and judged by.

A file of it, YAML or Markdown, holds a name, a version and the principles (Bai et al. 2022,
"Constitutional AI", arXiv:2212.08073). One principle can ask three things: what an answer does
wrong (the critique request), for a better one (the revision request), and which of two answers is
better (the preference question). What stands around a request, and how a text that a model wrote is
fenced off in it, is in the two prompts, which a file may replace.

The version of a constitution is the one its author declared and a hash of all it says: comments,
order of keys and the file's format do not change it, and a word in a principle does.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gnomon.errors import ConfigError
from gnomon.feedback.constitution_files import PLACE, Content, Example, Principle, read_raw
from gnomon.judges.prompting import Principle as Asked
from gnomon.judges.prompting import Question, fenced, new_mark, plain
from gnomon.plugins import did_you_mean, nearest
from gnomon.recipe.load import validate_as
from gnomon.records import Prompt

SHIPPED = Path(__file__).with_name("constitutions")


@dataclass(frozen=True)
class Constitution:
    """Principles, and how to ask by them.

    Attributes:
        content: as its file says.
        file: where it was read, for people.
        chosen: the principles in use, all by default.
    """

    content: Content
    file: str
    chosen: tuple[Principle, ...]

    @property
    def name(self) -> str:
        return self.content.name

    @cached_property
    def sha256(self) -> str:
        """Of all that it says."""
        return _hash(self.content.model_dump())

    @property
    def version(self) -> str:
        """The declared version and the beginning of the hash, as in ``1.0+3f2a9c01d4e5``."""
        return f"{self.content.version}+{self.sha256[:12]}"

    def fingerprints(self) -> dict[str, str]:
        """By principle the hash of what it says, and by ``""`` that of all else."""
        rest = {k: v for k, v in self.content.model_dump().items() if k != "principles"}
        own = {p.id: _hash(p.model_dump())[:16] for p in self.content.principles}
        return {"": _hash(rest)[:16], **own}

    def label(self, principle: Principle) -> str:
        """How a label names a principle: ``constitution/id@version``."""
        return str(self.asked(principle))

    def asked(self, principle: Principle) -> Asked:
        """A principle as a judge is asked by it."""
        name = f"{self.name}/{principle.id}"
        return Asked(name, self.version, ask=principle.preference_question)

    # -- choosing ----------------------------------------------------------------------------------

    def only(self, categories: Sequence[str]) -> Constitution:
        """With the principles of these categories alone; all of them where none is named.

        Raises:
            ConfigError: a category that no principle has.
        """
        known = sorted({p.category for p in self.content.principles})
        for category in categories:
            if category not in known:
                hint = did_you_mean(category, known, "its categories are")
                raise ConfigError(f"{self.file}: no principle of category {category!r}; {hint}")
        wanted = categories or known
        chosen = tuple(p for p in self.content.principles if p.category in wanted)
        return Constitution(self.content, self.file, chosen)

    def for_revisions(self) -> Constitution:
        """The same, known to be able to criticise and revise by every principle in use.

        Raises:
            ConfigError: some cannot.
        """
        lacking = [p.id for p in self.chosen if not p.revises]
        if lacking:
            raise ConfigError(
                f"{self.file}: {_listed(lacking)} no critique_request and no revision_request, so "
                "no answer can be revised by it: add both, or choose other categories"
            )
        return self

    def for_preferences(self) -> Constitution:
        """The same, known to be able to compare two answers by every principle in use.

        Raises:
            ConfigError: some cannot.
        """
        lacking = [p.id for p in self.chosen if not p.prefers]
        if lacking:
            raise ConfigError(
                f"{self.file}: {_listed(lacking)} no preference_question, which a revise stage "
                "does not need and a judge of two answers does: add it, or choose other categories"
            )
        return self

    def draw(self, *key: object) -> Principle:
        """A principle in use, drawn by weight; the same for the same ``key``."""
        rng = random.Random("/".join(map(str, ("principle", *key))))
        left = rng.random() * sum(p.weight for p in self.chosen)
        for principle in self.chosen:
            left -= principle.weight
            if left < 0:
                return principle
        return self.chosen[-1]

    def by_prompt(self, seed: int = 0) -> ByPrompt:
        """Which principle the answers to each prompt are compared by: for a judge.

        Raises:
            ConfigError: one of them has no preference question.
        """
        return ByPrompt(self.for_preferences(), seed)

    # -- asking ------------------------------------------------------------------------------------

    def question(
        self,
        principle: Principle,
        question: str,
        answer: str,
        critique: str | None = None,
        *,
        examples: int = 0,
        seed: int = 0,
    ) -> Question:
        """What a language model is asked to have an answer criticised, or rewritten.

        Args:
            critique: what was found wrong with the answer, which is then to be rewritten; empty
                where nobody criticised it. None asks for the critique.
            examples: how many of the constitution's to show, the principle's own first.
            seed: of the fences' mark.
        """
        revises = critique is not None
        said = self.content
        template = said.revision_prompt if revises else said.critique_prompt
        request = principle.revision_request if revises else principle.critique_request
        shown = {"question": question, "answer": answer, "critique": critique or ""}
        few = self._examples(principle, examples)
        mark = new_mark(seed, *shown.values(), *(text for e in few for text in _texts(e)))
        places = {name: self._shown(mark, name, text) for name, text in shown.items()}
        told = [self._example(mark, e, revises) for e in few]
        places |= {"mark": mark, "request": request, "examples": "\n\n".join(told)}
        for name in ("critique", "examples"):  # no gap where there is none
            if not places[name]:
                template = re.sub(rf"\{{\{{\s*{name}\s*\}}\}}\s*", "", template)
        return Question("", PLACE.sub(lambda m: places[m[1]], template).strip(), ())

    def _shown(self, mark: str, name: str, text: str) -> str:
        """A text as a critic sees it: between two lines with the mark, unless the file says not."""
        return fenced(mark, name, text) if text and self.content.fences else plain(text)

    def _examples(self, principle: Principle, most: int) -> list[Example]:
        every = self.content.examples
        return sorted(every, key=lambda e: e.principle != principle.id)[:most]

    def _example(self, mark: str, example: Example, revises: bool) -> str:
        """One example: the same texts and the request of its own principle, then the reply."""
        principle = next(p for p in self.content.principles if p.id == example.principle)
        parts = [self._shown(mark, name, getattr(example, name)) for name in ("question", "answer")]
        if revises:
            parts.append(self._shown(mark, "critique", example.critique))
        parts.append(principle.revision_request if revises else principle.critique_request)
        reply = example.revision if revises else example.critique
        return "\n\n".join(["An example:", *parts, f"Reply: {reply}"])


@dataclass(frozen=True)
class ByPrompt:
    """Draws a principle for each prompt, the same one each time.

    Attributes:
        constitution: whose principles.
        seed: of the draws.
    """

    constitution: Constitution
    seed: int = 0

    @property
    def version(self) -> str:
        """Of all that decides which principle is drawn, and what it asks."""
        chosen = ",".join(p.id for p in self.constitution.chosen)
        every = len(self.constitution.chosen) == len(self.constitution.content.principles)
        limited = "" if every else f" of {chosen}"
        name = f"{self.constitution.name} {self.constitution.version}"
        return f"{name}{limited} seed={self.seed}"

    def __call__(self, prompt: Prompt) -> Asked:
        return self.constitution.asked(self.constitution.draw(self.seed, prompt.id))


def principles_by_prompt(
    where: str, base: Path, categories: Sequence[str] = (), seed: int = 0
) -> ByPrompt:
    """The principles of a file for a judge; see :func:`read_constitution`.

    Raises:
        ConfigError: the file cannot be used, or not to compare answers.
    """
    return read_constitution(where, base).only(categories).by_prompt(seed)


def read_constitution(where: str | Path, base: Path | None = None) -> Constitution:
    """The constitution in a file, or one that comes with gnomon, by its name.

    Args:
        where: a ``.yaml``, ``.yml`` or ``.md`` file, or a name such as ``gnomon``.
        base: the folder that a relative path starts from (the recipe's own).

    Raises:
        ConfigError: no such file or name, or all that is wrong with it, one line each, with the
            file, the principle and the cure.
    """
    path = _found(str(where), base or Path())
    raw, lines = read_raw(path)
    content = validate_as(Content, raw, str(path), lines)
    return Constitution(content, str(path), tuple(content.principles))


def shipped() -> list[str]:
    """The names of the constitutions that come with gnomon."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _found(where: str, base: Path) -> Path:
    if where in shipped():
        return SHIPPED / f"{where}.yaml"
    path = base / Path(where).expanduser()
    if path.suffix.lower() in (".yaml", ".yml", ".md") or path.is_file():
        return path
    near = nearest(where, shipped(), 0.6) or f"those of gnomon are {', '.join(shipped())}"
    raise ConfigError(
        f"constitution {where!r}: neither a .yaml or .md file nor one of gnomon's; {near}"
    )


def _listed(ids: Sequence[str]) -> str:
    if len(ids) == 1:
        return f"principle {ids[0]!r} has"
    return f"principles {', '.join(map(repr, ids))} have"


def _texts(example: Example) -> tuple[str, ...]:
    return example.question, example.answer, example.critique, example.revision


def _hash(said: object) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
