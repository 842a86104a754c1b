"""The ``collect`` stage: sample K responses to each prompt and have a judge rank them.

The judge is any reward (a learned model, a verifier, your function), simulated labellers, or people
(the reward ``human_queue``: the stage asks about all prompts at once and waits for the labels).
What it writes, ``groups.jsonl``, is ordinary preference data for a later stage (``data:
stage:NAME``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gnomon.algorithms.collect_settings import CollectSettings
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.algorithms.sampled_pairs import ranks_from_rewards
from gnomon.data.formats import net_wins
from gnomon.data.values import Skipped
from gnomon.errors import ConfigError, RunError
from gnomon.files import write_text
from gnomon.judges.protocol import Judge, is_skipped, judged
from gnomon.judges.tally import Tally, Totals
from gnomon.models.counting import TokenCounts
from gnomon.models.load import LoadedModel
from gnomon.models.roles import Role
from gnomon.recipe.schema import Kind
from gnomon.records import Comparison, Group, Judgement, Prompt, ranks_from_comparisons
from gnomon.rollout.protocol import Completion, Engine, Request, SamplingParams, sampled_group
from gnomon.runs.records import DATA
from gnomon.stages.chunks import chunks, lines_of
from gnomon.stages.computed import computed
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.stage import Stage
from gnomon.tasks.tunnel.labellers import Labeller, Turns
from gnomon.training.progress import Progress
from gnomon.training.sampled import SAMPLER, Sampling
from gnomon.training.watch import Stop

FIX = "fix the judge"
ASK_OTHERS = "ask others, or leave it out"


def written(completions: Sequence[Completion]) -> int:
    """The tokens of some responses."""
    return sum(len(completion.ids) for completion in completions)


class Collect(Stage):
    """Samples responses and has a judge rank them, as data for later stages."""

    @property
    def data_kind(self) -> Kind:
        return "prompts"

    @property
    def judged(self) -> bool:
        return bool(self.spec.reward or self.settings.labellers)

    def iterations(self, rows: int) -> int:
        return rows

    def check(self) -> None:
        spec = self.spec
        if spec.environment is not None:
            raise ConfigError(f"{spec.algorithm} plays no episodes; remove environment")
        if spec.rollout.max_staleness:
            raise ConfigError("a collect stage trains nothing: remove rollout.max_staleness")
        if spec.holdout or spec.eval_data or spec.lora:
            raise ConfigError(
                "a collect stage trains and evaluates nothing: remove holdout, eval_data and lora"
            )
        unused = ["train"] if spec.train.model_fields_set else []
        unused += ["probes"] if spec.probes is not None else []
        unused += ["rollout.final_temperature"] if spec.rollout.final_temperature else []
        if unused and not self.run.path.exists():  # one that an earlier version began goes on
            raise ConfigError(
                f"{', '.join(unused)}: a collect stage trains nothing, so that this would do "
                "nothing; remove it"
            )
        if spec.pretraining:
            raise ConfigError(
                "pretraining text is given but would not be used: a collect stage trains nothing; "
                "remove it"
            )
        if spec.reward and self.settings.labellers:
            raise ConfigError("both settings.labellers and a reward are given; one of them judges")
        if spec.observe:
            raise ConfigError("a collect stage logs nothing that could be observed; remove observe")
        if spec.normalise_on:
            raise ConfigError(f"normalise_on is for reward models, and this is {spec.algorithm}")
        if self.settings.keep != "best" and spec.rollout.samples < 2:
            raise ConfigError(
                "a collect stage compares responses to the same prompt: set rollout.samples to at "
                f"least 2 (it is {spec.rollout.samples}), or settings.keep to best"
            )

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        builder = RoleBuilder(self.spec, loaded, self.seed)
        encoder = self.encoder(loaded)
        policy = Role("policy", builder.trunk)
        groups, _ = self.data.groups("prompts")
        prompts = self.prompts(encoder, groups)
        self.data.note(self.folder.path / DATA, resume)
        judge = (
            self._labellers(prompts) if self.settings.labellers else self.judge(builder, prompts)
        )
        with self.progress(len(prompts)) as progress:
            collector = Collector(
                self.engine(policy, encoder),
                judge,
                self.settings,
                Sampling.of(self.spec.rollout).params,
                self.spec.rollout.samples,
                self.seed,
                self.spec.max_reward_errors,
                self.watched(progress, "rollout"),
            )
            made = collect(collector, prompts, self.folder.path, progress, self.stop)
        self.data.report.skipped += made.skipped
        tokens = TokenCounts()
        tokens.forward[SAMPLER] = made.tokens
        judged = made.judges.get(judge.name, {}).get("tokens", 0)
        return {
            "iterations": len(prompts),
            "summary": made.summary,
            "judges": made.judges,
            "compute": computed(tokens, {"policy": policy}, judge, judged),
        }

    def _labellers(self, prompts: Sequence[EncodedPrompt]) -> Judge:
        """The simulated labellers, who take turns."""
        who = [Labeller(**s.model_dump(), seed=self.seed) for s in self.settings.labellers]
        return Turns(who, [p.prompt.id for p in prompts])


class Collected(NamedTuple):
    """What :func:`collect` did: the counts, the prompts that gave no group, what judging took, and
    the tokens that sampling computed."""

    summary: dict[str, float]
    skipped: list[Skipped]
    judges: Totals
    tokens: int


@dataclass(frozen=True)
class Collector:
    """Samples and judges; see :func:`collect`."""

    engine: Engine
    judge: Judge
    settings: CollectSettings
    params: SamplingParams
    samples: int
    seed: int
    max_errors: float = 0.05
    on_progress: Callable[[int, int], None] | None = None

    def rows(
        self, prompts: Sequence[EncodedPrompt], first: int
    ) -> tuple[list[dict[str, Any]], Totals, int]:
        """One row per prompt, in order, what judging them took, and the tokens that sampling
        computed. Rows are in the native format where at least two distinct responses were judged
        (``keep: best``: one), else ``{"id", "skipped": reason, "cure"}``.

        Args:
            first: the place of the first of these prompts among all, which fixes their seeds.

        Raises:
            RunError: the judge failed on more than ``max_errors`` of the prompts.
            Pending: the judge has not answered yet.
        """
        requests = [
            Request(p.prompt.id, p.ids, self.samples, seed=self.seed * 1_000_003 + first + i)
            for i, p in enumerate(prompts)
        ]
        sampled = self.engine.generate(requests, self.params, self.on_progress)
        tokens = sum(len(p.ids) + written(row) for p, row in zip(prompts, sampled, strict=True))
        groups = [_distinct(p, own) for p, own in zip(prompts, sampled, strict=True)]
        least = 1 if self.settings.keep == "best" else 2
        found = judged(self.judge, [g for g in groups if len(g.responses) >= least])
        tally = Tally()
        tally.add(found)
        judgements = iter(found)
        rows = [
            self._row(group, next(judgements))
            if len(group.responses) >= least
            else self._skip(group)
            for group in groups
        ]
        errors = [row["skipped"] for row in rows if row.get("cure") == FIX]
        if len(errors) > self.max_errors * len(prompts):
            raise RunError(
                f"the judge failed on {len(errors)} of {len(prompts)} prompts, more than the "
                f"{self.max_errors:.0%} allowed (max_reward_errors). The first: {errors[0]}\n"
                "Fix it, then resume with --resume; what was judged before is kept."
            )
        return rows, tally.totals(), tokens

    def _skip(self, group: Group) -> dict[str, Any]:
        """Why a prompt without two distinct responses is left out."""
        reason = f"{self.samples} samples gave {len(group.responses)} distinct answers"
        return left_out(group, reason, "raise rollout.samples or rollout.temperature")

    def _row(self, group: Group, judgement: Judgement) -> dict[str, Any]:
        """The group as it was judged: with ranks where those say it all, else the comparisons."""
        errors = [score.error for score in judgement.scores if score.error is not None]
        if errors:
            skipped = all(map(is_skipped, errors))
            return left_out(group, errors[0], ASK_OTHERS if skipped else FIX)
        values = [score.value for score in judgement.scores if score.value is not None]
        # of several labellers the one whose turn it was
        who = judgement.judge if judgement.judge != self.judge.name else None
        more = {"labeller": who, "reason": judgement.reason, "principle": judgement.principle}
        said = {key: text for key, text in more.items() if text}
        if self.settings.keep == "best":
            compared = replace(group, comparisons=tuple(judgement.comparisons or ()))
            return self._best(group, values or net_wins(compared)) | said
        if judgement.comparisons is None:
            return self._ranked(group, ranks_from_rewards(values, self.settings.tie_margin)) | said
        if not judgement.comparisons:
            cure = "label it before the stage ends, or leave it out"
            return left_out(group, f"{judgement.judge} compared none of its responses", cure)
        ranks = ranks_of(judgement.comparisons, len(group.responses))
        row = self._compared(group, judgement.comparisons, values)
        if ranks is not None:
            row = self._ranked(group, ranks)
        return row | said

    def _best(self, group: Group, values: Sequence[float]) -> dict[str, Any]:
        """The best response that ended by itself: a cut-off one would teach not to end."""
        ended = [i for i, response in enumerate(group.responses) if response.finished]
        if not ended:
            return left_out(group, "every response was cut off", "raise rollout.max_new_tokens")
        best, least = max(ended, key=lambda i: values[i]), self.settings.threshold
        if least is not None and values[best] < least:
            reason = f"its best reward is {values[best]:g}, below the threshold of {least:g}"
            return left_out(group, reason, "raise rollout.samples, or lower settings.threshold")
        return with_prompt(group.prompt, {"responses": [_response(group, best)]})

    def _ranked(self, group: Group, ranks: Sequence[float]) -> dict[str, Any]:
        order = sorted(range(len(ranks)), key=lambda i: ranks[i])
        if self.settings.keep == "best-worst":
            order = [order[0], order[-1]]
        texts = [{**_response(group, i), "rank": ranks[i]} for i in order]
        return with_prompt(group.prompt, {"responses": texts})

    def _compared(
        self, group: Group, comparisons: Sequence[Comparison], values: Sequence[float]
    ) -> dict[str, Any]:
        """Comparisons as they are: not every pair need have one."""
        if self.settings.keep == "best-worst":
            comparisons = sorted(comparisons, key=lambda c: values[c.worse] - values[c.better])[:1]
        used = sorted({i for c in comparisons for i in (c.better, c.worse)})
        texts = [_response(group, i) for i in used]
        pairs = [_pair(c) for c in comparisons]
        return with_prompt(group.prompt, {"responses": texts, "comparisons": pairs})


def ranks_of(comparisons: Sequence[Comparison], count: int) -> list[float] | None:
    """The ranks of ``count`` responses that say as much as these comparisons; None where none do,
    as where one says more than which is better."""
    if any(c.weight != 1.0 or c.margin or c.probability != 1.0 for c in comparisons):
        return None
    return ranks_from_comparisons(comparisons, count)


def _distinct(prompt: EncodedPrompt, completions: Sequence[Completion]) -> Group:
    """The prompt with its distinct, non-blank responses."""
    distinct = {c.text: c for c in completions if c.text.strip()}
    return sampled_group(prompt.prompt, prompt.ids, list(distinct.values()))


def left_out(group: Group, reason: str, cure: str) -> dict[str, Any]:
    return {"id": group.prompt.id, "skipped": reason, "cure": cure}


def _response(group: Group, i: int) -> dict[str, Any]:
    return {"id": _number(i), "text": group.responses[i].text}


def _number(i: int) -> str:
    """A response's id: the number by which judges name it in their reasons, which count from 1."""
    return str(i + 1)


