"""Rows for the benchmarks, as tokens: real ones where the data folder is, else random ones.

Both sides of a benchmark train on these very tokens, in this very order, so that they do the same
work; each reads them from one file that :func:`save` wrote.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from gnomon.data.encode import Encoder
from gnomon.data.readers import read_groups
from gnomon.data.rows import iter_rows
from gnomon.data.values import RawRow
from gnomon.records import (
    Comparison,
    Group,
    Message,
    Prompt,
    Response,
    TokenGroup,
    TokenResponse,
    comparisons_from_ranks,
)

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Rows:
    """Groups, the groups of each optimiser step (as indices), and where they came from."""

    groups: list[TokenGroup]
    schedule: list[list[int]]
    source: str

    def steps(self) -> list[list[TokenGroup]]:
        """The groups of each optimiser step."""
        return [[self.groups[i] for i in step] for step in self.schedule]


def in_steps(groups: Sequence[TokenGroup], batch: int, steps: int, source: str) -> Rows:
    """``steps`` steps of ``batch`` groups in order, from the start again when they run out."""
    order = [i % len(groups) for i in range(batch * steps)]
    schedule = [order[i : i + batch] for i in range(0, len(order), batch)]
    return Rows(list(groups), schedule, source)


# -- real rows ------------------------------------------------------------------------------------


def demonstrations(tokenizer: Any, data: Path, n: int, max_length: int) -> list[TokenGroup]:
    """GSM8K questions with their worked answers."""
    read = read_groups(data / "gsm8k" / "train.jsonl.gz", kind="demonstrations", limit=4 * n)
    encoder = Encoder(tokenizer, max_length=max_length)
    return encoder.encode_all(read.groups, "demonstrations")[0][:n]


def pairs(tokenizer: Any, data: Path, n: int, max_length: int) -> list[TokenGroup]:
    """Anthropic's harmless pairs, both sides within ``max_length`` tokens."""
    path = data / "hh-rlhf" / "harmless-test.jsonl.gz"
    read = read_groups(path, kind="rankings", limit=8 * n)
    encoder = Encoder(tokenizer, max_length=max_length)
    return encoder.encode_all(read.groups, "groups")[0][:n]


def rankings(tokenizer: Any, data: Path, n: int, k: int, max_length: int) -> list[TokenGroup]:
    """AlpacaEval instructions with ``k`` models' answers, ranked by length (the cost is the same
    whoever wins)."""
    answers: dict[str, list[str]] = {}
    farm, evaluated = data / "alpaca_farm", data / "alpaca_eval"
    for path in [*sorted(farm.glob("*.gz")), *sorted(evaluated.glob("*.gz"))]:
        for row in iter_rows(path):
            if not isinstance(row, RawRow) or row.data.get("input"):
                continue
            known = answers.setdefault(row.data["instruction"], [])
            for field in ("output", "output_1", "output_2"):
                text = row.data.get(field)
                if isinstance(text, str) and text.strip() and text not in known:
                    known.append(text)
    groups = []
    for i, (instruction, texts) in enumerate(answers.items()):
        if len(texts) >= k:
            best = sorted(texts, key=len)[:k]
            groups.append(
                Group(
                    Prompt(f"alpaca-{i}", (Message("user", instruction),)),
                    tuple(
                        Response((Message("assistant", t),), rank=rank)
                        for rank, t in enumerate(best, start=1)
                    ),
                )
            )
    encoder = Encoder(tokenizer, max_length=max_length)
    encoded = encoder.encode_all(groups, "groups")[0][:n]
    if len(encoded) < n:
        raise SystemExit(f"only {len(encoded)} prompts with {k} answers of {max_length} tokens")
    return encoded


# -- random rows ----------------------------------------------------------------------------------


def random_groups(
    n: int,
    k: int,
    vocabulary: int,
    prompt: tuple[int, int],
    response: tuple[int, int],
    seed: int = 0,
) -> list[TokenGroup]:
    """``n`` groups of random tokens, lengths uniform within the (low, high) given; for k > 1 with
    all comparisons of the ranking 1..k."""
    draw = random.Random(seed)

    def tokens(bounds: tuple[int, int]) -> list[int]:
        return [draw.randrange(8, vocabulary) for _ in range(draw.randint(*bounds))]

    def answer() -> TokenResponse:
        ids = tokens(response)
        return TokenResponse(ids, [True] * len(ids))

    return [
        TokenGroup(
            f"random-{i}",
            tokens(prompt),
            tuple(answer() for _ in range(k)),
            comparisons_from_ranks(range(1, k + 1)),
        )
        for i in range(n)
    ]


def as_pairs(group: TokenGroup) -> list[TokenGroup]:
    """A ranking of K responses as K(K-1)/2 groups of two, each with a prompt of its own."""
    return [
        TokenGroup(
            f"{group.id}/{a}-{b}",
            group.prompt_ids,
            (group.responses[a], group.responses[b]),
            (Comparison(0, 1),),
        )
        for a, b in combinations(range(len(group.responses)), 2)
    ]


# -- the file both sides read ---------------------------------------------------------------------


def save(rows: Rows, path: Path) -> None:
    """Write rows as JSON: token ids, masks and comparisons."""
    groups = [
        {
            "id": g.id,
            "prompt": list(g.prompt_ids),
            "responses": [{"ids": list(r.ids), "mask": list(r.mask)} for r in g.responses],
            "comparisons": [[c.better, c.worse] for c in g.comparisons],
        }
        for g in rows.groups
    ]
    path.write_text(
        json.dumps({"groups": groups, "schedule": rows.schedule, "source": rows.source})
    )


def load(path: Path) -> Rows:
    """Read what :func:`save` wrote."""
    said = json.loads(path.read_text())
    groups = [
        TokenGroup(
            g["id"],
            g["prompt"],
            tuple(TokenResponse(r["ids"], r["mask"]) for r in g["responses"]),
            tuple(Comparison(better, worse) for better, worse in g["comparisons"]),
        )
        for g in said["groups"]
    ]
    return Rows(groups, said["schedule"], said["source"])
