"""How a micro-batch's attention is laid out: what :mod:`gnomon.models.attention` would make of it.

Attention works on dense blocks, into which queries and keys are copied; a block whose queries do
not see all that came before has a mask. Both grow with the length of the sequence, the mask with
its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from gnomon.plan.job import Job


@dataclass(frozen=True)
class Layout:
    """One micro-batch of equal groups.

    Attributes:
        tokens: N, packed ones.
        responses: R, of responses among them.
        queries, keys: slots of the blocks, each holding one token's.
        copied: outputs are brought back into packed order, which takes a copy.
        mask: numbers of the masks.
        made: pairs of a query and a key that are looked at to make them.
        pairs: query-key pairs of all blocks.
    """

    tokens: int
    responses: int
    queries: int
    keys: int
    copied: bool
    mask: int
    made: int
    pairs: int


def layout(job: Job) -> Layout:
    """The layout of the job's largest micro-batch."""
    groups = max(1, round(job.packed / job.group))
    return _layout(groups, job.learned, job.prompt_tokens, job.response_tokens)


@cache
def _layout(groups: int, samples: int, prompt: int, response: int) -> Layout:
    from gnomon.data.batch import Segment
    from gnomon.models.attention import buckets, units

    size = prompt + samples * response
    segments = []
    for i in range(groups):
        at = i * size + prompt
        ends = tuple((at + k * response, at + (k + 1) * response) for k in range(samples))
        segments.append(Segment((i * size, at), ends))
    queries = keys = mask = made = pairs = 0
    blocks = buckets(units(segments))
    for block in blocks:
        longest, widest = max(u.q_len for u in block), max(u.k_len for u in block)
        alike = len({(u.q_len, u.prompt_len, u.own_len) for u in block}) == 1
        queries += len(block) * longest
        keys += len(block) * widest
        pairs += len(block) * longest * widest
        if not block[0].causal:
            whole = alike and (longest == size or len(block) == 1)
            mask += (1 if whole else len(block)) * longest * widest
            made = max(made, (1 if whole else len(block)) * longest * widest)
    return Layout(
        tokens=groups * size,
        responses=groups * samples * response,
        queries=queries,
        keys=keys,
        copied=len(blocks) > 1 or queries != groups * size,
        mask=mask,
        made=made,
        pairs=pairs,
    )
