"""What people chose in a blind A/B, as preference rows that every stage can read.

A contest has two files in ``preferences/``::

    NAME.jsonl          {"prompt": ..., "response_a": ..., "response_b": ..., "preference": "a",
                         "labeller": ..., "time": ..., "seconds": ..., "guideline": null, ...}
    NAME.skipped.jsonl  {"pair": ..., "labeller": ..., "time": ...}

``response_a`` is what was shown first (left, or above), ``model_a`` whose it was. A row is in the
file, and on the disk, before the next pair is shown; a line that a killed process left half-written
is cut off when the file is next written to.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock

from gnomon.errors import DataError
from gnomon.files import first_line, make_folder, plain_errors, write_text
from gnomon.stats.intervals import Interval, weighted_proportion
from gnomon.stats.judges import JudgedPair, detectable_difference
from gnomon.view.sides import Contest, Pair

FOLDER = "preferences"
Choice = Literal["1", "2", "tie", "skip"]
_VERDICTS = {"1": "a", "2": "b", "tie": "tie"}
_LONGEST_NAME = 40
_LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What was chosen, with the names of the two.

    Attributes:
        share: of the votes that ``b`` won against ``a``, a tie as half a win; votes on the same
            prompt count as dependent.
        first: the share of decided votes that went to what was shown first; half where order does
            not matter.
        detectable: the smallest share that so many prompts show with a chance of 80%; None where
            not even 1 would be.
        by_labeller: (who, their votes, ``share`` of theirs).
    """

    a: str
    b: str
    share: Interval
    wins: int
    losses: int
    ties: int
    first: Interval
    detectable: float | None
    by_labeller: list[tuple[str, int, Interval]]
    problems: list[str]


class Ballots:
    """The choices of one contest.

    Args:
        folder: where ``preferences/`` is, or will be.
    """

    def __init__(self, folder: Path, contest: Contest) -> None:
        self.contest = contest
        name = "-vs-".join(_slug(side.label) for side in (contest.a, contest.b))
        known = sorted((folder / FOLDER).glob(f"*-{contest.id}.jsonl"))
        self.file = known[0] if known else folder / FOLDER / f"{name}-{contest.id}.jsonl"
        self.skips = self.file.with_suffix(".skipped.jsonl")

    # -- what is there --------------------------------------------------------------------------

    def rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The preference rows of this contest, and what could not be read."""
        return _rows(self.file)

    def answered(self, who: str) -> set[str]:
        """The pairs that somebody judged or skipped."""
        rows = [*self.rows()[0], *_rows(self.skips)[0]]
        return {str(row.get("pair")) for row in rows if row.get("labeller") == who}

    def outcome(self) -> Outcome:
        """The result, which unblinds."""
        rows, problems = self.rows()
        a, b = self.contest.a, self.contest.b
        rows, gone = self._standing(rows)
        problems += gone
        told = [(row, won) for row in rows if (won := _won(row, b.key)) is not None]
        wins, who = [won for _, won in told], [str(row.get("labeller")) for row, _ in told]
        prompts = [str(row.get("prompt")) for row, _ in told]
        decided = [row["preference"] for row, won in told if won != 0.5]
        by_labeller = []
        for name in dict.fromkeys(who):
            own = [i for i, n in enumerate(who) if n == name]
            share = weighted_proportion([wins[i] for i in own], clusters=[prompts[i] for i in own])
            by_labeller.append((name, len(own), share))
        return Outcome(
            a=a.label, b=b.label, share=weighted_proportion(wins, clusters=prompts),
            wins=wins.count(1.0), losses=wins.count(0.0), ties=wins.count(0.5),
            first=weighted_proportion([float(v == "a") for v in decided]),
            detectable=_detectable(wins, prompts), by_labeller=by_labeller, problems=problems,
        )  # fmt: skip

    def _standing(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
        """The rows on pairs that are there still, and how many are not, in words: a run that was
        made anew, or whose last evaluation is a later one, has other answers under its name. Of a
        contest that has none from the start, as in a chat, all stand."""
        pairs = {pair.id for pair in self.contest.pairs}
        kept = [row for row in rows if not pairs or row.get("pair") in pairs]
        lost = len(rows) - len(kept)
        if not lost:
            return kept, []
        return kept, [
            f"{lost} of {len(rows)} choices are between answers that are no longer there, and do "
            "not count: the runs have others now"
        ]

    # -- what is added --------------------------------------------------------------------------

    def choose(self, pair: Pair, swapped: bool, choice: Choice, who: str, seconds: float) -> bool:
        """Add a choice; False, adding none, where this person judged the pair before.

        Args:
            swapped: whether ``pair.b`` was shown first.
            choice: "1" is what was shown first.

        Raises:
            RunError: it cannot be written.
        """
        with self._alone():
            if pair.id in self.answered(who):
                return False
            if choice == "skip":
                _append(self.skips, {"pair": pair.id, "labeller": who, "time": _time()})
                return True
            sides = [(pair.a, self.contest.a), (pair.b, self.contest.b)]
            (first, model_a), (second, model_b) = reversed(sides) if swapped else sides
            row: dict[str, Any] = {
                "prompt": [asdict(turn) for turn in first.turns] or first.prompt,
                "response_a": first.response,
                "response_b": second.response,
                "preference": _VERDICTS[choice],
                "labeller": who,
                "time": _time(),
                "seconds": round(min(max(seconds, 0.0), _LONGEST_SECONDS), 1),
                "guideline": None,
                "model_a": model_a.key,
                "model_b": model_b.key,
                "pair": pair.id,
                "prompt_id": pair.a.prompt_id,
            }
            if pair.a.category:
                row["category"] = pair.a.category
            _append(self.file, row)
            return True

    def undo(self, who: str) -> str | None:
        """Take back somebody's last choice; the pair's id, or None where there is none.

        Raises:
            RunError: it cannot be written.
        """
        with self._alone():
            last: tuple[str, Path] | None = None
            for file in (self.file, self.skips):
                for row in _rows(file)[0]:
                    if row.get("labeller") == who:
                        last = max(last or ("", file), (str(row.get("time")), file))
            return None if last is None else _without_last(last[1], who)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes here meanwhile, from this program or another."""
        make_folder(self.file.parent)
        with plain_errors(self.file), filelock.FileLock(self.file.with_suffix(".lock"), timeout=10):
            yield


