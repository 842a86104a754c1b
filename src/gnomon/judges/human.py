"""People as the judge: responses go into a file, the run pauses, their labels come back in another.

``queue/round-001.jsonl`` has a line for each prompt::

    {"id": "001-0001", "prompt_id": "p7", "prompt": "...",
     "responses": [{"id": "r1", "text": "..."}, {"id": "r2", "text": "..."}]}

and ``queue/round-001.labels.jsonl``, which people write, a line or more for each of them::

    {"id": "001-0001", "ranks": {"r1": 1, "r2": 2}}              1 is best, equal ranks tie
    {"id": "001-0001", "ranking": ["r1", ["r2", "r3"]]}          best first, ties nested
    {"id": "001-0001", "better": "r1", "worse": "r2"}            or "tie": true
    {"id": "001-0001", "skip": true}                             cannot be judged

Several judgements of the same two responses are a vote, in which each counts its ``weight`` (1
where none is given; 0 takes it out).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gnomon.data.fields import Row
from gnomon.data.preferences import parse_ranking
from gnomon.data.rows import iter_rows
from gnomon.data.values import RowError, Skipped, as_bool
from gnomon.errors import RunError, RunPaused
from gnomon.files import write_text
from gnomon.judges.protocol import Sample, Score
from gnomon.plugins import nearest
from gnomon.records import Comparison, Prompt, Source, comparisons_from_ranks

HOW = ("ranks", "ranking", "better", "comparisons", "skip")
"""Ways to judge, of which a label has exactly one."""


@runtime_checkable
class Comparing(Protocol):
    """A reward that knows which responses were compared, which its numbers alone cannot say."""

    def compare(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Comparison, ...]:
        """The judgements between these responses, by their places; equal texts have none."""
        ...


@runtime_checkable
class Rounds(Protocol):
    """A reward that wants to be told when a round begins, before anything is sampled."""

    def open_round(self, number: int) -> None:
        """Round ``number`` (from 1) begins."""
        ...


class HumanQueue:
    """The reward that people give.

    A response's value is the share of its comparisons it won (a tie is half a win), in [0, 1]; one
    without a judgement has 0.5. A method on pairs uses the judgements themselves (:meth:`compare`).

    Args:
        folder: where the queue's files lie.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.name = "human_queue"
        self.folder = Path("queue") if folder is None else folder
        self.number = 1
        self._said: dict[tuple[str, str], dict[tuple[str, str], float]] = {}

    @property
    def file(self) -> Path:
        """What people are asked in this round."""
        return self.folder / f"round-{self.number:03d}.jsonl"

    @property
    def labels(self) -> Path:
        """What they answer."""
        return self.folder / f"round-{self.number:03d}.labels.jsonl"

    def open_round(self, number: int) -> None:
        """Begin a round; where it was asked before, its labels are read at once.

        Raises:
            RunPaused: it was asked, and labels are missing.
            RunError: a label that cannot be used, with its file, row and cure.
        """
        self.number = number
        self._said = {}
        if self.file.is_file():
            self._read(self._asked())

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        """Ask about a round's samples, or score them by the labels.

        Raises:
            RunPaused: the labels are not there yet, or not all.
            RunError: the round was asked about other responses, or a label cannot be used.
        """
        rows = self._rows(samples)
        if self.file.is_file():
            if self._asked() != rows:
                raise RunError(
                    f"{self.file} asks about other responses than the run now samples: the model, "
                    "the recipe, the software or the file has changed. Put it back as it was; or "
                    "remove it and its labels, and this round is asked anew."
                )
        elif rows:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        self._read(rows)
        return [Score(self.value(s.prompt, s.text)) for s in samples]

    def value(self, prompt: Prompt, text: str) -> float:
        """The share of its comparisons that a response won; 0.5 for one that has none."""
        won: list[float] = []
        for (a, b), votes in self._said.get(_key(prompt), {}).items():
            if text in (a, b):
                sign = votes if text == a else -votes
                won.append(0.5 if sign == 0 else float(sign > 0))
        return sum(won) / len(won) if won else 0.5

    def compare(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Comparison, ...]:
        votes = self._said.get(_key(prompt), {})
        first = {text: texts.index(text) for text in texts}
        return tuple(
            Comparison(*((first[a], first[b]) if won >= 0 else (first[b], first[a])), tie=won == 0)
            for (a, b), won in votes.items()
            if a in first and b in first
        )

    # -- the round's files ------------------------------------------------------------------------

    def _rows(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """A row for each prompt with at least two different responses, in the samples' order."""
        texts: dict[tuple[str, str], dict[str, None]] = {}
        prompts: dict[tuple[str, str], Prompt] = {}
        for sample in samples:
            key = _key(sample.prompt)
            prompts.setdefault(key, sample.prompt)
            texts.setdefault(key, {})[sample.text] = None
        rows: list[dict[str, Any]] = []
        for key, found in texts.items():
            if len(found) < 2:
                continue
            prompt = prompts[key]
            asked: dict[str, Any] = {"prompt": prompt.text}
            if prompt.text is None:
                turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
                asked = {"messages": turns}
            responses = [{"id": f"r{i + 1}", "text": text} for i, text in enumerate(found)]
            place = {"id": f"{self.number:03d}-{len(rows) + 1:04d}", "prompt_id": prompt.id}
            rows.append(place | asked | {"responses": responses})
        return rows

    def _asked(self) -> list[dict[str, Any]]:
        try:
            lines = self.file.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines if line]
        except ValueError as error:
            raise RunError(f"{self.file} is no longer what the run wrote: {error}") from error

    def _read(self, asked: Sequence[Mapping[str, Any]]) -> None:
        """Fill in what the labels say, or pause until all are there."""
        rows = {str(row["id"]): row for row in asked}
        judged: dict[str, list[tuple[str, str, float]]] = {}
        for number, label in self._labels():
            try:
                name = str(label.get("id"))
                if name not in rows:
                    hint = nearest(name, rows) or f"the ids are those of {self.file.name}"
                    raise RowError(f"no prompt {name!r} in this round", hint)
                judged.setdefault(name, []).extend(_judgements(rows[name], label))
            except RowError as error:
                raise RunError(f"{self.labels}, row {number}: {error}") from error
        missing = [name for name in rows if name not in judged]
        if missing:
            raise RunPaused(self._request(len(rows), missing))
        for name, row in rows.items():
            votes: dict[tuple[str, str], float] = {}
            for a, b, won in judged[name]:
                pair, sign = ((a, b), won) if (b, a) not in votes else ((b, a), -won)
                votes[pair] = votes.get(pair, 0) + sign
            self._said[_row_key(row)] = votes

    def _labels(self) -> list[tuple[int, Mapping[str, Any]]]:
        if not self.labels.is_file():
            return []
        out: list[tuple[int, Mapping[str, Any]]] = []
        for row in iter_rows(self.labels):
            if isinstance(row, Skipped):
                raise RunError(f"{row.source}: {row.reason}: {row.cure}")
            out.append((row.source.row, row.data))
        return out

    def _request(self, total: int, missing: Sequence[str]) -> str:
        if len(missing) == total:
            what = f"{total} prompts wait for their labels"
        else:
            named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            what = f"{len(missing)} of {total} prompts still have no label ({named})"
        return (
            f"round {self.number}: {what}. Read {self.file}, write {self.labels} with lines like\n"
            '  {"id": "ID", "ranks": {"r1": 1, "r2": 2}}  or  {"id": "ID", "better": "r1", "worse":'
            ' "r2"}\nand go on with --resume.'
        )


