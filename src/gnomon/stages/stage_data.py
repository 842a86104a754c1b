"""A stage's data: read, split, encoded, and every row that was left out accounted for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gnomon.algorithms.base import EncodedPrompt
from gnomon.data.encode import Encoder, How
from gnomon.data.sampler import split
from gnomon.errors import ConfigError, RunError
from gnomon.files import write_text
from gnomon.recipe.schema import DataSpec, StageSpec
from gnomon.records import Group, TokenGroup
from gnomon.runs.records import DataFiles
from gnomon.stages.sources import DataReport, encode, encode_prompts, read_specs


class StageData:
    """What a stage learns from and is judged by.

    Args:
        stage: as asked.
        base: the recipe's own folder, from which relative paths start.
        stage_groups: the file that an earlier ``collect`` stage wrote.
        seed: of the split.

    Attributes:
        report: every source's hash and rows, and what was left out.
    """

    def __init__(
        self, stage: StageSpec, base: Path, stage_groups: Callable[[str], Path], seed: int
    ) -> None:
        self.stage = stage
        self.base = base
        self.stage_groups = stage_groups
        self.seed = seed
        self.report = DataReport()

    def groups(self, kind: str) -> tuple[list[Group], list[Group]]:
        """Training and held-out groups, no prompt on both sides."""
        groups = self._read(self.stage.data, kind)
        if not groups:
            raise ConfigError(f"stage {self.stage.name!r} has no data: give data: [path: ...]")
        held_out = self._read(self.stage.eval_data, kind)
        if self.stage.holdout and not held_out:
            try:
                groups, held_out = split(groups, self.stage.holdout, self.seed)
            except ValueError as error:
                raise ConfigError(f"stage {self.stage.name!r}: {error}; lower holdout") from error
        return groups, held_out

    def text(self, encoder: Encoder) -> list[TokenGroup]:
        """Pretraining text to mix in."""
        return self.encode(encoder, self._read(self.stage.pretraining, "text"), "text")

    def normalisers(self, encoder: Encoder) -> list[TokenGroup]:
        """Demonstrations on which a reward model's mean becomes zero."""
        groups = self._read(self.stage.normalise_on, "demonstrations")
        return self.encode(encoder, groups, "demonstrations")

    def encode(self, encoder: Encoder, groups: Sequence[Group], how: How) -> list[TokenGroup]:
        """Tokens of groups; those that do not fit are listed as left out."""
        return encode(encoder, groups, how, self.report)

    def prompts(self, encoder: Encoder, groups: Sequence[Group]) -> list[EncodedPrompt]:
        """Tokens of the groups' prompts; those that do not fit are listed as left out."""
        return encode_prompts(encoder, groups, self.report)

    def note(self, file: Path, resume: bool) -> None:
        """Note the sources' hashes; a stage resumes with the same data only.

        Raises:
            ConfigError: some of it is not what it was, so a resumed run would mix the two.
        """
        if resume and file.exists():
            try:
                changed = DataFiles.read(file).changed(self.report.files)
            except ValueError as error:
                raise RunError(
                    f"{error}, so nobody can tell whether the data is still what it was. Put the "
                    "file back; or remove it, if you know that the data is the same, and resume "
                    "with --resume."
                ) from error
            if changed:
                raise ConfigError(
                    f"stage {self.stage.name!r}: {', '.join(changed)} changed since this run was "
                    "started. Put it back to resume, or start again under another name (name=...)."
                )
        DataFiles(self.report.files).write(file)

    def write_skipped(self, file: Path) -> None:
        """Every row left out, with its place, the reason and the cure, one a line."""
        if self.report.skipped:
            lines = [str(skipped).replace("\n", " ") for skipped in self.report.skipped]
            write_text(file, "\n".join(lines) + "\n")

    def _read(self, specs: Sequence[DataSpec], kind: str) -> list[Group]:
        return read_specs(
            specs,
            base=self.base,
            stage_groups=self.stage_groups,
            kind=kind,
            report=self.report,
        )
