"""Answers revised in rounds by a critic: each by a principle drawn for it, and every step kept."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.algorithms.revise_settings import ReviseSettings
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.values import Skipped
from gnomon.errors import RunError
from gnomon.feedback.constitution import Constitution
from gnomon.feedback.constitution_files import Principle
from gnomon.files import write_text
from gnomon.judges.critics import Critic, Task, Written
from gnomon.judges.prompting import conversation
from gnomon.judges.protocol import total_cost
from gnomon.judges.tally import SUMS, Totals
from gnomon.records import Cost, Prompt
from gnomon.rollout.protocol import Completion, Engine, Request, SamplingParams
from gnomon.stages.chunks import chunks, lines_of
from gnomon.stages.collect import with_prompt
from gnomon.stats.revisions import collapse_warnings, revision_figures
from gnomon.training.progress import Progress
from gnomon.training.watch import Stop

FIX = "fix the critic"

_FENCE = re.compile(r"<<<([0-9a-f]{16}) ")


@dataclass
class Draft:
    """An answer on its way through the rounds.

    Attributes:
        id: the prompt's, and the sample's place where there are several.
        answer: as it was sampled.
        text: as it is by now; ``finished`` is False where it was cut off.
        steps: what was done, for its row.
        wrong: why it is left out, and the cure.
    """

    id: str
    prompt: Prompt
    answer: str
    text: str
    finished: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    wrong: tuple[str, str] | None = None


@dataclass(frozen=True)
class Reviser:
    """Samples answers and has them revised; see :func:`revise`."""

    engine: Engine
    critic: Critic
    constitution: Constitution
    settings: ReviseSettings
    params: SamplingParams
    samples: int
    seed: int
    max_errors: float = 0.05
    on_progress: Callable[[int, int], None] | None = None

    def rows(
        self, prompts: Sequence[EncodedPrompt], first: int
    ) -> tuple[list[dict[str, Any]], Totals, int]:
        """One row per answer, in order, what the critic took, and the tokens that sampling the
        answers computed. A row is a demonstration with its ``revisions``, or says why the answer is
        ``skipped``.

        Args:
            first: the place of the first of these prompts among all, which fixes their seeds.

        Raises:
            RunError: the critic failed on more than ``max_errors`` of the answers.
        """
        requests = [
            Request(p.prompt.id, p.ids, self.samples, seed=self.seed * 1_000_003 + first + i)
            for i, p in enumerate(prompts)
        ]
        sampled = self.engine.generate(requests, self.params, self.on_progress)
        tokens = sum(
            len(p.ids) + sum(len(c.ids) for c in own)
            for p, own in zip(prompts, sampled, strict=True)
        )
        drafts = list(self._drafts(prompts, sampled))
        written: list[Written] = []
        for round in range(1, self.settings.rounds + 1):
            written += self._round([d for d in drafts if d.wrong is None], round)
        for draft in drafts:
            if draft.wrong is None and not draft.finished:
                draft.wrong = _cut(draft)
        self._refuse_failing(drafts)
        return [self._row(draft) for draft in drafts], self._took(written), tokens

    def _drafts(
        self, prompts: Sequence[EncodedPrompt], sampled: Sequence[Sequence[Completion]]
    ) -> Iterator[Draft]:
        for one, own in zip(prompts, sampled, strict=True):
            for k, completion in enumerate(own):
                id = one.prompt.id if self.samples == 1 else f"{one.prompt.id}/{k}"
                text = completion.text
                draft = Draft(id, one.prompt, text, text, completion.finished)
                if not text.strip():
                    cure = "look at the model; raise rollout.temperature or max_new_tokens"
                    draft.wrong = "the policy answered with nothing", cure
                yield draft

    def _round(self, drafts: Sequence[Draft], round: int) -> list[Written]:
        """Revise each draft once, by a principle that its id and the round decide."""
        drawn = {d.id: self.constitution.draw(self.seed, d.id, round) for d in drafts}
        critiques: dict[str, Written] = {}
        if self.settings.critique:
            critiques = self._write("critique", drafts, drawn, critiques, round)
        live = [d for d in drafts if d.wrong is None]
        revisions = self._write("revision", live, drawn, critiques, round)
        for draft in live:
            if draft.wrong is None:
                self._note(draft, drawn[draft.id], critiques, revisions[draft.id], round)
        return [*critiques.values(), *revisions.values()]

    def _write(
        self,
        kind: str,
        drafts: Sequence[Draft],
        drawn: dict[str, Principle],
        critiques: dict[str, Written],
        round: int,
    ) -> dict[str, Written]:
        """What the critic writes to each draft; a failure, or nothing, takes the draft out."""
        if not drafts:
            return {}
        tasks = [self._task(kind, d, drawn[d.id], critiques, round) for d in drafts]
        found = self.critic.write(tasks)
        for draft, task, written in zip(drafts, tasks, found, strict=True):
            wrong = _wrong(task, written)
            if wrong is not None:
                reason, cure = wrong
                draft.wrong = f"round {round}, {kind} by {task.principle}: {reason}", cure
                label = self.constitution.label(drawn[draft.id])
                step = {"round": round, "principle": label, "tokens": written.cost.tokens}
                told = {"critique": task.critique} if task.critique else {}
                draft.steps.append(step | told | {kind: written.text.strip()})
        return {draft.id: w for draft, w in zip(drafts, found, strict=True)}

    def _task(
        self,
        kind: str,
        draft: Draft,
        principle: Principle,
        critiques: dict[str, Written],
        round: int,
    ) -> Task:
        first = kind == "critique"
        critique = critiques[draft.id].text.strip() if critiques and not first else ""
        return Task(
            "critique" if first else "revision",
            draft.prompt,
            draft.text,
            principle.id,
            principle.critique_request if first else principle.revision_request,
            critique,
            self.constitution.question(
                principle,
                conversation(draft.prompt),
                draft.text,
                None if first else critique,
                examples=self.settings.examples,
                seed=self.seed,
            ),
            zlib.crc32(f"{self.seed}/{draft.id}/{round}/{kind}".encode()),
        )

    def _note(
        self,
        draft: Draft,
        principle: Principle,
        critiques: dict[str, Written],
        revision: Written,
        round: int,
    ) -> None:
        """Take a revision over, and note how it came about."""
        text = revision.text.strip()
        changed = text != draft.text.strip()
        step: dict[str, Any] = {
            "round": round,
            "principle": self.constitution.label(principle),
            "revision": text,
            "changed": changed,
            "tokens": revision.cost.tokens,
        }
        if draft.id in critiques:
            critique = critiques[draft.id]
            step["critique"] = critique.text.strip()
            step["tokens"] += critique.cost.tokens
        draft.steps.append(step)
        draft.finished = revision.finished and (changed or draft.finished)
        draft.text = text

    def _refuse_failing(self, drafts: Sequence[Draft]) -> None:
        errors = [d.wrong[0] for d in drafts if d.wrong is not None and d.wrong[1] == FIX]
        if len(errors) > self.max_errors * len(drafts):
            raise RunError(
                f"the critic failed on {len(errors)} of {len(drafts)} answers, more than the "
                f"{self.max_errors:.0%} allowed (max_reward_errors). The first: {errors[0]}\n"
                "Fix it, then resume with --resume; what was revised before is kept."
            )

    def _row(self, draft: Draft) -> dict[str, Any]:
        kept = {
            "answer": draft.answer,
            "critic": self.critic.version,
            "constitution": f"{self.constitution.name}@{self.constitution.version}",
            "steps": draft.steps,
        }
        if draft.wrong is not None:
            reason, cure = draft.wrong
            return {"id": draft.id, "skipped": reason, "cure": cure, "revisions": kept}
        responses: list[dict[str, Any]] = [{"id": "revision", "text": draft.text}]
        if self.settings.keep == "pair" and draft.text != draft.answer.strip():
            responses = [
                {"id": "revision", "text": draft.text, "rank": 1},
                {"id": "answer", "text": draft.answer.strip(), "rank": 2},
            ]
        row = with_prompt(draft.prompt, {"responses": responses, "revisions": kept})
        return row | {"id": draft.id}

    def _took(self, written: Sequence[Written]) -> Totals:
        cost: Cost = total_cost(w.cost for w in written)
        errors = sum(w.error is not None for w in written)
        found = (len(written), errors, cost.seconds, cost.tokens, cost.money)
        about = {"version": self.critic.version, **dict(zip(SUMS, found, strict=True))}
        return {self.critic.name: about}


@dataclass(frozen=True)
class Revised:
    """What :func:`revise` did: figures, the answers left out, what the critic took, and the tokens
    that sampling the answers computed."""

    summary: dict[str, Any]
    skipped: list[Skipped]
    judges: Totals
    tokens: int


def revise(
    reviser: Reviser,
    prompts: Sequence[EncodedPrompt],
    folder: Path,
    progress: Progress,
    stop: Stop | None = None,
) -> Revised:
    """Fill ``folder/groups.jsonl``, chunk by chunk; finished chunks are kept over a restart.

    Raises:
        RunError: not one answer was revised; or see :meth:`Reviser.rows`.
        RunStopped: the run was asked to stop; finished chunks are kept.
    """
    size = reviser.settings.chunk
    everything, judges, tokens = chunks(
        reviser, prompts, folder / "parts", size, progress, stop or Stop()
    )
    sources = {p.prompt.id: p.prompt.source for p in prompts}
    skipped = [
        Skipped(
            sources.get(row["id"], sources.get(row["id"].rpartition("/")[0])),
            f"prompt {row['id']}: {row['skipped']}",
            row["cure"],
        )
        for row in everything
        if "skipped" in row
    ]
    rows = [row for row in everything if "skipped" not in row]
    if not rows:
        raise RunError(
            f"none of {len(everything)} answers could be revised. The first: {skipped[0]}"
        )
    write_text(folder / "groups.jsonl", lines_of(rows))
    before = [row["revisions"]["answer"].strip() for row in rows]
    after = [row["responses"][0]["text"] for row in rows]
    figures = revision_figures(before, after)
    commonest, _ = Counter(after).most_common(1)[0]
    warnings = collapse_warnings(figures, commonest, len(rows))
    for warning in warnings:
        progress.note(f"warning: {warning}")
    counts = {"prompts": float(len(prompts)), "groups": float(len(rows))}
    counts["left_out"] = float(len(skipped))
    told = {"warnings": warnings} if warnings else {}
    return Revised({**counts, **figures, **told}, skipped, judges, tokens)


def _wrong(task: Task, written: Written) -> tuple[str, str] | None:
    """Why what a critic wrote cannot be used, and the cure; None where it can."""
    if written.error is not None:
        return written.error, written.cure or FIX
    if not written.text.strip():
        return "the critic wrote nothing", "look at the critic: this model may be too small for it"
    mark = _FENCE.search(task.question.user)
    if task.kind == "revision" and mark is not None and mark[1] in written.text:
        cure = "look at the critic: small models write the marks around a question on"
        return "it repeats its question", cure
    return None


def _cut(draft: Draft) -> tuple[str, str]:
    if draft.steps and draft.steps[-1]["changed"]:
        return "its revision was cut off", "raise settings.revision_tokens"
    return "the answer was cut off, and is unchanged", "raise rollout.max_new_tokens"
