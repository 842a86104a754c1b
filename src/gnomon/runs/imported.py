"""Runs of other trainers: TRL's and verl's logged rollouts and metrics as a gnomon run's folder.

What they log is laid out as gnomon's own records, so that ``gnomon audit`` and ``gnomon report``
read it. Columns that are not known are kept under their own names; what is not logged is said.

    TRL   ``log_completions=True``: ``completions/completions_*.parquet`` (or .jsonl) with step,
          prompt, completion, one column a reward function, advantage, and what a function logged
          itself; ``trainer_state.json`` with the metrics in ``log_history``. GRPO and RLOO.
    verl  ``trainer.rollout_data_dir``: ``<step>.jsonl`` with input, output, score, step, gts and
          the reward function's extras; the metrics of ``trainer.logger=[file]``, one object with
          step and data a line (plain objects with a step are read too, as exported elsewhere).

Nothing is unpickled: TRL's training_args.bin, which holds the weights of its reward functions, is
not read. They are given, and compared with the mean reward that the metrics log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gnomon.errors import DataError
from gnomon.files import first_line, make_folder, write_folder, write_text
from gnomon.runs.foreign import (
    WANTED,
    Imported,
    Trainer,
    detect,
    is_number,
    keep_apart,
    metric_rows,
    rollouts,
    sample_rows,
)
from gnomon.runs.foreign_columns import fit_columns
from gnomon.runs.foreign_length import Length, length_of
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.records import STAGE, Skipped, StageInfo, now
from gnomon.runs.rows import COLUMNS, MetricsStore, RowStore, SampleStore

SHOWN = 5
"""Rows that are left out and named."""


def import_run(
    source: Path,
    target: Path,
    *,
    trainer: Trainer | None = None,
    metrics: Path | None = None,
    weights: Mapping[str, float] | None = None,
    truths: Sequence[str] = (),
    stage: str = "policy",
    algorithm: str = "grpo",
) -> Imported:
    """Lay another trainer's logs out as a run's folder.

    Args:
        source: TRL's output folder, or verl's folder of rollouts.
        target: the run's folder to be made.
        trainer: whose logs they are; found out by default.
        metrics: the file of metrics, where it is not in ``source``.
        weights: of the reward functions by name, 1 by default. A weight of 0 says that a function
            was only logged: it is a held-out judge.
        truths: names of columns that know a simulation's true answer: no detector reads them.
        algorithm: what the stage is called by.

    Raises:
        DataError: no such logs, none that can be read, or the target is there already.
    """
    if target.exists():
        raise DataError(f"{target} is there already: choose another folder, or remove it")
    found = trainer or detect(source)
    files = rollouts(source, found)
    if not files:
        raise DataError(f"{source} holds none of {found}'s rollouts ({WANTED[found]})")
    out = Imported(target, found)
    rows = list(sample_rows(files, found, out))
    if not rows:
        raise DataError(f"{source}: no row could be read; the first: {out.skipped[0]}")
    logged = list(metric_rows(source, metrics, found, out))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for name in truths:
        if name not in columns and not any(name in row for row in logged):
            raise DataError(
                f"no column {name!r} to take for a truth; there are {', '.join(columns)}"
            )
    _understand_rewards(rows, logged, dict(weights or {}), out)
    fit_columns(rows, out)
    with write_folder(target) as folder:  # whole, or not at all
        length = length_of(source, metrics, found)
        _write(folder, rows, logged, out, stage, algorithm, set(truths), length)
    return out


# -- what is the reward ---------------------------------------------------------------------------


def _understand_rewards(
    rows: list[dict[str, Any]],
    logged: Sequence[Mapping[str, Any]],
    weights: dict[str, float],
    out: Imported,
) -> None:
    """Which columns are rewards, with which weights, and every row's reward."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    means = {key for row in logged for key in row}
    told = [name for name in columns if f"rewards/{name}/mean" in means]
    if out.trainer == "verl":
        names = ["score"]
    elif told or "reward" in columns:
        names = told or ["reward"]
    else:
        names = _numeric(rows, columns)
        out.note(f"which columns are rewards is not logged; taken as such: {', '.join(names)}")
    extra = [name for name in weights if name not in names]
    _check_weights(rows, columns, {name: weights[name] for name in extra}, names)
    out.judges = [*[n for n in names if weights.get(n, 1.0) == 0], *extra]
    out.rewards = {n: weights.get(n, 1.0) for n in names if weights.get(n, 1.0) != 0}
    if not any(is_number(row.get(name)) for row in rows for name in out.rewards):
        out.note("no reward is logged: what is read without one is all that can be looked for")
    whole = all(is_number(row.get(name)) for row in rows for name in out.rewards)
    for row in rows:
        _give_reward(row, out)
    _check_means(rows, logged, out, whole)


