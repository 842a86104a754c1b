"""The judge that a suite asks: who it is, in both orders, and which calibration speaks of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from gnomon.errors import ConfigError
from gnomon.evals.subject import Subject
from gnomon.files import first_line
from gnomon.judges.build import BUILTIN, build_judge
from gnomon.judges.protocol import Judge
from gnomon.plugins import is_own
from gnomon.recipe.schema import RewardSpec
from gnomon.runs.evals import Calibration, calibrations_of, read_calibrations


def as_spec(value: Any) -> Any:
    """A judge as a recipe's reward entry: a mapping, or a text that is a builtin's name, code of
    one's own (``file.py:name``), or the folder of a reward model."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return mapping_in(value)
    if value in BUILTIN:
        return {"builtin": value}
    return {"function": value} if is_own(value) else {"model": value}


def mapping_in(text: str) -> Any:
    """What a text says that begins as a mapping, as a command line gives one.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is no YAML ({first_line(error)})") from error


class JudgeEntry(RewardSpec):
    """A judge as a recipe's reward entry."""

    base: Path | None = Field(
        None, exclude=True, description="the folder that its files start from, if another"
    )


JudgeSpec = Annotated[JudgeEntry | None, BeforeValidator(as_spec)]
"""A judge by name, by file.py:name, by a reward model's folder, or as a reward's mapping."""


def open_judge(spec: RewardSpec, base: Path, subject: Subject) -> Judge:
    """The judge behind an entry; a reward model reads answers as text, whatever wrote them.

    Args:
        base: the folder that files are looked up in.
        subject: what is measured; a reward model may be named as a stage of its run.

    Raises:
        ConfigError, ModelError: there is none.
    """
    if isinstance(spec, JudgeEntry) and spec.base is not None:
        base = spec.base
    if spec.model is not None:
        found = base / spec.model
        known = subject.siblings.get(spec.model)
        source = known or (str(found) if found.is_dir() else spec.model)
        device = subject.device
        how = {"ensemble": spec.ensemble, "std_coef": spec.std_coef}
        return learned_judge(source, spec.label, device=device, **how)
    return build_judge([spec], base=base, load=_none)


def learned_judge(source: str, name: str, *, device: str = "cpu", **how: Any) -> Judge:
    """A reward model that reads answers as text.

    Args:
        how: see :class:`~gnomon.judges.learned.LearnedReward`.
    """
    from gnomon.judges.learned import LearnedReward, text_encoding
    from gnomon.models.save import load_reward_model

    loaded = load_reward_model(source, device=device)
    encode = text_encoding(loaded.members[0].trunk)
    return LearnedReward(loaded.members, loaded.normaliser, name=name, encode=encode, **how)


def _none(name: str) -> Any:
    raise ConfigError(f"reward model {name!r}: name it as model")


def calibration_of(run: Path, judge: str, version: str) -> tuple[str, Calibration | None]:
    """The file in a run's folder that says how far this very judge agrees with people, and what it
    says: the one of most labels, the last made of these; empty where there is none."""
    files = [(file, c) for file, c in read_calibrations(run) if c.is_of(judge, version)]
    own = calibrations_of((c for _, c in files), judge, version)
    if not own:
        return "", None
    found = max(own, key=lambda c: (c.labels, c.made))
    file = next(file for file, c in files if c is found)
    return str(file.relative_to(run)), found


def other_version(run: Path, judge: str, version: str) -> str:
    """In words, what is different about the judge of that name that has a calibration; empty where
    none has."""
    for _, found in read_calibrations(run):
        if found.judge == judge:
            return f" (there is one of another {found.differs(version)}: {found.version})"
    return ""


def check_spec(spec: RewardSpec | None, what: str) -> RewardSpec:
    """The entry, which must be there.

    Raises:
        ConfigError: it is not.
    """
    if spec is None:
        raise ConfigError(
            f"{what} needs a judge: --judge NAME, file.py:name, a reward model, or "
            "an AI judge (--judge model=NAME --judge url=http://HOST/v1)"
        )
    return spec


def described(spec: RewardSpec) -> Mapping[str, Any]:
    """What of an entry changes the figures."""
    return spec.model_dump(mode="json", exclude_defaults=True)
