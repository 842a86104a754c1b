"""A language model as a judge: it compares answers, ranks them, or judges each by itself.

What it says is soft: the probabilities of its verdicts, where log-probs are there. A judgement of
pairs averages both orders (Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot
Arena", section 3.4; Lee et al. 2023, "RLAIF", section 3.1), so that a judge who always prefers the
first answer calls everything a tie. How far it agrees with people is for ``gnomon calibrate`` to
measure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gnomon.errors import BudgetSpent, ConfigError, DataError
from gnomon.judges.ai_options import AIOptions as AIOptions
from gnomon.judges.answers import AnswerBook, Answerer, Reply
from gnomon.judges.budget import Budget
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.prompting import Principle, Question, Template, conversation
from gnomon.judges.protocol import Judge, total_cost
from gnomon.judges.rubric import Rubric
from gnomon.judges.verdicts import Compared as Compared
from gnomon.judges.verdicts import Pair as Pair
from gnomon.judges.verdicts import Verdict as Verdict
from gnomon.judges.verdicts import compared
from gnomon.judges.ways import WAYS, Asked, Opinion, Planned
from gnomon.judges.ways import Principles as Principles
from gnomon.plugins import load_builtin
from gnomon.recipe.load import validate_as
from gnomon.records import Group, Judgement, Prompt, Score

DECIDING = ("scores", "orders", "ranking", "criteria", "rubric_key")
"""Options beside those that were there from the start which decide what it says."""


@runtime_checkable
class Capped(Protocol):
    """An answerer that a budget can stop."""

    cap: Budget | None


class _NoPrinciples(Principles):
    version = ""

    def __call__(self, prompt: Prompt) -> Principle | None:
        return None


class AIJudge(Judge):
    """Asks a language model; see :class:`~gnomon.judges.ai_options.AIOptions`.

    ``mode: pairs`` and ``ranking`` give comparisons, and as scores the share of its comparisons
    that an answer won, in [0, 1], or log-strengths; ``rubric`` scores up to 1, ``score`` from 1 to
    10, ``approval`` the probability of being good. Where it fails on any part of what it compares,
    or scores, the judgement of that is an error, never a zero or a tie.

    Args:
        base: the folder that relative files start from.
        answers: where its answers are kept, unless ``cache`` says otherwise.
        answerer: the model; made from the options by default.
        principles: a constitution, which gives each prompt the principle to judge by.
        book, cap: the answers and the budget that the members of a panel share.
        options: see :class:`AIOptions`.

    Attributes:
        model: its name.
        prompt_sha256: of the template's file.

    Raises:
        ConfigError: options or a template that cannot be used, a missing key or package.
    """

    paid = True

    def __init__(
        self,
        *,
        base: Path | None = None,
        answers: Path | None = None,
        answerer: Answerer | None = None,
        principles: Principles | None = None,
        book: AnswerBook | None = None,
        cap: Budget | None = None,
        **options: Any,
    ) -> None:
        self.name = "ai"
        self.options = spec = validate_as(AIOptions, options, "ai judge")
        if spec.panel:
            raise ConfigError("a panel is made by gnomon.judges.panel:ai_judge")
        self.groupwise = spec.mode in ("pairs", "ranking")
        folder = base or Path()
        self.template = template_of(spec, folder)
        self.rubric = rubric_of(spec, folder)
        self.principles = principles or principles_of(spec, folder)
        if principles is not None and spec.mode == "rubric":
            raise ConfigError("mode: rubric judges by its rubric, and takes no constitution")
        self.way = WAYS[spec.mode](spec, self.template, self.principles, self.rubric)
        self.answerer = answerer or _answerer(spec)
        kept = None if spec.cache is None else folder / spec.cache
        self.book = book or AnswerBook(kept or answers)
        self.remembers = self.book.file is not None
        self.budget = cap or budget_of(spec)
        if self.budget is not None and isinstance(self.answerer, Capped):
            self.answerer.cap = self.budget
        self.model = self.answerer.model
        self.prompt_sha256 = self.template.sha256

    @property
    def version(self) -> str:  # type: ignore[override]
        """The model, the SHA-256 of its template, and a hash of all else that decides verdicts
        (where the endpoint is does not)."""
        spec = self.options
        own = {key: v for key, v in self.answerer.settings().items() if key != "url"}
        text = spec.rubric.strip() if isinstance(spec.rubric, str) else ""
        said: list[Any] = [spec.mode, text, spec.ties, spec.reason, own]
        given = {key: getattr(spec, key) for key in DECIDING if key in spec.model_fields_set}
        said += [given] if given else []
        said += [self.rubric.digest] if self.rubric is not None else []
        said += [self.principles.version] if self.principles.version else []
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        return f"{self.model} prompt={self.prompt_sha256} settings={digest.hexdigest()[:8]}"

    # -- judging ----------------------------------------------------------------------------------

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        found = self.opinions(groups)
        if any(opinion.over for opinion in found):
            raise BudgetSpent.of(self.budget)
        return [opinion.judgement for opinion in found]

    def opinions(self, groups: Sequence[Group]) -> list[Opinion]:
        """The judgements with all that was asked for them; those that the budget does not reach are
        ``over``."""
        plans: list[list[Planned] | str] = []
        for group in groups:
            try:
                plans.append(self.way.plan(group))
            except (ConfigError, DataError) as error:
                plans.append(str(error))
        every = [
            planned.question for plan in plans if not isinstance(plan, str) for planned in plan
        ]
        replies = iter(self._ask(every))
        return [
            self._failed(plan)
            if isinstance(plan, str)
            else self._opinion(group, [Asked(planned, next(replies)) for planned in plan])
            for group, plan in zip(groups, plans, strict=True)
        ]

    def _failed(self, error: str) -> Opinion:
        return Opinion(Judgement(self.name, version=self.version, error=error))

    def _opinion(self, group: Group, asked: Sequence[Asked]) -> Opinion:
        about = Judgement(
            self.name,
            version=self.version,
            cost=total_cost(a.reply.cost for a in asked),
            reason=self._reason(asked),
            principle=self.way.name_of(group.prompt),
        )
        failed = [a.reply.error for a in asked if a.reply.error is not None]
        over = any(a.reply.over for a in asked)
        if failed and self.groupwise:
            return Opinion(replace(about, error=failed[0]), tuple(asked), over)
        if failed:
            return Opinion(replace(about, scores=self._each(group, asked)), tuple(asked), over)
        found = self.way.find(group, asked)
        about = replace(
            about, scores=found.scores, comparisons=found.comparisons, error=found.error
        )
        return Opinion(about, tuple(asked))

    def _each(self, group: Group, asked: Sequence[Asked]) -> tuple[Score, ...]:
        """The scores of answers that are judged by themselves, some of which failed."""
        scores = []
        for i, response in enumerate(group.responses):
            own = [a for a in asked if a.planned.shown == (i,)]
            error = next((a.reply.error for a in own if a.reply.error is not None), None)
            if error is not None:
                scores.append(Score(None, error=error))
                continue
            alone = [replace(a, planned=replace(a.planned, shown=(0,))) for a in own]
            scores += self.way.find(replace(group, responses=(response,)), alone).scores
        return tuple(scores)

    def _reason(self, asked: Sequence[Asked]) -> str | None:
        """What it said before its verdicts, those of both orders of a pair together."""
        if not self.options.reason:
            return None
        said: dict[str, list[str]] = {}
        for a in asked:
            if a.reply.error is None and a.reply.text:
                said.setdefault(a.planned.about, []).append(a.reply.text.strip())
        lines = [f"{about}: {' | The other way round: '.join(t)}" for about, t in said.items()]
        return "\n".join(lines) or None

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Ask about pairs in both orders; two equal texts are a tie without being asked about.

        Raises:
            BudgetSpent: before all was asked.
        """
        questions: list[Question] = []
        for pair in pairs:
            if pair.a != pair.b:
                text, by = conversation(pair.prompt), pair.principle or self.way.by(pair.prompt)
                for two in ((pair.a, pair.b), (pair.b, pair.a)):
                    questions.append(self.template.question(text, *two, principle=by))
        found = self._ask(questions)
        if any(reply.over for reply in found):
            raise BudgetSpent.of(self.budget)
        replies = iter(found)
        return [
            _both(next(replies), next(replies), self.options.reason)
            if pair.a != pair.b
            else compared(None, None)
            for pair in pairs
        ]

    def _ask(self, questions: Sequence[Question]) -> list[Reply]:
        self.book.load()
        if self.budget is not None:
            self.budget.start(self.book.spent)
        limit = self.options.max_chars
        sizes = [len(q.system) + len(q.user) for q in questions]
        fits = [limit is None or size <= limit for size in sizes]
        some = [q for q, ok in zip(questions, fits, strict=True) if ok]
        found = iter(self.book.ask(self.answerer, some) if some else ())
        return [
            next(found)
            if ok
            else Reply(error=f"the question has {size} characters, more than max_chars ({limit})")
            for size, ok in zip(sizes, fits, strict=True)
        ]


