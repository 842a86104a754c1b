"""What is exported: a model of a run, any model folder, or an adapter merged into its base.

Only the files that make the model are taken (:data:`TAKEN`, the safetensors, the card): no code, no
optimizer, and no name of a folder on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.evals.subject import Model
from gnomon.evals.targets import open_target
from gnomon.models import load
from gnomon.models.adapters import ADAPTER_CONFIG
from gnomon.models.belong import check_weights
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import FACTS, save_policy
from gnomon.report.card import README, run_card

TEMPLATES = ("chat_template.jinja", "chat_template.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *TEMPLATES,
)
TAKEN = ("config.json", "generation_config.json", *TOKENIZER)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")
_LOCAL: dict[str, tuple[str, ...]] = {
    "config.json": ("_name_or_path",),
    "tokenizer_config.json": ("name_or_path", "is_local", "local_files_only"),
    FACTS: ("base", "base_source", "adapter", "averaged"),
}
"""Keys that hold where something lay on the machine that it was made on."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        folder: of the model, or of the adapter.
        name: a stage's, or the folder's.
        kind: ``policy``, ``reward_model``, ``reward_ensemble`` or "" (not saved by gnomon).
        card: the text of README.md; None where there is none.
    """

    folder: Path
    name: str
    kind: str
    card: str | None

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_CONFIG).is_file() and not self._has("config.json")

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        if self.kind.startswith("reward") or not self._has("config.json"):
            return self.kind.startswith("reward")
        made = load.read_json(self.folder / "config.json").get("architectures") or ["?"]
        return "ForSequenceClassification" in str(made[0])

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()


def open_source(model: str, stage: str | None = None) -> Source:
    """What a user means by MODEL: a run, a stage, any model folder, ``tunnel``, a hub id.

    Raises:
        ConfigError: it is no model, or an ensemble of several.
    """
    target = open_target(model, stage)
    subject = target.subject
    if not isinstance(subject, Model):
        raise ConfigError(f"{model} is a file of answers; export takes a model")
    found = load.resolve(subject.source)
    adapter = isinstance(found, Path) and (found / ADAPTER_CONFIG).is_file()
    if subject.kind == "reward_ensemble":
        raise ConfigError(
            f"{model} is an ensemble: export its members one by one "
            f"({subject.source}/member-0, ...)"
        )
    whole = not adapter or (isinstance(found, Path) and (found / "config.json").is_file())
    folder = load.fetch(subject.source) if whole else Path(found)
    of_run = target.run if subject.siblings else None
    return Source(folder, subject.name, subject.kind, _card(folder, of_run, subject.name))


def _card(folder: Path, run: Path | None, stage: str) -> str | None:
    """The run's card of this model as its records are now, or the folder's own."""
    if run is not None:
        try:
            return run_card(run, stage)
        except DataError:  # the base model, which no stage made
            pass
    file = folder / README
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


@contextmanager
def plain_folder(source: Source, work: Path) -> Iterator[Path]:
    """A model folder without adapters within the block: the source's own, or one merged in
    ``work``.

    Raises:
        ModelError: the adapter's base cannot be loaded, or is another than it was made for.
    """
    if not source.is_adapter:
        yield source.folder
        return
    base = load.read_json(source.folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{source.folder / ADAPTER_CONFIG} does not name the model that it was made for: write "
            "its folder or hub id there, under base_model_name_or_path"
        )
    kept = str(load.read_config(load.fetch(str(base))).dtype).removeprefix("torch.")
    loaded = load.load_causal_lm(str(base), dtype=kept if kept in load.DTYPES else "float32")
    trunk = Trunk.from_loaded(loaded)
    trunk.add_adapter("export", init_from=source.folder)
    merged = work / "merged-adapter"
    save_policy(merged, Role("policy", trunk, adapter="export"))
    if (source.folder / "tokenizer.json").is_file():
        if _has_template(source.folder):  # in any of its places: the base's must not come first
            for name in TEMPLATES:
                (merged / name).unlink(missing_ok=True)
        copy_files(source.folder, merged, TOKENIZER)
    try:
        yield merged
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder has a chat template: a file, or a key of its settings."""
    config = folder / "tokenizer_config.json"
    return any((folder / name).is_file() for name in TEMPLATES) or (
        config.is_file() and bool(load.read_json(config).get("chat_template"))
    )


def copy_files(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy what is there of ``names``, without what tells of this machine."""
    for name in names:
        file = source / name
        if not file.is_file():
            continue
        if name not in _LOCAL:
            shutil.copyfile(file, target / name)
            continue
        kept = {k: v for k, v in load.read_json(file).items() if k not in _LOCAL[name]}
        text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
        (target / name).write_text(text, encoding="utf-8")


def copy_model(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a model into ``target`` and check that it is whole.

    Args:
        link: hard links in place of copies of the weights, where the file system has them.

    Raises:
        ModelError: no safetensors, or config, tokenizer and weights do not belong together.
    """
    copy_files(source, target, (*TAKEN, FACTS))
    for pattern in LICENCES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
    for file in load.weight_files(source):
        _place(file, target / file.name, link)
    if not (source / load.SINGLE).is_file():
        shutil.copyfile(source / load.INDEX, target / load.INDEX)
    config, _ = load.read_model(target)
    check_weights(config, load.stored_numbers(load.weight_files(target)), target)


def _place(file: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(file.resolve(), target)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(file, target)


def weight_bytes(source: Source) -> int:
    """How large the weights are on disk; 0 where they are still to be merged."""
    try:
        return sum(file.stat().st_size for file in load.weight_files(source.folder))
    except GnomonError:
        return 0


def special_tokens(tokenizer: Any, ids: tuple[int, ...]) -> list[str]:
    """The texts of special tokens, without repeats."""
    return list(dict.fromkeys(str(tokenizer.convert_ids_to_tokens(i)) for i in ids))
