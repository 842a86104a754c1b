"""Judges asked about single samples, as tests of sample by sample behaviour want it; and a reward
function whose process dies when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.judges.protocol import Judge, Sample, judged
from gnomon.records import Group, Judgement, Message, Prompt, Response, Score


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


OWN = '''
import os, signal
from pathlib import Path

HERE = Path(__file__).parent

def score(samples):
    """The length; one process dies of what it is asked first, where a file says so."""
    try:
        (HERE / "die").unlink()
    except FileNotFoundError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    with (HERE / "asked").open("a") as log:
        log.writelines(f"{os.getpid()} {sample.text}\\n" for sample in samples)
    if any("fail" in sample.text for sample in samples):
        raise ValueError("it cannot be scored")
    return [len(sample.text) / 7 for sample in samples]

def deadly(samples):
    os.kill(os.getpid(), signal.SIGKILL)

class Rounds:
    in_rounds = True

    def judge(self, groups):
        return []

class Told:
    """Scores with the rounds that it was told of; 1 at first, if torchrun started it."""

    def __init__(self):
        self.rounds = float("RANK" in os.environ)

    def begin(self, round):
        self.rounds = 10 * self.rounds + round

    def judge(self, groups):
        return [[self.rounds] * len(group.responses) for group in groups]
'''


def groups(count: int = 12, texts: int = 3) -> list[Group]:
    return [
        Group(
            Prompt(f"p{i}", (Message("user", f"say {i}"),), meta={"answer": i}),
            tuple(
                Response((Message("assistant", f"{i} " + "x" * (i * k % 11)),), ids=(3 + i, 4 + k))
                for k in range(texts)
            ),
            prompt_ids=(5, 6 + i),
        )
        for i in range(count)
    ]


def scores(found: list[Judgement]) -> list[list[Score]]:
    return [list(judgement.scores) for judgement in found]
