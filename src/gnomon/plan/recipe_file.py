"""Parts of a planned recipe that need none of the data: who judges, and the file's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gnomon.judges.build import AI, BUILTIN


def judge_spec(
    model: str,
    judge: str | None,
    constitution: str | None,
    prices: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The reward that ``--judge`` names: a reward model's folder, ``file.py:function``, a builtin,
    or a model at an endpoint; without one the model itself judges, by the constitution.

    Args:
        prices: euros for a million tokens that the model at the endpoint reads, and writes.
    """
    by = {} if constitution is None else {"constitution": constitution}
    if judge is None:
        return {"builtin": AI, "options": {"local": model, **by}}
    if ":" in judge and ".py" in judge:
        file, _, name = judge.rpartition(":")
        return {"function": f"{Path(file).resolve()}:{name}", "name": "judge"}
    if judge in BUILTIN and judge != AI:
        return {"builtin": judge, "name": "judge"}
    folder = Path(judge)
    if (folder / "gnomon.json").is_file() or any(folder.glob("member-*")):
        return {"model": str(folder.resolve()), "name": "judge"}
    if (folder / "config.json").is_file():
        return {"builtin": AI, "options": {"local": str(folder.resolve()), **by}}
    paid = {} if prices is None else dict(zip(("price_input", "price_output"), prices, strict=True))
    return {"builtin": AI, "options": {"model": judge, **paid, **by}}


def at_endpoint(judge: str | None) -> bool:
    """Whether the judge is a model that is asked by the token."""
    return judge is not None and "model" in judge_spec("", judge, None).get("options", {})


def critic_spec(judge: str) -> dict[str, Any] | None:
    """Who criticises where a judge is named: the same model; None where it is none."""
    if (Path(judge) / "config.json").is_file():
        return {"local": str(Path(judge).resolve())}
    return None if judge in BUILTIN or ":" in judge or Path(judge).exists() else {"model": judge}


def to_yaml(recipe: Mapping[str, Any], reasons: Sequence[str], notes: Mapping[str, str]) -> str:
    """The recipe as a file that a person reads.

    Args:
        reasons: lines at its head.
        notes: a line before each stage, by its name.
    """

    def dump(value: Any, flow: bool | None = None) -> str:
        return yaml.safe_dump(
            value, sort_keys=False, allow_unicode=True, width=100, default_flow_style=flow
        )

    last = ("compare", "gates")
    head = {key: value for key, value in recipe.items() if key not in ("stages", *last)}
    tail = {key: recipe[key] for key in last if key in recipe}
    parts = [
        *(f"# {line}".rstrip() for line in reasons),
        dump(head, flow=False).rstrip(),
        "stages:",
    ]
    for stage in recipe["stages"]:
        note = notes.get(stage["name"])
        lines = dump(stage).rstrip().splitlines()
        parts += [f"  # {note}"] if note else []
        parts += [f"  {'- ' if i == 0 else '  '}{line}" for i, line in enumerate(lines)] + [""]
    return "\n".join(parts) + "\n" + (dump(tail) if tail else "")
