"""The processes that torchrun started: the first runs the recipe, the others train with it.

Only training is shared. The first process reads and writes the run's folder, prints, samples from
other engines, judges, evaluates, compares and reports; the others wait for the next stage that
trains and run its loop in step with the first. They print nothing but what they alone know.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from zlib import crc32

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from gnomon import console
from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.errors import ConfigError, DataError, RunError
from gnomon.models.load import dtype_of, fetch, read_config
from gnomon.models.memory import parameter_count
from gnomon.models.precision import pick_precision
from gnomon.models.ranks import TIMEOUT, PeerLostError, Ranks, is_heard
from gnomon.recipe.schema import Recipe
from gnomon.records import TokenGroup
from gnomon.training.strategy import ManyDevices

JOIN = timedelta(minutes=5)
"""The longest that a process waits for the others to start."""
ROOM = 0.4
"""Of a device's memory: what weights, gradients and optimizer state may take where each has a
copy; the rest is for activations."""
Order = tuple[str, bool]
"""A stage's name, and whether it is resumed."""


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun started, by the variables that it sets."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def here(cls) -> Place | None:
        """None where there is only one process."""
        world = _number("WORLD_SIZE", 1)
        if world == 1 or "RANK" not in os.environ:
            return None
        rank = _number("RANK", 0)
        return cls(rank, world, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", world))


def _number(name: str, otherwise: int) -> int:
    given = os.environ.get(name)
    if given is None:
        return otherwise
    if not given.isdecimal():
        raise ConfigError(f"{name} is {given!r}; torchrun sets it to a number")
    return int(given)


class Processes:
    """All processes of a run, joined.

    Attributes:
        ranks: the processes.
        kind: how they share training.
    """

    def __init__(self, ranks: Ranks, kind: Literal["ddp", "fsdp2"], device: str) -> None:
        self.ranks = ranks
        self.kind = kind
        self.device = device

    @property
    def first(self) -> bool:
        return self.ranks.rank == 0

    def said(self) -> str:
        """In a line, how training is shared."""
        each = {"ddp": "a copy of the weights in each", "fsdp2": "weights spread over all"}
        return f"{self.ranks.world} processes on {self.device}, {self.kind}: {each[self.kind]}"

    def strategy(self) -> ManyDevices:
        """For one stage."""
        mesh = init_device_mesh(self.device, (self.ranks.world,)) if self.kind == "fsdp2" else None
        self.ranks.in_step = False
        return ManyDevices(self.ranks, mesh)

    def order(self, stage: str, resume: bool) -> None:
        """Have the others begin a stage that trains; called by the first."""
        self.ranks.in_step = False
        if self.first:
            self.ranks.told((stage, resume))

    def follow(self, work: Callable[[str, bool], Any]) -> None:
        """Do ``work`` for every stage that the first process begins, until it ends; called by the
        others. What fails in all is the first one's to report."""
        warnings.simplefilter("ignore")
        while True:
            try:
                order: Order | None = self.ranks.told(None)
                if order is None:
                    return
                work(*order)
            except (Exception, KeyboardInterrupt) as error:
                if isinstance(error, PeerLostError) and self.ranks.rank > 1:
                    raise SystemExit(1) from None  # one of those left says it
                if not is_heard(error):
                    console.err.quiet = False
                    raise

    def close(self) -> None:
        """Let the others go, and leave the process groups."""
        if self.first:
            with suppress(RunError):
                self.ranks.told(None)
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


def join(recipe: Recipe) -> Processes | None:
    """Join the processes that torchrun started; None where there is only this one.

    Raises:
        ConfigError: a strategy that the processes do not fit, or a device that one of them lacks.
        RunError: they do not find each other.
    """
    place = Place.here()
    asked = recipe.strategy
    if place is None:
        if asked in ("ddp", "fsdp2"):
            raise ConfigError(
                f"strategy: {asked} shares training among several processes, and this is one: run "
                "it as torchrun --nproc-per-node N -m gnomon run RECIPE, or set strategy: auto"
            )
        return None
    if asked == "single":
        raise ConfigError(
            f"strategy: single is one process, and torchrun started {place.world}: run gnomon "
            "without torchrun, or set strategy: ddp, fsdp2 or auto"
        )
    cuda = recipe.device == "cuda" or (recipe.device == "auto" and torch.cuda.is_available())
    if cuda and torch.cuda.is_available() and place.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(place.local_rank)
    _connect(place, cuda and torch.cuda.is_available())
    ranks = Ranks.join()
    with ranks.together():
        _check_device(recipe, place, cuda)
        _check_recipe(recipe, ranks)
    with ranks.together():
        kind = asked if asked != "auto" else ranks.first(lambda: _fitting(recipe, cuda))
        compiled = [stage.name for stage in recipe.stages if stage.train.compile]
        if kind == "fsdp2" and compiled:
            raise ConfigError(
                f"stage {compiled[0]!r}: train.compile is not offered where weights are spread "
                "(strategy: fsdp2); leave it out, or set strategy: ddp"
            )
    return Processes(ranks, kind, "cuda" if cuda else "cpu")


def _connect(place: Place, cuda: bool) -> None:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        store, rank, world = next(rendezvous("env://", timeout=JOIN))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        taken = "address already in use" in str(error).lower()
        cure = (
            "another program has that port: give torchrun another (--master-port, or "
            "--rdzv-endpoint HOST:PORT)"
            if taken
            else f"all {place.world} have to start within {JOIN.seconds // 60} minutes and reach "
            "that address: look at the machines that said nothing, and at the firewall"
        )
        raise RunError(
            f"process {place.rank} of {place.world} did not find the others at {address} "
            f"({reason}): {cure}. Nothing has begun"
        ) from error


def _check_device(recipe: Recipe, place: Place, cuda: bool) -> None:
    """Check that this process has a device of its own.

    Raises:
        ConfigError: it has none.
    """
    if not cuda:
        if recipe.device == "mps":
            raise ConfigError("device: mps is one device: run gnomon without torchrun")
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda, but torch sees no CUDA device here, so NCCL cannot be used either "
            f"(this torch is {torch.__version__}). Set device: cpu, which uses gloo"
        )
    there = torch.cuda.device_count()
    if place.local_rank >= there:
        raise ConfigError(
            f"torchrun started {place.local_world} processes on a machine with {there} GPUs, and "
            f"each needs one: --nproc-per-node {there}"
        )


