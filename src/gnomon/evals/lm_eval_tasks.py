"""lm-eval's tasks by name: from the hub, from local files, or from YAML of one's own.

HumanEval's problems get another grader: lm-eval's own (``code_eval``) runs the model's programs
with the user's rights; here they run in gnomon's sandbox.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
from lm_eval import tasks
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.evals.lm_eval_files import Row, Splits, by_subject, format_of, read_rows
from gnomon.evals.lm_eval_programs import program_task
from gnomon.files import first_line
from gnomon.plugins import did_you_mean, nearest

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
DEFAULTS = Path(str(tasks.__file__)).parent
"""The folder of lm-eval's own tasks."""
YAML = (".yaml", ".yml")


@dataclass
class Loaded:
    """Tasks that can be run.

    Attributes:
        tasks: by their names.
        groups: names of tasks by the group (or tag) that was asked for.
        by_size: groups whose score counts every item alike; others count every task alike.
        notes: what a reader of the figures must know.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    by_size: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


@lru_cache(maxsize=8)
def _manager(*folders: Path) -> TaskManager:
    """The tasks in some folders; those of all of lm-eval's take some seconds to read."""
    with quiet():
        return TaskManager(include_path=list(map(str, folders)), include_defaults=False)


def manager_of(names: Sequence[str], include: Path | None) -> TaskManager:
    """A manager that knows all of ``names``; the smallest one that does.

    Raises:
        ConfigError: there is no such task; with the nearest name.
    """
    family = DEFAULTS / names[0].split("_")[0]
    for folder in (include, family):
        if folder is None or not folder.is_dir():
            continue
        known = _manager(folder).task_index
        # a group or tag may have members elsewhere, but for the families known here
        if all(
            name in known and (known[name].kind.name == "TASK" or format_of(name) is not None)
            for name in names
        ):
            return _manager(folder)
    manager = _manager(*filter(None, (DEFAULTS, include)))
    for name in names:
        if name not in manager.task_index and not name.endswith(YAML):
            near = nearest(name, manager.all_tasks) or "`lm-eval ls tasks` lists them"
            raise ConfigError(f"lm-eval has no task {name!r}; {near}")
    return manager


def load_tasks(
    names: Sequence[str],
    files: Mapping[str, Splits],
    *,
    base: Path,
    include: Path | None = None,
    shots: int | None = None,
    shots_seed: int = 1234,
    generation: Mapping[str, Any] | None = None,
) -> Loaded:
    """Make the tasks ready: rows read, shots and settings set.

    Args:
        names: of tasks, groups, tags, or YAML files.
        files: local files, by the name they are for.
        base: the folder that YAML files are looked up in.
        include: a folder with YAML of one's own; its ``!function`` code is run.
        shots: instead of the tasks' own number, except where that is 0 by design.
        shots_seed: of shots that are drawn.
        generation: changes of the generation settings.

    Raises:
        ConfigError, DataError: no such task, or its data is not there.
    """
    manager = manager_of(names, include)
    loaded = Loaded()
    for name in names:
        with quiet(), _explained(name, name in files):
            if name in files:
                _load_local(loaded, manager, name, files[name], shots)
            else:
                _load_named(loaded, manager, name, base)
    for name, task in loaded.tasks.items():
        if shots is not None and task.get_config("num_fewshot") == 0 and shots:
            loaded.notes.append(f"{name} is made for 0 shots and has none, as in lm-eval")
        elif shots is not None:
            task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(shots_seed)
        if generation and task.get_config("output_type") == "generate_until":
            task.set_config("generation_kwargs", dict(generation), update=True)
    return loaded


def _load_named(loaded: Loaded, manager: TaskManager, name: str, base: Path) -> None:
    """A task with the data of the hub (or of its own YAML)."""
    if name.endswith(YAML):
        path = base / name
        if not path.is_file():
            raise ConfigError(f"no task file {path}")
        name = str(path)
    entry = manager.task_index.get(name)
    if entry is not None and (entry.cfg or {}).get("unsafe_code"):
        found = manager.load([program_task(name, entry.cfg)])
    else:
        found = manager.load([name])
    for task_name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(
                f"task {task_name} runs the model's programs with your own rights, so it is "
                "refused; HumanEval's tasks are graded in gnomon's sandbox"
            )
        loaded.tasks[task_name] = task
    _note_group(loaded, manager, name, list(found["tasks"]))


def _note_group(loaded: Loaded, manager: TaskManager, name: str, members: list[str]) -> None:
    if members == [name] or len(members) < 2:
        return
    loaded.groups[name] = members
    entry = manager.task_index.get(name)
    how = (entry.cfg or {}).get("aggregate_metric_list") if entry is not None else None
    if how is None or all(dict(one).get("weight_by_size", True) for one in how):
        loaded.by_size.add(name)


