"""Read a run directory into plain values, whatever is missing from it.

A report can be made of a run that is still going, was killed, or came from an older version: what
cannot be read is left out and named in ``RunView.problems``, and only a folder that is no run at
all is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from gnomon.errors import DataError
from gnomon.files import read_object
from gnomon.runs.rows import lines_of, read_lines

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """A number, and where they were given its interval and how many observations it is of."""

    value: float
    low: float | None = None
    high: float | None = None
    n: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Models (rows) by measures (columns), and samples of each model side by side.

    ``tables`` are further ones, such as pass@k, each with its ``title``; ``reference`` is the model
    that the others are measured against, and ``gains`` are their differences from it in the first
    columns, paired by prompt. ``scores`` are what these columns are means of: for each model and
    column, a prompt's values by its id.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[Measured | None, ...]], ...] = ()
    samples: tuple[Mapping[str, str], ...] = ()
    title: str = "Results"
    tables: tuple[Comparison, ...] = ()
    reference: str = ""
    gains: Mapping[str, tuple[Measured | None, ...]] = field(default_factory=dict)
    scores: Mapping[str, tuple[Mapping[str, Sequence[float | None]], ...]] = field(
        default_factory=dict
    )

    def column(self, name: str) -> list[tuple[str, Measured]]:
        """(model, value) of one column, models without a value left out."""
        i = self.columns.index(name)
        return [(model, v) for model, values in self.rows if (v := values[i]) is not None]


@dataclass(frozen=True)
class StageView:
    """One stage of a run.

    Attributes:
        metrics: column -> [rows] floats, NaN where the row has no value.
        samples: rows of samples.parquet (of samples.jsonl, while the stage goes on).
        evals: evals.json as it stands.
        status: running, done, paused, stopped, failed, or unknown when stage.json is missing.
        error: why it failed, when it did.
    """

    folder: Path
    name: str
    algorithm: str = ""
    status: str = "unknown"
    error: str = ""
    seconds: float | None = None
    cpu_seconds: float | None = None
    iterations: int | None = None
    summary: Mapping[str, Measured] = field(default_factory=dict)
    skipped: int = 0
    skipped_examples: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Column] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    evals: Mapping[str, Any] = field(default_factory=dict)

    def series(self, name: str, against: str = "step") -> tuple[Column, Column]:
        """(x, y) of a metric where it was logged, in order of logging; x counts rows without it."""
        y = self.metrics.get(name)
        if y is None:
            return np.empty(0), np.empty(0)
        x = self.metrics.get(against, np.arange(y.size, dtype=np.float64))
        present = np.isfinite(y) & np.isfinite(x)
        return x[present], y[present]


@dataclass(frozen=True)
class RunView:
    """A whole run, as read from its directory."""

    path: Path
    name: str
    recipe_text: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageView, ...] = ()
    comparison: Comparison = Comparison()
    problems: tuple[str, ...] = ()


def read_run(path: str | Path) -> RunView:
    """Read ``runs/<name>``.

    Raises:
        DataError: the folder does not exist, or holds nothing of a run.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder: give the run's directory, such as runs/<name>")
    folders = sorted((p for p in path.glob("stages/*") if _is_stage(p)), key=_stage_order)
    if not folders and not any((path / f).exists() for f in ("recipe.yaml", "manifest.json")):
        raise DataError(
            f"{path} holds no recipe.yaml, manifest.json or stages/: it is not a run directory"
        )
    problems: list[str] = []
    text, recipe = _recipe(path / "recipe.yaml", problems)
    manifest = _json_object(path / "manifest.json", problems, required=True)
    comparison, problem = read_comparison(path)
    problems += [problem] if problem is not None else []
    return RunView(
        path=path,
        name=path.resolve().name,
        recipe_text=text,
        recipe=recipe,
        manifest=manifest,
        stages=tuple(_stage(folder, problems) for folder in folders),
        comparison=parse_comparison(comparison),
        problems=tuple(problems),
    )


