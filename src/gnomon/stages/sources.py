"""From a recipe's data to tokens: files, earlier stages and the built-in world."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.console import say
from gnomon.data.encode import EncodeAs, Encoder
from gnomon.data.fields import ReadOptions
from gnomon.data.formats import convert
from gnomon.data.readers import fingerprint, is_switched_off, read_groups, select, split
from gnomon.data.rows import SUFFIXES, iter_rows
from gnomon.data.shards import is_glob
from gnomon.data.values import RowError, Skipped
from gnomon.errors import ConfigError, DataError, RunError
from gnomon.feedback.believed import in_words
from gnomon.feedback.from_groups import read_as, settled
from gnomon.feedback.source import WORD as FEEDBACK
from gnomon.feedback.source import check_feedback, feedback_groups
from gnomon.files import write_text
from gnomon.recipe.schema import DataSpec, Kind, StageSpec
from gnomon.records import Group, TokenGroup
from gnomon.runs.joins import JoinedAnswers, Joins
from gnomon.runs.labels import Believed, BelievedLabels
from gnomon.runs.records import DataFiles
from gnomon.stages.joined import joins_of
from gnomon.tasks.sources import (
    BUILTIN,
    GENERATED,
    check_generated,
    generated_groups,
    tunnel_groups,
    tunnel_source,
)

FILES_ONLY = (
    *("format", "split", "columns", "labels", "as_text", "good_from", "max_skipped", "max_gb"),
    "votes",
)
"""Keys of a data entry that say how a file is read."""


@dataclass
class DataReport:
    """What was read for a stage: rows, hashes and what was left out."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    labels: dict[str, Believed] = field(default_factory=dict)
    joins: dict[str, dict[str, JoinedAnswers]] = field(default_factory=dict)

    def add(
        self,
        path: str,
        groups: Sequence[Group],
        skipped: Sequence[Skipped],
        labels: Believed | None = None,
        joins: Mapping[str, JoinedAnswers] | None = None,
    ) -> None:
        """Note what one source gave; a source that is used twice is noted twice."""
        sha256 = fingerprint(groups)
        same = [key for key in self.files if key == path or key.startswith(f"{path} (")]
        key = f"{path} ({len(same) + 1})" if same else path
        self.files[key] = {"sha256": sha256, "rows": len(groups)}
        self.skipped += skipped
        if labels is not None:
            self.labels[key] = labels
        if joins:
            self.joins[key] = dict(joins)

    def skipped_info(self) -> dict[str, Any]:
        """For stage.json: the count and the first examples."""
        return {"count": len(self.skipped), "examples": [str(s) for s in self.skipped[:20]]}


def read_specs(
    specs: Sequence[DataSpec],
    *,
    base: Path,
    stage_groups: Callable[[str], Path],
    kind: str,
    report: DataReport,
) -> list[Group]:
    """Read every source of a stage, in order.

    Args:
        specs: as written in the recipe.
        base: the folder that relative paths start from (the recipe's own).
        stage_groups: the file that an earlier ``collect`` stage wrote.
        kind: what the algorithm needs, when a spec says "auto".
        report: is filled in.

    Raises:
        DataError, ConfigError: a file that is missing or cannot be understood.
    """
    groups: list[Group] = []
    for spec in specs:
        found, skipped, labels = _read_one(spec, base, stage_groups, kind)
        joins = {} if is_made(spec.path) else joins_of(found)
        report.add(spec.path, found, skipped, labels, joins)
        for side in joins.values():
            if side.told:
                say(f"warning: {spec.path}: {side.text}", style="yellow")
        for line in () if labels is None else in_words(labels):
            say(f"{spec.path}: {line}")
        groups += [group for group in found if not is_switched_off(group)]
    return groups


