"""The ``collect`` stage: sample K responses to each prompt and have a judge rank them.

The judge is any reward (learned, verifier, your function), simulated labellers, or people (the
reward ``human_queue``: the stage asks about all prompts at once and waits for the labels). What it
writes, ``groups.jsonl``, is ordinary preference data for a later stage (``data: stage:NAME``).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.algorithms.base import EncodedPrompt
from gnomon.algorithms.collect_settings import CollectSettings
from gnomon.algorithms.sampled_pairs import ranks_from_rewards
from gnomon.data.readers import Skipped
from gnomon.errors import RunError, RunStopped
from gnomon.files import make_folder, write_text
from gnomon.judges.guard import score_safely
from gnomon.judges.human import HumanQueue
from gnomon.judges.protocol import Reward, Sample
from gnomon.records import Prompt
from gnomon.rollout.protocol import Completion, Engine, Request, SamplingParams
from gnomon.tasks.tunnel.labellers import Labeller
from gnomon.train.progress import Progress
from gnomon.train.watch import Stop

MEND = "mend the judge"


@dataclass(frozen=True)
class Collector:
    """Samples and judges; see :func:`collect`."""

    engine: Engine
    judge: Reward | Sequence[Labeller]
    settings: CollectSettings
    params: SamplingParams
    samples: int
    seed: int
    max_errors: float = 0.05
    on_progress: Callable[[int, int], None] | None = None

    def rows(self, prompts: Sequence[EncodedPrompt], first: int) -> list[dict[str, Any]]:
        """One row per prompt, in order: in the native format where at least two distinct responses
        were judged, else ``{"id", "skipped": reason, "cure"}``.

        Raises:
            RunError: the judge failed on more than ``max_errors`` of the prompts.
            RunPaused: people are the judge, and their labels are not all there.
        """
        requests = [
            Request(p.prompt.id, p.ids, self.samples, seed=self.seed * 1_000_003 + first + i)
            for i, p in enumerate(prompts)
        ]
        completions = self.engine.generate(requests, self.params, self.on_progress)
        rows: list[dict[str, Any]] = []
        answers = [list({c.text: c for c in r if c.text.strip()}.values()) for r in completions]
        if isinstance(self.judge, HumanQueue):
            self.judge(_samples(prompts, answers))
        for i, (prompt, distinct) in enumerate(zip(prompts, answers, strict=True)):
            if len(distinct) < 2:
                reason = f"{self.samples} samples gave {len(distinct)} distinct answers"
                cure = "raise rollout.samples or rollout.temperature"
                rows.append({"id": prompt.prompt.id, "skipped": reason, "cure": cure})
                continue
            if isinstance(self.judge, HumanQueue):
                rows.append(self._judged(self.judge, prompt.prompt, distinct))
                continue
            ranks = self._ranks(prompt.prompt, prompt.ids, distinct, first + i)
            if isinstance(ranks, str):
                rows.append({"id": prompt.prompt.id, "skipped": ranks, "cure": MEND})
            else:
                rows.append(self._row(prompt.prompt, distinct, ranks))
        errors = [row["skipped"] for row in rows if row.get("cure") == MEND]
        if len(errors) > self.max_errors * len(prompts):
            raise RunError(
                f"the judge failed on {len(errors)} of {len(prompts)} prompts, more than the "
                f"{self.max_errors:.0%} allowed (max_reward_errors). The first: {errors[0]}\n"
                "Mend it and go on with --resume; what was judged before is kept."
            )
        return rows

    def _ranks(
        self, prompt: Prompt, ids: Sequence[int], completions: Sequence[Completion], index: int
    ) -> list[float] | str:
        """The ranks, or what went wrong."""
        if not callable(self.judge):
            who = self.judge[index % len(self.judge)]
            return who.label_group(prompt, [c.text for c in completions])
        samples = [Sample(prompt, c.text, ids, c.ids, c.finished) for c in completions]
        scores = score_safely(self.judge, samples)
        errors = [score.error for score in scores if score.error is not None]
        if errors:
            return errors[0]
        values = [score.value for score in scores if score.value is not None]
        return ranks_from_rewards(values, self.settings.tie_margin)

    def _row(
        self, prompt: Prompt, completions: Sequence[Completion], ranks: Sequence[float]
    ) -> dict[str, Any]:
        keep = range(len(ranks))
        order = sorted(keep, key=lambda i: ranks[i])
        if self.settings.keep == "best-worst":
            order = [order[0], order[-1]]
        texts = [{"id": str(i), "text": completions[i].text, "rank": ranks[i]} for i in order]
        return _with_prompt(prompt, {"responses": texts})

    def _judged(
        self, people: HumanQueue, prompt: Prompt, completions: Sequence[Completion]
    ) -> dict[str, Any]:
        """The judgements of people, as they are: not every pair need have one."""
        texts = [c.text for c in completions]
        compared = list(people.compare(prompt, texts))
        if not compared:
            cure = "nothing to mend; or give it a label before the stage ends"
            return {"id": prompt.id, "skipped": "people judged nothing of it", "cure": cure}
        if self.settings.keep == "best-worst":
            share = [people.value(prompt, text) for text in texts]
            compared.sort(key=lambda c: share[c.worse] - share[c.better])
            compared = compared[:1]
        used = sorted({i for c in compared for i in (c.better, c.worse)})
        return _with_prompt(
            prompt,
            {
                "responses": [{"id": str(i), "text": texts[i]} for i in used],
                "comparisons": [
                    {"better": str(c.better), "worse": str(c.worse), "tie": c.tie} for c in compared
                ],
            },
        )


def _samples(
    prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[Completion]]
) -> list[Sample]:
    return [
        Sample(p.prompt, c.text, p.ids, c.ids, c.finished)
        for p, row in zip(prompts, answers, strict=True)
        for c in row
    ]


def _with_prompt(prompt: Prompt, said: Mapping[str, Any]) -> dict[str, Any]:
    """A row of groups.jsonl."""
    row: dict[str, Any] = {"id": prompt.id, **said, "meta": dict(prompt.meta)}
    if prompt.category is not None:
        row["category"] = prompt.category
    if prompt.text is not None:
        row["prompt"] = prompt.text
    else:
        row["messages"] = [{"role": m.role, "content": m.content} for m in prompt.messages]
    return row


def collect(
    collector: Collector,
    prompts: Sequence[EncodedPrompt],
    folder: Path,
    progress: Progress,
    stop: Stop | None = None,
) -> tuple[dict[str, float], list[Skipped]]:
    """Fill ``folder/groups.jsonl``, chunk by chunk; finished chunks are kept over a restart.

    Returns:
        The counts, and the prompts that gave no group.

    Raises:
        RunError: no prompt gave two responses that the judge could tell of.
        RunPaused: people are the judge, and their labels are not all there.
        RunStopped: the run was asked to stop; finished chunks are kept.
    """
    size = collector.settings.chunk
    if isinstance(collector.judge, HumanQueue):  # one round: people are asked about all at once
        size = max(1, len(prompts))
        collector.judge.open_round(1)
    everything = _chunks(collector, prompts, folder / "parts", size, progress, stop or Stop())
    by_id = {p.prompt.id: p.prompt.source for p in prompts}
    skipped = [
        Skipped(by_id.get(row["id"]), f"prompt {row['id']}: {row['skipped']}", row["cure"])
        for row in everything
        if "skipped" in row
    ]
    groups = [row for row in everything if "skipped" not in row]
    if not groups:
        raise RunError(
            f"none of {len(prompts)} prompts gave two different responses with a judgement; raise "
            "rollout.samples or rollout.temperature, or look at the judge"
        )
    write_text(folder / "groups.jsonl", _lines(groups))
    return {"prompts": float(len(prompts)), "groups": float(len(groups))}, skipped


def _chunks(
    collector: Collector,
    prompts: Sequence[EncodedPrompt],
    parts: Path,
    size: int,
    progress: Progress,
    stop: Stop,
) -> list[dict[str, Any]]:
    """The rows of all chunks; those that ``parts`` has are taken from there."""
    make_folder(parts)
    everything: list[dict[str, Any]] = []
    try:
        for first in range(0, len(prompts), size):
            stop.check()
            file = parts / f"{first:08d}.jsonl"
            rows = _read_part(file)
            if rows is None:
                if not parts.is_dir():
                    raise RunError(
                        f"{parts} was removed while the run was writing it. Put the folder back "
                        "and go on with --resume; without it --resume begins this stage anew."
                    )
                rows = _normal(collector.rows(prompts[first : first + size], first))
                text = _lines(rows)
                write_text(file, text + json.dumps({"sha256": _hash(text)}) + "\n")
            everything += rows
            progress.update(min(first + size, len(prompts)), {})
    except RunStopped as stopped:
        done = f"{len(everything)} of {len(prompts)} prompts are saved"
        raise RunStopped(done, stopped.signal) from None
    return everything


def _read_part(file: Path) -> list[dict[str, Any]] | None:
    """A chunk's rows, or None where it has not been made, or is not what was written."""
    if not file.exists():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        body, _, last = text.rstrip("\n").rpartition("\n")
        body += "\n" if body else ""
        if json.loads(last)["sha256"] == _hash(body):
            return [json.loads(line) for line in body.split("\n") if line]
        wrong = "its SHA-256 differs"
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong = str(error) or type(error).__name__
    warnings.warn(
        f"{file} is damaged ({wrong}); its prompts are sampled again.",
        stacklevel=2,
    )
    return None


def _normal(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they come back from a file."""
    return [json.loads(line) for line in _lines(rows).split("\n") if line]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
