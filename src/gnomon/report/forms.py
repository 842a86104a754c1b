"""How far a run's records and statements fill an authority's form, field by field.

A field is ``filled``, ``partial`` (something is known, but not all that is asked for) or
``missing``; each says where its value comes from. Nothing is filled by a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gnomon.report import markdown as md
from gnomon.report.facts import Facts

State = Literal["filled", "partial", "missing"]


@dataclass(frozen=True)
class Answer:
    """What is known for a field.

    Attributes:
        value: plain text; empty where it is missing.
        source: the record or the recipe's key that it is from, or that would hold it.
        lacks: what is asked for beyond it, where it is partial.
    """

    state: State
    value: str
    source: str
    lacks: str = ""


@dataclass(frozen=True)
class Field:
    """A field of a form.

    Attributes:
        number: as the form has it, or its place in its section.
        title: the form's own words, or their sense.
        readers: whom the form means it for.
        fill: answers it from the records.
    """

    section: str
    number: str
    title: str
    readers: tuple[str, ...]
    fill: Callable[[Facts], Answer]


@dataclass(frozen=True)
class Form:
    """A form.

    Attributes:
        readers: the columns, in order.
        source: where the form itself is.
        checked: what of the list of fields was checked against which text, and what was not.
    """

    name: str
    title: str
    readers: tuple[str, ...]
    source: str
    checked: str
    fields: Sequence[Field]


def state(lacks: str) -> State:
    """Of a field of which something is known."""
    return "partial" if lacks else "filled"


def stated(key: str, what: str = "") -> Callable[[Facts], Answer]:
    """A field that is just a statement of the recipe's ``card``.

    Args:
        what: what the form asks for beyond a statement of this kind.
    """

    def fill(facts: Facts) -> Answer:
        value = str(getattr(facts.stated, key) or "")
        source = f"recipe: card.{key}"
        if not value:
            return Answer("missing", "", source)
        return Answer(state(what), value, source, what)

    return fill


def sourced(key: str) -> Callable[[Facts], Answer]:
    """A field that is stated for each source of data."""

    def fill(facts: Facts) -> Answer:
        source = f"recipe: card.data.PATH.{key}"
        # what a stage of the run made is described by the run itself
        paths = {s.shown: s for s in facts.sources() if not s.made_here}
        told = {p: str(getattr(s.stated, key)) for p, s in paths.items() if s.stated is not None}
        told = {path: value for path, value in told.items() if value}
        if not told:
            return Answer("missing", "", source)
        value = "; ".join(f"{path}: {said}" for path, said in told.items())
        lacks = ", ".join(path for path in paths if path not in told)
        return Answer(state(lacks), value, source, lacks and f"for {lacks}")

    return fill


def never(why: str) -> Callable[[Facts], Answer]:
    """A field that no run can fill, with who can."""
    return lambda facts: Answer("missing", "", why)


def answers(form: Form, facts: Facts) -> list[tuple[Field, Answer]]:
    """Every field with its answer."""
    return [(field, field.fill(facts)) for field in form.fields]


def form_json(form: Form, facts: Facts) -> dict[str, Any]:
    """The coverage as JSON has it."""
    found = answers(form, facts)
    return {
        "form": form.name,
        "title": form.title,
        "source": form.source,
        "checked": form.checked,
        "run": facts.run.name,
        "model": facts.name,
        "counts": _counts(found),
        "fields": [
            {
                "section": field.section,
                "number": field.number,
                "title": field.title,
                "readers": list(field.readers),
                **asdict(answer),
            }
            for field, answer in found
        ],
        "problems": list(facts.problems),
    }


def form_markdown(form: Form, facts: Facts) -> str:
    """The coverage as a page."""
    found = answers(form, facts)
    counts = ", ".join(f"{n} {named}" for named, n in _counts(found).items())
    parts = [
        f"# {md.text(form.title)}: {md.text(facts.name)}",
        f"{counts}, of {len(found)}. From the records of the run {md.code(facts.run.name)} and the "
        "statements of its recipe alone; it is no legal advice.",
        f"The form: {form.source}\n\n{form.checked}",
    ]
    for section in dict.fromkeys(field.section for field, _ in found):
        rows = [_row(form, field, a) for field, a in found if field.section == section]
        heads = ["", "field", *form.readers, "state", "value", "from"]
        parts.append(f"## {section}\n\n{md.table(heads, rows)}")
    if facts.problems:
        parts.append(f"## Could not be read\n\n{md.bullets(map(md.text, facts.problems))}")
    return "\n\n".join(parts) + "\n"


def _row(form: Form, field: Field, answer: Answer) -> tuple[str, ...]:
    value = md.text(answer.value, 1000)
    if answer.lacks:
        value += f" (lacks: {md.text(answer.lacks)})"
    marks = ["x" if reader in field.readers else "" for reader in form.readers]
    return (field.number, field.title, *marks, answer.state, value, md.text(answer.source))


def _counts(found: Sequence[tuple[Field, Answer]]) -> dict[str, int]:
    states = [answer.state for _, answer in found]
    return {named: states.count(named) for named in ("filled", "partial", "missing")}