def _load_local(
    loaded: Loaded, manager: TaskManager, name: str, files: Splits, shots: int | None
) -> None:
    """A task, or each task of a group, with rows of local files."""
    members = _members(manager, name)
    rows = {split: read_rows(file, members[0]) for split, file in files.items()}
    form = format_of(members[0])
    if len(members) > 1 and (form is None or not form.subjects):
        raise ConfigError(
            f"files: {name} is a group of {len(members)} tasks, and its rows do not say which "
            f"they are of; give files for each of them ({', '.join(members[:3])}, ...)"
        )
    made: list[str] = []
    for member in members:
        entry = manager.task_index[member]
        config = dict(entry.cfg or {})
        if entry.kind.name == "PY_TASK":
            raise ConfigError(f"files: {member} is a task of Python code and reads its own data")
        own = rows
        if form is not None and form.subjects:
            own = by_subject(rows, str(config.get("dataset_name")))
        splits = _splits(member, config, own, shots, files)
        if not splits:
            continue
        found = _build(manager, member, config, splits)
        loaded.tasks[member] = found
        made.append(member)
    if not made:
        known = sorted({str(row.get("subject")) for part in rows.values() for row in part})
        raise DataError(
            f"{', '.join(map(str, files.values()))}: no rows for {name}; they are of "
            f"{', '.join(known[:20])}"
        )
    if len(made) < len(members):
        loaded.notes.append(
            f"{name}: the files hold {len(made)} of its {len(members)} tasks, and the figures are "
            "of those alone"
        )
    _note_group(loaded, manager, name, made)


def _members(manager: TaskManager, name: str) -> list[str]:
    """The tasks that a name stands for, in lm-eval's order."""
    entry = manager.task_index[name]
    if entry.kind.name == "TAG":
        parts: list[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        parts = list((entry.cfg or {}).get("task") or ())
    else:
        return [name]
    found: list[str] = []
    for part in parts:
        inner = part if isinstance(part, str) else part.get("task", part.get("group"))
        if not isinstance(inner, str):
            raise ConfigError(f"files: group {name} is defined inline; name its tasks instead")
        found += _members(manager, inner)
    return list(dict.fromkeys(found))


def _splits(
    task: str,
    config: Mapping[str, Any],
    rows: Mapping[str, list[Row]],
    shots: int | None,
    files: Splits,
) -> dict[str, list[Row]]:
    """The rows by lm-eval's names of the task's splits; empty where there are no questions."""
    asked = str(config.get("test_split") or config.get("validation_split"))
    found = {asked if split == "" else split: part for split, part in rows.items() if part}
    for split in found:
        named = [config.get(name) for name in _SPLITS]
        if split not in named:
            known = sorted({str(name) for name in named if name})
            raise ConfigError(f"files: {task} has no split {split!r}; {did_you_mean(split, known)}")
    if asked not in found:
        return {}
    wanted = config.get("num_fewshot") if shots is None else shots
    source = config.get("fewshot_split")
    own = dict(config.get("fewshot_config") or {}).get("samples")
    if wanted and source and source not in found and own is None:
        raise DataError(
            f"{task} takes {wanted} shots from its split {source!r}, which no file holds "
            f"({', '.join(str(file) for file in files.values())}). Give one (files: {{{task}: "
            f"{{{asked}: FILE, {source}: FILE}}}}), or shots: 0"
        )
    return found


def _build(
    manager: TaskManager, name: str, config: Mapping[str, Any], splits: Mapping[str, list[Row]]
) -> Task:
    """The task with its data set replaced."""
    data = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}

    def local_rows(**unused: Any) -> dict[str, datasets.Dataset]:
        return data

    changes: dict[str, Any] = {
        key: config.get(key) if config.get(key) in data else None for key in _SPLITS
    }
    changes |= {"custom_dataset": local_rows, "dataset_kwargs": {}}
    if config.get("fewshot_config"):
        kept = dict(config["fewshot_config"])
        if kept.get("split") not in data:
            kept.pop("split", None)
        changes["fewshot_config"] = kept
    if config.get("unsafe_code"):
        spec: Any = {**program_task(name, config), **changes}
    else:  # as a member of a group, the task is lm-eval's own with these changes
        spec = {"group": f"local/{name}", "task": [{"task": name, **changes}]}
    return manager.load([spec])["tasks"][name]


@contextmanager
def _explained(name: str, local: bool) -> Iterator[None]:
    """What lm-eval or a data library raises, as an error with a cure."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        if local:
            raise DataError(
                f"lm-eval's task {name} cannot use the rows of its files ({reason}); give the "
                "fields that its data set on the hub has"
            ) from error
        raise DataError(
            f"lm-eval's task {name} could not be loaded ({reason}). Its questions come from the "
            f"hub; without one, give them: files: {{{name}: FILE}}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries' chatter off within the block (over-long texts are counted); errors stay."""
    names = ("lm_eval", "lm-eval", "datasets", "transformers")
    before = [logging.getLogger(name).level for name in names]
    bars = datasets.is_progress_bar_enabled()
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        datasets.disable_progress_bar()
        yield
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
        if bars:
            datasets.enable_progress_bar()
