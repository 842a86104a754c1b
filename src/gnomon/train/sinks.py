"""Optional copies of a run's metrics and samples: TensorBoard, Weights & Biases, trackio.

The run directory stays the record; a sink only shows it elsewhere. So a sink that breaks while a
run is under way (a network that fails, say) is dropped with a warning, and never stops the run.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from gnomon.errors import ConfigError
from gnomon.files import write_text

Row = Mapping[str, Any]
_MAX_SAMPLES = 16  # shown per call; all of them are in samples.parquet


class Sink(Protocol):
    """Where else a run's figures go."""

    def log(self, step: int, metrics: Mapping[str, float | int | str | None]) -> None:
        """Show one row of metrics."""
        ...

    def text(self, step: int, samples: Sequence[Row]) -> None:
        """Show some of a step's samples (columns as in ``SampleStore``)."""
        ...

    def close(self) -> None:
        """Write what is still in memory and let go of files and connections."""
        ...


class TensorBoardSink:
    """Event files in ``<run_dir>/tensorboard``; a resumed run hides what it will write again."""

    def __init__(
        self, run_dir: Path, run_name: str, config: Mapping[str, Any], resume_step: int | None
    ) -> None:
        _import("tensorboard", "tensorboard", "tracking")
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)
        text = json.dumps(dict(config), indent=2, default=str)
        self._writer.add_text("config", _code_block(f"{run_name}\n{text}"), resume_step or 0)

    def log(self, step: int, metrics: Mapping[str, float | int | str | None]) -> None:
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, samples: Sequence[Row]) -> None:
        for i, sample in enumerate(samples[:_MAX_SAMPLES]):
            fields = "\n".join(f"{k}: {v}" for k, v in sample.items() if v is not None)
            self._writer.add_text(f"samples/{i}", _code_block(fields), step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run in project ``$WANDB_PROJECT`` or ``gnomon``.

    The run's id is kept in ``<run_dir>/wandb_id``, so that a resumed run goes on in the same one.
    """

    def __init__(
        self, run_dir: Path, run_name: str, config: Mapping[str, Any], resume_step: int | None
    ) -> None:
        self._wandb = _import("wandb", "wandb", "wandb")
        id_file = run_dir / "wandb_id"
        if resume_step is None or not id_file.is_file():
            write_text(id_file, secrets.token_hex(8))
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gnomon"),
            name=run_name,
            dir=str(run_dir),
            config=dict(config),
            id=id_file.read_text(encoding="utf-8"),
            resume="allow",
        )

    def log(self, step: int, metrics: Mapping[str, float | int | str | None]) -> None:
        self._run.log(_numbers(metrics), step=step)

    def text(self, step: int, samples: Sequence[Row]) -> None:
        rows = samples[:_MAX_SAMPLES]
        columns = list(dict.fromkeys(k for row in rows for k in row))
        data = [[row.get(c) for c in columns] for row in rows]
        self._run.log({"samples": self._wandb.Table(columns=columns, data=data)}, step=step)

    def close(self) -> None:
        self._run.finish()


class TrackioSink:
    """A trackio run (local first) in project ``$TRACKIO_PROJECT`` or ``gnomon``."""

    def __init__(
        self, run_dir: Path, run_name: str, config: Mapping[str, Any], resume_step: int | None
    ) -> None:
        self._trackio = _import("trackio", "trackio", "trackio")
        self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "gnomon"),
            name=run_name,
            config=dict(config),
            resume="never" if resume_step is None else "allow",
        )

    def log(self, step: int, metrics: Mapping[str, float | int | str | None]) -> None:
        self._trackio.log(_numbers(metrics), step=step)

    def text(self, step: int, samples: Sequence[Row]) -> None:
        rows = [dict(row) for row in samples[:_MAX_SAMPLES]]
        self._trackio.log({"samples": self._trackio.Table(data=rows)}, step=step)

    def close(self) -> None:
        self._trackio.finish()


class GuardedSink:
    """A sink whose first failure drops it, with a warning that says so."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self._sink: Sink | None = sink

    def log(self, step: int, metrics: Mapping[str, float | int | str | None]) -> None:
        self._call("log", step, metrics)

    def text(self, step: int, samples: Sequence[Row]) -> None:
        self._call("text", step, samples)

    def close(self) -> None:
        self._call("close")
        self._sink = None

    def _call(self, method: str, *args: Any) -> None:
        if self._sink is None:
            return
        try:
            getattr(self._sink, method)(*args)
        except Exception as error:
            self._sink = None
            warnings.warn(
                f"The {self.name} sink failed ({error!r}) and is dropped; the run goes on and its "
                "own metrics are complete.",
                stacklevel=3,
            )


_SINKS: Mapping[str, Callable[[Path, str, Mapping[str, Any], int | None], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
}


def make_sinks(
    names: Sequence[str],
    run_dir: Path,
    run_name: str,
    config: Mapping[str, Any],
    *,
    resume_step: int | None = None,
) -> list[Sink]:
    """Open the named sinks.

    Args:
        names: any of ``tensorboard``, ``wandb``, ``trackio``.
        run_dir: where those that write files write them.
        run_name: what the run is called there.
        config: shown beside the run.
        resume_step: the last step already logged, when a run is taken up again.

    Raises:
        ConfigError: an unknown name, or a package that is not installed (with the extra to add).
    """
    for name in names:
        if name not in _SINKS:
            near = difflib.get_close_matches(name, list(_SINKS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_SINKS)}"
            raise ConfigError(f"unknown sink {name!r}; {hint}")
    run_dir.mkdir(parents=True, exist_ok=True)
    opened: list[Sink] = []
    try:
        for name in dict.fromkeys(names):
            opened.append(GuardedSink(name, _SINKS[name](run_dir, run_name, config, resume_step)))
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def check_sinks(names: Sequence[str]) -> None:
    """See that the packages of the named sinks are installed, without opening anything.

    Raises:
        ConfigError: one is not, with the extra to add.
    """
    for name in names:
        if find_spec(name) is None:
            extra = "tracking" if name == "tensorboard" else name
            raise ConfigError(_missing(name, extra, "it is not installed"))


def _missing(sink: str, extra: str, why: object) -> str:
    return (
        f"The {sink} sink needs a package that cannot be imported ({why}): "
        f"pip install 'gnomon-rlhf[{extra}]', or take {sink} out of the recipe's sinks."
    )


def _import(module: str, sink: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(_missing(sink, extra, error)) from error


def _numbers(metrics: Mapping[str, float | int | str | None]) -> dict[str, float]:
    return {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}


def _code_block(text: str) -> str:
    """Markdown that shows text as it stands."""
    return "\n".join(f"    {line}" for line in text.splitlines())
