"""Groups as rows of files: gnomon's own, and those that TRL reads.

``preference`` is what TRL's DPO and reward trainers take: prompt, chosen and rejected, as
conversations (or as texts, where the prompt is plain text). ``unpaired`` is KTO's: prompt,
completion, label. ``demonstrations`` is SFT's: prompt, completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

from gnomon.data.fields import ReadOptions
from gnomon.data.formats import convert, judgements
from gnomon.data.values import RowError, Skipped, has_surrogate
from gnomon.records import Group, Message, Prompt, Response

Form = Literal["groups", "preference", "unpaired", "demonstrations"]
FORMS = get_args(Form)
AS_JSON = ("responses", "comparisons", "meta", "messages")
"""Columns of ``groups`` that are JSON in a parquet file."""


def training_rows(
    groups: Iterable[Group], form: Form, skipped: list[Skipped], good_from: float | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a form; what has none is added to ``skipped`` with the reason.

    Args:
        good_from: for ``unpaired``, the lowest rating that counts as good.
    """
    for group in groups:
        try:
            for row in _rows(group, form, ReadOptions(good_from=good_from)):
                if has_surrogate(row):
                    raise RowError(
                        "half a character (a lone surrogate), which no file of text can hold",
                        "export it as labels, which keeps it",
                    )
                yield row
        except RowError as error:
            skipped.append(error.skip(group.prompt.source))


def _rows(group: Group, form: Form, options: ReadOptions) -> Iterator[dict[str, Any]]:
    if form == "groups":
        yield group_row(group)
    elif form == "preference":
        yield from _pairs(group)
    else:
        for one in convert(group, form, options):
            (response,) = one.responses
            row = {"prompt": _prompt(one.prompt), "completion": _answer(one.prompt, response)}
            if form == "unpaired":
                row["label"] = bool(response.meta["label"])
            yield row


def _pairs(group: Group) -> Iterator[dict[str, Any]]:
    """A row for each comparison that one side wins."""
    decided = [c for c in judgements(group) if not c.tie and c.strength > 0]
    if not decided:
        raise RowError("no comparison that one side wins", "a tie says nothing to these methods")
    for c in decided:
        row = {"prompt": _prompt(group.prompt)}
        row["chosen"] = _answer(group.prompt, group.responses[c.better])
        row["rejected"] = _answer(group.prompt, group.responses[c.worse])
        yield row | ({"margin": c.margin} if c.margin else {})


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _prompt(prompt: Prompt) -> Any:
    return _turns(prompt.messages) if prompt.text is None else prompt.text


def _answer(prompt: Prompt, response: Response) -> Any:
    return _turns(response.messages) if prompt.text is None else response.text


def group_row(group: Group) -> dict[str, Any]:
    """A row in gnomon's own format, which the readers read back as it was."""
    ids = [str(i) if r.id is None else r.id for i, r in enumerate(group.responses)]
    if len(set(ids)) < len(ids):
        ids = [str(i) for i in range(len(ids))]
    row: dict[str, Any] = {"id": group.prompt.id}
    if group.prompt.text is not None:
        row["prompt"] = group.prompt.text
    else:
        row["messages"] = _turns(group.prompt.messages)
    scored = all("score" in r.meta for r in group.responses)
    row["responses"] = [
        _response_row(r, name, scored) for r, name in zip(group.responses, ids, strict=True)
    ]
    meta = dict(group.prompt.meta)
    names = meta.pop("labellers", ())
    if group.comparisons:
        row["comparisons"] = _comparisons(group, ids, names)
    elif names:
        row["labeller"] = names[0]
    if meta:
        row["meta"] = meta
    if group.prompt.category is not None:
        row["category"] = group.prompt.category
    if group.weight != 1:
        row["weight"] = group.weight
    return row


def _response_row(response: Response, name: str, scored: bool) -> dict[str, Any]:
    meta = {k: v for k, v in response.meta.items() if k != "score" or scored}
    plain = len(response.messages) == 1 and response.messages[0].role == "assistant"
    text: Any = response.text if plain else _turns(response.messages)
    return {**meta, "id": name, "text": text}


def _comparisons(
    group: Group, ids: Sequence[str], names: Sequence[str | None]
) -> list[dict[str, Any]]:
    rows = []
    for i, c in enumerate(group.comparisons):
        row: dict[str, Any] = {"better": ids[c.better], "worse": ids[c.worse]}
        given = {"tie": c.tie, "margin": c.margin}
        row |= {k: v for k, v in given.items() if v}
        row |= {"weight": c.weight} if c.weight != 1 else {}
        row |= {"probability": c.probability} if c.probability != 1 else {}
        row |= {"labeller": names[i]} if i < len(names) and names[i] is not None else {}
        rows.append(row)
    return rows
