"""Probes at the end of a stage: the trained reward asked again about edits of what was sampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.errors import DataError, GnomonError, RunStopped
from gnomon.evals.invariance import Answer, Lay, probe_reward
from gnomon.files import first_line
from gnomon.judges.protocol import Judge
from gnomon.models.load import LoadedModel
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.records import Group, Message, Prompt, Response
from gnomon.runs.probes import PROBES, Probes, RewardProbes
from gnomon.runs.records import now
from gnomon.runs.rows import SampleRow, SampleStore
from gnomon.stages.sources import context_of, recipe_encoder
from gnomon.usercode import is_interrupt

ANSWERS = 64
"""Answers that are edited where a recipe does not say how many."""


def probe_stage(
    spec: StageSpec,
    folder: Path,
    judge: Judge | None,
    prompts: Sequence[EncodedPrompt],
    encoder: Encoder,
    *,
    seed: int,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Probe the reward of a finished stage and write ``probes.json``; whatever goes wrong is noted
    in it and costs the stage nothing.

    Args:
        spec: whose ``probes`` says how many answers are edited.
        folder: the stage's, with its samples.
        judge: the trained reward; None where an environment's return is the whole of it.
        prompts: those that were trained on.
        encoder: as the policy's answers were encoded, with room for longer ones.
        tick: called with (done, all); may raise to stop.

    Raises:
        RunStopped, KeyboardInterrupt: the user stops the program.
    """
    found = Probes(made=now())
    reason = _skipped(spec, judge)
    try:
        if reason is None and judge is not None:
            found.reward = _probe(spec, folder, judge, prompts, encoder, seed, tick)
        elif reason:
            found.problems = [reason]
        if found or found.problems:
            found.write(folder / PROBES)
    except BaseException as error:
        if is_interrupt(error) or isinstance(error, RunStopped):
            raise
        problem = f"the reward was not probed: {first_line(error)}"
        warnings.warn(f"{spec.name}: {problem}", stacklevel=2)
        _note(folder, problem)


def _note(folder: Path, problem: str) -> None:
    try:
        Probes(made=now(), problems=[problem]).write(folder / PROBES)
    except (GnomonError, OSError):
        return  # a full disk, which the stage's own files have survived


def _skipped(spec: StageSpec, judge: Judge | None) -> str | None:
    """Why the reward is not asked again; empty where nobody wants to know."""
    if spec.probes == 0:
        return ""
    if judge is None or spec.environment is not None:
        return "not probed: the reward is of whole episodes, which cannot be edited"
    if judge.in_rounds:
        return "not probed: people judge"
    if judge.paid and spec.probes is None:
        return "not probed: each question to this judge costs money; set probes to ask it"
    return None


def _probe(
    spec: StageSpec,
    folder: Path,
    judge: Judge,
    prompts: Sequence[EncodedPrompt],
    encoder: Encoder,
    seed: int,
    tick: Callable[[int, int], None],
) -> RewardProbes:
    rows, problems = SampleStore.read(folder / "samples.parquet", done=True)
    early, late = first_and_last(rows, {p.prompt.id: p.prompt for p in prompts})
    found = probe_reward(
        judge,
        early,
        late,
        layer(encoder),
        answers=spec.probes or ANSWERS,
        seed=seed,
        tick=tick,
    )
    found.problems += problems
    return found


def first_and_last(
    rows: Sequence[SampleRow], prompts: Mapping[str, Prompt]
) -> tuple[list[Answer], list[Answer]]:
    """The answers of the first and of the last step whose samples were kept; prompts that were only
    evaluated on are left out. There are no last ones where it is one step."""
    own = [row for row in rows if row["prompt_id"] in prompts]
    steps = sorted({row["step"] for row in own})
    if not steps:
        return [], []
    sides = [[r for r in own if r["step"] == step] for step in (steps[0], steps[-1])]
    early, late = ([_answer(row, prompts) for row in side] for side in sides)
    return early, late if len(steps) > 1 else []


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
