"""Optional copies of a run's metrics and samples: TensorBoard, Weights & Biases, trackio.

The run's folder stays the record; a sink only shows it elsewhere. So a sink that breaks during a
run (a network that fails, say) is dropped with a warning, and never stops the run. One that cannot
be opened does.
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
from gnomon.training.callbacks import Callback, EvaluationDone, StageEnd, StageStart, StepDone

Row = Mapping[str, Any]
Calls = tuple[
    Callable[[int, dict[str, float]], Any], Callable[[int, list[Row]], Any], Callable[[], Any]
]
"""How a tracker shows figures, how it shows samples, and how it is closed."""
_MAX_SAMPLES = 16  # shown per call; all of them are in samples.parquet


class Sink(Callback):
    """One tracker, dropped at its first failure with a warning that says so.

    Args:
        name: tensorboard, wandb or trackio.
        title: what the run is called there.
        config: shown with the run.
    """

    def __init__(self, name: str, title: str, config: Row) -> None:
        self.name = name
        self.title = title
        self.config = config
        self._calls: Calls | None = None
        self._evaluated: set[str] = set()

    def on_start(self, stage: StageStart) -> None:
        """Open it; a resumed run goes on after the steps that were shown before.

        Raises:
            ConfigError: its package is not installed (with the extra to add).
        """
        try:
            importlib.import_module(self.name)
        except ImportError as error:
            raise ConfigError(_missing(self.name, error)) from error
        resume_step = stage.step if stage.resumed else None
        self._calls = _SINKS[self.name](stage.folder, self.title, self.config, resume_step)

    def on_step(self, event: StepDone) -> None:
        """The iteration's row, without what the evaluation before it has shown at its own step."""
        self._log(event.step, {k: v for k, v in event.metrics.items() if k not in self._evaluated})
        self._text(event.step, event.samples)
        self._evaluated = set()

    def on_evaluation(self, event: EvaluationDone) -> None:
        self._log(event.step, event.metrics)
        self._text(event.step, event.samples)
        self._evaluated = set(event.metrics)

    def on_end(self, event: StageEnd) -> None:
        """Write what is still in memory and let go of files and connections."""
        self._guarded(lambda calls: calls[2]())
        self._calls = None

    def _log(self, step: int, metrics: Row) -> None:
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        if numbers:
            self._guarded(lambda calls: calls[0](step, numbers))

    def _text(self, step: int, samples: Sequence[Row]) -> None:
        if samples:
            self._guarded(lambda calls: calls[1](step, list(samples[:_MAX_SAMPLES])))

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
