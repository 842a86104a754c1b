"""The tutorials as a reader does them: save the recipes, type the commands, compare the output."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from docs_pages import ROOT, Block, blocks
from typer.testing import CliRunner

from gnomon.cli.main import app

FOLDER = ROOT / "docs" / "tutorials"
FIRST = {
    "reward-model": ("sft",),
    "ppo": ("sft", "reward-model"),
    "dpo": ("sft", "reward-model"),
    "kto": ("sft", "reward-model"),
    "online": ("sft", "reward-model"),
    "human-labels": ("sft", "reward-model"),
    "grpo": ("sft",),
    "distill": ("sft", "grpo"),
    "constitutional": ("sft",),
}
"""The tutorials whose runs a tutorial goes on from, as "What you need" on its page says."""
_NUMBER = re.compile(r"(?<![\w-])[-+]?\d[\d.,]*(?:e[-+]?\d+)?")
_GAP = "…"


@dataclass
class Done:
    """What was printed by each group of commands, beside what the page says is printed."""

    shown: list[tuple[str, str]] = field(default_factory=list)


def tutorial(name: str) -> Path:
    """The page of that name."""
    return FOLDER / f"{name}.md"


def commands(block: Block) -> list[str]:
    """The command lines of a block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("gnomon ")]


def save_files(page: Path, folder: Path) -> None:
    """Write the page's recipes as NAME.yaml, and the files that name themselves in a first line."""
    for block in blocks(page):
        if block.language == "yaml" and "stages" in (raw := yaml.safe_load(block.text)):
            (folder / f"{raw['name']}.yaml").write_text(block.text, encoding="utf-8")
        elif block.language == "python" and block.text.startswith("# "):
            name = block.text.split("\n", 1)[0].removeprefix("# ")
            (folder / name).write_text(block.text, encoding="utf-8")


def do(page: Path, folder: Path) -> Done:
    """Save the page's files in ``folder``, which is the working directory, and run its commands."""
    save_files(page, folder)
    done, printed = Done(), ""
    for block in blocks(page):
        if block.language == "sh":
            printed = ""
            for command in commands(block):
                result = CliRunner().invoke(app, shlex.split(command)[1:])
                assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
                printed += result.output
        elif block.language == "text":
            done.shown.append((block.text, printed))
    return done


def missing(shown: str, printed: str) -> list[str]:
    """The lines of the page that were not printed, in that order; numbers may differ.

    A gap (…) stands for anything; a line that is nothing else, for any lines.
    """
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    lost, at = [], 0
    for line in filter(None, (" ".join(line.split()) for line in shown.splitlines())):
        if line == _GAP:
            continue
        parts = [_NUMBER.split(part) for part in line.split(_GAP)]
        number = r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?"
        pattern = ".*".join(number.join(map(re.escape, part)) for part in parts)
        found = next((i for i in range(at, len(lines)) if re.fullmatch(pattern, lines[i])), None)
        if found is None:
            lost.append(line)
        else:
            at = found + 1
    return lost
