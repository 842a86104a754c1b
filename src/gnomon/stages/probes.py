"""Probes of a stage's reward: it is asked again about edits of what was sampled, once after the
first iterations (whether it notices spoiled answers at all) and once at the end."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.errors import DataError, GnomonError, RunStopped
from gnomon.evals.edits import EDITS
from gnomon.evals.invariance import probe_reward
from gnomon.evals.paired import Answer, Lay
from gnomon.files import first_line
from gnomon.judges.protocol import Judge
from gnomon.models.load import LoadedModel
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.records import Group, Message, Prompt, Response
from gnomon.runs.folder import RunFolder
from gnomon.runs.probes import PROBES, ForeignPrompts, Probes, RewardProbes
from gnomon.runs.records import now
from gnomon.runs.rows import SampleRow, SampleStore
from gnomon.stages.encoder import context_of, recipe_encoder
from gnomon.stages.stage import open_stage
from gnomon.stats.texts import script
from gnomon.stats.two_sample import two_sample
from gnomon.usercode import is_interrupt

ANSWERS = 64
"""Answers that are edited where a recipe does not say how many."""
FIRST_EDITS = ("swap", "hedge")
"""What is asked about after the first iterations."""


@dataclass(frozen=True)
class Probed:
    """A finished stage that sampled, and what its probes need.

    Attributes:
        recipe, spec, run, base: what was asked, and where it is; ``spec.probes`` says how many
            answers are edited.
        judge: the trained reward; None where an environment's return is the whole of it.
        prompts: those that were trained on.
        encoder: as the policy's answers were encoded, with room for longer ones.
        seed: fixes what is drawn.
        ends: of how many iterations at its beginning and at its end the answers are asked about.
    """

    recipe: Recipe
    spec: StageSpec
    run: RunFolder
    base: Path
    judge: Judge | None
    prompts: Sequence[EncodedPrompt]
    encoder: Encoder
    seed: int = 0
    ends: int = 1

    @property
    def folder(self) -> Path:
        return self.run.stage(self.spec.name).path


def probe_stage(stage: Probed, tick: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Probe the reward of a finished stage and write ``probes.json``; whatever goes wrong is noted
    in it and costs the stage nothing.

    Args:
        tick: called with (done, all); may raise to stop.

    Raises:
        RunStopped, KeyboardInterrupt: the user stops the program.
    """
    with _at_no_cost(stage):
        found = Probes(made=now())
        reason = _refused(stage.spec, stage.judge)
        if reason is None and stage.judge is not None:
            found.reward = _probe(stage, stage.judge, tick)
        else:
            found.problems = [reason or ""]
        prompts, problems = foreign_prompts(stage.recipe, stage.spec, stage.run, stage.base)
        found.foreign_prompts = prompts
        found.problems = [*found.problems, *problems]
        found.write(stage.folder / PROBES)