def _check_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Check that this process was given the first one's recipe.

    Raises:
        ConfigError: it was given another.
    """
    mine = dict(_settings(recipe.model_dump(mode="json")))
    first = ranks.told(mine)
    odd = next((key for key in {**first, **mine} if first.get(key) != mine.get(key)), None)
    if odd is not None:
        raise ConfigError(
            f"this process was given another recipe than the first: {odd} is {mine.get(odd)!r} "
            f"here and {first.get(odd)!r} there. Start all with the same recipe and settings"
        )


def _settings(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each number and word of nested settings, by where it is."""
    if not isinstance(value, dict | list):
        yield place, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _settings(inner, f"{place}.{key}" if place else str(key))


def check_same_rows(ranks: Ranks, stage: str, rows: Sequence[Any]) -> None:
    """Check that this process read the rows that the first one read: all train on all of them.

    Args:
        rows: prompts or groups, as tokens.

    Raises:
        DataError: it read others.
    """
    if ranks.world == 1:
        return
    mine = [_mark(row) for row in rows]
    first = ranks.told(mine)
    if mine == first:
        return
    odd = next((i for i, (a, b) in enumerate(zip(mine, first, strict=False)) if a != b), None)
    what = f"row {odd + 1} differs" if odd is not None else "those of one are fewer"
    raise DataError(
        f"stage {stage!r}: this process read other rows than the first ({len(mine)} here, "
        f"{len(first)} there; {what}). All machines have to see the same files, and a data "
        "function has to give the same rows each time"
    )


def _mark(row: Any) -> int:
    """A row's tokens and figures in a number."""
    if isinstance(row, TokenGroup):
        said = [(tuple(r.ids), tuple(r.mask), tuple(r.scalar.items())) for r in row.responses]
        text = repr((tuple(row.prompt_ids), said, row.comparisons, row.weight))
    else:
        text = repr(tuple(row.ids))
    return crc32(text.encode())


def _fitting(recipe: Recipe, cuda: bool) -> Literal["ddp", "fsdp2"]:
    """What ``auto`` is: a copy in each process where that leaves room for activations."""
    if not cuda or recipe.model == "none":
        return "ddp"
    stages = {"model", *(stage.name for stage in recipe.stages)}
    others = {stage.from_ for stage in recipe.stages if stage.from_ is not None} - stages
    parameters = max(parameter_count(read_config(fetch(m))) for m in {recipe.model, *others})
    trained = any(stage.lora is None for stage in recipe.stages)
    precision = pick_precision(recipe.precision, torch.device("cuda"))
    width = dtype_of(precision.trained if trained else precision.frozen).itemsize
    bytes_each = 4 * width if trained else width  # with gradients and AdamW's two means
    room = ROOM * torch.cuda.get_device_properties(0).total_memory
    return "ddp" if parameters * bytes_each <= room else "fsdp2"


def idle_processes(batch_size: int, settings: object, world: int) -> str | None:
    """A warning, if a step has fewer groups than there are processes."""
    parts = settings.minibatches if isinstance(settings, OnPolicySettings) else 1
    groups = max(1, batch_size // parts)
    if groups >= world:
        return None
    return (
        f"warning: a step has {groups} groups for {world} processes, so that {world - groups} have "
        "nothing to do in it: raise train.batch_size, or start fewer"
    )


def no_watch(iteration: int, step: int, last: bool) -> Mapping[str, float]:
    """What a process after the first sees of evals on the way: the first measures."""
    return {}