def _check_weights(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    extra: Mapping[str, float],
    names: Sequence[str],
) -> None:
    """Refuse weights of columns that the reward is not summed from, but for 0 of one with numbers:
    it was only logged."""
    for name, weight in extra.items():
        if name not in columns:
            raise DataError(f"no column {name!r} to weigh; there are {', '.join(columns)}")
        if weight != 0:
            raise DataError(
                f"{name} is not summed, so it has no weight: the reward is {' + '.join(names)}, as "
                "far as is logged. A weight of 0 says that a column was only logged"
            )
        if not any(is_number(row.get(name)) for row in rows):
            raise DataError(f"{name} holds no numbers, so it is no judge: leave its weight out")


def _numeric(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> list[str]:
    known = ("step", "prompt", "response", "advantage")
    return [
        name
        for name in columns
        if name not in known
        and any(is_number(row.get(name)) for row in rows)
        and all(row.get(name) is None or is_number(row.get(name)) for row in rows)
    ]


def _give_reward(row: dict[str, Any], out: Imported) -> None:
    """The row's reward, parts and judges' figures; a function that gave None counts nothing, as in
    TRL, and a row without any is an error."""
    known = {n: float(row[n]) for n in out.rewards if is_number(row.get(n))}
    parts = dict(known) if len(out.rewards) > 1 else {}
    parts |= {n: float(row[n]) for n in out.judges if is_number(row.get(n))}
    for name in (*out.rewards, *out.judges):
        row.pop(name, None)
    keep_apart([row], ("reward", "parts", "error"), out)
    row["reward"] = sum(out.rewards[n] * v for n, v in known.items()) if known else None
    row["parts"] = json.dumps(parts)
    row["error"] = None if known or not out.rewards else "no reward was logged"


def _check_means(
    rows: Sequence[Mapping[str, Any]],
    logged: Sequence[Mapping[str, Any]],
    out: Imported,
    whole: bool,
) -> None:
    """Say where the rewards of a step are not those that the metrics log.

    TRL logs means over several steps (ten, by default) and samples of one of them. There the logged
    means of the reward functions are summed instead of the samples, if each answer has them all.
    """
    means = {m["step"]: m["reward"] for m in logged if is_number(m.get("reward"))}
    by_step: dict[int, list[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            by_step.setdefault(row["step"], []).append(row["reward"])
    summed = dict(_weighed(logged, out.rewards)) if whole else {}
    for step, values in by_step.items():
        alone = out.trainer != "trl" or step <= 1 or step - 1 in means
        own = sum(values) / len(values) if alone else summed.get(step)
        theirs = means.get(step)
        if own is None or theirs is None:
            continue
        if abs(own - theirs) > 1e-3 * max(1.0, abs(theirs)):
            out.note(
                f"the rewards of step {step} are {own:.4g} on average and the metrics say "
                f"{theirs:.4g}: give the weights of the reward functions (--weight NAME=NUMBER)"
            )
            return


def _weighed(
    logged: Iterable[Mapping[str, Any]], weights: Mapping[str, float]
) -> Iterator[tuple[int, float]]:
    """(step, mean reward) by the means that the metrics log of each reward function."""
    for row in logged:
        parts: dict[str, Any] = {name: row.get(f"rewards/{name}/mean") for name in weights}
        if parts and all(map(is_number, parts.values())):
            yield row["step"], sum(weights[name] * value for name, value in parts.items())


# -- writing --------------------------------------------------------------------------------------


def _write(
    run: Path,
    rows: Sequence[Mapping[str, Any]],
    logged: Sequence[Mapping[str, Any]],
    out: Imported,
    stage: str,
    algorithm: str,
    truths: set[str],
    length: Length | None,
) -> None:
    folder = run / "stages" / f"01-{stage}"
    make_folder(folder)
    samples, metrics = (
        SampleStore(folder / "samples.parquet"),
        MetricsStore(folder / "metrics.parquet"),
    )
    for row in sorted(rows, key=lambda row: int(row["step"])):
        out.samples += _append(samples, _sample(row), out)
    for row in sorted(logged, key=lambda row: int(row["step"])):
        out.rows += _append(metrics, row, out)
    for store in (samples, metrics):
        store.finish()
        store.close()
    names = {name for row in rows for name in row} - {*COLUMNS}
    if names:
        out.note(f"kept under their own names: {', '.join(sorted(names))}")
    for column, meaning in (("length", "words are counted"), ("finished", "taken as finished")):
        if not any(column in row for row in rows):
            out.note(f"{column} is not logged for each answer: {meaning}")
    skipped = Skipped(count=len(out.skipped), examples=out.skipped[:SHOWN])
    iterations = max(int(row["step"]) for row in [*rows, *logged])
    lacks = "" if length is None else length.lacks(iterations)
    if lacks:
        out.note(f"{lacks}: it has not finished")
    StageInfo(
        name=stage,
        algorithm=algorithm,
        status="stopped" if lacks else "done",
        error=lacks,
        planned_iterations=None if length is None else length.planned,
        iterations=iterations,
        skipped=skipped,
    ).write(folder / STAGE)
    Manifest(
        name=out.folder.name,
        started=now(),
        imported={"trainer": out.trainer, "notes": out.notes},
    ).write(run / MANIFEST)
    write_text(run / "recipe.yaml", _recipe(out, stage, algorithm, truths))


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(str(row["prompt"]).encode("utf-8", "replace")).hexdigest()
    plain = {k: v if _is_plain(v) else json.dumps(v, default=str) for k, v in row.items()}
    return {**plain, "prompt_id": digest[:16], "policy_iteration": row["step"]}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _append(store: RowStore, row: Mapping[str, Any], out: Imported) -> int:
    """Add a row; a value of another kind than its column's is left out and said."""
    kept = dict(row)
    while True:
        try:
            store.append(kept)
            return 1
        except TypeError as error:
            name = next((n for n in kept if repr(n) in str(error)), None)
            if name is None:
                raise
            out.note(f"column {name!r} mixes kinds of values: {first_line(error)}; left out there")
            del kept[name]


def _recipe(out: Imported, stage: str, algorithm: str, truths: set[str]) -> str:
    """recipe.yaml as far as the logs tell it: what was trained on, and what was only logged."""

    def entry(name: str, weight: float = 1.0) -> dict[str, Any]:
        found: dict[str, Any] = {"function": f"{out.trainer}:{name}", "name": name}
        found |= {"weight": weight} if weight != 1.0 else {}
        return found | ({"truth": True} if name in truths else {})

    plain = {
        "name": out.folder.name,
        "stages": [
            {
                "name": stage,
                "algorithm": algorithm,
                "reward": [entry(name, weight) for name, weight in out.rewards.items()],
                "observe": [entry(name) for name in out.judges],
            }
        ],
    }
    head = f"# Imported from {out.trainer}'s logs; it is what they tell and cannot be run.\n"
    return head + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