def probe_model(stage: Probed, tick: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Probe a reward model that a stage has trained, on answers of the stage's own data, and write
    ``probes.json``; see :func:`probe_stage`."""
    with _at_no_cost(stage):
        opened = open_stage(stage.recipe, stage.spec, stage.run, stage.base)
        groups, held_out = opened.data.groups(opened.data_kind)
        answers = [
            Answer(g.prompt, _asked(g.prompt), r.text)
            for g in held_out or groups
            for r in g.responses
            if len(r.messages) == 1
        ]
        assert stage.judge is not None
        found = probe_reward(
            stage.judge,
            answers,
            [],
            layer(stage.encoder),
            answers=stage.spec.probes or ANSWERS,
            seed=stage.seed,
            tick=tick,
        )
        found.early_step = None
        Probes(made=now(), reward=found).write(stage.folder / PROBES)


class FirstAnswers:
    """Asks the reward about spoiled answers as soon as there are any, and writes ``probes.json``,
    so that an audit of a run that has only begun can warn (:mod:`gnomon.audit.spoiled`). The probe
    at the end asks about the same answers again. It is a :data:`~gnomon.training.loop.Watcher`.
    """

    def __init__(self, stage: Probed, tick: Callable[[int, int], None]) -> None:
        self.stage, self.tick = stage, tick

    def __call__(self, iteration: int, step: int, last: bool) -> Mapping[str, float]:
        stage = self.stage
        judge = stage.judge
        if iteration < stage.ends or last or (stage.folder / PROBES).exists():
            return {}
        if judge is None or _refused(stage.spec, judge) is not None:
            return {}
        with _at_no_cost(stage):
            found = _probe(stage, judge, self.tick, done=False, edits=FIRST_EDITS)
            Probes(made=now(), reward=found).write(stage.folder / PROBES)
        return {}


@contextmanager
def _at_no_cost(stage: Probed) -> Iterator[None]:
    """What goes wrong is noted in probes.json; only the user stops the program."""
    try:
        yield
    except BaseException as error:
        if is_interrupt(error) or isinstance(error, RunStopped):
            raise
        problem = f"the reward was not probed: {first_line(error)}"
        warnings.warn(f"{stage.spec.name}: {problem}", stacklevel=3)
        _note(stage.folder, problem)


def _note(folder: Path, problem: str) -> None:
    try:
        Probes(made=now(), problems=[problem]).write(folder / PROBES)
    except (GnomonError, OSError):
        return  # a full disk, which the stage's own files have survived


def _refused(spec: StageSpec, judge: Judge | None) -> str | None:
    """Why the reward is not asked again."""
    if judge is None or spec.environment is not None:
        return "not probed: the reward is of whole episodes, which cannot be edited"
    if judge.in_rounds:
        return "not probed: people judge"
    if judge.paid and spec.probes is None:
        return "not probed: each question to this judge costs money; set probes to ask it"
    return None


def _probe(
    stage: Probed,
    judge: Judge,
    tick: Callable[[int, int], None],
    *,
    done: bool = True,
    edits: Collection[str] = EDITS,
) -> RewardProbes:
    """What the reward gives for edits: of the first answers alone, while it is not ``done``."""
    rows, problems = SampleStore.read(stage.folder / "samples.parquet", done=done)
    prompts = {p.prompt.id: p.prompt for p in stage.prompts}
    early, late = first_and_last(rows, prompts, stage.ends, done)
    found = probe_reward(
        judge,
        early,
        late,
        layer(stage.encoder),
        answers=stage.spec.probes or ANSWERS,
        seed=stage.seed,
        edits=edits,
        tick=tick,
    )
    found.problems += problems
    return found


def first_and_last(
    rows: Sequence[SampleRow], prompts: Mapping[str, Prompt], ends: int = 1, done: bool = True
) -> tuple[list[Answer], list[Answer]]:
    """The answers of the first and of the last steps whose samples were kept; prompts that were
    only evaluated on are left out. There are no last ones of one step, nor before a stage is done.

    Args:
        ends: how many steps at either end, of a stage that has as many again.
    """
    own = [row for row in rows if row["prompt_id"] in prompts]
    steps = sorted({row["step"] for row in own})
    ends = min(ends, max(1, len(steps) // 2)) if done else ends
    first, last = steps[:ends], steps[ends:][-ends:] if done else []
    early, late = (
        [_answer(row, prompts) for row in own if row["step"] in side] for side in (first, last)
    )
    return early, late


def _answer(row: SampleRow, prompts: Mapping[str, Prompt]) -> Answer:
    return Answer(
        prompts[row["prompt_id"]],
        row["prompt"],
        row["response"],
        finished=row["finished"],
        reward=row["reward"],
        step=row["step"],
    )


def layer(encoder: Encoder) -> Lay:
    """Lays a prompt and an answer out as they are sampled: the prompt's tokens, the answer's up to
    the end of its turn, which one that is not finished does not have."""

    def lay(prompt: Prompt, text: str, finished: bool) -> tuple[Sequence[int], Response] | None:
        answer = Response((Message("assistant", text),))
        try:
            group = encoder.encode_group(Group(prompt, (answer,)), empty_ok=True)
        except DataError:  # too long
            return None
        ids, mask = list(group.responses[0].ids), list(group.responses[0].mask)
        while len(ids) > 1 and not mask[len(ids) - 1]:
            ids.pop()
        if not finished and len(ids) > 1 and ids[-1] in encoder.stop_ids:
            ids.pop()
        return group.prompt_ids, Response(answer.messages, ids=ids, finished=finished)

    return lay


def roomy_encoder(recipe: Recipe, loaded: LoadedModel) -> Encoder:
    """The recipe's encoder with all the room that the model has: several answers joined are longer
    than any that was sampled."""
    context = context_of(loaded.model.config)
    update = {"max_length": context or recipe.max_length, "truncation": "skip"}
    return recipe_encoder(recipe.model_copy(update=update), loaded.tokenizer, context=context)


# -- prompts that the reward model does not know ---------------------------------------------------


def foreign_prompts(
    recipe: Recipe, spec: StageSpec, run: RunFolder, base: Path
) -> tuple[list[ForeignPrompts], list[str]]:
    """For each reward model of this recipe that a stage is trained on: whether its prompts can be
    told from the stage's; and why not, in words, where that cannot be said.

    Where a stage's data is still to be collected, the prompts are those that it will be collected
    on. Reward models from folders are passed over: their data is not known.
    """
    names = {stage.name: stage for stage in recipe.stages}
    found, problems = [], []
    for reward in spec.reward:
        if reward.model not in names:
            continue
        try:
            theirs, own = (
                prompt_texts(recipe, stage, run, base) for stage in (names[reward.model], spec)
            )
            compared = two_sample([t for t, _ in theirs], [t for t, _ in own])
        except GnomonError as error:
            problems.append(f"the prompts of {reward.model} were not compared: {first_line(error)}")
            continue
        found.append(
            ForeignPrompts(
                reward_model=reward.model,
                stage=spec.name,
                auc=compared.auc,
                p=compared.p,
                n_reward_model=compared.n[0],
                n_policy=compared.n[1],
                detectable=compared.detectable,
                foreign=compared.foreign[:SHOWN],
                coverage=coverage(theirs, own),
            )
        )
    return found, problems


SHOWN = 8
"""Foreign prompts that are kept."""
FOREIGN_P = 0.01
"""The share of random divisions below which a plan says that prompts are foreign."""


def prompt_texts(
    recipe: Recipe, spec: StageSpec, run: RunFolder, base: Path
) -> list[tuple[str, str | None]]:
    """(text, category) of each prompt that a stage learns on.

    Raises:
        GnomonError: its data cannot be read.
    """
    names = {stage.name: stage for stage in recipe.stages}
    found: list[tuple[str, str | None]] = []
    for source in spec.data:
        kind, _, name = source.path.partition(":")
        if kind == "stage" and name in names and not run.stage(name).groups.is_file():
            found += prompt_texts(recipe, names[name], run, base)  # what it will be collected on
            continue
        one = spec.model_copy(update={"data": [source], "holdout": 0.0, "eval_data": []})
        stage = open_stage(recipe, one, run, base)
        groups, _ = stage.data.groups(stage.data_kind)
        found += [(_asked(g.prompt), g.prompt.category) for g in groups]
    return found


def _asked(prompt: Prompt) -> str:
    """A prompt as text: what the user says, for conversations."""
    if prompt.text is not None:
        return prompt.text
    return "\n".join(m.content for m in prompt.messages if m.role == "user")


def coverage(
    theirs: Sequence[tuple[str, str | None]], own: Sequence[tuple[str, str | None]]
) -> dict[str, dict[str, list[float]]]:
    """Shares of the reward model's and of the policy's prompts by category, script and length in
    words: ``{"script": {"LATIN": [0.98, 0.75], ...}, ...}``, commonest in the policy's first."""

    def length(text: str) -> str:
        size = len(text.split())
        return next(f"up to {n} words" for n in (10, 30, 100, 300, 10**9) if size <= n)

    keys: dict[str, Callable[[str, str | None], str]] = {
        "category": lambda text, category: category or "none",
        "script": lambda text, category: script(text) or "none",
        "length": lambda text, category: length(text).replace(f"up to {10**9}", "over 300"),
    }
    out: dict[str, dict[str, list[float]]] = {}
    for name, key in keys.items():
        counts = [Counter(key(*row) for row in rows) for rows in (theirs, own)]
        order = sorted(counts[0] | counts[1], key=lambda k: (-counts[1][k], k))
        out[name] = {
            value: [round(c[value] / max(1, c.total()), 4) for c in counts] for value in order
        }
    return out
