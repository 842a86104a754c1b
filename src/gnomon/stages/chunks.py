"""Rows of prompts, made chunk by chunk: finished chunks are kept over a restart."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.errors import RunError, RunStopped
from gnomon.files import make_folder, write_text
from gnomon.judges.tally import Totals, added
from gnomon.training.progress import Progress
from gnomon.training.watch import Stop


class Rows(Protocol):
    """Makes rows of prompts, so many at a time."""

    def rows(
        self, prompts: Sequence[EncodedPrompt], first: int
    ) -> tuple[list[dict[str, Any]], Totals, int]:
        """Their rows in order, what it took by judge, and the tokens that sampling computed.

        Args:
            first: the place of the first of these prompts among all, which fixes their seeds.
        """
        ...


def chunks(
    maker: Rows,
    prompts: Sequence[EncodedPrompt],
    parts: Path,
    size: int,
    progress: Progress,
    stop: Stop,
) -> tuple[list[dict[str, Any]], Totals, int]:
    """The rows of all chunks of ``size`` prompts, what judging them took, and the tokens that
    sampling computed; chunks that ``parts`` has are taken from there.

    Raises:
        RunError: somebody removed ``parts``.
        RunStopped: the run was asked to stop; finished chunks are kept.
    """
    make_folder(parts)
    everything: list[dict[str, Any]] = []
    judges: Totals = {}
    tokens = 0
    try:
        for first in range(0, len(prompts), size):
            stop.check()
            file = parts / f"{first:08d}.jsonl"
            part = _read_part(file)
            if part is None:
                if not parts.is_dir():
                    raise RunError(
                        f"{parts} was removed while the run was writing it. Put the folder back "
                        "and resume with --resume; without it --resume starts this stage again."
                    )
                rows, took, count = maker.rows(prompts[first : first + size], first)
                text = lines_of(rows)
                last = {"sha256": _hash(text), "judges": took, "tokens": count}
                write_text(file, text + json.dumps(last) + "\n")
                part = _parsed(text), took, count
            everything += part[0]
            judges = added(judges, part[1])
            tokens += part[2]
            progress.update(min(first + size, len(prompts)), {})
    except RunStopped as stopped:
        done = f"{len(everything)} of {len(prompts)} prompts are saved"
        raise RunStopped(done, stopped.signal) from None
    return everything, judges, tokens


def _read_part(file: Path) -> tuple[list[dict[str, Any]], Totals, int] | None:
    """A chunk's rows, what judging them took, and the tokens that sampling computed; None where it
    has not been made, or is not what was written."""
    if not file.exists():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        body, _, last = text.rstrip("\n").rpartition("\n")
        body += "\n" if body else ""
        about = json.loads(last)
        if about["sha256"] == _hash(body):
            return _parsed(body), about.get("judges", {}), about.get("tokens", 0)
        wrong = "its SHA-256 differs"
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong = str(error) or type(error).__name__
    warnings.warn(
        f"{file} is damaged ({wrong}); its prompts are sampled again.",
        stacklevel=2,
    )
    return None


def _parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lines_of(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
