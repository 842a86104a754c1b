"""Earlier rounds' pairs, kept to learn from again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gnomon.data.batch import epoch_order
from gnomon.records import Comparison, TokenGroup, TokenResponse


class Replay:
    """The groups of the last ``rounds`` rounds; which of them come back is fixed by the seed.

    What it keeps is tokens, which of them count, scalars and comparisons: whatever depends on the
    reference is computed again in the round that uses it.

    Args:
        share: of a round's groups, how many come from earlier rounds, in [0, 1).
        rounds: how far it reaches back.
    """

    def __init__(self, share: float, rounds: int, seed: int) -> None:
        self.share = share
        self.seed = seed
        self._rounds: deque[tuple[TokenGroup, ...]] = deque(maxlen=rounds)

    def draw(self, fresh: int, iteration: int) -> list[TokenGroup]:
        """Groups that make up ``share`` of the round together with ``fresh`` new ones."""
        kept = [group for one in self._rounds for group in one]
        wanted = round(fresh * self.share / (1 - self.share))
        order = epoch_order(len(kept), self.seed * 6_361 + 17, iteration) if wanted else []
        return [kept[i] for i in order[:wanted]]

    def add(self, groups: Sequence[TokenGroup]) -> None:
        """Keep a round's groups."""
        if self.share:
            self._rounds.append(tuple(groups))

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything, as tensors of tokens and JSON."""
        return [_pack(one) for one in self._rounds]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._rounds.clear()
        self._rounds.extend(tuple(_unpack(one)) for one in state)


def _pack(groups: Sequence[TokenGroup]) -> dict[str, Any]:
    tokens = [
        t for g in groups for ids in (g.prompt_ids, *(r.ids for r in g.responses)) for t in ids
    ]
    return {
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "groups": [
            {
                "id": g.id,
                "category": g.category,
                "prompt": len(g.prompt_ids),
                "lengths": [len(r.ids) for r in g.responses],
                "masks": [list(map(bool, r.mask)) for r in g.responses],
                "scalars": [dict(r.scalar) for r in g.responses],
                "pairs": [asdict(c) for c in g.comparisons],
            }
            for g in groups
        ],
    }


def _unpack(packed: Mapping[str, Any]) -> list[TokenGroup]:
    tokens: Tensor = packed["tokens"]
    sizes = [n for g in packed["groups"] for n in (g["prompt"], *g["lengths"])]
    parts = iter(torch.split(tokens, sizes))
    out: list[TokenGroup] = []
    for g in packed["groups"]:
        prompt = next(parts).tolist()
        responses = tuple(
            TokenResponse(next(parts).tolist(), mask, scalar=scalar)
            for mask, scalar in zip(g["masks"], g["scalars"], strict=True)
        )
        pairs = tuple(Comparison(**pair) for pair in g["pairs"])
        out.append(TokenGroup(g["id"], prompt, responses, pairs, category=g["category"]))
    return out
