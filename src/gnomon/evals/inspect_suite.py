"""The suite ``inspect``: a task of inspect_ai, with gnomon's engine as the model that it asks."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gnomon.errors import ConfigError, DataError, RunError
from gnomon.evals.asking import Ask
from gnomon.evals.lm_eval_suite import need
from gnomon.evals.rows import FAILED, Rows
from gnomon.evals.suite import Measured, Options, Row, Suite, Work
from gnomon.files import fingerprint, first_line, make_folder, remove_folder
from gnomon.plugins import did_you_mean
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import over_prompts

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

    from gnomon.evals.subject import Subject

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0,
            "false": 0.0}  # fmt: skip
"""inspect's own marks: correct, partial, incorrect, no answer."""


class InspectOptions(Options):
    """What a task of inspect takes."""

    part: str | None = Field(None, description="the task, where `task` names none")
    task: str = Field("", description="a registered task (package/name) or file.py@name")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of the task")
    epochs: int | None = Field(
        None, ge=1, description="answers to each sample; default: the task's"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="of an answer, where the task does not say"
    )
    temperature: float = Field(0.0, ge=0, description="where the task does not say; 0 is greedy")
    grader: str | None = Field(
        None, description="the model that grades (inspect's role `grader`): openai/gpt-5, say"
    )
    calls: Literal["hermes", "llama", "python"] | None = Field(
        None,
        description="how the model writes tool calls, where its chat template knows no tools; "
        "default: as the template writes them",
    )
    score: str | None = Field(None, description="the score to show first")
    higher_is_better: bool = Field(True, description="false where that score measures harm")

    @model_validator(mode="after")
    def _one_task(self) -> InspectOptions:
        self.task = self.task or self.part or ""
        self.part = None
        if not self.task:
            raise ValueError("inspect needs a task: inspect/package/name, or task: file.py@name")
        if self.data:
            raise ValueError("an inspect task reads its own data; give it by args: {...}")
        return self


class Inspect(Suite):
    """One task of inspect_ai; its samples' scores with intervals over samples.

    inspect's own log, with every turn, is kept beside the record as ``<suite>.eval``.
    """

    title: ClassVar[str] = "inspect"
    summary: ClassVar[str] = "a task of inspect_ai: judged, agentic, safety"
    options_class = InspectOptions

    @property
    def name(self) -> str:
        file, at, task = self.options.task.partition("@")
        plain = f"{Path(file).stem}-{task}" if at else Path(file).stem
        return str(self.options.name or f"{self.title}/{plain}")

    @property
    def _file(self) -> Path | None:
        """The file that the task is in, where it is in one."""
        file = self.options.task.partition("@")[0]
        return self.base / file if file.endswith(".py") else None

    def check(self) -> None:
        """Check that inspect is there and the task can be found.

        Raises:
            ConfigError: it is not.
            DataError: no such file.
        """
        need("inspect_ai")
        if self._file is not None:
            self.files()
            return
        from inspect_ai._util.registry import registry_find, registry_info, registry_lookup

        package = self.options.task.partition("/")[0]
        if "/" in self.options.task:
            need(package.replace("-", "_"))
        if registry_lookup("task", self.options.task) is None:
            found = registry_find(lambda info: info.type == "task")
            known = [registry_info(task).name for task in found]
            near = did_you_mean(self.options.task, known, "registered are")
            raise ConfigError(f"inspect has no task {self.options.task!r}; {near}")

    def files(self) -> list[Path]:
        if self._file is None:
            return []
        if not self._file.is_file():
            raise DataError(f"{self._file}: no such file")
        return [self._file]

    def data(self) -> dict[str, Any]:
        return {file.name: fingerprint(file) for file in self.files()}

    def facts(self) -> Mapping[str, Any]:
        return {"inspect_ai": version("inspect-ai")}

    def settings(self, subject: Subject) -> dict[str, Any]:
        changing = super().settings(subject)
        changing.pop("part")
        return changing

    def run(self, subject: Subject, work: Work) -> Measured:
        from gnomon.evals.inspect_model import Answerer, serving

        role = subject.role()
        encoder = subject.encoder  # type: ignore[attr-defined]  # whoever has a role has both
        if encoder.template is None:
            raise ConfigError(
                f"inspect asks in conversations, and {subject.name} has no chat template; save one "
                "with its tokenizer"
            )
        del role
        window = subject.window or encoder.max_length
        answers = Rows(work.folder / "requests.jsonl", work.rows.key)
        if answers.kept:
            work.tell(f"{self.name}: {answers.kept} requests are answered already")
        options = self.options
        answerer = Answerer(
            subject.engine,  # type: ignore[attr-defined]
            encoder,
            answers,
            window,
            Ask(options.max_new_tokens).tokens(window),
            options.temperature,
            options.seed,
            watch=work.progress,
            calls=options.calls,
        )
        logs = work.folder / "inspect"
        make_folder(logs)
        with serving(subject.name.replace("/", "_"), answerer) as model:
            log = self._evaluate(model, logs)
        if answerer.refused is not None:
            raise answerer.refused
        measured = self._measured(log, work)
        kept = work.rows.path.with_suffix(".eval")  # for `inspect view`
        os.replace(log.location, kept)
        measured.tokens = sum(int(row["tokens"]) for row in answers.all())
        if work.folder.is_dir():
            remove_folder(work.folder)
        return measured

    def _evaluate(self, model: str, logs: Path) -> EvalLog:
        import inspect_ai
        from inspect_ai.model import get_model

        task = str(self._file or self.options.task)
        at = self.options.task.partition("@")[2]
        with _unasked():
            (log, *more) = inspect_ai.eval(
                f"{task}@{at}" if at else task,
                model=get_model(model, memoize=False),  # not that of an eval before
                task_args=dict(self.options.args),
                model_roles={"grader": self.options.grader} if self.options.grader else None,
                limit=self.options.limit,
                epochs=self.options.epochs,
                fail_on_error=False,
                display="none",
                log_dir=str(logs),
                log_level="error",
            )
        if more:
            raise ConfigError(f"{task} has {len(more) + 1} tasks; name one: {task}@NAME")
        if log.status == "cancelled":
            raise KeyboardInterrupt
        if log.status != "success" and not log.samples:
            reason = log.error.message if log.error else log.status
            raise RunError(f"inspect could not run {self.options.task}: {first_of(reason)}")
        return log

    def _measured(self, log: EvalLog, work: Work) -> Measured:
        values: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
        rows, failed = [], []
        for sample in log.samples or []:
            row = _row(sample)
            if FAILED in row:
                failed.append(row)
            for name, value in row["scores"].items():
                values[name][str(sample.id)].append(value)
            rows.append(row)
        main = self.options.score if self.options.score in values else next(iter(values), "")
        for row in rows:
            if main in row["scores"]:
                row["score"] = row["scores"][main]
        work.rows.add([row for row in rows if not work.rows.has(row["id"])])
        if len(failed) == len(rows):
            reason = failed[0][FAILED] if failed else "there are no samples"
            raise RunError(f"{self.name}: all {len(rows)} samples failed. The first: {reason}")
        scores = {name: over_prompts(list(by_id.values())) for name, by_id in values.items()}
        measured = Measured.of(scores, n=len(rows) - len(failed), errors=len(failed))
        measured.higher_is_better = self.options.higher_is_better
        _import_metrics(log, measured)
        if self.options.score and self.options.score not in scores:
            near = did_you_mean(self.options.score, scores)
            measured.notes.append(
                f"score: no score {self.options.score!r}, so {main} is shown first; {near}"
            )
        measured.main = measured.item_score = main
        measured.judge = self.options.grader or ""
        graded = [s.name for s in log.eval.scorers or [] if "model_graded" in s.name]
        if graded and not self.options.grader:
            measured.notes.append(f"{graded[0]}: the model graded itself; name another with grader")
        if failed:
            measured.notes.append(
                f"{len(failed)} of {len(rows)} samples failed and are in no score; the first: "
                f"{failed[0][FAILED]}"
            )
        measured.versions = {
            "inspect_ai": version("inspect-ai"),
            f"task {log.eval.task}": str(log.eval.task_version),
        }
        return measured


