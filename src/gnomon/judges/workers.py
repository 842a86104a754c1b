"""A judge in several processes: groups are split among them, and any of them may die.

    groups -> shares (fixed by the groups) -> whoever is free judges the next -> put in order

What a share is follows from the groups alone, and each worker is a process that makes the judge as
the trainer would. So the judgements do not depend on how many workers there are, on which of them
answers, nor on whether one was lost: to the last bit, where their processors and numbers of threads
are the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, EngineError
from gnomon.judges.protocol import Judge, judged
from gnomon.plugins import PASSED, load_builtin
from gnomon.recipe.placement import RaySpec
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Judgement, Prompt
from gnomon.workers.crew import RETRIES, Crew, Tell
from gnomon.workers.process import ProcessWorker, Worker, threads

MODEL = "model"
"""The folder of a reward model."""
_SHARES, _LARGEST = 8, 256
_REASONS = {
    "people": "people answer in their own time",
    "human_queue": "people answer in their own time",
    "ai": "a model that answers behind several urls shares the work itself (options.url: [...])",
}


@dataclass(frozen=True)
class Workplace:
    """Where the workers of a stage's judges run, and until when.

    Attributes:
        closing: ends them.
        folder: of the reward model that an entry names.
        dtype, device: of reward models, as a recipe has them.
        ray: places them; None for processes of this machine.
    """

    closing: ExitStack
    folder: Callable[[str], Path]
    dtype: str = "float32"
    device: str = "cpu"
    ray: RaySpec | None = None


def check_workers(spec: RewardSpec) -> None:
    """Refuse workers for a judge that cannot be in another process.

    Raises:
        ConfigError: see above.
    """
    if not spec.workers:
        return
    key = f"reward {spec.label!r}, workers: {spec.workers}"
    if spec.builtin in _REASONS:
        raise ConfigError(f"{key}: {_REASONS[spec.builtin]}: remove workers")
    if spec.function is not None and spec.function.startswith(f"{PASSED}:"):
        raise ConfigError(
            f"{key}: {spec.function.partition(':')[2]} was passed from Python and is in no file, "
            "so no other process can import it: write it into a file, and name it as file.py:name"
        )


class WorkerJudge(Judge):
    """A judge that is made, and asked, in other processes.

    Each sees whole groups, but not all of a round's; so one that compares across groups, or
    remembers, is not for this.

    Args:
        name: of the judge.
        make: makes each worker, by a name for people; called again for one that died.
        retries: see :class:`~gnomon.workers.crew.Crew`.

    Attributes:
        parameters: of a reward model's largest member; 0 of other judges.

    Raises:
        ConfigError: it cannot be made, or the workers made different ones, or it is asked in
            rounds.
        EngineError: a worker did not start.
    """

    def __init__(
        self, name: str, make: Mapping[str, Callable[[], Worker]], retries: int = RETRIES
    ) -> None:
        self.name = name
        self._round = 0
        self._lock = threading.Lock()
        self._first: tuple[str, About] | None = None
        makers = {key: partial(self._worker, key, one) for key, one in make.items()}
        self._crew: Crew[Worker] = Crew(makers, lambda worker: worker.close(), retries)
        self._crew.start()
        assert self._first is not None
        about = self._first[1]
        self.version, self.groupwise, self.paid = about.version, about.groupwise, about.paid
        self.remembers = about.remembers
        self.parameters: int = about.parameters
        if about.in_rounds:
            self.close()
            raise ConfigError(
                f"reward {name!r} is asked once a round, about everything in it: remove workers"
            )

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Raises EngineError where no worker is left, and none can be had again."""
        shares = split(groups)
        sizes = [sum(len(group.responses) for group in share) for share in shares]
        try:
            found = self._crew.share(shares, self._judged, sizes) if shares else []
        except EngineError as error:
            raise EngineError(f"reward {self.name!r}: {error}") from error
        return [judgement for share in found for judgement in share]

    def begin(self, round: int) -> None:
        self._round = round  # a worker hears of it with the first share that it is given

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        self._crew.share([list(prompts)], self._checked, [1])

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    def _worker(self, name: str, make: Callable[[], Worker]) -> Worker:
        """A worker with the same judge as the others."""
        worker = make()
        try:
            about: About = worker.call("about")
            with self._lock:
                first, known = self._first = self._first or (name, about)
            if known != about:
                raise ConfigError(
                    f"reward {self.name!r}: {name} has another judge than {first} "
                    f"({about.version or about} and {known.version or known}): its files have to "
                    "be the same on every machine"
                )
        except BaseException:
            worker.close()
            raise
        return worker

    def _judged(
        self, name: str, worker: Worker, share: Sequence[Group], tell: Tell
    ) -> list[Judgement]:
        found: list[Judgement] = worker.call("judge", share, self._round, wanted=lambda: tell(0, 1))
        return found

    def _checked(self, name: str, worker: Worker, prompts: Sequence[Prompt], tell: Tell) -> None:
        worker.call("check_prompts", prompts, wanted=lambda: tell(0, 1))


