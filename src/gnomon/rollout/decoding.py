"""Decoding steps that leave the host alone: a token is fed, the next one drawn, and rows that end
are noticed, all on the device. The host reads what was drawn after several steps, in one transfer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gnomon.rollout.paged import PagedPass, Reading, paged_scores
from gnomon.rollout.pages import PagePool
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.sampling import draw


@dataclass(frozen=True)
class RowState:
    """A row as the host knows it: the token to feed, how many the cache holds, how many were drawn,
    the key of its random numbers, and its pages."""

    token: int
    cached: int
    drawn: int
    key: int
    pages: Sequence[int]


@dataclass
class _Slots:
    """R rows on the device.

    Attributes:
        words: [5, R] int64: token, cached, drawn, key, and 1 while the row goes on.
        table: [R, M] int32 pages; a row without a sample writes to page 0.
        out: [R, K, 2] float64: token and log-prob of each step.
        at: [1] the step.
        order, starts: [R] int64 and [R + 1] int32, counting from 0.
    """

    words: Tensor
    table: Tensor
    out: Tensor
    at: Tensor
    order: Tensor
    starts: Tensor

    @classmethod
    def make(cls, rows: int, width: int, steps: int, device: torch.device) -> _Slots:
        return cls(
            words=torch.zeros(5, rows, dtype=torch.int64, device=device),
            table=torch.zeros(rows, width, dtype=torch.int32, device=device),
            out=torch.zeros(rows, steps, 2, dtype=torch.float64, device=device),
            at=torch.zeros(1, dtype=torch.int64, device=device),
            order=torch.arange(rows, device=device),
            starts=torch.arange(rows + 1, dtype=torch.int32, device=device),
        )

    def fill(self, rows: Sequence[RowState]) -> None:
        """Take over what the host knows; rows beyond those given are idle."""
        idle = self.table.shape[0] - len(rows)
        words = [(r.token, r.cached, r.drawn, _signed(r.key), 1) for r in rows]
        width = self.table.shape[1]
        pages = [[*r.pages[:width], *[0] * (width - len(r.pages))] for r in rows]
        for target, source in (
            (self.words, torch.tensor([*words, *[(0, 0, 0, 0, 0)] * idle]).t().contiguous()),
            (self.table, torch.tensor([*pages, *[[0] * width] * idle], dtype=torch.int32)),
        ):
            on_gpu = target.device.type == "cuda"
            target.copy_(source.pin_memory() if on_gpu else source, non_blocking=on_gpu)
        self.at.zero_()


class Decoder:
    """Runs decoding steps for the rows of a batch.

    Args:
        model: a causal language model under the paged attention.
        pool: the rows' pages.
        params: how tokens are drawn, and most of them per row.
        eos: tokens that end a row.
        steps: most steps between two looks.
        width: most pages of a row.
        reading: how a step reads the pages.
        graphs: capture a step as a CUDA graph and replay it. A batch is then filled up to a power
            of two, or ``most`` rows, so that few graphs do.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pool: PagePool,
        params: SamplingParams,
        eos: frozenset[int],
        *,
        steps: int,
        width: int,
        most: int,
        reading: Reading,
        graphs: bool,
    ) -> None:
        self._model = model
        self._pool = pool
        self._params = params
        self._steps, self._width, self._most = steps, width, most
        self._reading, self._replays = reading, graphs
        self._device = model.get_input_embeddings().weight.device
        self._eos = torch.tensor(sorted(eos), dtype=torch.int64, device=self._device)
        self._slots: dict[int, _Slots] = {}
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._growths = pool.growths
        self._warm: set[int] = set()

    def run(self, rows: Sequence[RowState], steps: int) -> Tensor:
        """Draw ``steps`` tokens for each row: [rows, steps, 2] ids and log-probs on the host.

        What follows the token that ends a row means nothing. A log-prob that is not finite stands
        for scores that are not.
        """
        slots = self._filled(rows, steps)
        for _ in range(steps):
            graph = self._replay(len(slots.order)) if self._replays else None
            if graph is None:
                self.step(slots)
            else:
                graph.replay()
        return slots.out[: len(rows), :steps].cpu()

    def _filled(self, rows: Sequence[RowState], steps: int) -> _Slots:
        if not self._replays:
            width = self._pool.pages(max(row.cached for row in rows) + steps)
            slots = _Slots.make(len(rows), min(width, self._width), steps, self._device)
        else:
            size = min(1 << (len(rows) - 1).bit_length(), self._most)
            if size not in self._slots:
                self._slots[size] = _Slots.make(size, self._width, self._steps, self._device)
            slots = self._slots[size]
        slots.fill(rows)
        return slots

    def step(self, slots: _Slots) -> None:
        """Feed each row its token, draw the next, and note both; no number is read by the host."""
        token, cached, drawn, key, live = slots.words.unbind()
        size = self._pool.size
        page = slots.table.gather(1, (cached // size)[:, None])[:, 0]
        paged = PagedPass(
            self._pool,
            table=slots.table,
            used=(cached + 1).int(),
            starts=slots.starts,
            slots=page * size + cached % size,
            reading=self._reading,
        )
        scores = paged_scores(self._model, token, cached, paged)
        u = device_uniforms(key, drawn)
        chosen, logprobs = draw(scores, slots.order, u, self._params, ask=False)
        noted = torch.stack([chosen.double(), logprobs.double()], dim=-1)
        slots.out.index_copy_(1, slots.at, noted[:, None])
        slots.at += 1
        token.copy_(torch.where(live > 0, chosen, token))
        cached += live
        drawn += live
        ended = (chosen[:, None] == self._eos).any(dim=1) | (drawn >= self._params.max_new_tokens)
        live *= ~ended

    def _replay(self, size: int) -> torch.cuda.CUDAGraph | None:
        """The graph of a step over ``size`` rows; None the first time, which warms up."""
        if self._growths != self._pool.growths:  # the stores have moved
            self._graphs.clear()
            self._growths = self._pool.growths
        if size not in self._graphs:
            if size not in self._warm:
                self._warm.add(size)
                return None
            try:
                self._graphs[size] = self._captured(size)
            except RuntimeError as error:
                reason = error.__context__ or error  # else it only says that something failed
                warnings.warn(
                    "a decoding step cannot be captured as a CUDA graph "
                    f"({str(reason).splitlines()[0]}); steps run without, which is slower",
                    stacklevel=2,
                )
                self._replays = False
                return None
        return self._graphs[size]

    def _captured(self, size: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # steps leave nothing behind in it, so all graphs share the memory of one
        memory = next((other.pool() for other in self._graphs.values()), None)
        capturing = torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local")
        # a capture that fails does not leave its stream by itself
        with torch.cuda.stream(torch.cuda.current_stream()), capturing:
            self.step(self._slots[size])
        return graph


def device_uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """:func:`gnomon.rollout.sampling.uniforms`, bit for bit, of [S] int64 tensors on any device:
    their products wrap as those of uint64 do."""
    z = keys + (steps + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() * 2.0**-53


def _shifted(z: Tensor, bits: int) -> Tensor:
    """The unsigned right shift of int64 words."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64."""
    return word - (1 << 64) if word >> 63 else word
