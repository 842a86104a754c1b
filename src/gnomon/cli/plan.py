"""``gnomon plan``: which method, how much memory, how long and how much, and a ready recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import err, say, show
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from gnomon.plan.answers import Plan
    from gnomon.plan.reading import Reading


def plan(
    data: Annotated[
        list[Path],
        typer.Argument(help="Files of demonstrations, pairs, rankings, labels or prompts."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A public model's id, a folder, a config.json, tunnel or smollm2-135m. No weights "
            "are loaded."
        ),
    ],
    hardware: Annotated[
        str | None,
        typer.Option(
            help="As 8xH100 or A100-40GB, or here: this machine, probed once; without it, the "
            "cheapest GPU that fits."
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Euros at most, for hardware and labels.", min=0)
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of a GPU and hour, instead of the table's.", min=0)
    ] = None,
    price_input: Annotated[
        float | None,
        typer.Option(help="Euros for a million tokens that --judge's model reads.", min=0),
    ] = None,
    price_output: Annotated[
        float | None,
        typer.Option(help="Euros for a million tokens that --judge's model writes.", min=0),
    ] = None,
    price_label: Annotated[
        float | None,
        typer.Option(
            help="Euros for a person's judgement of a pair, where --judge people; 0.60 if not "
            "given, a guess.",
            min=0,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Who can judge answers: a reward model's folder, a model's folder, a model's name "
            "at an endpoint, people, file.py:function, or a builtin reward."
        ),
    ] = None,
    constitution: Annotated[
        str | None, typer.Option(help="A constitution: a file, or the name of one of gnomon's.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="A file that nothing is trained on: looked at for leaked prompts."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="GNOMON=FILE names, as in prompt=question,chosen=good, for the files that have "
            "these columns; may be repeated."
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="What a preference column's values mean, as in 0=a,1=b,2=tie."),
    ] = None,
    likelihood: Annotated[
        bool,
        typer.Option(
            "--likelihood",
            help="Load the model and ask whether the data's answers are such as it writes itself.",
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Run one worst-case step of the largest stage here, rollout included, and correct "
            "the memory by it. The weights are loaded.",
        ),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure this machine again (half a minute), which --hardware here is.",
        ),
    ] = False,
    image: Annotated[Path | None, typer.Option(help="Draw the plan into this PNG.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: every figure, and the recipe.")
    ] = False,
) -> None:
    """Choose a method for your data, size it, and write the recipe, before a machine is booked.

    Three answers, each with its reasons: which method, how much memory, how long and how much. The
    recipe is ready for gnomon run; one that is there already and differs is never overwritten.

      gnomon plan pairs.jsonl --model Qwen/Qwen3-8B --hardware 1xH100 --budget 100

      gnomon plan demos.jsonl problems.jsonl --model meta-llama/Llama-3.1-8B --held-out test.jsonl
    """
    from gnomon.judges.build import PEOPLE
    from gnomon.plan.answers import make
    from gnomon.plan.hardware import Hardware, parse_hardware
    from gnomon.plan.shown import parts

    if price is not None and hardware is None and not calibrate:
        raise ConfigError("--price is of the hardware: name it, as in --hardware 8xH100")
    if price is not None and not price < math.inf:
        raise ConfigError(f"--price {price:g}: give euros an hour for one GPU, as in --price 2")
    prices = _judge_prices(price_input, price_output)
    if price_label is not None and not price_label < math.inf:
        raise ConfigError(f"--price-label {price_label:g}: give euros, as in --price-label 0.60")
    if price_label is not None and judge != PEOPLE:
        raise ConfigError(f"--price-label is of people who judge answers: give --judge {PEOPLE}")
    if calibrate and hardware is not None and hardware.lower() not in ("here", "cpu"):
        raise ConfigError(
            f"--calibrate measures this machine, and --hardware is {hardware}: leave one "
            "of them out"
        )
    on: Hardware | None = None
    if calibrate or (hardware or "").lower() in ("here", "cpu"):
        from gnomon.plan.calibrate import calibration, device_of, hardware_of

        named = hardware or "here"
        calibration(again=calibrate, device=device_of(named), tell=err.print)
        on = hardware_of(named, price)
    elif hardware is not None:
        on = parse_hardware(hardware, price)
    found = make(
        data,
        model,
        hardware=on,
        budget=budget,
        judge=judge,
        constitution=constitution,
        held_out=held_out,
        likelihood=likelihood,
        prices=prices,
        label_price=price_label,
        out=out,
        reading=_reading(columns or [], labels or []),
        watch=_watch,
    )
    if as_json:
        say(json.dumps(found.to_json(), indent=2))
    else:
        for part in parts(found):
            show(part)
    if image is not None:
        from gnomon.plan.picture import draw

        draw(found, image)
        if not as_json:
            say(f"picture: {image}")
    _write(found, out, quiet=as_json)
    if probe:
        from gnomon.plan.shown import probed
        from gnomon.stages.worst_step import probe as run_probe

        for line in probed(found, run_probe(out, out.with_suffix(".probe"))):
            err.print(line)


def _judge_prices(read: float | None, written: float | None) -> tuple[float, float] | None:
    """Euros for a million tokens read and written.

    Raises:
        ConfigError: one of them alone, or none that is a price.
    """
    if read is None and written is None:
        return None
    if read is None or written is None or not max(read, written) < math.inf:
        raise ConfigError(
            "give both --price-input and --price-output, euros for a million tokens (0 where it "
            "costs nothing)"
        )
    return read, written


def _reading(columns: Sequence[str], labels: Sequence[str]) -> Reading:
    """How the files are to be read.

    Raises:
        ConfigError: an option that is no mapping, or a label that means neither a, b nor tie.
    """
    from gnomon.cli.mappings import parse_mapping
    from gnomon.plan.reading import Reading
    from gnomon.recipe.load import validate_as
    from gnomon.recipe.schema import DataSpec

    given = {
        "path": "data",
        "columns": parse_mapping("--columns", columns),
        "labels": parse_mapping("--labels", labels),
    }
    checked = validate_as(DataSpec, given, "plan")
    return Reading(checked.columns, checked.labels)


def _watch(done: int, total: int) -> None:
    if done % 16 == 0:
        err.print(f"asking the model: {done} of {total} answers")


def _write(found: Plan, out: Path, quiet: bool) -> None:
    """Write the recipe, unless something else is there.

    Raises:
        ConfigError: another file is there.
    """
    from gnomon.files import write_text

    text = found.recipe_text()
    if out.exists() and not (out.is_file() and out.read_bytes() == text.encode()):
        raise ConfigError(
            f"{out} is there already and differs, so the recipe was not written: name another file "
            "with --out"
        )
    write_text(out, text)
    if not quiet:
        say(f"recipe: {out}; look at it, then: gnomon run {out} --dry-run")