def _key(prompt: Prompt) -> tuple[str, str]:
    """What makes two prompts of a round the same."""
    turns = [[m.role, m.content] for m in prompt.messages]
    return prompt.id, json.dumps([prompt.text, turns])


def _row_key(row: Mapping[str, Any]) -> tuple[str, str]:
    turns = [[m["role"], m["content"]] for m in row.get("messages", ())]
    return str(row["prompt_id"]), json.dumps([row.get("prompt"), turns])


def _judgements(row: Mapping[str, Any], label: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(text, other text, its vote: 0 for a tie) for each pair that a label judges.

    Raises:
        RowError: it judges nothing, or not in a way that can be understood.
    """
    ways = [name for name in HOW if label.get(name) is not None]
    if len(ways) != 1:
        close = next((h for k in label if k != "id" and (h := nearest(str(k), HOW))), "")
        raise RowError(
            f"a label has one of {', '.join(HOW)}; this one has {' and '.join(ways) or 'none'}",
            close or "keep one of them",
        )
    responses = [dict(r) for r in row["responses"]]
    if ways == ["skip"]:
        if not as_bool(label["skip"], "skip"):
            raise RowError("skip is false and nothing is judged", "judge it, or write skip: true")
        return []
    data: dict[str, Any] = {"responses": responses}
    if ways == ["ranks"]:
        _rank(responses, label["ranks"])
    elif ways == ["better"]:
        data["comparisons"] = [{k: v for k, v in label.items() if k != "id"}]
    else:
        data[ways[0]] = label[ways[0]]
    said = parse_ranking(Row(data, Source("a label", 1), ""))
    texts = [str(r["text"]) for r in row["responses"]]
    comparisons = said.comparisons or comparisons_from_ranks(
        [r for r in said.ranks if r is not None]
    )
    return [
        (texts[c.better], texts[c.worse], 0.0 if c.tie else c.weight)
        for c in comparisons
        if c.weight > 0
    ]


def _rank(responses: Sequence[dict[str, Any]], ranks: Any) -> None:
    """Give each response its rank."""
    ids = [r["id"] for r in responses]
    if not isinstance(ranks, Mapping):
        raise RowError("'ranks' is not an object", 'write {"r1": 1, "r2": 2}')
    for name in ranks:
        if name not in ids:
            hint = nearest(str(name), ids) or f"the responses are {', '.join(ids)}"
            raise RowError(f"'ranks' names an unknown response {name!r}", hint)
    for response in responses:
        if ranks.get(response["id"]) is None:
            raise RowError(f"'ranks' leaves out {response['id']!r}", "rank every response")
        response["rank"] = ranks[response["id"]]
