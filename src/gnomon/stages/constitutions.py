"""The constitutions of a stage, kept in its folder: a stage resumes with the same ones only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, RunError
from gnomon.feedback.constitution import Constitution, read_constitution
from gnomon.files import read_object, write_json
from gnomon.recipe.schema import StageSpec
from gnomon.runs.labels import CONSTITUTIONS


def keep_constitutions(spec: StageSpec, base: Path, folder: Path) -> None:
    """Write down by which principles a stage works, and refuse others where it resumes: its rows
    would name a version that only some of them were made by.

    Raises:
        ConfigError: a constitution is not what it was when the stage began.
        RunError: what was written down cannot be read.
    """
    now = {where: _said(read_constitution(where, base)) for where in sorted(set(_named(spec)))}
    file = folder / CONSTITUTIONS
    if not now and not file.exists():
        return
    if not file.exists():
        write_json(file, now)
        return
    try:
        before = read_object(file)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file}: {error}, so it is not known whether the constitution is still the same. Put "
            "the file back; or remove it, if you know that it is, and resume with --resume."
        ) from error
    for where, said in now.items():
        if before.get(where) != said:
            raise ConfigError(
                f"stage {spec.name!r}: constitution {where!r} changed since this stage was "
                f"started{_what(before.get(where), said)}. Put it back to resume, or start again "
                "under another name (name=...), since rows made before it were made by the old one."
            )


def _named(spec: StageSpec) -> Iterator[str]:
    """The constitutions that a stage names: in its settings, and in those of its judges."""
    given: list[Mapping[str, Any]] = [spec.settings]
    given += [reward.options for reward in [*spec.reward, *spec.observe]]
    if spec.algorithm == "revise" and "constitution" not in spec.settings:
        yield "gnomon"
    for options in given:
        if isinstance(options.get("constitution"), str):
            yield str(options["constitution"])


def _said(found: Constitution) -> dict[str, Any]:
    return {"version": found.version, "principles": found.fingerprints()}


def _what(before: Any, now: Mapping[str, Any]) -> str:
    """Which principles differ, in words."""
    if not isinstance(before, Mapping) or not isinstance(before.get("principles"), Mapping):
        return ""
    old, new = before["principles"], now["principles"]
    changed = [id for id in new if id in old and old[id] != new[id]]
    parts = {
        "changed": [id or "what stands around the principles" for id in changed],
        "new": [id for id in new if id not in old],
        "gone": [id for id in old if id not in new],
    }
    told = "; ".join(f"{what}: {', '.join(ids)}" for what, ids in parts.items() if ids)
    return f" ({before.get('version')} is now {now['version']}; {told})"
