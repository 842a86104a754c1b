"""A file, or a store, as the place where an AI judge's labels go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock

from gnomon.errors import DataError
from gnomon.feedback.records import Item, Label
from gnomon.files import append_line, make_folder, write_bytes
from gnomon.records import Comparison, Cost, Judgement


class LabelFile:
    """A file of labelled items, a line each. While a judge works it only grows, and a line that a
    killed process left half-written is cut off; what several judges say of one item is joined when
    it is opened and closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self._lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> LabelFile:
        self.join()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def known(self) -> set[str]:
        return {label.id for _, labels in read_file(self.path) for label in labels}

    def add(self, item: Item, labels: Sequence[Label], judgement: Judgement) -> None:
        row = item_row(item, judgement, labels[0].kind) | {
            "labels": [label_dict(label) for label in labels]
        }
        with self._lock:
            append_line(self.path, as_line(row))

    def join(self) -> None:
        """Write the file again where an item has several rows: then it has one, with all labels.
        Lines that are no rows come after them, as they are."""
        with self._lock:
            lines = self.path.read_bytes().splitlines(True) if self.path.is_file() else []
            read = [(line, _row_of(line)) for line in lines]
            rows = [row for _, row in read if row is not None]
            joined = joined_rows(rows)
            if len(joined) < len(rows):
                other = [line for line, row in read if row is None and line.endswith(b"\n")]
                own = [as_line(row) + b"\n" for row in joined]
                write_bytes(self.path, b"".join([*own, *other]))


class StoreSink:
    """A store; see :class:`gnomon.feedback.store.Store`."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def known(self) -> set[str]:
        return {label.id for label in self.store.labels()}

    def add(self, item: Item, labels: Sequence[Label], judgement: Judgement) -> None:
        self.store.add_items([item])
        self.store.add_labels(labels, add_labellers="model")


def item_row(item: Item, judgement: Judgement, kind: str) -> dict[str, Any]:
    """An item and how its responses compare, as data for a stage."""
    prompt = item.prompt
    row: dict[str, Any] = {"id": item.id, "name": prompt.id}
    if prompt.text is not None:
        row["prompt"] = prompt.text
    else:
        row["messages"] = [{"role": m.role, "content": m.content} for m in prompt.messages]
    row["responses"] = [_response_row(item, i, judgement, kind) for i in range(len(item.responses))]
    if judgement.comparisons is not None:
        row["comparisons"] = [_comparison_row(c, judgement) for c in judgement.comparisons]
    row |= {"meta": dict(prompt.meta)} if prompt.meta else {}
    row |= {"category": prompt.category} if prompt.category is not None else {}
    more = {"judge": judgement.judge, "principle": judgement.principle}
    return row | {key: text for key, text in more.items() if text}


def _response_row(item: Item, i: int, judgement: Judgement, kind: str) -> dict[str, Any]:
    response, score = item.responses[i], judgement.scores[i]
    row: dict[str, Any] = {"id": str(i)}
    if len(response.messages) == 1:
        row["text"] = response.messages[0].content
    else:
        row["messages"] = [{"role": m.role, "content": m.content} for m in response.messages]
    row["score"] = score.value
    if kind == "approval" and score.value is not None and approved(score.value) is not None:
        row["label"] = approved(score.value)
    return row | ({"parts": dict(score.parts)} if score.parts else {})


def _comparison_row(c: Comparison, judgement: Judgement) -> dict[str, Any]:
    row: dict[str, Any] = {"better": str(c.better), "worse": str(c.worse), "tie": c.tie}
    if c.probability != 1.0:
        row["probability"] = c.probability
    return row | {"labeller": judgement.judge}


def joined_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with one for each item, in the order of the first ones: what every judge said of it, a
    label and comparisons each, and of scores the mean. A row whose labels are all known from others
    is left out; rows that are not of labelled items stay as they are."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows):
        own = found.setdefault(row["id"] if _is_item(row) else number, [])
        known = {label["id"] for other in own for label in other["labels"]}
        if not own or any(label["id"] not in known for label in row["labels"]):
            own.append(row)
    return [dict(own[0]) if len(own) == 1 else _joined(own) for own in found.values()]


def _is_item(row: Mapping[str, Any]) -> bool:
    labels = row.get("labels")
    own = isinstance(labels, list) and all(isinstance(x, dict) and "id" in x for x in labels)
    return bool(labels) and own and isinstance(row.get("id"), str) and "responses" in row


def _joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels = {label["id"]: label for row in rows for label in row["labels"]}
    row = {**rows[0], "labels": list(labels.values())}
    row["responses"] = [
        _joined_response(answers)
        for answers in zip(*(own["responses"] for own in rows), strict=False)
    ]
    if any("comparisons" in own for own in rows):
        row["comparisons"] = [c for own in rows for c in own.get("comparisons", ())]
    for key in ("judge", "principle"):
        if named := list(dict.fromkeys(str(own[key]) for own in rows if own.get(key))):
            row[key] = ", ".join(named)
    return row


def _joined_response(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A response with the means of what each judge gave it."""
    row = {key: value for key, value in answers[0].items() if key not in ("label", "parts")}
    scores = [answer["score"] for answer in answers if answer.get("score") is not None]
    row["score"] = sum(scores) / len(scores) if scores else None
    good = [answer["label"] for answer in answers if "label" in answer]
    if good and 2 * sum(good) != len(good):
        row["label"] = 2 * sum(good) > len(good)
    parts: dict[str, list[float]] = {}
    for answer in answers:
        for name, value in answer.get("parts", {}).items():
            parts.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in parts.items()}
    return row | ({"parts": means} if means else {})


def approved(p: float) -> bool | None:
    """Whether a probability says good; None where it says neither."""
    return None if p == 0.5 else p > 0.5


def label_dict(label: Label) -> dict[str, Any]:
    """A label as JSON, without what it does not say."""
    return {k: v for k, v in asdict(label).items() if v not in (None, "", (), [])}


def read_label(value: Mapping[str, Any]) -> Label:
    """The same back.

    Raises:
        DataError: it is not one.
    """
    try:
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        known["cost"] = Cost(**value.get("cost", {}))
        return Label(**known)
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a label: {error}") from error


def as_line(row: Mapping[str, Any]) -> bytes:
    """A row as JSON in one line."""
    return json.dumps(row, ensure_ascii=True, default=str).encode()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that only grows; a half one is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for line in stream:
            row = _row_of(line)
            if row is not None:
                yield row


def _row_of(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds, if it holds one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_file(path: Path) -> Iterator[tuple[dict[str, Any], list[Label]]]:
    """The rows of a file of labels, each with its labels.

    Raises:
        DataError: a row holds something else than labels.
    """
    for row in read_lines(path):
        try:
            yield row, [read_label(value) for value in row.get("labels") or ()]
        except DataError as error:
            raise DataError(f"{path}, item {row.get('id')}: {error}") from error
