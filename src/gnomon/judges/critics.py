"""Who criticises answers and rewrites them by a principle: a model at an endpoint, or a program.

The policy itself, or another model in this process, is a critic too; it needs an engine and is made
where those are (``gnomon.stages.critics``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from gnomon.errors import ConfigError
from gnomon.judges.answers import AnswerBook
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.function import source_version
from gnomon.judges.prompting import Question
from gnomon.plugins import check_known, did_you_mean, load_builtin, load_own
from gnomon.records import Cost, Prompt
from gnomon.usercode import explain, is_interrupt, settled

BUILTIN: Mapping[str, str] = {"tunnel": "gnomon.tasks.tunnel.critic:TunnelCritic"}
"""Critics that are programs, by name."""


@dataclass(frozen=True)
class Task:
    """One text to be written: what is wrong with an answer, or a better one.

    Attributes:
        kind: which of the two.
        prompt: what was asked.
        answer: what is to be criticised, or rewritten.
        principle: the id of the principle to do it by.
        request: what that principle asks for.
        critique: what was found wrong; empty in a critique, and in a revision without one.
        question: all of it in words, for a language model.
        seed: of what is drawn.
    """

    kind: Literal["critique", "revision"]
    prompt: Prompt
    answer: str
    principle: str
    request: str
    critique: str
    question: Question
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """What a critic wrote.

    Attributes:
        text: as it was written; it may be empty.
        finished: False where it was cut off at the length limit.
        error: why there is none.
        cure: what to do about it where the critic itself is all right.
        cost: of it.
    """

    text: str = ""
    finished: bool = True
    error: str | None = None
    cure: str = ""
    cost: Cost = field(default_factory=Cost)


class Critic(Protocol):
    """Writes critiques and revisions.

    Attributes:
        name: what its figures are noted under.
        version: of its weights, its settings or its code.
    """

    name: str
    version: str

    def write(self, tasks: Sequence[Task]) -> list[Written]:
        """One text for each task, in order; all tasks are of one kind."""
        ...


class EndpointCritic(Critic):
    """A language model at an endpoint; what it wrote is kept on disk and never paid for twice.

    Args:
        folder: where its answers are kept.
        tell: hears that the endpoint is waited for.
        options: of :class:`~gnomon.judges.endpoint.Endpoint`.

    Raises:
        ConfigError: an unknown option; the openai package or the key is missing.
    """

    def __init__(
        self,
        model: str,
        folder: Path | None,
        tell: Callable[[str], None] = lambda text: None,
        **options: Any,
    ) -> None:
        unused = ("model", "logprobs", "tell", "sleep", "cap")
        known = [k for k in Endpoint.__dataclass_fields__ if k not in unused]
        for key in options:
            if key not in known:
                raise ConfigError(f"critic: unknown option {key!r}; {did_you_mean(key, known)}")
        self.name = "critic"
        self.endpoint = Endpoint(model, tell=lambda text: tell(f"critic: {text}"), **options)
        said = {k: v for k, v in self.endpoint.settings().items() if k != "url"}
        self.version = f"{model} {said}"
        self.book = AnswerBook(folder)

    def write(self, tasks: Sequence[Task]) -> list[Written]:
        replies = self.book.ask(self.endpoint, [task.question for task in tasks])
        return [Written(r.text, r.finished, r.error, cost=r.cost) for r in replies]


class ProgramCritic(Critic):
    """A function of the tasks that answers with one text for each, in order.

    What it raises is the error of its task: it is asked again about one at a time. An item that is
    neither text nor :class:`Written` is an error, too.
    """

    def __init__(self, function: Callable[[Sequence[Task]], Any], name: str, version: str) -> None:
        self.function, self.name, self.version = function, name, version

    def write(self, tasks: Sequence[Task]) -> list[Written]:
        try:
            found = list(settled(self.function(tasks)))
            if len(found) != len(tasks):
                raise ValueError(f"it gave {len(found)} texts for {len(tasks)} tasks")
        except BaseException as error:
            if is_interrupt(error):
                raise
            if len(tasks) > 1:
                return [written for task in tasks for written in self.write([task])]
            return [Written(error=f"{self.name}: {explain(error)}")]
        return [self._written(item) for item in found]

    def _written(self, item: Any) -> Written:
        if isinstance(item, Written):
            return item
        if isinstance(item, str):
            return Written(item)
        return Written(error=f"{self.name}: gave a {type(item).__name__}, not a text")


def program_critic(
    builtin: str | None, function: str | None, options: Mapping[str, Any], base: Path
) -> Critic:
    """The critic that is a builtin, or a function or class of the recipe's own.

    Args:
        base: the folder that the function's file is looked up in (the recipe's own).

    Raises:
        ConfigError: there is none of that name, or it does not take the options.
    """
    if builtin is not None:
        check_known(builtin, BUILTIN, "critic", own=False)
        name, found = builtin, load_builtin(BUILTIN[builtin])
    else:
        name, found = str(function), load_own(str(function), base, "critic")
    try:
        made = found(**options) if isinstance(found, type) else found
    except (TypeError, ValueError) as error:
        raise ConfigError(f"critic {name!r}: its options {dict(options)}: {error}") from error
    if not isinstance(found, type) and options:
        raise ConfigError(f"critic {name!r} is a function and takes no options: make it a class")
    version = getattr(made, "version", "") or source_version(found)
    return ProgramCritic(made.write if hasattr(made, "write") else made, "critic", str(version))
