"""Attention over packed groups by torch's kernels for rows of many lengths, with no mask.

A row is a prompt, or one response. A prompt's queries see the prompt up to themselves; a response's
see its prompt and itself up to themselves. Where the keys of a row end with its queries, both are
one rule: causal from the bottom right. That rule is FlashAttention's (Dao 2023), which
:func:`torch.nn.attention.varlen.varlen_attn` calls: no mask, no padding, one call per layer, shared
key heads and sliding windows included. Queries stay where they are; only a prompt's keys are copied
once for each of its responses, and the gradients of the copies summed.

The kernels take bfloat16 and float16 on CUDA only. Elsewhere, and for what they do not know (scores
with a softcap, dropout), the masked blocks of :mod:`gnomon.models.attention` are used.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from gnomon.data.batch import Batch, Segment, to_device
from gnomon.errors import ModelError
from gnomon.models.attention import AttentionPlan, Unit
from gnomon.models.fixed_order import in_fixed_order
from gnomon.models.gather import Gather
from gnomon.models.precision import as_multiplied

Kind = Literal["auto", "blocks", "varlen"]
_WIDEST = 256
"""The widest head that the kernels take."""
_TOLERANCE = 0.05
"""Distance from the blocks, relative to the largest value, that half precision explains."""
_PLANNED = 2**28
"""Pairs of tokens of a block, on average, from which a pass repays the 100 ms that cuDNN's plan of
a new shape takes: one row of 16k tokens, or 16 of 4k that are alike."""


@dataclass(frozen=True)
class Row:
    """Queries [begin, end), which see the ranges ``before`` and then each other, causally."""

    begin: int
    end: int
    before: tuple[tuple[int, int], ...] = ()

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return (*self.before, (self.begin, self.end))


def rows(segments: Iterable[Segment]) -> list[Row]:
    """The rows of packed groups, in packed order; a prompt with one response is one row."""
    found: list[Row] = []
    for segment in segments:
        begin, prompt_end = segment.prompt
        if len(segment.responses) <= 1:
            found.append(Row(begin, segment.end))
            continue
        found.append(Row(begin, prompt_end))
        found += [Row(a, b, ((begin, prompt_end),)) for a, b in segment.responses]
    return found


class VarlenPlan:
    """How to compute one pass's attention in one call; the same for all layers that run it.

    Args:
        work: rows in packed order that together have each packed token as a query once. Positions
            of a row's keys are consecutive, which sliding windows rely on.
        device: where the plan lives.
    """

    def __init__(self, work: Sequence[Row], device: torch.device) -> None:
        q = [row.end - row.begin for row in work]
        k = [sum(b - a for a, b in row.ranges) for row in work]
        self.max_q, self.max_k = max(q), max(k)
        self.starts_q, self.starts_k = (to_device(_starts(n), device) for n in (q, k))
        index = torch.cat([torch.arange(a, b) for row in work for a, b in row.ranges])
        self.keys = Gather.plan(index, sum(q), device, ordered=True)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None = None,
        window: int | None = None,
    ) -> Tensor:
        """As :meth:`AttentionPlan.attend`: [Hq, N, d], [Hk, N, d] and [Hk, N, d] to [N, Hq, d]."""
        return varlen(
            query.transpose(0, 1).contiguous(),
            self.keys.spread(key.transpose(0, 1)),
            self.keys.spread(value.transpose(0, 1)),
            self.starts_q,
            self.starts_k,
            self.max_q,
            self.max_k,
            scale=scaling,
            window=window,
        )


@lru_cache
def kernel_arguments() -> frozenset[str]:
    """Arguments of this torch's ``varlen_attn``; none where it does not have it (before 2.10)."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return frozenset()
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor,
    starts_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window: int | None,
    causal: bool = True,
    **pages: Tensor,
) -> Tensor:
    """``varlen_attn``, causal from the bottom right or not at all: queries and result [N, Hq, d].

    Args:
        window: a key this many positions back or more is hidden.
        pages: ``seqused_k`` and ``block_table``, which newer torches take.
    """
    from torch.nn.attention.varlen import varlen_attn

    more: dict[str, Any] = {**pages}
    if "enable_gqa" in kernel_arguments():  # torch 2.11 lets head counts differ without a word
        more["enable_gqa"] = query.shape[-2] != key.shape[-2]
    left = -1 if window is None else window - 1  # the kernels count those to the left
    out = varlen_attn(
        query,
        key,
        value,
        starts_q,
        starts_k,
        max_q,
        max_k,
        scale=scale,
        window_size=(left, 0 if causal else -1),
        **more,
    )
    assert isinstance(out, Tensor)
    return out


