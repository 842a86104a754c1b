"""What is given in memory, written into the run's folder, so that the recipe names files.

runs/NAME/inputs/model/          a model, with its tokenizer
runs/NAME/inputs/data.jsonl      rows; eval_data.jsonl and so on likewise
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.rows import SUFFIXES
from gnomon.errors import ConfigError, DataError, ModelError
from gnomon.files import write_bytes, write_folder
from gnomon.recipe.schema import DataSpec

INPUTS = "inputs"
_ROWS = "a path, a hub id, a list of rows (dicts) or a datasets.Dataset"
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja"),
)
Write = Callable[[], None]


class Inputs:
    """What has to be written before a recipe can run.

    Nothing is written until :meth:`write`, so that a misspelt keyword costs no copy of a model.

    Args:
        folder: ``inputs`` in the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.columns: set[str] | None = None
        self._texts: dict[str, bytes] = {}
        self._model: Any = None
        self._writes: list[Write] = []

    def write(self) -> None:
        """Write all of it, each file or folder whole or not at all."""
        for key, text in self._texts.items():
            write_bytes(self.folder / f"{key}.jsonl", text)
        for write in self._writes:
            write()

    def check_same(self) -> None:
        """Check that a run that goes on was given what it began with.

        Raises:
            ConfigError: other rows, or a model in memory with other weights.
        """
        for key, text in self._texts.items():
            file = self.folder / f"{key}.jsonl"
            if file.is_file() and file.read_bytes() != text:
                raise ConfigError(
                    f"{_shown(key)} differs from what the run began with ({file}): resume=True "
                    "goes on with that. Give the same rows, or another name (name=...)"
                )
        if self._model is not None and _differs(self._model, self.folder / "model"):
            raise ConfigError(
                "model has other weights than the one that the run began with "
                f"({self.folder / 'model'}): resume=True goes on with that. Give the same one, or "
                "another name (name=...)"
            )

    def in_words(self, message: str) -> str:
        """A message about rows in memory, by what they were given as instead of by their file."""
        return re.sub(re.escape(f"{self.folder}{os.sep}") + r"(\w+)\.jsonl", r"\1", message)

    # -- rows -------------------------------------------------------------------------------------

    def data(self, key: str, given: Any, reading: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The entries of a recipe's ``data`` (or ``eval_data``, ...) for what was given.

        Args:
            key: the recipe's.
            reading: how files and rows are read: keys of a ``data`` entry.

        Raises:
            DataError: it is neither rows nor a place where rows are.
        """
        shown = _shown(key)
        if given is None:
            return []
        if isinstance(given, float):
            raise DataError(f"{shown} is a number; holdout={given} keeps that share of data out")
        if isinstance(given, str | os.PathLike):
            return [{**reading, "path": str(given)}]
        if isinstance(given, DataSpec):
            given = given.model_dump(exclude_unset=True)
        if isinstance(given, Mapping):
            return [self._entry(shown, given, reading)]
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given):
            if all(isinstance(one, os.PathLike | DataSpec) or _is_place(one) for one in given):
                return [entry for one in given for entry in self.data(key, one, reading)]
            if all(isinstance(one, Mapping) and _is_entry(one) for one in given):
                return [{**reading, **one} for one in given]
        rows = _rows(shown, given)
        if key == "data":
            self.columns = {name for row in rows for name in row}
        refuse_not_finite(shown, rows)
        lines = [f"{_line(shown, number, row)}\n" for number, row in enumerate(rows, start=1)]
        self._texts[key] = "".join(lines).encode("utf-8", "replace")
        return [{**reading, "path": str(self.folder / f"{key}.jsonl")}]

    def _entry(
        self, key: str, given: Mapping[str, Any], reading: Mapping[str, Any]
    ) -> dict[str, Any]:
        if "path" in given:
            return {**reading, **given}
        if all(hasattr(value, "column_names") for value in given.values()) and given:
            splits = ", ".join(map(repr, given))
            raise DataError(
                f"{key} is a DatasetDict with the splits {splits}: give one of them, as in "
                f"{key}=dataset[{next(iter(given))!r}], and another as held_out"
            )
        raise DataError(f"{key} is a dict without a path; it is {_ROWS}")

    # -- the model --------------------------------------------------------------------------------

    def model(self, model: Any, tokenizer: Any) -> str:
        """The model's name or folder for the recipe.

        Raises:
            ConfigError, ModelError: it is neither a name, a folder nor a language model of
                transformers; or it comes without a tokenizer.
        """
        folder = self.folder / "model"
        if isinstance(model, str | os.PathLike):
            if tokenizer is None:
                return str(model)
            _check_tokenizer(tokenizer)
            self._writes.append(lambda: _copy_with(str(model), tokenizer, folder))
            return str(folder)
        _check_model(model)
        if tokenizer is None:
            tokenizer = _tokenizer_of(model)
        _check_tokenizer(tokenizer)
        self._model = model
        self._writes.append(lambda: _save(model, tokenizer, folder))
        return str(folder)


def _shown(key: str) -> str:
    """A recipe's key as :func:`gnomon.train` calls it."""
    return "held_out" if key == "eval_data" else key


def _is_place(text: Any) -> bool:
    """Whether a text in a list says where rows are, rather than being one."""
    if not isinstance(text, str) or len(text) > 500:
        return False
    return text.lower().endswith(SUFFIXES) or bool(re.fullmatch(r"[\w.-]*[/:]\S*", text))


def _is_entry(row: Mapping[str, Any]) -> bool:
    return "path" in row and set(row) <= set(DataSpec.model_fields)


def from_table(given: Any) -> Any:
    """The rows of a data frame of pandas or of a table of pyarrow; anything else as it is."""
    if hasattr(given, "to_dict") and hasattr(given, "iterrows"):
        return given.to_dict("records")
    return given.to_pylist() if hasattr(given, "to_pylist") else given


def _rows(key: str, given: Any) -> list[Mapping[str, Any]]:
    given = from_table(given)
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise DataError(f"{key} is a {type(given).__name__}; it is {_ROWS}")
    rows = list(given)
    if not rows:
        raise DataError(f"{key} has no rows")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            text = f'; a prompt alone is {{"prompt": {row[:30]!r}}}' if isinstance(row, str) else ""
            raise DataError(f"{key}, row {number} is a {type(row).__name__}, not a dict{text}")
    return rows


def refuse_not_finite(key: str, rows: Iterable[Any]) -> None:
    """Refuse NaN and infinities among numbers: a weight, a score or a reward that is one.

    Data frames write NaN for text that is missing, and that stays missing: NaN is refused in lists,
    and in columns whose other values are numbers.

    Raises:
        DataError: there are some; it names the first row and the column.
    """
    odd: dict[str, tuple[int, Any]] = {}  # by column, its first NaN
    numbers: set[str] = set()
    texts: set[str] = set()
    for number, row in enumerate(rows, start=1):
        for name, value in row.items() if isinstance(row, Mapping) else ():
            plain = value.item() if getattr(value, "ndim", None) == 0 else value
            if isinstance(plain, float) and math.isnan(plain):
                odd.setdefault(name, (number, plain))
            elif (found := _not_finite(value)) is not None:
                raise _not_a_number(key, number, name, found)
            elif isinstance(plain, int | float):
                numbers.add(name)
            elif plain is not None:
                texts.add(name)
    for name, (number, found) in odd.items():
        if name in numbers - texts:
            raise _not_a_number(key, number, name, found)


def _not_finite(value: Any) -> float | None:
    """The first NaN in a list or an infinity anywhere in a value."""
    if hasattr(value, "tolist"):  # numpy's and torch's
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    items = value.values() if isinstance(value, Mapping) else value
    if isinstance(items, list | tuple) or isinstance(value, Mapping):
        return next((odd for item in items if (odd := _not_finite(item)) is not None), None)
    return None


def _not_a_number(key: str, number: int, name: Any, value: float) -> DataError:
    return DataError(
        f"{key}, row {number}: column {str(name)!r} holds {value}, which is no number that can be "
        "trained on; leave the value out (None) where there is none, or drop the row"
    )


def _line(key: str, number: int, row: Mapping[str, Any]) -> str:
    def readable(value: Any) -> Any:
        if hasattr(value, "tolist"):  # numpy's and torch's
            return value.tolist()
        if hasattr(value, "isoformat"):
            return value.isoformat()
        raise TypeError(type(value).__name__)

    try:
        return json.dumps(dict(row), ensure_ascii=False, default=readable)
    except (TypeError, ValueError) as error:
        odd = next((name for name, value in row.items() if not _is_json(value, readable)), "?")
        raise DataError(
            f"{key}, row {number}: column {odd!r} holds a {type(row.get(odd)).__name__}, and JSON "
            f"cannot ({error}); make it text, numbers or lists, or drop the column"
        ) from None


def _is_json(value: Any, readable: Callable[[Any], Any]) -> bool:
    try:
        json.dumps(value, default=readable)
    except (TypeError, ValueError):
        return False
    return True


# -- models and tokenizers ------------------------------------------------------------------------


def _check_model(model: Any) -> None:
    if hasattr(model, "peft_config") and hasattr(model, "merge_and_unload"):
        raise ModelError(
            "model is wrapped by PEFT. Pass model.merge_and_unload() to start from what the "
            "adapter has learned; to train a new adapter, pass the plain model and "
            "lora={'rank': 16}"
        )
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise ConfigError(
            f"model is a {type(model).__name__}; it is a name, a folder, or a causal language "
            "model of transformers"
        )
    if getattr(model, "is_quantized", False):
        raise ModelError(
            "model is quantised, and gnomon trains plain weights: load it without "
            "quantization_config"
        )
    if model.get_output_embeddings() is None:
        raise ModelError(
            f"model is a {type(model).__name__}, which writes no text: load it with "
            "AutoModelForCausalLM"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("some of model's weights are on no device (meta): load it whole")


def _check_tokenizer(tokenizer: Any) -> None:
    if isinstance(tokenizer, str | os.PathLike):
        return
    if not hasattr(tokenizer, "save_pretrained") or not hasattr(tokenizer, "get_vocab"):
        raise ConfigError(
            f"tokenizer is a {type(tokenizer).__name__}; it is a tokenizer of transformers, or the "
            "name or folder of one"
        )


def _tokenizer_of(model: Any) -> str:
    """Where the model was loaded from, whose tokenizer is its own."""
    source = getattr(model, "name_or_path", "") or ""
    if not source:
        raise ConfigError(
            "a model in memory needs its tokenizer: tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    return str(source)


def _tokenizer(tokenizer: Any) -> Any:
    from gnomon.models.load import load_tokenizer

    if isinstance(tokenizer, str | os.PathLike):
        try:
            return load_tokenizer(tokenizer if isinstance(tokenizer, str) else Path(tokenizer))
        except ModelError as error:
            raise ModelError(f"no tokenizer at {tokenizer}: {error}; give tokenizer=") from None
    return tokenizer


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Plain safetensors and the tokenizer."""
    from gnomon.models.load import quietly
    from gnomon.models.save import savable_generation_config

    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    own, before = _tokenizer(tokenizer), model.generation_config
    try:
        model.generation_config = savable_generation_config(model) if before else before
        with write_folder(folder, need=needed) as tmp, quietly():
            model.save_pretrained(tmp)
            own.save_pretrained(tmp)
    finally:
        model.generation_config = before


def _differs(model: Any, folder: Path) -> bool:
    """Whether a model in memory has other weights than its copy in a folder."""
    import torch
    from safetensors import safe_open

    from gnomon.models.load import weight_files

    own = model.state_dict()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as there:
            for name in there.keys():  # noqa: SIM118
                saved, mine = there.get_tensor(name), own.get(name)
                if mine is None:
                    continue
                if mine.dtype != saved.dtype or not torch.equal(saved, mine.cpu()):
                    return True
    return False


def _copy_with(source: str, tokenizer: Any, folder: Path) -> None:
    """A copy of a model's own files, with another tokenizer."""
    from gnomon.models.load import fetch, quietly, weight_files

    found, own = fetch(source), _tokenizer(tokenizer)
    with write_folder(folder) as tmp, quietly():
        small = [f for f in found.glob("*.json") if f.name not in _TOKENIZER_FILES]
        for file in {*weight_files(found), *small}:
            shutil.copyfile(file, tmp / file.name)
        own.save_pretrained(tmp)
