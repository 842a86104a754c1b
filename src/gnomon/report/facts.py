"""What the records of a run say about one of its models, for the card and the forms.

Nothing here is computed from anything but records: the run's files, and what the recipe's ``card``
(or a file of statements) says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from gnomon.audit.kinds import averaged, trained_on
from gnomon.errors import DataError
from gnomon.files import first_line, read_object
from gnomon.plugins import did_you_mean
from gnomon.recipe.card import CardSpec, SourceCard
from gnomon.report.candidate import candidate, gate_places, held_back
from gnomon.runs.audit import Audit, Finding, GateResult, Gates
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.peak import kept_results
from gnomon.runs.read import RunView, StageView, own_stage, read_run

_NUMBERED = re.compile(r" \(\d+\)$")
MADE = "stage:"
"""Before the name of the stage that wrote the data."""
POLICY, REWARD = "policy", ("reward_model", "reward_ensemble")


@dataclass(frozen=True)
class Source:
    """A source of data of a stage: what was read, and what is stated about it.

    Attributes:
        sha256: of the rows as they were understood, whatever file they stood in.
        files: SHA-256 of each file that they were read from, by name; of a single file by "".
    """

    stage: str
    path: str
    rows: int | None
    sha256: str
    stated: SourceCard | None
    files: Mapping[str, str]

    @property
    def plain_path(self) -> str:
        """The path as the recipe has it, without the number of a second use."""
        return _NUMBERED.sub("", self.path)

    @property
    def shown(self) -> str:
        """The path as a card shows it: where a file lies on a machine is nobody's business."""
        place = PurePath(self.plain_path)
        return place.name if place.is_absolute() else self.plain_path

    @property
    def made_here(self) -> bool:
        """Whether a stage of the run wrote it."""
        return self.path.startswith(MADE)


