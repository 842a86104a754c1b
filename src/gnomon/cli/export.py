"""``gnomon export``: a model as others take it."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.text import Text

from gnomon.console import err, say

if TYPE_CHECKING:
    from gnomon.export.make import Made


class FormatName(StrEnum):
    """What there is."""

    merged = "merged"
    gguf = "gguf"
    ollama = "ollama"


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's folder (its last policy), a stage's, any model's or adapter's, tunnel, "
            "or a hub id."
        ),
    ],
    to: Annotated[
        FormatName,
        typer.Option(
            help="merged: safetensors, tokenizer and card, as transformers and vLLM load them. "
            "gguf: one file for llama.cpp. ollama: that file with a Modelfile."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    stage: Annotated[
        str | None, typer.Option(help="Of a run: which stage's model; base is the start model.")
    ] = None,
    outtype: Annotated[
        str | None,
        typer.Option(help="A GGUF's weights: f32, f16, bf16, q8_0 or auto; default: f16."),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            help="llama.cpp's convert_hf_to_gguf.py, or a checkout; default: "
            "$GNOMON_GGUF_CONVERTER, then the one that the export extra brings."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read the GGUF back with transformers and compare log-probs (4 bytes of memory a "
            "parameter).",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in OUT.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Put it on the Hugging Face hub as OWNER/NAME, private.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push-to-hub: anybody may read it.")
    ] = False,
) -> None:
    """Write a model for other programs, and put it on the hub if asked.

      gnomon export runs/mine --to merged --out mine                    then: vllm serve mine

      gnomon export runs/mine --to gguf --out mine-gguf --verify        then: llama-server --jinja

      gnomon export runs/mine --to ollama --out mine-ollama             then: ollama create

      gnomon export runs/mine --to merged --out mine --push-to-hub me/mine

    Adapters are merged. The folder appears whole or not at all; what is there is not replaced
    without --overwrite. See docs/chat-export.md.
    """
    from gnomon.export.make import Wanted, export

    with err.status(Text(f"exporting {model}")):
        made = export(
            Wanted(
                *(model, to.value, out, stage, outtype, converter, verify, overwrite),
                *(push_to_hub, public),
            )
        )
    _report(made, to)


def _report(made: Made, to: FormatName) -> None:
    for file in made.files:
        say(f"{file}  {decimal(file.stat().st_size)}")
    for note in made.notes:
        say(f"note: {note}", "yellow")
    back = made.read_back
    if back is not None:
        say(
            f"read back by transformers: log-probs differ by {back.mean:.2g} nats a token on "
            f"average, {back.largest:.2g} at most; the same most likely token at "
            f"{back.agree:.1%} of {back.places} places"
        )
    folder = shlex.quote(str(made.folder))
    ggufs = [str(file) for file in made.files if file.suffix == ".gguf"]
    follow = {
        FormatName.merged: f"vllm serve {folder}",
        FormatName.gguf: f"llama-server --jinja -m {shlex.quote((ggufs or [''])[0])}",
        FormatName.ollama: f"ollama create NAME -f {folder}/Modelfile",
    }
    say(f"serve it with: {follow[to]}")
    if made.url is not None:
        say(f"pushed: {made.url}")
