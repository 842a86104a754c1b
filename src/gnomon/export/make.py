"""Making an export: check first, write it beside its place, move it there in one step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import gnomon
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.export import gguf, ollama
from gnomon.export.hub import Hub
from gnomon.export.source import (
    Source,
    copy_model,
    open_source,
    plain_folder,
    special_tokens,
    weight_bytes,
)
from gnomon.files import (
    clean_temporaries,
    fingerprints,
    make_folder,
    read_object,
    write_folder,
    write_json,
)
from gnomon.models import load
from gnomon.report.card import README

Format = Literal["merged", "gguf", "ollama"]
RECORD, MODELFILE, OUTTYPE = "gnomon_export.json", "Modelfile", "f16"


@dataclass(frozen=True)
class Wanted:
    """What to make.

    Attributes:
        model, stage: see :func:`~gnomon.export.source.open_source`.
        out: the folder to appear.
        outtype: of a GGUF's weights; None for :data:`OUTTYPE`.
        converter: see :func:`~gnomon.export.gguf.find_converter`.
        verify: read a GGUF back with transformers and compare.
        overwrite: replace an earlier export in ``out``.
        repo: where to push it on the hub; None: nowhere.
    """

    model: str
    to: Format
    out: Path
    stage: str | None = None
    outtype: str | None = None
    converter: Path | None = None
    verify: bool = False
    overwrite: bool = False
    repo: str | None = None
    public: bool = False


@dataclass(frozen=True)
class Made:
    """An export that is there.

    Attributes:
        notes: what a user should know of it.
        url: of the commit on the hub, where it was pushed.
    """

    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    read_back: gguf.ReadBack | None
    url: str | None


def export(wanted: Wanted) -> Made:
    """Make an export; ``wanted.out`` appears whole or not at all.

    Raises:
        ConfigError, ModelError: it cannot be made as asked; nothing was written.
        RunError: the disk, or the hub (the folder is there then).
    """
    _check_place(wanted)
    hub = None if wanted.repo is None else Hub(wanted.repo, wanted.public)
    converter = [] if wanted.to == "merged" else gguf.find_converter(wanted.converter)
    source = open_source(wanted.model, wanted.stage)
    _check_apart(wanted.out, source.folder)
    if source.scores and wanted.to != "merged":
        raise ConfigError(
            f"{wanted.model} is a reward model, which llama.cpp does not serve: --to merged"
        )
    place = wanted.out.absolute()
    make_folder(place.parent)
    clean_temporaries(place.parent, of=place.name)
    with write_folder(wanted.out, need=weight_bytes(source)) as tmp:
        work = tmp / ".work"
        work.mkdir()
        with plain_folder(source, work) as plain:
            notes, read_back = _fill(wanted, plain, converter, tmp, work)
        shutil.rmtree(work)
        if source.card is None:
            notes = [*notes, "no model card: the model comes from no run, and has no README.md"]
        else:
            (tmp / README).write_text(source.card, encoding="utf-8")
        write_json(tmp / RECORD, _record(wanted, source, tmp))
    files = tuple(sorted(p for p in wanted.out.rglob("*") if p.is_file()))
    url = None if hub is None else hub.push(wanted.out)
    return Made(wanted.out, files, tuple(notes), read_back, url)


def _fill(
    wanted: Wanted, plain: Path, converter: Sequence[str], target: Path, work: Path
) -> tuple[list[str], gguf.ReadBack | None]:
    if wanted.to == "merged":
        copy_model(plain, target)
        return [], None
    tokenizer = load.load_tokenizer(plain)
    pieces, stops = None, list[str]()
    if wanted.to == "ollama":  # what cannot be translated is known before the long part
        encoder = Encoder(tokenizer, max_length=1 << 30)
        if encoder.template is None:
            raise ConfigError(
                f"{wanted.model}: the tokenizer has no chat template, so there is nothing to put "
                "into a Modelfile. Export --to gguf"
            )
        pieces = ollama.take_apart(tokenizer, encoder.template)
        stops = special_tokens(tokenizer, encoder.stop_ids)
    gguf.check_known(converter, plain, work)
    clean = work / "plain"
    clean.mkdir()
    copy_model(plain, clean, link=True)
    outtype = wanted.outtype or OUTTYPE
    file = target / f"model-{outtype}.gguf"
    gguf.convert(converter, clean, file, outtype)
    fields = gguf.check_fields(file, tokenizer)
    read_back = gguf.read_back(clean, file) if wanted.verify else None
    if pieces is None:
        return [], read_back
    text = ollama.modelfile(pieces, file.name, stops, _adds_bos(fields))
    (target / MODELFILE).write_text(text, encoding="utf-8")
    return list(pieces.notes), read_back


def _adds_bos(fields: dict[str, Any]) -> bool:
    """Whether llama.cpp opens a text with BOS itself, by the GGUF."""
    own = fields.get("tokenizer.ggml.add_bos_token")
    return bool(fields.get("tokenizer.ggml.model") == "llama" if own is None else own)


def _check_place(wanted: Wanted) -> None:
    """Refuse what is there, unless it is an earlier export that may be replaced."""
    out = wanted.out
    if wanted.to == "merged" and (wanted.outtype or wanted.converter or wanted.verify):
        raise ConfigError("--outtype, --converter and --verify go with --to gguf and ollama")
    if wanted.outtype not in (None, *gguf.OUTTYPES):
        raise ConfigError(f"--outtype {wanted.outtype!r}; there are {', '.join(gguf.OUTTYPES)}")
    if wanted.public and wanted.repo is None:
        raise ConfigError("--public goes with --push-to-hub")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not wanted.overwrite:
        raise ConfigError(f"{out} is there already: give another --out, or --overwrite")
    try:
        read_object(out / RECORD)
    except ValueError:
        raise ConfigError(
            f"{out} is no export of gnomon's (it has no {RECORD}), so --overwrite does not replace "
            "it. Give another --out"
        ) from None


def _check_apart(out: Path, source: Path) -> None:
    """Refuse to write over the model that is exported, or into it."""
    here, there = out.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ConfigError(
            f"{out} is the model's own folder, holds it, or lies in it: give another --out"
        )


def _record(wanted: Wanted, source: Source, folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = {
        "format": wanted.to,
        "model": source.name,
        "gnomon": gnomon.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": fingerprints(folder, sorted(p.name for p in folder.iterdir())),
    }
    if wanted.to != "merged":
        about["outtype"] = wanted.outtype or OUTTYPE
    return about
