"""What ``gnomon judge explain`` says of a label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import DataError

if TYPE_CHECKING:
    from gnomon.feedback.explained import Exchange
    from gnomon.feedback.records import Label


def labels_named(labels: str, id: str) -> Iterator[Label]:
    """The labels that an id, or its beginning, names."""
    from gnomon.feedback.judged_data import is_store
    from gnomon.feedback.label_files import read_file

    if is_store(labels):
        from gnomon.feedback.opening import open_store

        with open_store(labels) as store:
            names = {item.id: item.prompt.id for item in store.items()}
            for label in store.labels():
                if _is_named(id, label, names.get(label.item, "")):
                    yield label
        return
    if not Path(labels).is_file():
        raise DataError(f"{labels}: there is no such file of labels")
    for row, own in read_file(Path(labels)):
        yield from (label for label in own if _is_named(id, label, str(row.get("name", ""))))


def _is_named(id: str, label: Label, prompt: str) -> bool:
    return label.id.startswith(id) or label.item.startswith(id) or prompt == id


def label_lines(label: Label) -> Iterator[str]:
    """What a label says, by whom, and what it cost."""
    yield f"label {label.id} of item {label.item}"
    yield f"  by {label.labeller}, {label.guideline}"
    if label.principle:
        yield f"  judged by {label.principle}"
    if label.ranks:
        yield f"  ranks {_listed(label.ranks)}, 1 is best"
    if label.approvals:
        words = {True: "good", False: "bad", None: "neither"}
        yield "  " + ", ".join(f"answer {i}: {words[a]}" for i, a in _counted(label.approvals))
    yield f"  scores {_listed(label.ratings)}"
    if label.confidence is not None:
        yield f"  confidence {label.confidence:.3g} (0 is a guess)"
    for line in label.comment.splitlines():
        yield f"  {line}"
    cost = label.cost
    yield f"  cost: {cost.seconds:.1f} s, {cost.tokens} tokens, {cost.money:.6f} euros; {label.at}"


def exchange_lines(exchange: Exchange, questions: bool) -> Iterator[str]:
    """What was asked and answered; the questions in full if wanted."""
    order = ", ".join(str(i + 1) for i in exchange.shown)
    yield f"asked {exchange.model} about {exchange.about}; shown in the order {order}"
    if questions:
        for part in (exchange.system, exchange.user):
            yield from (f"  > {line}" for line in part.splitlines())
    reply = exchange.reply
    if reply.text:
        yield from (f"  < {line}" for line in reply.text.splitlines())
    if reply.error is not None:
        yield f"  error: {reply.error}"
    if reply.shares:
        shares = sorted(reply.shares.items(), key=lambda item: -item[1])
        yield "  probabilities: " + ", ".join(f"{word} {p:.3g}" for word, p in shares)
    yield f"  {reply.tokens} tokens, {reply.money:.6f} euros"


def visible(line: str) -> str:
    """A line of a model's with what would steer the terminal or turn its text round written out."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join("none" if v is None else f"{v:.4g}" for v in values)


def _counted(values: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    return enumerate(values, start=1)
