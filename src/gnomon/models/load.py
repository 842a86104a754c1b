"""Loading models: from the package, a folder or a hub, from safetensors files only.

Nothing is ever unpickled and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from gnomon.errors import GnomonError, ModelError
from gnomon.models import smollm2
from gnomon.models.belong import check_loaded, check_sizes, check_tokenizer, check_weights
from gnomon.models.hollow import placed, wants_hollow

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
CONVERT = (
    "A pickle can run code when it is read, so it is refused. Convert it where you trust it: "
    "load it there with transformers and call model.save_pretrained(FOLDER), which writes "
    "safetensors"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and where they came from.

    Attributes:
        model: in evaluation mode, all parameters trainable.
        tokenizer: the folder's own.
        source: what was asked for ("tunnel", a folder, a hub id).
        fingerprint: see :func:`fingerprint`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    fingerprint: str


def load_causal_lm(
    source: str | Path,
    *,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        source: ``"tunnel"`` (the small model in this package), ``"smollm2-135m"`` (from the
            ``quickstart`` extra), a local folder, or a hub id such as ``org/name``.
        dtype: ``float32``, ``bfloat16`` or ``float16``. On CPUs without bfloat16 units float32
            is a hundred times faster.
        device: where to put the model.

    Raises:
        ModelError: no such model, no safetensors, an unknown dtype, or a configuration, weights
            and tokenizer that do not belong together.
    """
    precision = dtype_of(dtype)
    folder = fetch(source)
    config, tokenizer = read_model(folder)
    model = load_weights(AutoModelForCausalLM, folder, config=config, dtype=precision)
    return LoadedModel(placed(model, device).eval(), tokenizer, str(source), fingerprint(folder))


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a name in a recipe."""
    if name not in DTYPES:
        raise ModelError(f"unknown dtype {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of any source that :func:`load_causal_lm` takes."""
    folder = fetch(source)
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer_config.json")):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json). Save the tokenizer next to the model: "
            "tokenizer.save_pretrained(FOLDER)"
        )
    with _explained(f"the tokenizer in {folder} cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer


def resolve(source: str | Path) -> Path | str:
    """What a source means: a local folder, or a hub id for :func:`fetch` to download.

    Raises:
        ModelError: the folder does not exist, or the name cannot be a hub id.
    """
    if source == "tunnel":
        return Path(str(resources.files("gnomon"))) / "tasks" / "tunnel" / "base"
    if source == "smollm2-135m":
        return smollm2.cached_folder()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"{folder} is a file; give the folder that holds the model")
    text = str(source)
    parts = text.split("/")
    if isinstance(source, Path) or text.startswith(("/", ".", "~")) or len(parts) != 2:
        raise ModelError(
            f"no model at {text!r}: there is no such folder, and a hub id has the form org/name. "
            "Models that need no download: tunnel, smollm2-135m"
        )
    return text


def fetch(source: str | Path) -> Path:
    """The local folder of a source, downloaded from the hub when it is not here yet."""
    found = resolve(source)
    if isinstance(found, str):
        found = _download(found)
    if not (found / "config.json").is_file():
        if (found / "adapter_config.json").is_file():
            raise ModelError(
                f"{found} is a LoRA adapter, not a model: load its base model, and give this "
                "folder as the adapter to start from"
            )
        if (found / "policy.safetensors").is_file():
            raise ModelError(
                f"{found} holds the policy of a control task, which plays episodes: there is no "
                "language model in it"
            )
        raise ModelError(f"{found} is not a model folder: it has no config.json")
    return found


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    with _explained(
        f"model {hub_id!r}: there is no such folder here, and the hub did not provide it. "
        "Check the spelling and the network (HF_HUB_OFFLINE), or give a local folder. "
        "The hub's reason"
    ):
        return Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS))


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a model folder; architectures that need their own code are refused."""
    with _explained(f"{folder / 'config.json'} cannot be used"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    check_sizes(config, folder)
    return config


def read_model(source: str | Path) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and tokenizer of any source that :func:`load_causal_lm` takes.

    Raises:
        ModelError: they cannot be read, or do not fit each other.
    """
    folder = fetch(source)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    check_tokenizer(config, tokenizer, folder)
    return config, tokenizer