def _read_one(
    spec: DataSpec, base: Path, stage_groups: Callable[[str], Path], kind: str
) -> tuple[list[Group], list[Skipped], Believed | None]:
    _refuse_unused(spec)
    wanted = spec.kind if spec.kind != "auto" else kind
    if is_feedback(spec.path):
        found, left_out, labels = feedback_groups(spec.path, spec.options, base, wanted)
        return select(found, spec.limit, spec.sample_seed), left_out, labels
    if is_made(spec.path):
        return _made_groups(spec, wanted), [], None
    where, colon, what = spec.path.partition(":")
    if colon and where == "stage":
        file = stage_groups(what)
        if not file.is_file():
            raise ConfigError(f"data {spec.path!r}: stage {what!r} has written no groups")
        path: Path | str = file
    else:
        path = resolve_path(spec.path, base)
    options = read_options(spec, kind)
    if spec.votes == "each":
        result = read_groups(path, **options)
        return result.groups, result.skipped, None
    return _settled(path, options, spec.votes)


def _settled(
    path: Path | str, options: dict[str, Any], votes: Literal["majority", "calibrated"]
) -> tuple[list[Group], list[Skipped], Believed | None]:
    """A file of several labellers' comparisons, each question once with what they say together."""
    result = read_groups(path, **{**options, "kind": "rankings"})
    try:
        groups, labels = settled(result.groups, votes)
    except DataError as error:
        raise DataError(f"{path}: votes: {votes} cannot be read: {error}") from error
    kind: Kind = "rankings" if options["kind"] == "auto" else options["kind"]
    asked = ReadOptions(bool(options["as_text"]), good_from=options["good_from"])
    kept, skipped = read_as(groups, kind, asked)
    return kept, [*result.skipped, *skipped], labels


def read_options(spec: DataSpec, kind: str = "auto") -> dict[str, Any]:
    """How :func:`read_groups` is to read a file: as the entry says, and as ``kind`` where it gives
    none."""
    wanted = spec.kind if spec.kind != "auto" else kind
    return {
        "kind": "demonstrations" if wanted == "text" else wanted,
        "labels": dict(spec.labels) or None,
        "columns": spec.columns or None,
        **{
            key: getattr(spec, key)
            for key in ("split", "format", "limit", "sample_seed", "as_text", "good_from")
        },
        "max_skipped": spec.max_skipped,
        "max_gb": spec.max_gb,
    }


def is_made(path: str) -> bool:
    """Whether a source is generated, or a store of labels, rather than read from a file."""
    where, colon, _what = path.partition(":")
    return bool(colon) and (where in BUILTIN or where in GENERATED or where == FEEDBACK)


def is_feedback(path: str) -> bool:
    """Whether a source is a store of labels."""
    return path.startswith(f"{FEEDBACK}:")


def _made_groups(spec: DataSpec, wanted: str) -> list[Group]:
    where, _colon, what = spec.path.partition(":")
    if where in BUILTIN:
        groups = tunnel_groups(what, spec.options, where)
    else:
        groups = generated_groups(where, what, spec.options)
    if wanted not in ("auto", "text", "prompts") or spec.kind == "prompts":
        try:
            groups = [
                g for group in groups for g in convert(group, cast(Kind, wanted), ReadOptions())
            ]
        except RowError as error:
            raise ConfigError(f"data {spec.path!r} cannot be read as {wanted}: {error}") from error
    return select(groups, spec.limit, spec.sample_seed)


def _refuse_unused(spec: DataSpec) -> None:
    """Refuse what a source would silently leave unused.

    Raises:
        ConfigError: a key that only files have on a source that is made, or the reverse.
    """
    if spec.sample_seed is not None and spec.limit is None:
        raise ConfigError(
            f"data {spec.path!r}: sample_seed draws a sample only together with limit; give both"
        )
    if not is_made(spec.path):
        if spec.options:
            raise ConfigError(
                f"data {spec.path!r}: options are for generated sources and stores of labels "
                f"({', '.join([*BUILTIN, *GENERATED, FEEDBACK])}); a file has none. Remove them"
            )
        return
    fields = type(spec).model_fields
    given = [
        key
        for key in FILES_ONLY
        if getattr(spec, key) != fields[key].get_default(call_default_factory=True)
    ]
    if given:
        raise ConfigError(
            f"data {spec.path!r}: {', '.join(given)} mean something for files only, and this "
            "source is generated, or a store of labels; set its own options instead "
            "(options: {...})"
        )


