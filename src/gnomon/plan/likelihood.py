"""On or off policy: how likely a model finds the data's answers, beside its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from gnomon.data.formats import best_response
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, DataError
from gnomon.evals.asking import Ask, Unanswered
from gnomon.evals.subject import Model
from gnomon.plan.facts import DataFile
from gnomon.records import Group, TokenGroup, TokenResponse
from gnomon.stats.intervals import Interval, mean_interval

PROMPTS = 64
"""Prompts that are asked: the interval of their mean is a few tenths of a nat wide."""
FEWEST = 8


def off_policy(
    model: str,
    files: Sequence[DataFile],
    *,
    template: str | None = None,
    new_tokens: int | None = None,
    device: str = "cpu",
    watch: Callable[[int, int], None] | None = None,
) -> Interval:
    """By how many nats a token the model's own answers are likelier to it than the data's better
    ones, to the same prompts; the mean over prompts with its 95% interval.

    An answer's figure is the mean log-probability of its tokens. Own answers are sampled at
    temperature 1, so that theirs is minus the model's entropy: data that the model might have
    written itself is near 0 (Tajwar et al. 2024 call pairs far from it off-policy).

    Args:
        new_tokens: of an answer at most.
        watch: told how many answers are there, of how many.

    Raises:
        ConfigError: too few prompts with answers.
        ModelError: the weights cannot be loaded.
    """
    groups = [
        group
        for file in files
        if file.kind not in ("prompts", "text")
        for group in read_groups(file.path, max_skipped=1.0, **file.reading).groups
        if group.responses
    ]
    random.Random(0).shuffle(groups)
    subject = Model(model, "policy", device=device, template=template)
    encoded = _encoded(subject, groups)
    if len(encoded) < FEWEST:
        raise ConfigError(
            f"--likelihood asks the model about answers, and {len(encoded)} prompts have one that "
            f"it can take; at least {FEWEST} are needed"
        )
    ask = Ask(max_new_tokens=new_tokens, temperature=1.0)
    answered = subject.answer([group.prompt for group, _ in encoded], ask, watch)
    both = [
        TokenGroup(given.id, given.prompt_ids, (given.responses[0], _own(answer)))
        for (_, given), answer in zip(encoded, answered, strict=True)
        if not isinstance(answer, Unanswered) and answer.responses[0].ids
    ]
    from gnomon.evals.likelihood import response_logprobs

    sums = response_logprobs(subject.role(), both)
    means = [
        [total / max(1, sum(r.mask)) for total, r in zip(row, group.responses, strict=True)]
        for row, group in zip(sums, both, strict=True)
    ]
    return mean_interval([own - data for data, own in means], method="t")


def _encoded(subject: Model, groups: Sequence[Group]) -> list[tuple[Group, TokenGroup]]:
    """The first groups that the model can take, each with its best answer alone."""
    found: list[tuple[Group, TokenGroup]] = []
    for group in groups:
        alone = replace(group, responses=(best_response(group),), comparisons=())
        try:
            found.append((group, subject.encoder.encode_demonstration(alone)))
        except DataError:
            continue
        if len(found) == PROMPTS:
            break
    return found


def _own(answer: Group) -> TokenResponse:
    ids = tuple(answer.responses[0].ids)
    return TokenResponse(ids, [True] * len(ids))
