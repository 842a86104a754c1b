"""Several hosts as one: a job is split by prompt and sample, and any of them may die.

    job -> shares (fixed by the job) -> whoever is free samples the next -> put together in order

A sample's random numbers follow from its prompt, seed and number, and which samples share a batch
follows from the job alone. So what comes back is the same, to the last bit where the servers'
processors are the same, with one server or ten, and whether or not one was lost in the middle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout import finished
from gnomon.rollout.finished import Finished
from gnomon.rollout.host_replica import TOLERANCE
from gnomon.rollout.protocol import (
    About,
    Completion,
    Host,
    Job,
    Progress,
    RawCompletion,
    Request,
    StaleWeightsError,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.transfer import choose
from gnomon.workers.crew import RETRIES, Crew, Tell

_SHARES, _LARGEST = 8, 256
_LOADS = 3  # per share: the first one, and two after the server lost the weights


@dataclass(frozen=True)
class Piece:
    """Samples of one request of a job: ``request`` asks for those from number ``start`` of
    the job's request number ``place``."""

    place: int
    start: int
    request: Request


def split(requests: Sequence[Request], size: int | None = None) -> list[list[Piece]]:
    """Shares of at most ``size`` responses, the longest prompts first.

    By default an eighth of them, at most 256. The split depends on nothing but the requests.
    """
    total = sum(request.n for request in requests)
    size = size or max(1, min(_LARGEST, -(-total // _SHARES)))
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), i))
    shares: list[list[Piece]] = []
    room = 0
    for i in order:
        request, start = requests[i], 0
        while start < request.n:
            if not room:
                shares.append([])
                room = size
            n = min(room, request.n - start)
            piece = replace(request, n=n, first=request.first + start)
            shares[-1].append(Piece(i, start, piece))
            start, room = start + n, room - n
    return shares


@dataclass
class _Member:
    """A host, and the version that it was sent last."""

    host: Host
    version: str = ""