def _pair(c: Comparison) -> dict[str, Any]:
    pair: dict[str, Any] = {"better": _number(c.better), "worse": _number(c.worse), "tie": c.tie}
    if c.weight != 1.0:
        pair["weight"] = c.weight
    if c.margin:
        pair["margin"] = c.margin
    if c.probability != 1.0:
        pair["probability"] = c.probability
    return pair


def with_prompt(prompt: Prompt, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row of groups.jsonl."""
    row: dict[str, Any] = {"id": prompt.id, **fields, "meta": dict(prompt.meta)}
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
) -> Collected:
    """Fill ``folder/groups.jsonl``, chunk by chunk; finished chunks are kept over a restart.

    Raises:
        RunError: no prompt gave a row.
        Pending: the judge has not answered yet.
        RunStopped: the run was asked to stop; finished chunks are kept.
    """
    size = max(1, len(prompts)) if collector.judge.in_rounds else collector.settings.chunk
    collector.judge.begin(1)
    everything, judges, tokens = chunks(
        collector, prompts, folder / "parts", size, progress, stop or Stop()
    )
    by_id = {p.prompt.id: p.prompt.source for p in prompts}
    skipped = [
        Skipped(by_id.get(row["id"]), f"prompt {row['id']}: {row['skipped']}", row["cure"])
        for row in everything
        if "skipped" in row
    ]
    groups = [row for row in everything if "skipped" not in row]
    if not groups:
        raise RunError(
            f"none of {len(prompts)} prompts gave a row. The first: {skipped[0].reason} "
            f"({skipped[0].cure})"
        )
    write_text(folder / "groups.jsonl", lines_of(groups))
    counts = {"prompts": float(len(prompts)), "groups": float(len(groups))}
    return Collected(counts, skipped, judges, tokens)