def read_comparison(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """comparison.json of a run's folder, and what is wrong with it; empty where there is none."""
    problems: list[str] = []
    raw = _json_object(Path(path) / "comparison.json", problems)
    if raw and not parse_comparison(raw).rows:
        return {}, "comparison.json holds no comparison"
    return raw, problems[0] if problems else None


def parse_measured(raw: Any) -> Measured | None:
    """A number or ``{"value", "low", "high"}``; None for anything else, NaN included."""
    if isinstance(raw, Mapping):
        value = _finite(raw.get("value"))
        if value is None:
            return None
        return Measured(value, *(_finite(raw.get(key)) for key in ("low", "high", "n")))
    value = _finite(raw)
    return None if value is None else Measured(value)


def parse_comparison(raw: Mapping[str, Any]) -> Comparison:
    """``comparison.json``; underscores of columns become spaces, missing values None."""
    columns = tuple(str(c).replace("_", " ") for c in _items(raw.get("columns")))
    rows: list[tuple[str, tuple[Measured | None, ...]]] = []
    for row in _items(raw.get("rows")):
        if isinstance(row, Mapping):
            values = [parse_measured(v) for v in _items(row.get("values"))][: len(columns)]
            values += [None] * (len(columns) - len(values))
            rows.append((str(row.get("model", f"model {len(rows) + 1}")), tuple(values)))
    gains = {
        str(row.get("model")): tuple(parse_measured(v) for v in _items(row.get("gains")))
        for row in _items(raw.get("rows"))
        if isinstance(row, Mapping)
    }
    samples = [
        {str(k): "" if v is None else str(v) for k, v in sample.items()}
        for sample in _items(raw.get("samples"))
        if isinstance(sample, Mapping)
    ]
    tables = [parse_comparison(t) for t in _items(raw.get("tables")) if isinstance(t, Mapping)]
    title = str(raw.get("title", "Results")).replace("_", " ")
    return Comparison(
        columns,
        tuple(rows),
        tuple(samples),
        title,
        tuple(t for t in tables if t.rows),
        str(raw.get("reference", "")),
        gains,
        _scores(raw),
    )


def _scores(
    raw: Mapping[str, Any],
) -> dict[str, tuple[Mapping[str, Sequence[float | None]], ...]]:
    """Each row's ``scores`` by prompt; rows whose scores are not one list a prompt have none."""
    prompts = [str(prompt) for prompt in _items(raw.get("prompts"))]
    out: dict[str, tuple[Mapping[str, Sequence[float | None]], ...]] = {}
    for row in _items(raw.get("rows")):
        columns = _items(row.get("scores")) if isinstance(row, Mapping) else []
        whole = all(
            isinstance(column, list)
            and len(column) == len(prompts)
            and all(isinstance(v, int | float | None) for own in column for v in _items(own))
            for column in columns
        )
        if columns and whole:
            by_prompt = tuple(
                {prompt: _items(own) for prompt, own in zip(prompts, column, strict=True)}
                for column in columns
            )
            out[str(row.get("model"))] = by_prompt
    return out


def flatten_evals(evals: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Measured]]:
    """(dotted name, value) of every number in an evals.json; lists (tables) are passed over."""
    for key, raw in evals.items():
        name = f"{prefix}{key}"
        value = parse_measured(raw)
        if value is not None:
            yield name, value
        elif isinstance(raw, Mapping):
            yield from flatten_evals(raw, f"{name}.")


def find_tables(evals: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """(path of the parent, value) of every entry called ``key`` at any depth."""
    for name, raw in evals.items():
        if isinstance(raw, Mapping):
            if key in raw:
                yield str(name), raw[key]
            for parent, value in find_tables(raw, key):
                yield f"{name}.{parent}", value


def _stage(folder: Path, problems: list[str]) -> StageView:
    about = _json_object(folder / "stage.json", problems, required=True)
    skipped = about.get("skipped")
    skipped = skipped if isinstance(skipped, Mapping) else {}
    memory, summary = about.get("memory"), about.get("summary")
    summary = summary if isinstance(summary, Mapping) else {}
    iterations, count = _finite(about.get("iterations")), _finite(skipped.get("count"))
    done = about.get("status") == "done"
    samples = _rows(folder / "samples.parquet", done, problems)
    return StageView(
        folder=folder,
        name=str(about.get("name") or re.sub(r"^\d+-", "", folder.name)),
        algorithm=str(about.get("algorithm") or ""),
        status=str(about.get("status") or "unknown"),
        error=str(about.get("error") or ""),
        seconds=_finite(about.get("seconds")),
        cpu_seconds=_finite(about.get("cpu_seconds")),
        iterations=None if iterations is None else int(iterations),
        summary={str(k): m for k, v in summary.items() if (m := parse_measured(v))},
        skipped=int(count or 0),
        skipped_examples=tuple(str(e) for e in _items(skipped.get("examples"))),
        memory=memory if isinstance(memory, Mapping) else {},
        metrics=_columns(_rows(folder / "metrics.parquet", done, problems)),
        samples=[] if samples is None else samples.to_pylist(),
        evals=_json_object(folder / "evals.json", problems),
    )


def _columns(table: pa.Table | None) -> dict[str, Column]:
    if table is None:
        return {}
    out = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            values = table.column(name).to_pylist()
            out[name] = np.array([math.nan if v is None else float(v) for v in values])
    return out


def _rows(parquet: Path, done: bool, problems: list[str]) -> pa.Table | None:
    """A stage's rows: of the parquet file when it is done, else of the lines that it is made of.

    Either stands in for the other where one cannot be read.
    """
    files = [f for f in (parquet, lines_of(parquet)) if f.exists()]
    for file in files if done else files[::-1]:
        try:
            return pq.read_table(file) if file == parquet else read_lines(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = _first_line(error).replace(str(file), file.name)
            problems.append(f"{_short(file)} cannot be read ({reason})")
    return None


def _json_object(path: Path, problems: list[str], required: bool = False) -> dict[str, Any]:
    if not path.exists():
        if required:
            problems.append(f"{_short(path)} is missing: the run has not got that far, or was cut")
        return {}
    try:
        return read_object(path)
    except ValueError as error:
        problems.append(str(error).replace(str(path), _short(path)))
        return {}


def _recipe(path: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.exists():
        problems.append("recipe.yaml is missing: the report cannot say what was asked")
        return "", {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"recipe.yaml cannot be read ({error.strerror})")
        return "", {}
    try:
        parsed = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(f"recipe.yaml cannot be parsed ({_first_line(error)})")
        return text, {}
    if not isinstance(parsed, dict):
        problems.append("recipe.yaml holds no recipe")
        return text, {}
    return text, parsed


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_stage(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _stage_order(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number.group()) if number else 10**9, path.name)


def _short(path: Path) -> str:
    """The path from ``stages/`` on, or the file's name, for messages."""
    parts = path.parts
    return "/".join(parts[parts.index("stages") :]) if "stages" in parts else path.name


def _items(raw: Any) -> list[Any]:
    return list(raw) if isinstance(raw, (list, tuple)) else []


def _finite(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, np.number)):
        return None
    return float(raw) if math.isfinite(raw) else None