def _both(forward: Reply, backward: Reply, why: bool) -> Compared:
    """The replies to a pair in both orders."""
    cost = total_cost([forward.cost, backward.cost])
    error = forward.error or backward.error
    if error is not None:
        return Compared(error=error, cost=cost)
    reason = None
    if why:
        reason = f"{forward.text.strip()} | The other way round: {backward.text.strip()}"
    return Compared(Verdict.of(forward.shares), Verdict.of(backward.shares), reason, cost=cost)


# -- what the options say --------------------------------------------------------------------------


def check_options(options: dict[str, Any], base: Path) -> None:
    """Check a recipe's options without asking anything or importing torch: their names and values,
    the template, the rubric.

    Raises:
        ConfigError: what is wrong.
    """
    spec = validate_as(AIOptions, options, "ai judge")
    for one in [*spec.members().values()] if spec.panel else [spec]:
        template_of(one, base)
        rubric_of(one, base)
        principles_of(one, base)


def template_of(spec: AIOptions, folder: Path) -> Template:
    """The judge's prompt.

    Raises:
        ConfigError: it cannot be used.
    """
    styles = {"ranking": spec.ranking, "rubric": spec.criteria}
    return Template.read(
        None if spec.template is None else folder / spec.template,
        spec.mode,
        rubric=spec.rubric.strip() if isinstance(spec.rubric, str) else "",
        ties=spec.ties,
        reason=spec.reason,
        seed=spec.seed,
        style=styles.get(spec.mode, ""),
    )