def split(groups: Sequence[Group]) -> list[list[Group]]:
    """Shares of whole groups, in their order: of an eighth of the responses, at most 256, and a
    group more where that cuts one. They depend on nothing but the groups."""
    total = sum(len(group.responses) for group in groups)
    size = max(1, min(_LARGEST, -(-total // _SHARES)))
    shares: list[list[Group]] = []
    room = 0
    for group in groups:
        if room <= 0:
            shares.append([])
            room = size
        shares[-1].append(_without_logprobs(group))
        room -= len(group.responses)
    return shares


def _without_logprobs(group: Group) -> Group:
    """The group without the sampler's log-probs: tensors, which no judge reads."""
    if all(response.logprobs is None for response in group.responses):
        return group
    return replace(group, responses=tuple(replace(r, logprobs=None) for r in group.responses))


# -- in a worker -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class About:
    """What a worker says of its judge."""

    version: str = ""
    groupwise: bool = False
    paid: bool = False
    in_rounds: bool = False
    parameters: int = 0
    remembers: bool = False


class Served:
    """A judge in a worker, as a recipe's entry makes it.

    Args:
        folders: the reward model's, where the entry names one.
        spec: the entry.
        base: the folder that files are looked up in.
        texts: a reward model tokenises texts itself, since the policy has another tokenizer.
        dtype, device: of a reward model.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        spec: Mapping[str, Any],
        base: Path,
        texts: bool,
        dtype: str,
        device: str,
    ) -> None:
        def load(name: str) -> Any:
            from gnomon.models.save import load_reward_model  # torch, for reward models alone

            return load_reward_model(folders[MODEL], dtype=dtype, device=device)

        make = load_builtin("gnomon.judges.build:one_judge")
        self._judge: Judge = make(RewardSpec(**spec), base=base, load=load, texts=texts)
        self._round = 0

    def about(self) -> About:
        made = self._judge
        size = int(getattr(made, "parameters", 0))
        return About(made.version, made.groupwise, made.paid, made.in_rounds, size, made.remembers)

    def judge(self, groups: Sequence[Group], round: int) -> list[Judgement]:
        """Judge groups of a round; 0 where there are no rounds."""
        if round != self._round:
            self._judge.begin(round)
            self._round = round
        return judged(self._judge, groups)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        self._judge.check_prompts(prompts)


# -- starting them ---------------------------------------------------------------------------------


def _entry(spec: RewardSpec, ray: RaySpec | None) -> dict[str, Any]:
    """The entry as a worker makes it; programs run on the cores that are a worker's own."""
    entry = spec.model_dump(exclude={"workers"})
    if spec.builtin == "code" and spec.workers:
        cores = (os.cpu_count() or 1) / spec.workers if ray is None else ray.cpus_per_worker
        entry["options"] = {"workers": max(1, int(cores)), **spec.options}
    return entry


def worker_judge(spec: RewardSpec, base: Path, place: Workplace, tokenizer: Any = None) -> Judge:
    """The judge behind an entry with ``workers``; see :func:`~gnomon.judges.build.one_judge`."""
    assert spec.workers
    check_workers(spec)
    folders: dict[str, Path] = {}
    own = {"spec": _entry(spec, place.ray), "base": base.resolve(), "texts": False}
    own |= {"dtype": place.dtype, "device": place.device}
    if spec.model is not None:
        from gnomon.judges.learned import reads_tokens_of
        from gnomon.models.load import load_tokenizer

        folders[MODEL] = place.folder(spec.model).resolve()
        if tokenizer is not None:
            first = folders[MODEL] / "member-0"  # of an ensemble
            theirs = load_tokenizer(first if first.is_dir() else folders[MODEL])
            own["texts"] = not reads_tokens_of(theirs, tokenizer)
    names = [f"worker {i + 1} of {spec.label}" for i in range(spec.workers)]
    make = f"{__name__}:{Served.__name__}"
    if place.ray is None:
        shares = threads(spec.workers)
        start = partial(ProcessWorker, make, folders, own, shares)
        makers: dict[str, Callable[[], Worker]] = dict.fromkeys(names, start)
    else:
        from gnomon.workers.cluster import Fleet

        gpus = place.ray.gpus_per_worker if folders else 0
        own["device"] = "cuda" if gpus else "cpu"
        makers = dict.fromkeys(names, Fleet(place.ray, make, folders, own, gpus).worker)
    judge = WorkerJudge(spec.label, makers)
    place.closing.callback(judge.close)
    return judge
