"""Writes tunnel-held-out.jsonl, what the gates of the tunnel's recipes ask: 200 distinct questions
of the held-out split, which shares no problem with what is trained on, each with a written answer.

    python recipes/field/make_questions.py [FILE]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gnomon.tasks.tunnel import generate_prompts
from gnomon.tasks.tunnel.demonstrations import write_response
from gnomon.tasks.tunnel.world import seeded

FILE = Path(__file__).with_name("tunnel-held-out.jsonl")
COUNT, SEED = 200, 7


def questions() -> list[dict[str, Any]]:
    """The rows, the families taking turns as long as they have new questions."""
    rows: dict[str, dict[str, Any]] = {}
    for prompt in generate_prompts(10 * COUNT, SEED, split="heldout"):
        text = prompt.messages[0].content
        answer = write_response(prompt, seeded("demonstration", SEED, prompt.id))
        row = {"id": prompt.id, "prompt": text, "output": answer, "category": prompt.category}
        rows.setdefault(text, {**row, **prompt.meta})
    return list(rows.values())[:COUNT]


def write(file: Path) -> None:
    """The rows as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False) for row in questions()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
