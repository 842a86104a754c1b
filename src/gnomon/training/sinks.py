"""Optional copies of a run's metrics and samples: TensorBoard, Weights & Biases, trackio.

The run's folder stays the record; a sink only shows it elsewhere. So a sink that breaks during a
run (a network that fails, say) is dropped with a warning, and never stops the run.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.files import write_text

Row = Mapping[str, Any]
Calls = tuple[
    Callable[[int, dict[str, float]], Any], Callable[[int, list[Row]], Any], Callable[[], Any]
]
"""How a tracker shows figures, how it shows samples, and how it is closed."""
_MAX_SAMPLES = 16  # shown per call; all of them are in samples.parquet


class Sink:
    """One tracker, dropped at its first failure with a warning that says so."""

    def __init__(self, name: str, calls: Calls) -> None:
        self.name = name
        self._calls: Calls | None = calls

    def log(self, step: int, metrics: Row) -> None:
        """Show the numbers of one row of metrics."""
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        self._guarded(lambda calls: calls[0](step, numbers))

    def text(self, step: int, samples: Sequence[Row]) -> None:
        """Show some of a step's samples (columns as in ``SampleRow``)."""
        self._guarded(lambda calls: calls[1](step, list(samples[:_MAX_SAMPLES])))

    def close(self) -> None:
        """Write what is still in memory and let go of files and connections."""
        self._guarded(lambda calls: calls[2]())
        self._calls = None

    def _guarded(self, call: Callable[[Calls], Any]) -> None:
        if self._calls is None:
            return
        try:
            call(self._calls)
        except Exception as error:
            self._calls = None
            warnings.warn(
                f"The {self.name} sink failed ({error!r}) and is dropped; the run continues and "
                "its own metrics are complete.",
                stacklevel=3,
            )


def _tensorboard(folder: Path, name: str, config: Row, resume_step: int | None) -> Calls:
    """Event files in ``folder/tensorboard``; a resumed run hides what it will write again."""
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resume_step is None else resume_step + 1
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def block(tag: str, text: str, step: int) -> None:
        """Markdown that shows text as it is."""
        writer.add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def log(step: int, numbers: dict[str, float]) -> None:
        for tag, value in numbers.items():
            writer.add_scalar(tag, value, step)

    def text(step: int, samples: list[Row]) -> None:
        for i, sample in enumerate(samples):
            fields = "\n".join(f"{k}: {v}" for k, v in sample.items() if v is not None)
            block(f"samples/{i}", fields, step)

    block("config", f"{name}\n{json.dumps(dict(config), indent=2, default=str)}", resume_step or 0)
    return log, text, writer.close


def _wandb(folder: Path, name: str, config: Row, resume_step: int | None) -> Calls:
    """A Weights & Biases run in project ``$WANDB_PROJECT`` or ``gnomon``.

    Its id is kept in ``folder/wandb_id``, so that a resumed run continues the same one.
    """
    import wandb

    id_file = folder / "wandb_id"
    if resume_step is None or not id_file.is_file():
        write_text(id_file, secrets.token_hex(8))
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "gnomon"),
        name=name,
        dir=str(folder),
        config=dict(config),
        id=id_file.read_text(encoding="utf-8"),
        resume="allow",
    )

    def text(step: int, samples: list[Row]) -> None:
        columns = list(dict.fromkeys(k for row in samples for k in row))
        data = [[row.get(c) for c in columns] for row in samples]
        run.log({"samples": wandb.Table(columns=columns, data=data)}, step=step)

    return lambda step, numbers: run.log(numbers, step=step), text, run.finish


def _trackio(folder: Path, name: str, config: Row, resume_step: int | None) -> Calls:
    """A trackio run (local first) in project ``$TRACKIO_PROJECT`` or ``gnomon``."""
    import trackio

    trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "gnomon"),
        name=name,
        config=dict(config),
        resume="never" if resume_step is None else "allow",
    )

    def text(step: int, samples: list[Row]) -> None:
        table = trackio.Table(data=[dict(row) for row in samples])
        trackio.log({"samples": table}, step=step)

    return lambda step, numbers: trackio.log(numbers, step=step), text, trackio.finish


_SINKS: Mapping[str, Callable[[Path, str, Row, int | None], Calls]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def make_sinks(
    names: Sequence[str],
    run_dir: Path,
    run_name: str,
    config: Row,
    *,
    resume_step: int | None = None,
) -> list[Sink]:
    """Open the named sinks.

    Args:
        names: any of ``tensorboard``, ``wandb``, ``trackio``.
        run_dir: where those that write files write them.
        run_name: what the run is called there.
        config: shown with the run.
        resume_step: the last step already logged, when a run is resumed.

    Raises:
        ConfigError: a package that is not installed (with the extra to add).
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    opened: list[Sink] = []
    try:
        for name in dict.fromkeys(names):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ConfigError(_missing(name, error)) from error
            opened.append(Sink(name, _SINKS[name](run_dir, run_name, config, resume_step)))
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def check_sinks(names: Sequence[str]) -> None:
    """Check that the packages of the named sinks are installed, without opening anything.

    Raises:
        ConfigError: one is not, with the extra to add.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(_missing(name, "it is not installed"))


def _missing(sink: str, why: object) -> str:
    extra = "tracking" if sink == "tensorboard" else sink
    return (
        f"The {sink} sink needs a package that cannot be imported ({why}): "
        f"pip install 'gnomon-rlhf[{extra}]', or remove {sink} from the recipe's sinks."
    )