class PoolHost(Host):
    """Hosts that serve the same model, as one host.

    Weights are sent to all of them, and what each scores is compared. One that fails is left out
    and its unfinished share done by the others; it is tried again meanwhile, and with the next
    weights.

    Args:
        hosts: makes each of them, by a name for people; called again for one that failed.
        share: most responses of a share; see :func:`split`.
        retries: see :class:`~gnomon.workers.crew.Crew`.

    Raises:
        ConfigError: they do not serve the same model.
        EngineError: one of them is not there.
    """

    def __init__(
        self,
        hosts: Mapping[str, Callable[[], Host]],
        *,
        share: int | None = None,
        retries: int = RETRIES,
    ) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._about: tuple[str, About] | None = None
        self._weights: tuple[WeightsFile, Sequence[int]] | None = None
        self._scores: tuple[str, Sequence[float]] | None = None
        made = {name: partial(self._member, name, make) for name, make in hosts.items()}
        self._crew: Crew[_Member] = Crew(made, _close, retries)
        self._crew.start()

    def about(self) -> About:
        assert self._about is not None
        version = self._weights[0].version if self._weights else self._about[1].version
        return replace(self._about[1], version=version, transfers=("file",))

    def connect(self, transfer: str, device: torch.device) -> str:
        return choose(transfer, self.about(), device, url=True)

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> Sequence[float]:
        assert isinstance(weights, WeightsFile), "a pool's about() says so"
        self._weights, self._scores = (weights, probe), None
        for member in self._crew.workers.values():
            member.version = ""
        self._crew.each(self._send, wanted)
        assert self._scores is not None
        return self._scores[1]

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
        if self._weights is None or self._weights[0].version != job.version:
            held = self._weights[0].version[:12] if self._weights else "the start weights"
            raise StaleWeightsError(f"the servers were sent {held}, not {job.version[:12]}")
        kept = finished.now()
        shares = split(job.requests, self._share)
        known = [None if kept is None else _known(kept, job, share) for share in shares]
        left = [share for share, rows in zip(shares, known, strict=True) if rows is None]
        sizes = [sum(piece.request.n for piece in share) for share in left]
        sampled = iter(self._crew.share(left, partial(self._sampled, job, kept), sizes, progress))
        found = [next(sampled) if rows is None else rows for rows in known]
        rows: list[list[RawCompletion | None]] = [[None] * r.n for r in job.requests]
        for share, answers in zip(shares, found, strict=True):
            for piece, answer in zip(share, answers, strict=True):
                rows[piece.place][piece.start : piece.start + piece.request.n] = answer
        return [[one for one in row if one is not None] for row in rows]

    def rest(self) -> None:
        for member in list(self._crew.workers.values()):
            with suppress(EngineError):  # one that is gone is missed when there is work
                member.host.rest()

    def close(self) -> None:
        self._crew.close()

    # -- one server -------------------------------------------------------------------------------

    def _member(self, name: str, make: Callable[[], Host]) -> _Member:
        """A host that serves the same model as the others."""
        host = make()
        try:
            about = host.about()
            with self._lock:
                first, known = self._about = self._about or (name, about)
            differ = [
                f"{key} is {getattr(known, key)} at {first} and {getattr(about, key)} at {name}"
                for key in ("kind", "dtype", "window", "vocabulary", "max_lora_rank", "base")
                if getattr(known, key) != getattr(about, key)
            ]
            if known.shapes != about.shapes:
                differ.append(f"the weights at {name} have other names or shapes than at {first}")
            if differ:
                raise ConfigError(
                    f"the rollout servers do not serve the same model: {'; '.join(differ)}. Start "
                    "all of them with the model that this stage starts from, and the same options."
                )
        except BaseException:
            host.close()
            raise
        return _Member(host)

    def _send(self, name: str, member: _Member, wanted: Callable[[], None]) -> None:
        """Have a host serve the newest weights, and compare its scores with another's."""
        assert self._weights is not None
        weights, probe = self._weights
        if member.version == weights.version:
            return
        scores = member.host.load(weights, probe, wanted)
        with self._lock:
            first, known = self._scores = self._scores or (name, scores)
        gap = sum(abs(a - b) for a, b in zip(scores, known, strict=False)) / max(1, len(known))
        if len(scores) != len(known) or not gap <= TOLERANCE.get(self.about().dtype, 0.25):
            raise EngineError(
                f"{name} and {first} were sent the same weights, and score a test sequence "
                f"differently ({gap:.3g} nats a token): one of them did not take all of them over."
            )
        member.version = weights.version

    def _sampled(
        self,
        job: Job,
        kept: Finished | None,
        name: str,
        member: _Member,
        share: Sequence[Piece],
        tell: Tell,
    ) -> Sequence[Sequence[RawCompletion]]:
        own = replace(job, requests=[piece.request for piece in share])
        total = sum(piece.request.n for piece in share)
        problem = ""
        for _ in range(_LOADS):
            self._send(name, member, lambda: tell(0, total))
            try:
                rows = member.host.sample(own, tell)
            except StaleWeightsError as stale:
                member.version, problem = "", str(stale)
                continue
            if [len(row) for row in rows] != [piece.request.n for piece in share]:
                raise EngineError(f"{name} gave another number of responses than it was asked for.")
            if all(one.version == job.version for row in rows for one in row):
                if kept is not None:
                    kept.add_share(own.requests, job.params, [list(map(_kept, r)) for r in rows])
                return rows
            member.version, problem = "", "responses came from other weights"
        raise EngineError(
            f"{name} was sent the weights {_LOADS} times, and still {problem}. Is another run using"
            " the same server? Give each run its own."
        )


def _known(
    kept: Finished, job: Job, share: Sequence[Piece]
) -> Sequence[Sequence[RawCompletion]] | None:
    """What a share gave an earlier process, that was stopped before the job was done."""
    rows = kept.share([piece.request for piece in share], job.params)
    if rows is None:
        return None
    return [
        [RawCompletion(c.ids, c.logprobs.tolist(), c.finish_reason, job.version) for c in row]
        for row in rows
    ]


def _kept(one: RawCompletion) -> Completion:
    logprobs = torch.tensor(one.logprobs, dtype=torch.float32)
    return Completion(tuple(one.ids), logprobs, one.finish_reason, "")


def _close(member: _Member) -> None:
    member.host.close()
