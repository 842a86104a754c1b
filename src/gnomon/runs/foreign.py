"""Rows that TRL and verl log, by gnomon's names; see :mod:`gnomon.runs.imported`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.errors import DataError
from gnomon.files import first_line
from gnomon.runs.not_finite import not_finite

Trainer = Literal["trl", "verl"]
METRICS: Mapping[Trainer, Mapping[str, str]] = {
    "trl": {
        "learning_rate": "lr",
        "completions/mean_length": "length",
        "frac_reward_zero_std": "zero_spread",
        "sampling/sampling_logp_difference/mean": "mismatch",
        "clip_ratio/region_mean": "clip_fraction",
    },
    "verl": {
        "critic/score/mean": "reward",
        "actor/entropy": "entropy",
        "actor/entropy_loss": "entropy",
        "actor/grad_norm": "grad_norm",
        "actor/lr": "lr",
        "actor/pg_clipfrac": "clip_fraction",
        "critic/vf_explained_var": "explained_variance",
        "response_length/mean": "length",
    },
}
"""gnomon's names for what is the same figure in the same unit; others keep their own."""
CUT_OFF = {"completions/clipped_ratio", "response_length/clip_ratio"}
"""Shares of answers that were cut off: 1 less them is ``finished``."""


@dataclass
class Imported:
    """What was imported, and what was not there.

    Attributes:
        rewards: names of the columns that the reward is the weighted sum of, with their weights.
        judges: names of the columns that were logged without being trained on.
        notes: what is missing, kept under its own name, or does not fit, in words.
        skipped: rows that could not be read.
    """

    folder: Path
    trainer: Trainer
    samples: int = 0
    rows: int = 0
    rewards: dict[str, float] = field(default_factory=dict)
    judges: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)


THEIRS = "theirs/"
"""Before the name of a column that means something else in gnomon's samples."""


def keep_apart(rows: Iterable[dict[str, Any]], names: Iterable[str], out: Imported) -> None:
    """Rename columns that hold something else than gnomon's of that name do."""
    for row in rows:
        for name in names:
            if (value := row.pop(name, None)) is not None:
                row[THEIRS + name] = value
                out.note(f"column {name!r} means something else here; kept as {THEIRS + name!r}")


WANTED: Mapping[Trainer, str] = {
    "trl": "completions/completions_<step>.parquet, from log_completions=True",
    "verl": "<step>.jsonl, from trainer.rollout_data_dir",
}


def detect(source: Path) -> Trainer:
    """Whose logs a folder holds.

    Raises:
        DataError: nobody's that are known.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder: give TRL's output_dir or verl's rollouts")
    for trainer in ("trl", "verl"):
        if rollouts(source, trainer):
            return trainer
    wanted = "; ".join(f"{name}: {what}" for name, what in WANTED.items())
    raise DataError(f"{source} holds no rollouts that are known ({wanted})")


def rollouts(source: Path, trainer: Trainer) -> list[Path]:
    if trainer == "trl":
        places = (source, source / "completions")
        found = [f for p in places for f in p.glob("completions*.*")]
        return sorted(f for f in found if f.suffix in (".parquet", ".jsonl"))
    numbered = [f for f in source.glob("*.jsonl") if re.fullmatch(r"\d+", f.stem)]
    return sorted(numbered, key=lambda f: int(f.stem))


# -- reading --------------------------------------------------------------------------------------


def _raw(file: Path, out: Imported) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number, row) of a file; a file or line that cannot be read is noted and passed over."""
    if file.suffix == ".parquet":
        try:
            yield from enumerate(pq.read_table(file).to_pylist(), start=1)
        except (pa.ArrowException, OSError, ValueError) as error:
            out.skipped.append(f"{file.name} cannot be read ({first_line(error)})")
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, Mapping):
                yield number, row
            else:
                out.skipped.append(f"{file.name}, row {number}: not a JSON object")


def sample_rows(files: Sequence[Path], trainer: Trainer, out: Imported) -> Iterator[dict[str, Any]]:
    """Rows of samples; every other column is under its own name."""
    asked, said = ("prompt", "completion") if trainer == "trl" else ("input", "output")
    for file in files:
        for number, row in _raw(file, out):
            prompt, response = _text(row.get(asked)), _answer(row.get(said))
            step = row.get("step", int(file.stem) if file.stem.isdigit() else None)
            if prompt is None or response is None or not is_number(step):
                lacks = [k for k, v in ((asked, prompt), (said, response)) if v is None] or ["step"]
                has = ", ".join(map(str, row))
                out.skipped.append(f"{file.name}, row {number}: no {lacks[0]} (it has {has})")
                continue
            others = {k: v for k, v in row.items() if k not in (asked, said, "step")}
            keep_apart([others], ("prompt", "response"), out)
            yield {"step": int(step), "prompt": prompt, "response": response, **others}


def _text(raw: Any) -> str | None:
    """A prompt as text; of a conversation the turns, others than the user's with their role."""
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list) or not all(isinstance(turn, Mapping) for turn in raw):
        return None
    turns = [(str(t.get("role")), _content(t.get("content"))) for t in raw]
    return "\n".join(text if role == "user" else f"[{role}] {text}" for role, text in turns)


