"""The suite ``lm_eval``: any task of EleutherAI's lm-eval, with gnomon's engine as its model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from gnomon.errors import ConfigError
from gnomon.evals.items import find_file
from gnomon.evals.rows import Rows
from gnomon.evals.suite import Files, Measured, Options, Suite, Work
from gnomon.files import fingerprint, remove_folder
from gnomon.plugins import did_you_mean

if TYPE_CHECKING:
    from gnomon.evals.lm_eval_tasks import Loaded
    from gnomon.evals.subject import Subject

INSTALL = "pip install 'gnomon-rlhf[eval]'"


class LMEvalOptions(Options):
    """What lm-eval's tasks take."""

    part: str | None = Field(None, description="one task, where `tasks` names none")
    tasks: Files = Field(
        default_factory=list, description="tasks, groups or tags of lm-eval, or YAML files"
    )
    files: dict[str, str | dict[str, str]] = Field(
        default_factory=dict,
        description="local files in place of the hub's data: by task or group, a file of "
        "questions or one for each split; `data` is the same for a single task",
    )
    include: str | None = Field(
        None, description="a folder with YAML tasks of one's own (their code is run)"
    )
    shots: int | None = Field(None, ge=0, description="examples before each question")
    shots_seed: int = Field(1234, ge=0, description="of shots that are drawn (lm-eval's default)")
    chat: bool = Field(
        False, description="write prompts by the model's chat template; else they are plain text"
    )
    system: str | None = Field(None, description="a system prompt")
    multiturn: bool = Field(True, description="with `chat`: each shot as turns of its own")
    generation: dict[str, Any] = Field(
        default_factory=dict, description="changes of generation settings: {max_gen_toks: 512}"
    )
    max_length: int | None = Field(None, ge=2, description="tokens of a text; default: the model's")
    pass_tokens: int = Field(4096, ge=64, description="tokens of one forward pass")
    cluster: str | None = Field(
        None,
        description="a field of the items, such as a passage: those that share it are one cluster",
    )
    score: str | None = Field(None, description="the score to show first")

    @model_validator(mode="after")
    def _one_source(self) -> LMEvalOptions:
        if self.part:
            self.tasks = [*self.tasks, *self.part.split(",")]
            self.part = None
        if not self.tasks:
            raise ValueError("lm_eval needs a task: lm_eval/gsm8k, or tasks: [gsm8k, mmlu]")
        if self.data and (len(self.tasks) > 1 or len(self.data) > 1 or self.files):
            raise ValueError("data is the one file of a single task; for more give files: {...}")
        return self