def rubric_of(spec: AIOptions, folder: Path) -> Rubric | None:
    """The rubric that all prompts share; None without one.

    Raises:
        ConfigError: it cannot be used.
    """
    if spec.rubric_file is not None:
        return Rubric.read(folder / spec.rubric_file)
    if spec.mode == "rubric" and spec.rubric:
        return Rubric.parse(spec.rubric, "the option rubric")
    return None


def principles_of(spec: AIOptions, folder: Path) -> Principles:
    """Those of the constitution that the options name.

    Raises:
        ConfigError: it cannot be used.
    """
    if spec.constitution is None:
        return _NoPrinciples()
    made: Any = load_builtin("gnomon.feedback.constitution:principles_by_prompt")
    found: Principles = made(spec.constitution, folder, spec.categories, spec.seed)
    return found


def budget_of(spec: AIOptions) -> Budget | None:
    """What judging may cost; None for no cap."""
    if spec.budget is None and spec.budget_tokens is None:
        return None
    return Budget(spec.budget, spec.budget_tokens)


def _answerer(spec: AIOptions) -> Answerer:
    if spec.local is not None:
        from gnomon.judges.local import LocalModel  # the only one with torch

        return LocalModel(spec.local, spec.dtype, spec.device)
    names = Endpoint.__dataclass_fields__
    return Endpoint(**{key: value for key, value in spec if key in names})