def resolve_path(path: str, base: Path) -> Path | str:
    """A path or pattern as the recipe's author meant it: next to the recipe, else from here, else a
    hub id."""
    if path.startswith("~"):
        return Path(path).expanduser()
    for candidate in (base / path, Path(path)):
        if candidate.exists() or glob.glob(str(candidate)):
            return candidate
    is_file = path.lower().endswith(SUFFIXES) or path.startswith((".", "/")) or is_glob(path)
    return base / path if is_file else path


def check_source(spec: DataSpec, base: Path) -> None:
    """Check that a source exists, without reading it (a hub id is taken on trust).

    Raises:
        DataError, ConfigError: no such file or built-in source, with what comes nearest.
    """
    _refuse_unused(spec)
    where, _colon, what = spec.path.partition(":")
    if is_feedback(spec.path):
        check_feedback(spec.path, spec.options, base)
        return
    if is_made(spec.path):
        if where in BUILTIN:
            tunnel_source(what, spec.options, where)
        else:
            check_generated(where, what, spec.options)
        return
    path = resolve_path(spec.path, base)
    if isinstance(path, Path):
        iter_rows(path, split=spec.split)  # opens nothing before the first row is asked for


# -- tokens ---------------------------------------------------------------------------------------


def encode(
    encoder: Encoder, groups: Sequence[Group], how: EncodeAs, report: DataReport
) -> list[TokenGroup]:
    """Tokenise groups; those that cannot be used are counted in the report.

    Raises:
        DataError: nothing is left, or the tokenizer has no usable template.
    """
    tokens, skipped = encoder.encode_all(groups, how)
    report.skipped += skipped
    return tokens


def encode_prompts(
    encoder: Encoder, groups: Sequence[Group], report: DataReport
) -> list[EncodedPrompt]:
    """Tokenise the prompts of groups; those too long are counted in the report.

    Raises:
        DataError: not one can be used.
    """
    prompts: list[EncodedPrompt] = []
    left_out: list[Skipped] = []
    asked = [Group(group.prompt) for group in groups]
    for group, found in zip(asked, encoder.encode_each(asked, "prompts"), strict=True):
        if isinstance(found, Skipped):
            left_out.append(found)
        else:
            prompts.append(EncodedPrompt(group.prompt, list(found.prompt_ids)))
    report.skipped += left_out
    if left_out and not prompts:
        where, first = groups[0].prompt.source or groups[0].prompt.id, left_out[0]
        raise DataError(f"{where}: {first.reason}; {first.cure}")
    return prompts


def _is_answered(group: Group) -> bool:
    """Whether it is a prompt with an answer, and not a text alone."""
    return bool(group.responses) and bool(group.prompt.messages or group.prompt.text)


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
        """What is mixed in: of pretraining text every token counts, of a demonstration its
        answer."""
        mixed = self._read(self.stage.pretraining, "text")
        shown = [group for group in mixed if _is_answered(group)]
        written = [group for group in mixed if not _is_answered(group)]
        return [
            *self.encode(encoder, written, "text"),
            *self.encode(encoder, shown, "demonstrations"),
        ]

    def normalisers(self, encoder: Encoder) -> list[TokenGroup]:
        """Demonstrations on which a reward model's mean becomes zero."""
        groups = self._read(self.stage.normalise_on, "demonstrations")
        return self.encode(encoder, groups, "demonstrations")

    def encode(self, encoder: Encoder, groups: Sequence[Group], how: EncodeAs) -> list[TokenGroup]:
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
                    f"{error}, so it is not known whether the data is still the same. Put the "
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
        """Write every row left out, with its place, the reason and the cure, one a line."""
        if self.report.skipped:
            lines = [str(skipped).replace("\n", " ") for skipped in self.report.skipped]
            write_text(file, "\n".join(lines) + "\n")

    def write_joins(self, file: Path) -> None:
        """Write whether the answers that were read stand beside their own prompts."""
        if self.report.joins:
            Joins(self.report.joins).write(file)

    def write_labels(self, file: Path) -> None:
        """Write how far those were believed whose labels were read, where some were."""
        if self.report.labels:
            BelievedLabels(self.report.labels).write(file)

    def _read(self, specs: Sequence[DataSpec], kind: str) -> list[Group]:
        return read_specs(
            specs,
            base=self.base,
            stage_groups=self.stage_groups,
            kind=kind,
            report=self.report,
        )