def _row(sample: EvalSample) -> Row:
    """A sample as it is kept: what was asked and answered, and its scores as numbers."""
    asked = sample.input if isinstance(sample.input, str) else [m.text for m in sample.input]
    row: Row = {
        "id": f"{sample.id}/{sample.epoch}",
        "request": str(sample.id),
        "prompt": asked,
        "target": sample.target,
        "answer": sample.output.completion,
        "scores": {},
        "explanations": {},
    }
    if sample.error is not None:
        row[FAILED] = first_of(sample.error.message)
        return row
    for name, score in (sample.scores or {}).items():
        parts = score.value if isinstance(score.value, dict) else {"": score.value}
        for part, value in parts.items():
            number = _number(value)
            if number is None:
                row[FAILED] = f"the score {name} is {value!r}, which is no number"
                row["scores"] = {}
                return row
            row["scores"][f"{name}/{part}" if part else name] = number
        if score.explanation:
            row["explanations"][name] = score.explanation
    if not row["scores"]:
        row[FAILED] = "the task gave it no score"
    return row


def _number(value: Any) -> float | None:
    """A score of inspect as a number; None for what is none, as NaN is where it scored nothing."""
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        if value in _LETTERS or value.lower() in _LETTERS:
            return _LETTERS.get(value, _LETTERS.get(value.lower()))
        try:
            return _number(float(value))
        except ValueError:
            return None
    return None


def _import_metrics(log: EvalLog, measured: Measured) -> None:
    """inspect's own metrics that are no mean of the samples: without an interval."""
    for score in log.results.scores if log.results else []:
        for name, metric in score.metrics.items():
            if name in ("accuracy", "mean", "stderr", "std", "var", "bootstrap_stderr"):
                continue
            measured.scores[f"{score.name}/{name}"] = Interval(float(metric.value))


def first_of(text: str) -> str:
    """The first line of a message."""
    return first_line(RuntimeError(text))


@contextmanager
def _unasked() -> Iterator[None]:
    """Without the settings of a shell in which `inspect` is used: another model, log or limit."""
    names = [name for name in os.environ if name.startswith("INSPECT_EVAL_")]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