def load_weights(
    auto_class: Any, folder: Path, *, config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """``auto_class.from_pretrained`` on safetensors, with every weight accounted for."""
    check_weights(config, stored_numbers(weight_files(folder)), folder)
    if wants_hollow():
        return shell(auto_class, config, dtype)
    with reading(folder), quietly():  # what it would warn about is checked below
        model, info = auto_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_loaded(config, info, folder)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}: it holds another kind of model, or is incomplete"
        )
    loaded: PreTrainedModel = model
    return loaded


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights, in a fixed order.

    Raises:
        ModelError: there are none (naming any pickle that is there instead), or the index names a
            shard that is missing or lies elsewhere.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        shards = [folder / name for name in _shard_names(folder / INDEX)]
        lost = [s.name for s in shards if not s.is_file()]
        if lost:
            raise ModelError(f"{folder} lacks {', '.join(lost)}, which {INDEX} names")
        return shards
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(f"{folder} has only {pickles[0]} and no {SINGLE}. {CONVERT}")
    raise ModelError(f"{folder} has no weights: {SINGLE} is missing")


def _shard_names(index: Path) -> list[str]:
    """The files an index names, all in the index's own folder."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index} names no weights: it has no weight_map")
    for name in places.values():
        beside = isinstance(name, str) and name not in ("", "..") and "\\" not in name
        if not beside or Path(name).name != name:
            raise ModelError(
                f"{index} names {name!r}, which is not in the same folder; weights are read only "
                "from the model's own folder"
            )
    return sorted(set(places.values()))


def stored_numbers(files: Sequence[Path]) -> int:
    """How many numbers safetensors files hold; only their headers are read.

    Raises:
        ModelError: a file that is damaged or not safetensors.
    """
    total = 0
    for file in files:
        with reading(file), safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total


def fingerprint(folder: str | Path, known: Mapping[str, str] = MappingProxyType({})) -> str:
    """sha256 of a model folder's weights and configuration (hexadecimal).

    Adapters, cached reference log-probs and reward models carry the fingerprint of the weights
    they were made for.

    Args:
        known: SHA-256 (hexadecimal) of files in the folder by name, which are not read again.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    for noise in ("transformers_version", "_name_or_path"):
        config.pop(noise, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in weight_files(folder):
        if file.name in known:
            digest.update(bytes.fromhex(known[file.name]))
            continue
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def whole_fingerprint(source: str | Path, known: Mapping[str, str] = MappingProxyType({})) -> str:
    """The fingerprint of a model from anywhere, or of all members of a saved ensemble together.

    Args:
        known: see :func:`fingerprint`; a member's files are named ``member-0/model.safetensors``.
    """
    found = resolve(source)
    members = sorted(found.glob("member-*")) if isinstance(found, Path) else []
    if not members:
        return fingerprint(fetch(source), known)
    own = [
        {file.removeprefix(f"{member.name}/"): sha for file, sha in known.items()
         if file.startswith(f"{member.name}/")}
        for member in members
    ]  # fmt: skip
    parts = [fingerprint(member, files) for member, files in zip(members, own, strict=True)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, or a ModelError that names the file."""
    with _explained(f"{file} cannot be read"):
        value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds no JSON object")
    return value


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn what a library raises into a ModelError: ``problem``, and the library's reason.

    Every exception is caught: a damaged file can trip any check of an architecture's own code.
    """
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise ModelError(f"{problem}: {_first(error)}") from error


def reading(weights: Path) -> AbstractContextManager[None]:
    """Turn what can go wrong in reading weights into a ModelError that names the file."""
    return _explained(f"the weights in {weights} cannot be loaded")


def building(source: Any) -> AbstractContextManager[None]:
    """Turn what can go wrong in making a model from its configuration into a ModelError."""
    return _explained(f"no model can be made of the configuration of {source}")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the screen within the block."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _first(error: Exception) -> str:
    """The first line of an error: libraries add paragraphs of advice that do not apply here."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    opened = bool(lines) and lines[0].endswith(":")  # the reason is on the next line
    return " ".join(lines[: 1 + opened]) or type(error).__name__


def shell(auto_class: Any, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model without memory behind its weights, to save a state dict through."""
    with torch.device("meta"):
        try:
            empty: PreTrainedModel = auto_class.from_config(config, dtype=dtype)
        except ValueError as error:
            raise ModelError(
                f"transformers has no {auto_class.__name__} for {config.model_type!r} models"
            ) from error
    return empty