@dataclass(frozen=True)
class Facts:
    """The records about one model of a run.

    Attributes:
        subject: the stage that made the model; None where no stage left one.
        stages: all that had a part in it, in order, the subject last.
        chain: the names of those whose weights it continues, and its own.
        kind: of gnomon.json: ``policy``, ``reward_model``, ``reward_ensemble``; empty where that
            is missing.
        config: config.json of the model.
        stated: what the recipe's ``card`` says.
        audit: None where the run was not audited.
        problems: what could not be read, in words.
    """

    run: RunView
    subject: StageView | None = None
    stages: tuple[StageView, ...] = ()
    chain: tuple[str, ...] = ()
    kind: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    stated: CardSpec = field(default_factory=CardSpec)
    audit: Audit | None = None
    gates: Gates = field(default_factory=lambda: Gates({}))
    evals: tuple[EvalResult, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the model is called."""
        if self.stated.model_name:
            return self.stated.model_name
        return self.run.name if self.subject is None else f"{self.run.name}-{self.subject.name}"

    @property
    def is_reward(self) -> bool:
        """Whether the model scores answers instead of writing them."""
        return self.kind in REWARD

    @property
    def parameters(self) -> int | None:
        """Of the model, where its stage noted them."""
        if self.subject is None:
            return None
        sizes = self.subject.info.compute.parameters
        return sizes.get("policy") or next(iter(sizes.values()), None)

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of weights."""
        files = (self.subject.info.files or {}) if self.subject is not None else {}
        return {
            name: str(about.get("sha256", ""))
            for name, about in files.items()
            if name.endswith(".safetensors")
        }

    @property
    def gpus(self) -> int:
        """Cards of the machine that it was made on."""
        cards = self.run.manifest.hardware.get("gpus")
        return len(cards) if isinstance(cards, list) else 0

    def spec(self, stage: str) -> Mapping[str, Any]:
        """A stage as the recipe has it; empty where the recipe cannot be read."""
        return _specs(self.run.recipe).get(stage, {})

    @property
    def findings(self) -> list[Finding]:
        """What was looked for in the stages that had a part in the model."""
        names = {stage.name for stage in self.stages}
        every = [] if self.audit is None else self.audit.findings
        return [finding for finding in every if finding.stage in names]

    @property
    def alarms(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "alarm"]

    @property
    def decisions(self) -> list[GateResult]:
        """The gates of its stages and of those after it that train no policy, and those of the
        whole run where that ends with it."""
        names = {stage.name for stage in self.stages}
        if self.subject is not None and not self.is_reward:
            own = self.subject.name
            names |= gate_places(self.run, own) - ({""} if own != candidate(self.run) else set())
        return [result for result in self.gates.all() if result.stage in names]

    def sources(self) -> list[Source]:
        """The data of each stage, as the manifest has it."""
        found = []
        for stage in self.stages:
            for key, about in self.run.manifest.data.items():
                name, _, path = key.partition(": ")
                if name == stage.name and isinstance(about, Mapping):
                    found.append(self._source(name, path, about))
        return found

    def _source(self, stage: str, path: str, about: Mapping[str, Any]) -> Source:
        rows, digest = about.get("rows"), about.get("sha256")
        plain = _NUMBERED.sub("", path)
        stated = next((s for p, s in self.stated.data.items() if p in (path, plain)), None)
        whole = rows if isinstance(rows, int) and not isinstance(rows, bool) else None
        inputs = self.run.manifest.inputs.get(stage)
        files = inputs.get(plain) if isinstance(inputs, Mapping) else None
        named = {str(k): str(v) for k, v in files.items()} if isinstance(files, Mapping) else {}
        return Source(stage, path, whole, str(digest or ""), stated, named)


def read_facts(path: Path, stage: str | None = None, stated: CardSpec | None = None) -> Facts:
    """The records about one of a run's models; see :func:`facts_of`.

    Raises:
        DataError: the folder is no run's, or no stage has that name.
    """
    return facts_of(read_run(path), stage, stated)


def facts_of(run: RunView, stage: str | None = None, stated: CardSpec | None = None) -> Facts:
    """The records about one of the models of a run that was read.

    Args:
        stage: whose model; by default the last policy that no gate held back (the last of all
            where each was), else the last stage's that left a model.
        stated: what a file of statements says, in place of the recipe's ``card``.

    Raises:
        DataError: no stage has that name.
    """
    problems = list(run.problems)
    if stated is None:
        stated = _stated(run.recipe, problems)
    kinds = {view.name: _kind(view) for view in run.stages}
    subject = _subject(run, stage, kinds)
    stages, chain = lineage(run, subject)
    return Facts(
        run=run,
        subject=subject,
        stages=stages,
        chain=chain,
        kind="" if subject is None else kinds[subject.name],
        config={} if subject is None else _config(subject, problems),
        stated=stated,
        audit=run.audit,
        gates=run.gates,
        evals=tuple(_evals_of(run, subject)),
        calibrations=run.calibrations,
        problems=tuple(problems),
    )


def models(run: RunView) -> list[StageView]:
    """The stages that left a model."""
    return [view for view in run.stages if (view.folder / "model").is_dir()]


def _subject(run: RunView, stage: str | None, kinds: Mapping[str, str]) -> StageView | None:
    if stage is not None:
        names = [view.name for view in run.stages]
        if stage not in names:
            raise DataError(f"{run.path} has no stage {stage!r}; {did_you_mean(stage, names)}")
        return run.stages[names.index(stage)]
    made = [view for view in run.stages if kinds[view.name]]
    policies = [view for view in made if kinds[view.name] == POLICY]
    back = held_back(run)
    last = [view for view in policies if view.name not in back] or policies or made
    return last[-1] if last else None


def lineage(
    run: RunView, subject: StageView | None
) -> tuple[tuple[StageView, ...], tuple[str, ...]]:
    """The stages that had a part in a model, and those whose weights it continues."""
    if subject is None:
        return run.stages, ()
    views = {view.name: view for view in run.stages}
    specs = _specs(run.recipe)
    chain: list[str] = []
    before: list[str | None] = [subject.name]
    while before:
        name = before.pop(0)
        if name in views and name not in chain:
            chain.append(name)
            start = own_stage(run, str(views[name].info.start.get("from", "")))
            before += [start, *averaged(specs.get(name, {}))]
    wanted, todo = set(chain), list(chain)
    while todo:
        for other in _named(specs.get(todo.pop(), {})):
            if other in views and other not in wanted:
                wanted.add(other)
                todo.append(other)
                start = own_stage(run, str(views[other].info.start.get("from", "")))
                if start is not None and start not in wanted:
                    wanted.add(start)
                    todo.append(start)
    return tuple(v for v in run.stages if v.name in wanted), tuple(reversed(chain))


def rewarded(run: RunView, model: str) -> bool:
    """Whether a reward, or an environment's return, was optimised in a stage that the model
    descends from: its own, those of what it started from, of what it averages and of its teacher,
    and those that wrote or labelled what it was trained on."""
    views = {view.name: view for view in run.stages}
    specs = _specs(run.recipe)
    seen: set[str] = set()
    todo: list[str | None] = [model]
    while todo:
        name = todo.pop()
        if name is None or name in seen:
            continue
        seen.add(name)
        spec = specs.get(name, {})
        if trained_on(spec):
            return True
        settings = spec.get("settings")
        given = settings if isinstance(settings, Mapping) else {}
        todo += [str(given[key]) for key in ("teacher", "init") if given.get(key)]
        todo += averaged(spec)
        paths = [str(source.get("path", "")) for source in _mappings(spec.get("data"))]
        todo += [path.removeprefix(MADE) for path in paths if path.startswith(MADE)]
        if name in views:
            todo.append(own_stage(run, str(views[name].info.start.get("from", ""))))
    return False


def _named(spec: Mapping[str, Any]) -> list[str]:
    """Stages that a stage's data, rewards or settings name."""
    settings = spec.get("settings")
    given = settings if isinstance(settings, Mapping) else {}
    found = [str(given.get(key) or "") for key in ("teacher", "base_model", "init")]
    for reward in _mappings(spec.get("reward")):
        found.append(str(reward.get("model") or ""))
    for key in ("data", "eval_data", "normalise_on"):
        for source in _mappings(spec.get(key)):
            found.append(str(source.get("path", "")).removeprefix(MADE))
    return found


def _specs(recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(stage.get("name")): stage for stage in _mappings(recipe.get("stages"))}


def _mappings(raw: Any) -> list[Mapping[str, Any]]:
    return [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def _stated(recipe: Mapping[str, Any], problems: list[str]) -> CardSpec:
    try:
        return CardSpec.model_validate(recipe.get("card") or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problems.append(f"recipe.yaml: card.{where}: {first['msg']}; nothing of it is used")
        return CardSpec()


def _kind(view: StageView) -> str:
    file = view.folder / "model" / "gnomon.json"
    try:
        return str(read_object(file).get("kind", "")) if file.is_file() else ""
    except ValueError:
        return ""


def _config(view: StageView, problems: list[str]) -> Mapping[str, Any]:
    folder = view.folder / "model"
    file = folder / "config.json"
    if not folder.is_dir() or not (file.is_file() or (folder / "gnomon.json").is_file()):
        problems.append(f"stages/{view.folder.name}/model is missing: its stage has not ended")
        return {}
    if not file.is_file():
        file = folder / "member-0" / "config.json"
    try:
        return read_object(file)
    except ValueError as error:
        problems.append(_relative(error, view.folder.parent.parent))
        return {}


def _evals_of(run: RunView, subject: StageView | None) -> list[EvalResult]:
    """The model's results: those afterwards, or the last of its training for each suite."""
    if subject is None:
        return []
    later = [
        r
        for r in run.results
        if r.step is None and (own_stage(run, r.model) or r.model) == subject.name
    ]
    suites = {r.suite for r in later}
    during: dict[str, EvalResult] = {}
    for result in kept_results(run):
        mine = subject.name in (result.stage, result.model) and result.step is not None
        if mine and result.suite not in suites:
            known = during.get(result.suite)
            if known is None or (known.step or 0) <= (result.step or 0):
                during[result.suite] = result
    return [*later, *during.values()]


def _relative(error: BaseException, folder: Path) -> str:
    return first_line(error).replace(f"{folder}/", "")


def titles(stages: Sequence[StageView]) -> str:
    """The stages' methods in order: ``sft, reward_model, ppo``."""
    return ", ".join(f"{view.name} ({view.info.algorithm or 'unknown'})" for view in stages)
