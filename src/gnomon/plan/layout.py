"""How a micro-batch's attention is laid out: what :mod:`gnomon.models.attention` would make of it.

Attention works on dense blocks, into which queries and keys are copied; a block whose queries do
not see all that came before has a mask. Both grow with the length of the sequence, the mask with
its square. A GPU's kernels for rows of many lengths (:mod:`gnomon.models.varlen`) have neither
masks nor padding, and copy a prompt's keys for each of its responses.
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
    sizes = groups, job.learned, job.prompt_tokens, job.response_tokens
    return _blocks(*sizes, job.device) if job.masked else _rows(*sizes)


def _rows(groups: int, samples: int, prompt: int, response: int) -> Layout:
    """One row for each prompt and each response; for both together where there is one response."""
    own = prompt + samples * response
    keys = own if samples == 1 else own + samples * prompt
    return Layout(
        tokens=groups * own,
        responses=groups * samples * response,
        queries=groups * own,
        keys=groups * keys,
        copied=False,
        mask=0,
        made=0,
        pairs=groups * (prompt**2 + samples * response * (prompt + response)),
    )


@cache
def _blocks(groups: int, samples: int, prompt: int, response: int, device: str) -> Layout:
    from gnomon.data.batch import Segment
    from gnomon.models.attention import buckets, units
    from gnomon.models.costs import costs_of

    costs = costs_of(device)
    size = prompt + samples * response
    segments = []
    for i in range(groups):
        at = i * size + prompt
        ends = tuple((at + k * response, at + (k + 1) * response) for k in range(samples))
        segments.append(Segment((i * size, at), ends))
    queries = keys = mask = made = pairs = 0
    blocks = buckets(units(segments, costs), costs)
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
