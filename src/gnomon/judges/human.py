"""People as a judge: responses go into a file, the run pauses, labels come back in another.

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
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.data.fields import Row
from gnomon.data.preferences import parse_ranking
from gnomon.data.rows import iter_rows
from gnomon.data.values import RowError, Skipped, as_bool
from gnomon.errors import Pending, RunError
from gnomon.files import write_text
from gnomon.judges.protocol import Judge
from gnomon.plugins import nearest
from gnomon.records import (
    Comparison,
    Group,
    Judgement,
    Prompt,
    Score,
    Source,
    comparisons_from_ranks,
)

WAYS = ("ranks", "ranking", "better", "comparisons", "skip")
"""Ways to judge, of which a label has exactly one."""
Votes = Mapping[tuple[str, str], float]
"""How far the first of two texts is preferred to the second (below 0: the second is; 0: a tie)."""


class HumanQueue(Judge):
    """People as a judge: a judgement holds the comparisons that they made, as they made them.

    A response's score is the share of its comparisons that it won (a tie is half a win), in
    [0, 1]; one without a comparison has 0.5.

    Args:
        folder: of the queue's files.
    """

    groupwise = True
    in_rounds = True

    def __init__(self, folder: Path | None = None) -> None:
        self.name = "human_queue"
        self.folder = Path("queue") if folder is None else folder
        self.number = 1

    @property
    def file(self) -> Path:
        """What people are asked in this round."""
        return self.folder / f"round-{self.number:03d}.jsonl"

    @property
    def labels(self) -> Path:
        """What they answer."""
        return self.folder / f"round-{self.number:03d}.labels.jsonl"

    def begin(self, round: int) -> None:
        """Begin a round; if people were asked about it before, their labels must be there.

        Raises:
            Pending: people were asked, and labels are missing.
            RunError: a label that cannot be used, with its file, row and cure.
        """
        self.number = round
        if self.file.is_file():
            self._read(self._asked())

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Ask about a round's groups, or return the judgements in its labels.

        Raises:
            Pending: the labels are not there yet, or not all.
            RunError: the round was asked about other responses, or a label cannot be used.
        """
        asked = self._rows(groups)
        rows = list(asked.values())
        if self.file.is_file():
            if self._asked() != rows:
                raise RunError(
                    f"{self.file} asks about other responses than the run now samples: the model, "
                    "the recipe, the software or the file has changed. Put it back as it was; or "
                    "remove it and its labels, and people are asked about this round again."
                )
        elif rows:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        votes = dict(zip(asked, self._read(rows), strict=True))
        return [self._judgement(group, votes.get(_key(group.prompt), {})) for group in groups]

    def _judgement(self, group: Group, votes: Votes) -> Judgement:
        """The judgement in the labels; equal texts are compared as the first of them."""
        texts = [response.text for response in group.responses]
        first = {text: texts.index(text) for text in texts}
        compared = tuple(
            Comparison(*((first[a], first[b]) if won >= 0 else (first[b], first[a])), tie=won == 0)
            for (a, b), won in votes.items()
            if a in first and b in first
        )
        scores = tuple(Score(_share_won(votes, text)) for text in texts)
        return Judgement(self.name, scores, compared)

    # -- the round's files ------------------------------------------------------------------------

    def _rows(self, groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
        """A row for each prompt with at least two different responses, in the groups' order, by
        what tells the prompts apart."""
        texts: dict[str, dict[str, None]] = {}
        prompts: dict[str, Prompt] = {}
        for group in groups:
            key = _key(group.prompt)
            prompts.setdefault(key, group.prompt)
            texts.setdefault(key, {}).update({r.text: None for r in group.responses})
        rows: dict[str, dict[str, Any]] = {}
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
            rows[key] = place | asked | {"responses": responses}
        return rows

    def _asked(self) -> list[dict[str, Any]]:
        try:
            lines = self.file.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines if line]
        except ValueError as error:
            raise RunError(f"{self.file} is no longer what the run wrote: {error}") from error

    def _read(self, asked: Sequence[Mapping[str, Any]]) -> list[Votes]:
        """The votes in the labels of each row.

        Raises:
            Pending: some are missing.
            RunError: a label that cannot be used.
        """
        rows = {str(row["id"]): row for row in asked}
        judged: dict[str, list[tuple[str, str, float]]] = {}
        for number, label in self._labels():
            try:
                name = str(label.get("id"))
                if name not in rows:
                    hint = nearest(name, rows) or f"the ids are those of {self.file.name}"
                    raise RowError(f"no prompt {name!r} in this round", hint)
                judged.setdefault(name, []).extend(judgements_of(rows[name], label))
            except RowError as error:
                raise RunError(f"{self.labels}, row {number}: {error}") from error
        missing = [name for name in rows if name not in judged]
        if missing:
            raise Pending(self._request(len(rows), missing), partial(self._left, asked))
        return [_counted(judged[name]) for name in rows]

    def _left(self, asked: Sequence[Mapping[str, Any]]) -> str:
        """What is still missing, for who waits; empty once all of it is there."""
        try:
            self._read(asked)
        except Pending as pause:
            return str(pause).split(". Read ")[0]
        return ""

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
            ' "r2"}\nThen resume with --resume.'
        )


def _counted(judgements: Sequence[tuple[str, str, float]]) -> Votes:
    """The sum of the votes on each pair, in the order in which it was first judged."""
    votes: dict[tuple[str, str], float] = {}
    for a, b, won in judgements:
        pair, sign = ((a, b), won) if (b, a) not in votes else ((b, a), -won)
        votes[pair] = votes.get(pair, 0) + sign
    return votes


def _share_won(votes: Votes, text: str) -> float:
    """The share of its comparisons that a response won; 0.5 for one that has none."""
    signs = [won if text == a else -won for (a, b), won in votes.items() if text in (a, b)]
    points = [0.5 if sign == 0 else float(sign > 0) for sign in signs]
    return sum(points) / len(points) if points else 0.5


def _key(prompt: Prompt) -> str:
    """What makes two prompts of a round the same."""
    return json.dumps([prompt.id, prompt.text, [[m.role, m.content] for m in prompt.messages]])


def judgements_of(row: Mapping[str, Any], label: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(text, other text, its vote: 0 for a tie) for each pair that a label judges.

    Raises:
        RowError: it judges nothing, or not in a way that can be understood.
    """
    ways = [name for name in WAYS if label.get(name) is not None]
    if len(ways) != 1:
        close = next((h for k in label if k != "id" and (h := nearest(str(k), WAYS))), "")
        raise RowError(
            f"a label has one of {', '.join(WAYS)}; this one has {' and '.join(ways) or 'none'}",
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
    ranked = parse_ranking(Row(data, Source("a label", 1), ""))
    texts = [str(r["text"]) for r in row["responses"]]
    comparisons = ranked.comparisons or comparisons_from_ranks(
        [r for r in ranked.ranks if r is not None]
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
