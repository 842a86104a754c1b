"""A rubric: weighted criteria that an answer meets or does not, and the score they make.

Criteria with a positive weight are what an answer should do, those with a negative one what it
should not. The score is the sum of the weights of what is met, divided by the sum of all positive
weights, as in HealthBench (Arora et al. 2025) and, with positive weights alone, the explicit
aggregation of Gunjal et al. (2025, "Rubrics as Rewards"). It is 1 for an answer that does all it
should and nothing that it should not; faults can bring it below 0, and it is not clipped there, so
that a reward still tells bad answers apart. Verdicts may be probabilities: the score is then its
own mean under them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gnomon.errors import ConfigError
from gnomon.files import first_line
from gnomon.plugins import nearest
from gnomon.recipe.read import read_yaml
from gnomon.records import Score

TEXT = ("text", "criterion", "description")
WEIGHT = ("weight", "points")
NAME = ("name", "title")
LIST = ("criteria", "rubrics", "rubric")
MET, FAULTS = "met", "faults"
"""Parts of the score by a prompt's own rubric: the shares of the good and of the bad weight."""


@dataclass(frozen=True)
class Criterion:
    """One thing that an answer meets or does not.

    Attributes:
        text: in words.
        weight: what it counts; below 0 for what an answer should not do.
        name: what its part of the score is called.
    """

    text: str
    weight: float
    name: str


@dataclass(frozen=True)
class Rubric:
    """Criteria, and what they are called together.

    Attributes:
        version: as it was given, or the beginning of its SHA-256.
        own: whether it is one prompt's own: parts of the score are then the same for every rubric.
    """

    criteria: tuple[Criterion, ...]
    name: str
    version: str
    own: bool = False

    @classmethod
    def read(cls, file: Path) -> Rubric:
        """From a YAML or JSON file.

        Raises:
            ConfigError: it cannot be read, or holds no rubric.
        """
        try:
            value = read_yaml(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"the rubric {file} cannot be read: {first_line(error)}") from error
        return cls.parse(value, str(file), file.stem)

    @classmethod
    def parse(cls, value: Any, where: str, name: str = "rubric", own: bool = False) -> Rubric:
        """From a list of criteria, or a mapping with ``criteria`` and, if wanted, ``name`` and
        ``version``. A criterion is a text of weight 1, or a mapping with ``text`` (or criterion,
        description), ``weight`` (or points) and, if wanted, ``name`` (or title).

        Raises:
            ConfigError: it is not one; the message names the criterion and what is wrong.
        """
        about: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        items = _first(about, LIST) if about else value
        if not isinstance(items, list) or not items:
            raise ConfigError(
                f"{where}: a rubric is a list of criteria, as in [{{text: it names a source, "
                "weight: 2}], or a mapping with criteria: [...]"
            )
        criteria = _named(
            [_criterion(item, f"{where}, criterion {i}") for i, item in _count(items)]
        )
        digest = hashlib.sha256(json.dumps([asdict(c) for c in criteria]).encode()).hexdigest()
        version = str(about.get("version") or digest[:8])
        return cls(tuple(criteria), str(about.get("name") or name), version, own)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """Of all that it says."""
        said = [self.name, self.version, *(asdict(c) for c in self.criteria)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def numbered(self) -> str:
        """All criteria as one text, each with its number, for a question about all at once."""
        return "\n".join(f"{i}. {c.text}" for i, c in _count(self.criteria))

    def weighed(self) -> str:
        """The same with what each counts, for a question about the answer as a whole."""
        return "\n".join(f"{i}. ({c.weight:+g}) {c.text}" for i, c in _count(self.criteria))

    def score(self, met: Sequence[float]) -> Score:
        """The score of an answer.

        Args:
            met: for each criterion, how likely it is met (0 or 1 where that is known).
        """
        weights = [c.weight for c in self.criteria]
        good = sum(w for w in weights if w > 0)
        value = sum(w * p for w, p in zip(weights, met, strict=True)) / (good or -sum(weights))
        if not self.own:
            return Score(value, {c.name: p for c, p in zip(self.criteria, met, strict=True)})
        bad = -sum(w for w in weights if w < 0)
        return Score(
            value,
            {
                name: sum(abs(w) * p for w, p in zip(weights, met, strict=True) if w * s > 0) / all_
                for name, s, all_ in ((MET, 1, good), (FAULTS, -1, bad))
                if all_
            },
        )


def _count(items: Sequence[Any]) -> enumerate[Any]:
    return enumerate(items, start=1)


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _criterion(item: Any, where: str) -> Criterion:
    about: Mapping[str, Any] = {"text": item} if isinstance(item, str) else item
    if not isinstance(about, Mapping):
        raise ConfigError(f"{where}: it is neither a text nor a mapping with text and weight")
    text, weight = _first(about, TEXT), _first(about, WEIGHT)
    if not isinstance(text, str) or not text.strip():
        hint = next((h for key in about if (h := nearest(str(key), TEXT))), "write it as text: ...")
        raise ConfigError(f"{where}: it has no text; {hint}")
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"{where}: its weight is {weight!r}, not a number")
    if not weight:
        raise ConfigError(f"{where}: its weight is 0, so it decides nothing; remove it")
    return Criterion(text.strip(), float(weight), str(_first(about, NAME) or "").strip())


def _named(criteria: Sequence[Criterion]) -> list[Criterion]:
    """The criteria, each with a name of its own: its number where it has none."""
    names: list[str] = []
    for i, c in _count(criteria):
        name = c.name or f"criterion_{i}"
        names.append(name if name not in names else f"{name}_{i}")
    return [Criterion(c.text, c.weight, name) for c, name in zip(criteria, names, strict=True)]