def _detectable(wins: Sequence[float], prompts: Sequence[str]) -> float | None:
    """See :attr:`Outcome.detectable`: people are their own judge, whom nothing distorts."""
    pairs = [
        JudgedPair(prompt, (won,), won, won) for won, prompt in zip(wins, prompts, strict=True)
    ]
    beyond = detectable_difference(pairs, len(set(prompts)))
    return 0.5 + beyond if math.isfinite(beyond) else None


def _won(row: Mapping[str, Any], key: str) -> float | None:
    """1 where the side called ``key`` was preferred, 0 where the other was, 0.5 for a tie."""
    verdict = row.get("preference")
    if verdict == "tie":
        return 0.5
    if verdict not in ("a", "b"):
        return None
    return float(row.get(f"model_{verdict}") == key)


def _time() -> str:
    """UTC, to a microsecond, so that the last choice is known."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _rows(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise DataError(f"{file} cannot be read ({first_line(error)})") from error
    rows, wrong = [], []
    for number, line in enumerate(lines[:-1], start=1):  # the last is empty, or was cut off
        row = _parsed(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            wrong.append(f"{file.name}, line {number}: not a row; it does not count")
    if lines[-1].strip():
        wrong.append(f"{file.name}: the last line was cut off; that choice is asked again")
    return rows, wrong


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row and force it to disk; half a line at the end is cut off before."""
    text = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    with file.open("a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        whole = _whole(stream, size)
        if whole < size:
            stream.truncate(whole)
        try:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            os.ftruncate(stream.fileno(), whole)
            raise


def _whole(stream: Any, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    place, block = size, 4096
    while place > 0:
        start = max(0, place - block)
        stream.seek(start)
        found = stream.read(place - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        place = start
    return 0


def _without_last(file: Path, who: str) -> str:
    """Write the file without somebody's last row, in one step; the pair of that row."""
    lines = file.read_bytes().decode("utf-8", "replace").split("\n")
    rows = [(i, row) for i, line in enumerate(lines) if (row := _parsed(line.encode())) is not None]
    own = [(i, row) for i, row in rows if row.get("labeller") == who]
    place, row = own[-1]
    write_text(file, "\n".join(lines[:place] + lines[place + 1 :]))
    return str(row.get("pair"))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:_LONGEST_NAME] or "model"


def order(pairs: Sequence[Pair], who: str, secret: bytes) -> list[tuple[Pair, bool]]:
    """The pairs in somebody's own random order, each with whether the second is shown first.

    It is the same until the program ends, so that a page that is loaded again shows no hint.
    """

    def drawn(pair: Pair) -> bytes:
        return hmac.new(secret, f"{who}\0{pair.id}".encode(), hashlib.sha256).digest()

    return [(pair, bool(drawn(pair)[-1] & 1)) for pair in sorted(pairs, key=drawn)]
