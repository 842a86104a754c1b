"""Judges asked about single samples, as tests of sample by sample behaviour want it."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.judges.protocol import Judge, Sample, judged
from gnomon.records import Group, Message, Response, Score


def group_of(*samples: Sample) -> Group:
    """Samples of one prompt as a group."""
    responses = tuple(
        Response((Message("assistant", s.text),), ids=s.response_ids, finished=s.finished)
        for s in samples
    )
    return Group(samples[0].prompt, responses, prompt_ids=samples[0].prompt_ids)


def score_safely(judge: Judge, samples: Sequence[Sample]) -> list[Score]:
    """The judge's score of each sample, each in a group of its own."""
    judgements = judged(judge, [group_of(sample) for sample in samples])
    return [score for judgement in judgements for score in judgement.scores]