class LMEval(Suite):
    """Tasks of lm-eval on the model's engine.

    lm-eval makes prompts, filters and scores; figures have intervals over items. Requests that a
    killed eval had answered are kept beside the record until it is done.
    """

    title: ClassVar[str] = "lm_eval"
    summary: ClassVar[str] = "any task of lm-eval (MMLU, GSM8K, HumanEval, ...), hub or local files"
    options_class = LMEvalOptions

    def __init__(self, options: LMEvalOptions, base: Path) -> None:
        super().__init__(options, base)
        self._tasks: Loaded | None = None

    @property
    def name(self) -> str:
        stems = [Path(task).stem if "." in task else task for task in self.options.tasks]
        return str(self.options.name or f"{self.title}/{'+'.join(stems)}")

    def check(self) -> None:
        """Load the tasks with their questions.

        Raises:
            ConfigError: lm-eval is not installed, no such task, an option that cannot be.
            DataError: a file that is missing or cannot be used.
        """
        self.files()
        loaded, cluster = self._loaded(), self.options.cluster
        for name, task in loaded.tasks.items() if cluster else ():
            fields = list(task.eval_docs.features)
            if cluster not in fields:
                near = did_you_mean(cluster, fields, "they have")
                raise ConfigError(f"cluster: the items of {name} have no field {cluster!r}; {near}")

    def _splits(self) -> dict[str, dict[str, Path]]:
        """Files by task and split; the split of the questions is ``""`` where none is named."""
        given: dict[str, Any] = dict(self.options.files)
        if self.options.data:
            given = {self.options.tasks[0]: self.options.data[0]}
        stray = set(given) - set(self.options.tasks)
        if stray:
            raise ConfigError(
                f"files: {min(stray)} is none of the tasks ({', '.join(self.options.tasks)})"
            )
        return {
            task: {
                split: find_file(file, self.base)
                for split, file in ({"": part} if isinstance(part, str) else part).items()
            }
            for task, part in given.items()
        }

    def files(self) -> list[Path]:
        return [file for splits in self._splits().values() for file in splits.values()]

    def data(self) -> dict[str, Any]:
        """SHA-256 and size of each file, by task and split."""
        return {
            "/".join(filter(None, [task, split])): {"file": file.name, **fingerprint(file)}
            for task, splits in self._splits().items()
            for split, file in splits.items()
        }

    def facts(self) -> Mapping[str, Any]:
        code = {str(file): fingerprint(self.base / file)["sha256"] for file in self._own_tasks()}
        return {"lm_eval": version("lm-eval"), **({"own_tasks": code} if code else {})}

    def _own_tasks(self) -> list[Path]:
        """The files of one's own tasks, from ``base``."""
        named = [Path(task) for task in self.options.tasks if (self.base / task).is_file()]
        folder = self.options.include
        if folder is None:
            return named
        inside = sorted((self.base / folder).rglob("*"))
        code = [file for file in inside if file.suffix in (".yaml", ".yml", ".py")]
        return [*named, *(Path(folder) / file.relative_to(self.base / folder) for file in code)]

    def settings(self, subject: Subject) -> dict[str, Any]:
        changing = super().settings(subject)
        for name in ("part", "files", "pass_tokens"):  # which change no figure; data() has files
            changing.pop(name)
        return changing

    def _loaded(self) -> Loaded:
        if self._tasks is None:
            need("lm_eval")
            from gnomon.evals.lm_eval_tasks import load_tasks

            self._tasks = load_tasks(
                self.options.tasks,
                self._splits(),
                base=self.base,
                include=None if self.options.include is None else self.base / self.options.include,
                shots=self.options.shots,
                shots_seed=self.options.shots_seed,
                generation=self.options.generation,
            )
        return self._tasks

    def run(self, subject: Subject, work: Work) -> Measured:
        loaded = self._loaded()
        from gnomon.evals.lm_eval_model import EngineLM
        from gnomon.evals.lm_eval_run import measure, run_tasks

        role = subject.role()
        notes = self._template_notes(role.trunk.tokenizer.chat_template, subject.name)
        answers = Rows(work.folder / "requests.jsonl", work.rows.key)
        if answers.kept:
            work.tell(f"{self.name}: {answers.kept} requests are answered already")
        options = self.options
        model = EngineLM(
            role,
            subject.engine,  # type: ignore[attr-defined]  # whoever has a role samples
            answers,
            max_length=options.max_length,
            pass_tokens=options.pass_tokens,
            seed=options.seed,
            watch=work.progress,
        )
        items = run_tasks(
            model,
            loaded,
            limit=options.limit,
            chat=options.chat,
            system=options.system,
            multiturn=options.multiturn and options.chat,
        )
        try:
            measured = measure(items, loaded, cluster=options.cluster, main=options.score)
        finally:
            work.rows.add([item.row for item in items if not work.rows.has(item.id)])
        cut = [item.row["cut"] for item in items if item.row["cut"]]
        if cut:
            notes.append(
                f"{len(cut)} of {len(items)} items do not fit the {model.max_length} tokens of the "
                f"model: up to {max(cut)} tokens were cut off at the beginning of their prompts"
            )
        measured.notes = [*measured.notes, *loaded.notes, *notes]
        measured.versions["lm_eval"] = version("lm-eval")
        measured.tokens = model.account.tokens
        if work.folder.is_dir():
            remove_folder(work.folder)
        return measured

    def _template_notes(self, template: Any, model: str) -> list[str]:
        if self.options.chat and not template:
            raise ConfigError(
                f"chat: the tokenizer of {model} has no chat template; leave chat out, and prompts "
                "are plain text, or save a template with the tokenizer"
            )
        if self.options.chat or not template:
            return []
        return ["prompts are plain text, though the model has a chat template (chat: true uses it)"]


def need(package: str, extra: str = "eval") -> None:
    """Check that a library of an extra is there.

    Raises:
        ConfigError: it is not, with what to install.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"{package} cannot be imported ({error}); install it: pip install "
            f"'gnomon-rlhf[{extra}]'"
        ) from error