def _answer(raw: Any) -> str | None:
    """A completion as text; of a conversation the assistant's turns alone."""
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list) or not all(isinstance(turn, Mapping) for turn in raw):
        return None
    return "\n".join(_content(t.get("content")) for t in raw if t.get("role") == "assistant")


def _content(raw: Any) -> str:
    if isinstance(raw, list):  # parts, of which the texts are kept
        return " ".join(str(p.get("text", "")) for p in raw if isinstance(p, Mapping))
    return "" if raw is None else str(raw)


def is_number(raw: Any) -> bool:
    return isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)


# -- metrics --------------------------------------------------------------------------------------


def metric_rows(
    source: Path, file: Path | None, trainer: Trainer, out: Imported
) -> Iterator[dict[str, Any]]:
    """Rows of metrics under gnomon's names where they are the same figure."""
    file = file or metrics_file(source, trainer)
    if file is None:
        wanted = "trainer_state.json" if trainer == "trl" else "the file of trainer.logger=[file]"
        out.note(f"no metrics: {wanted} is not in {source} (give it with --metrics)")
        return
    broken: dict[str, list[int]] = {}
    for row in _last_attempt(_logged(file, out), out):
        if is_number(row.get("step")):
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    broken.setdefault(name, []).append(int(row["step"]))
            yield _renamed(row, trainer)
    for said in not_finite(broken):
        out.note(said)


def _last_attempt(rows: Iterable[Mapping[str, Any]], out: Imported) -> Iterator[Mapping[str, Any]]:
    """The rows that count: a run that was resumed from an earlier checkpoint goes on in the same
    file from there, and what it had logged beyond that step is of weights that are gone. Rows of
    other metrics (an evaluation's) may come later than those of later steps."""
    kept: dict[frozenset[str], list[tuple[int, Mapping[str, Any]]]] = {}
    other: list[tuple[int, Mapping[str, Any]]] = []
    gone: list[int] = []
    for place, row in enumerate(rows):
        step = row.get("step")
        if not is_number(step):
            other.append((place, row))
            continue
        same = kept.setdefault(frozenset(row), [])
        while same and same[-1][1]["step"] >= step:
            gone.append(int(same.pop()[1]["step"]))
        same.append((place, row))
    if gone:
        some = f"{min(gone)} to {max(gone)}" if len(gone) > 1 else str(gone[0])
        out.note(
            f"{len(gone)} rows of metrics (steps {some}) were logged before the run went back to "
            "an earlier step, as one that was resumed does: what came later counts"
        )
    found = [*other, *(pair for same in kept.values() for pair in same)]
    yield from (row for _, row in sorted(found, key=lambda pair: pair[0]))


def metrics_file(source: Path, trainer: Trainer) -> Path | None:
    """Where the metrics lie; None where they do not."""
    if trainer == "verl":
        places = [source / "metrics.jsonl", source.parent / "metrics.jsonl"]
        return next((place for place in places if place.is_file()), None)
    own = [source / "trainer_state.json", source.parent / "trainer_state.json"]
    saved = sorted(source.glob("checkpoint-*/trainer_state.json"), key=_checkpoint_step)
    return next((place for place in [*own, *saved[::-1]] if place.is_file()), None)


def _checkpoint_step(file: Path) -> int:
    number = re.search(r"\d+$", file.parent.name)
    return int(number.group()) if number else -1


def _logged(file: Path, out: Imported) -> Iterator[Mapping[str, Any]]:
    """The rows of metrics in a file: log_history's, or a line's ``data`` with its step."""
    if file.suffix == ".json":
        try:
            history = json.loads(file.read_text(encoding="utf-8")).get("log_history")
        except (OSError, ValueError, AttributeError) as error:
            out.note(f"no metrics: {file.name} cannot be read ({first_line(error)})")
            return
        if not isinstance(history, list):
            out.note(f"no metrics: {file.name} has no log_history")
            return
        yield from (row for row in history if isinstance(row, Mapping))
        return
    try:
        for _, row in _raw(file, out):
            data = row.get("data")
            yield {"step": row.get("step"), **data} if isinstance(data, Mapping) else row
    except OSError as error:
        out.note(f"no metrics: {file} cannot be read ({first_line(error)})")


def _renamed(row: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """A row of numbers by gnomon's names.

    TRL's ``kl`` is per token; gnomon's is per response, so it is multiplied by the mean length.
    Without one it is kept per token alone, under another name.
    """
    named: dict[str, Any] = {"step": int(row["step"])}
    for key, value in row.items():
        if key == "step" or not (is_number(value) or value is None):
            continue
        prefix, name = ("eval/", key[5:]) if key.startswith("eval_") else ("", key)
        if name in CUT_OFF:
            named[f"{prefix}finished"] = None if value is None else 1.0 - value
        else:
            named[prefix + METRICS[trainer].get(name, name)] = value
    for prefix in ("", "eval/"):
        if f"{prefix}kl" in named:
            nats, length = named.pop(f"{prefix}kl"), named.get(f"{prefix}length")
            named[f"{prefix}kl/token"] = nats
            if trainer == "trl" and is_number(nats) and is_number(length):
                named[f"{prefix}kl"] = nats * length
    return named
