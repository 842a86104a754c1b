"""Checkpoints: everything a killed run needs to continue as if it had never stopped.

One folder per checkpoint, ``step-000123``, holding only safetensors and JSON::

    parameters.safetensors   the weights being trained, by name
    state.safetensors        every tensor of the optimizer and of the caller's state
    state.json               the rest of both; a tensor is a pointer into state.safetensors
    shards/                  of a run whose weights are spread over processes (strategy fsdp2): what
                             each holds of both, instead of in the two files above
    manifest.json            size and SHA-256 of the files above

Any number of processes can resume from either. A folder appears in one rename, so a process killed
at any moment leaves only whole checkpoints.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from gnomon.errors import RunError
from gnomon.files import (
    clean_temporaries,
    damage,
    fingerprint,
    remove_folder,
    write_folder,
)
from gnomon.models.merge import first_not_finite
from gnomon.models.ranks import Ranks
from gnomon.models.sharded import assign
from gnomon.runs import shards
from gnomon.runs.optimizer import (
    names_by_parameter,
    optimizer_state,
    restore_optimizer,
    same_groups,
)
from gnomon.runs.packing import pack, plain_tensors, unpack
from gnomon.runs.records import Record

_FORMAT = 3
_SPREAD_FORMAT = 4
_PARAMETERS = "parameters.safetensors"
_TENSORS = "state.safetensors"
_STATE = "state.json"
_FILES = (_PARAMETERS, _TENSORS, _STATE)
_MANIFEST = "manifest.json"
_OWN = "parameters/"
"""Before the names of trained weights among the tensors that are spread."""
_OTHER_VERSION = "another version of gnomon"
_FOLDER = re.compile(r"step-(\d{6,})")


class CheckpointManifest(Record):
    """manifest.json of a checkpoint: its format, and fingerprints of its other files."""

    format: int
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from disk, on the CPU.

    Attributes:
        iteration: after which it was saved.
        step: optimizer steps taken: the caller's ``state["step"]``, or else ``iteration``.
        tensors: the trained parameters by name.
        optimizer: ``state`` ({parameter name: {key: value}}) and ``groups`` (each with its settings
            and, as ``params``, its parameters' names).
        algorithm_state: what the caller passed as ``state``.
    """

    iteration: int
    step: int
    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    algorithm_state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one stage: the newest ``keep`` of them, in ``folder``.

    One process writes; any number may read. With more than one kept, damage to the newest costs
    only the steps since the one before. Those at multiples of ``every`` are kept before the extra
    ones that a run leaves where it pauses, so that what is there at its end does not depend on
    pauses.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        every: int = 1,
        ranks: Ranks | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint has to be kept")
        self.folder = Path(folder)
        self.keep = keep
        self.every = every
        self.ranks = ranks or Ranks()
        self.mesh = mesh
        self._sound: set[int] = set()

    def save(
        self,
        iteration: int,
        *,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint, then drop those no longer kept (and any of a later iteration).

        Args:
            iteration: the iteration just finished.
            parameters: every trained tensor by name, all of the optimizer's among them.
            optimizer: any torch optimizer; its state is stored by parameter name.
            state: whatever else the run needs: nested dicts (string keys), lists, tuples, numbers,
                strings, None and tensors.

        Raises:
            RunError: the disk is full, or a parameter is not finite; the earlier checkpoints are
                intact.
            TypeError: ``state`` or the optimizer holds something that is none of the above.
        """
        broken = first_not_finite(parameters)
        if broken is not None:
            raise RunError(f"{broken} is not finite, so no checkpoint of it was written")
        extra: dict[str, Tensor] = {}
        content: dict[str, Any] = {
            "iteration": iteration,
            "optimizer": pack(optimizer_state(optimizer, parameters), "optimizer", extra),
            "state": pack(dict(state), "state", extra),
        }
        tensors, spread = shards.split(parameters)
        extra, more = shards.split(extra)
        spread = {f"{_OWN}{name}": t for name, t in spread.items()} | more
        if spread:
            content |= {"spread": shards.describe(spread), "world": self.ranks.world}
        every = [*tensors.values(), *extra.values(), *spread.values()]
        need = sum(t.numel() * t.element_size() for t in every)
        target = self.path(iteration)
        with self._writing(target, need) as tmp:
            files = shards.write(tmp, spread, self.ranks) if spread else {}
            if self.ranks.rank == 0:
                save_file(plain_tensors(tensors), tmp / _PARAMETERS)
                save_file(plain_tensors(extra), tmp / _TENSORS)
                (tmp / _STATE).write_text(json.dumps(content), encoding="utf-8")
                files |= {name: fingerprint(tmp / name) for name in _FILES}
                made = _SPREAD_FORMAT if spread else _FORMAT
                CheckpointManifest(format=made, files=files).write(tmp / _MANIFEST)
        self._sound.add(iteration)
        if self.ranks.rank == 0:
            self._prune(iteration)
        return target

    @contextmanager
    def _writing(self, target: Path, need: int) -> Iterator[Path]:
        """A folder that all processes write into, and that appears once all have."""
        with self.ranks.together(), ExitStack() as stack:
            tmp = None
            if self.ranks.rank == 0:
                tmp = stack.enter_context(write_folder(target, need=need))
            yield self.ranks.told(tmp)
            self.ranks.gather(None)

    def latest(self) -> int | None:
        """The newest iteration with a sound checkpoint, or None; removes half-written ones.

        A damaged checkpoint is passed over with a warning that says what is wrong with it.

        Raises:
            RunError: there are some, and all are of another version of gnomon.
        """
        found = self.ranks.first(self.latest_here)
        self._sound |= {found} if found is not None else set()
        return found

    def latest_here(self) -> int | None:
        """The same without a word to other processes."""
        if not self.folder.is_dir():
            return None
        clean_temporaries(self.folder)
        problems = []
        for iteration in reversed(self.iterations()):
            wrong = self._problem(iteration)
            if wrong is None:
                return iteration
            problems.append(wrong)
            warnings.warn(
                f"The checkpoint {self.path(iteration)} cannot be used ({wrong}); the one before "
                "it is tried.",
                stacklevel=2,
            )
        if problems and all(wrong.endswith(_OTHER_VERSION) for wrong in problems):
            raise RunError(
                f"The checkpoints in {self.folder} cannot be used: {problems[0]}. Resume with that "
                "version, or start again under another name (name=...)."
            )
        return None

    def intact(self) -> str:
        """In words, which checkpoint there is to go on from."""
        saved = self.latest_here()
        return f"the checkpoint of iteration {saved} is intact" if saved else "no checkpoint yet"

    def read(self, iteration: int, spread: bool = False) -> Checkpoint:
        """Read a checkpoint without putting it anywhere.

        Args:
            spread: tensors that were spread over processes are spread over those of this run, if
                its weights are; every process reads its part. Otherwise they are whole.

        Raises:
            RunError: it is missing or damaged.
        """
        folder = self.path(iteration)
        wrong = self._problem(iteration)
        if wrong is not None:
            have = ", ".join(map(str, self.iterations())) or "none"
            raise RunError(
                f"The checkpoint {folder} cannot be used: {wrong}. Resume from another one "
                f"(saved: {have}) or start the stage again."
            )
        extra = load_file(folder / _TENSORS)
        content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        tensors = load_file(folder / _PARAMETERS)
        mesh = self.mesh if spread else None
        for name, tensor in shards.read(
            folder, content.get("spread", {}), mesh, self.ranks
        ).items():
            own = name.startswith(_OWN)
            (tensors if own else extra)[name.removeprefix(_OWN) if own else name] = tensor
        state = unpack(content["state"], extra)
        return Checkpoint(
            iteration=content["iteration"],
            step=int(state.get("step", content["iteration"])),
            tensors=tensors,
            optimizer=unpack(content["optimizer"], extra),
            algorithm_state=state,
        )

    def load(
        self,
        iteration: int,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, Any]:
        """Restore parameters and optimizer in place, bit for bit, and return the saved ``state``.

        Everything is compared before anything is changed.

        Raises:
            RunError: the checkpoint is missing or damaged, or holds other parameters than these.
        """
        checkpoint = self.read(iteration, spread=True)
        self.put(checkpoint, parameters, optimizer)
        return checkpoint.algorithm_state

    def put(
        self,
        checkpoint: Checkpoint,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Give parameters and optimizer what was read; see :meth:`load`."""
        folder = self.path(checkpoint.iteration)
        check_parameters(folder, checkpoint.tensors, parameters)
        names = names_by_parameter(optimizer, parameters)
        check_groups(folder, checkpoint.optimizer, optimizer, names)
        with torch.no_grad():
            for name, tensor in parameters.items():
                assign(tensor, checkpoint.tensors[name])
        restore_optimizer(optimizer, checkpoint.optimizer, names)

    def path(self, iteration: int) -> Path:
        """The folder of an iteration's checkpoint, whether it exists or not."""
        return self.folder / f"step-{iteration:06d}"

    def iterations(self) -> list[int]:
        """The iterations that have a folder, oldest first, sound or not."""
        names = (p.name for p in self.folder.glob("step-*") if p.is_dir())
        return sorted(int(m.group(1)) for name in names if (m := _FOLDER.fullmatch(name)))

    def regular(self, end: int) -> list[int]:
        """The iterations with a folder that there are whether or not a run pauses, up to its last,
        ``end``; oldest first."""
        return [i for i in self.iterations() if i == end or (i < end and i % self.every == 0)]

    def _prune(self, newest: int) -> None:
        """Remove extra ones, the oldest, and later ones: a run that went back must not resume from
        those."""
        earlier = [i for i in self.iterations() if i < newest]
        earlier.sort(key=lambda i: (i % self.every == 0, i))
        kept = {newest, *earlier[max(0, len(earlier) + 1 - self.keep) :]}
        for iteration in self.iterations():
            if iteration not in kept:
                self._sound.discard(iteration)
                remove_folder(self.path(iteration))

    def _problem(self, iteration: int) -> str | None:
        """What is wrong with a checkpoint, or None. Files are hashed once per store."""
        if iteration in self._sound:
            return None
        folder = self.path(iteration)
        if not folder.is_dir():
            return "it does not exist"
        try:
            manifest = CheckpointManifest.read(folder / _MANIFEST)
            expected = manifest.files | {name: manifest.files[name] for name in _FILES}
        except (ValueError, KeyError) as error:
            return f"{_MANIFEST} is missing or unreadable: {error!r}"
        wrong = damage(folder, expected)
        if wrong is not None:
            return wrong
        if manifest.format not in (_FORMAT, _SPREAD_FORMAT):
            return f"format {manifest.format} was written by {_OTHER_VERSION}"
        self._sound.add(iteration)
        return None


def check_parameters(
    folder: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Refuse a checkpoint whose parameters are not those of the run, by name, type and shape."""
    problems = [f"{n} is not in the checkpoint" for n in wanted if n not in saved]
    problems += [f"{n} is only in the checkpoint" for n in saved if n not in wanted]
    problems += [
        f"{n} is {_describe(saved[n])} in the checkpoint but {_describe(wanted[n])} in this run"
        for n in wanted
        if n in saved and _describe(saved[n]) != _describe(wanted[n])
    ]
    _refuse(folder, problems)


def check_groups(
    folder: Path,
    saved: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
) -> None:
    """Refuse a checkpoint whose parameter groups are not the optimizer's."""
    before = [set(group["params"]) for group in saved["groups"]]
    now = [{names[p] for g in groups for p in g["params"]} for groups in same_groups(optimizer)]
    if len(before) != len(now):
        _refuse(folder, [f"{len(before)} parameter groups were optimised then, {len(now)} now"])
    moved = [n for old, new in zip(before, now, strict=True) for n in sorted(old ^ new)]
    _refuse(folder, [f"{n} is optimised in another group" for n in dict.fromkeys(moved)])


def _refuse(folder: Path, problems: Iterable[str]) -> None:
    listed = list(problems)
    if not listed:
        return
    more = f"; and {len(listed) - 5} more" if len(listed) > 5 else ""
    raise RunError(
        f"The checkpoint {folder} does not fit this run: {'; '.join(listed[:5])}{more}. The recipe "
        "(model, LoRA settings, trained parts) has changed since it was saved: undo the change to "
        "resume, or start under another run name."
    )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
