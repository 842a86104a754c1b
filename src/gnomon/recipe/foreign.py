"""What other trainers call a recipe's keys, so that one who types theirs is told ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

FRAMEWORKS = {"T": "TRL", "A": "Axolotl", "L": "LLaMA-Factory", "O": "OpenRLHF"}
_PARTS = ("train", "rollout", "lora", "settings")
_OF_STAGE = (
    *("reward", "data", "eval_data", "holdout", "algorithm", "environment", "from", "lora"),
    *("pretraining", "normalise_on"),
)


@dataclass(frozen=True)
class ForeignKey:
    """A key of another trainer.

    Attributes:
        name: as they write it.
        frameworks: whose it is.
        ours: the recipe's key; empty where there is none.
        remark: where it means something else; or why there is none.
    """

    name: str
    frameworks: tuple[str, ...]
    ours: str
    remark: str

    @property
    def of_stage(self) -> bool:
        """Whether ours is written in a stage, not at the top of the recipe."""
        return self.ours.partition(".")[0] in (*_PARTS, *_OF_STAGE)

    @property
    def sentence(self) -> str:
        """What to say to one who wrote it in a recipe."""
        where = "in a stage" if self.of_stage else "at the top of a recipe"
        return self._said(f"{self.ours} here, {where}")

    @property
    def sentence_for_python(self) -> str:
        """The same to one who gave it to ``gnomon.train``, whose keywords have no path."""
        return self._said(f"the keyword {self.keyword} here")

    @property
    def keyword(self) -> str:
        """Ours as ``gnomon.train`` takes it."""
        return "rewards" if self.ours == "reward" else self.ours.rpartition(".")[2]

    def _said(self, ours: str) -> str:
        whose = " and ".join(filter(None, [", ".join(self.frameworks[:-1]), self.frameworks[-1]]))
        if not self.ours:
            return f"{self.name} (of {whose}) has no counterpart: {self.remark}"
        more = f": {self.remark}" if self.remark else ""
        return f"{self.name} (of {whose}) is {ours}{more}"


@lru_cache(maxsize=1)
def foreign_keys() -> tuple[ForeignKey, ...]:
    """All of them, in the order of foreign_keys.txt."""
    text = (resources.files(__package__) / "foreign_keys.txt").read_text(encoding="utf-8")
    keys = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            names, who, ours, remark = (part.strip() for part in line.split("|"))
            frameworks = tuple(FRAMEWORKS[letter] for letter in who)
            own = "" if ours == "-" else ours
            keys += [ForeignKey(name, frameworks, own, remark) for name in names.split()]
    return tuple(keys)


def foreign_key(name: str, framework: str | None = None) -> ForeignKey | None:
    """The key of that name, of one trainer or of the first that has it; None where none has."""
    for key in foreign_keys():
        if key.name == name and (framework is None or framework in key.frameworks):
            return key
    return None


def hint(name: str, place: str = "") -> str:
    """What to say to one who wrote an unknown key; empty where no other trainer has it.

    Args:
        place: where it was written (``train.beta``); nothing is said to one who wrote ours there,
            nor below ``compare``, which trains nothing.
    """
    key = foreign_key(name)
    if key is None or key.ours == place or place.startswith("compare."):
        return ""
    return key.sentence