def _starts(lengths: Sequence[int]) -> Tensor:
    """[n + 1] int32 where each row begins, and where the last one ends."""
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


class PassPlan:
    """One pass's attention both ways, each made when it is first needed.

    Args:
        work: its rows.
        blocks: makes its masked blocks.
        device: where the pass runs.
    """

    def __init__(
        self, work: Sequence[Row], blocks: Callable[[], AttentionPlan], device: torch.device
    ) -> None:
        self._work, self._blocks, self._device = work, blocks, device

    @classmethod
    def of(cls, batch: Batch) -> PassPlan:
        """The plan of a packed batch, on its device.

        It does not hold the batch, so that those who keep it by its batch forget both.
        """
        segments, device = batch.segments, batch.input_ids.device
        return cls(rows(segments), partial(AttentionPlan.of, segments, device), device)

    @cached_property
    def masked(self) -> AttentionPlan:
        return self._blocks()

    @cached_property
    def varlen(self) -> VarlenPlan:
        return VarlenPlan(self._work, self._device)

    @cached_property
    def _alone(self) -> list[int] | None:
        """Tokens of each row where none sees more than itself; else None."""
        if any(row.before for row in self._work):
            return None
        return [row.end - row.begin for row in self._work]

    def prefers_blocks(self, window: int | None) -> bool:
        """Whether its blocks need no mask (every row sees all of itself, causally, and no more) and
        are so large that torch's causal kernels are worth a plan for each.

        For such rows they are faster than those for rows of many lengths (docs/gpu.md has the
        figures); but cuDNN's, which torch prefers on newer GPUs, plan anew for each new shape.
        """
        lengths = self._alone
        if lengths is None or (window is not None and max(lengths) > window):
            return False
        pairs = sum(n * n for n in lengths)
        return pairs >= _PLANNED and pairs >= _PLANNED * len(self.masked.blocks)


@dataclass(frozen=True)
class Attention:
    """A pass's attention and which way it takes.

    Attributes:
        kind: "varlen" (raises where it cannot), "blocks", or "auto": large blocks that need no
            mask, varlen on a GPU whose kernels take these tensors and agree with the blocks, and
            otherwise blocks, saying why.
        deterministic: on a GPU, add gradients up in a fixed order; "auto" takes varlen for large
            blocks too then, since cuDNN's kernels, which make those fast, have no such order.
    """

    plan: PassPlan
    kind: Kind = "auto"
    deterministic: bool = False

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """As :meth:`AttentionPlan.attend`.

        Raises:
            ModelError: ``kind`` is "varlen" and the model's attention has a softcap or dropout.
        """
        query, key, value = as_multiplied(query, key, value)
        fixed = self.deterministic and self._is_gpu(query.device)
        if self._varlen(query, key, value, dropout, window, softcap):
            out = self.plan.varlen.attend(query, key, value, scaling=scaling, window=window)
            return in_fixed_order(out) if fixed else out
        return self.plan.masked.attend(
            query,
            key,
            value,
            scaling=scaling,
            dropout=dropout,
            window=window,
            softcap=softcap,
            deterministic=fixed,
        )

    @staticmethod
    def _is_gpu(device: torch.device) -> bool:
        return device.type == "cuda"

    def _varlen(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float,
        window: int | None,
        softcap: float | None,
    ) -> bool:
        if self.kind == "blocks" or (self.kind == "auto" and not self._is_gpu(query.device)):
            return False
        reason = "its scores have a softcap" if softcap is not None else None
        if dropout:
            reason = "it has dropout"
        if self.kind == "varlen":
            if reason is not None:
                raise ModelError(f"attention='varlen' cannot run this model: {reason}; use 'auto'")
            return True
        if not self.deterministic and self.plan.prefers_blocks(window):
            return False
        reason = reason or distrusted(query, key, value, window)
        if reason is not None:
            _say(reason)
        return reason is None


