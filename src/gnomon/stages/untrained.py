"""What stages share that train nothing and read no rows: average, eval."""

from __future__ import annotations

from typing import ClassVar

from gnomon.errors import ConfigError
from gnomon.recipe.schema import Kind
from gnomon.stages.stage import Stage

UNUSED = ("data", "eval_data", "pretraining", "normalise_on", "reward", "observe", "lora",
           "environment", "holdout")  # fmt: skip


class Untrained(Stage):
    """A stage whose work is in its settings.

    Class attributes:
        reads: what it does instead, in words, for errors.
        unused: keys of a stage that mean nothing to it, beside those that no such stage uses.
        cure: where to put what it needs.
    """

    reads_data: ClassVar[bool] = False
    reads: ClassVar[str] = ""
    unused: ClassVar[tuple[str, ...]] = ()
    cure: ClassVar[str] = ""

    @property
    def data_kind(self) -> Kind:
        return "prompts"

    @property
    def samples(self) -> bool:
        return False

    def check(self) -> None:
        spec = self.spec
        given = [key.rstrip("_") for key in (*UNUSED, *self.unused) if getattr(spec, key)]
        given += [key for key in ("train", "rollout") if getattr(spec, key).model_fields_set]
        if given:
            raise ConfigError(
                f"{self.reads} and trains nothing: remove {', '.join(given)}{self.cure}"
            )