def distrusted(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> str | None:
    """Why torch's kernels are not used for these tensors [H, N, d] of a CUDA device, or None."""
    return refused(query, key, value) or _checked(query, key, window is not None)


def refused(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why torch's kernels do not take these tensors [H, N, d] of a CUDA device, or None."""
    d = query.shape[-1]
    if query.dtype not in (torch.bfloat16, torch.float16):
        return f"it runs in {str(query.dtype).removeprefix('torch.')}; they take bfloat16 only"
    if key.dtype != query.dtype or value.dtype != query.dtype:
        return "its queries, keys and values have several dtypes"
    if d % 8 or d > _WIDEST or value.shape[-1] != d:
        return f"its heads are {d} and {value.shape[-1]} wide; they take multiples of 8 up to 256"
    if query.shape[0] % key.shape[0]:
        return "its query heads are no multiple of its key heads"
    return _missing(query.device, d)


@lru_cache
def _missing(device: torch.device, d: int) -> str | None:
    """What torch or the GPU lacks for heads of width ``d``, or None."""
    if "window_size" not in kernel_arguments():
        return f"torch {torch.__version__} does not have them; 2.11 does"
    if torch.version.hip is not None:
        return "they were written for CUDA and not looked at on ROCm"
    if not torch.cuda.is_available() or not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch does not have FlashAttention"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"{torch.cuda.get_device_name(device)} is older than they need (Ampere)"
    if d > 192 and (minor or major >= 12):  # consumer cards have too little shared memory for it
        return f"{torch.cuda.get_device_name(device)} has no backward pass of heads {d} wide"
    return None


def _checked(query: Tensor, key: Tensor, windowed: bool) -> str | None:
    """Why the kernels are not trusted with heads like these, or None: tried out once."""
    (Hq, _, d), Hk = query.shape, key.shape[0]
    return _disagreement(query.device, query.dtype, Hq, Hk, d, windowed)


@lru_cache
def _disagreement(
    device: torch.device, dtype: torch.dtype, Hq: int, Hk: int, d: int, windowed: bool
) -> str | None:
    """Run a small pass both ways, forward and backward; how they differ, or None.

    Nothing of it reaches a graph that is being built: where layers are recomputed, autograd counts
    what they save.
    """
    segments = [Segment((0, 5), ((5, 8), (8, 17))), Segment((17, 19), ((19, 24),))]
    work = [Unit(0, 17, 0, 0, 0, 17, False), Unit(17, 7, 17, 0, 17, 7, True)]
    branch = torch.tensor([0] * 5 + [1] * 3 + [2] * 9 + [0] * 2 + [1] * 5)
    position = torch.tensor([*range(8), *range(5, 14), *range(7)])
    draw = torch.Generator().manual_seed(0)

    def random(heads: int) -> Tensor:
        return torch.randn(heads, 24, d, generator=draw).to(device, dtype)

    given = [random(Hq), random(Hk), random(Hk)]
    weight = random(Hq).transpose(0, 1)
    plans = VarlenPlan(rows(segments), device), AttentionPlan(work, branch, position, device)
    found: list[list[Tensor]] = []
    off = torch.autocast(device.type, enabled=False)
    plain = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with off, plain, torch.inference_mode(False), torch.enable_grad():
        for plan in plans:
            leaves = [x.clone().requires_grad_() for x in given]
            try:
                out = plan.attend(*leaves, window=3 if windowed else None)
                gradients = torch.autograd.grad((out * weight).sum(), leaves)
            except torch.OutOfMemoryError:  # of this moment, and nothing that a kernel refuses
                raise
            except (RuntimeError, NotImplementedError) as error:
                return f"they fail ({str(error).splitlines()[0]})"
            found.append([x.detach().float() for x in (out, *gradients)])
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))
    return None if gap <= _TOLERANCE else f"they differ from the blocks by {gap:.1e}"


@lru_cache
def _say(reason: str) -> None:
    """Warn of the slower way, once for each reason."""
    warnings.warn(
        "attention runs in masked blocks, which need more time and memory than torch's kernels for "
        f"rows of many lengths: {reason}",
        stacklevel=2,
    )
