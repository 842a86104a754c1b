"""How long and how fast: the optimizer, its learning rate, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from gnomon.errors import ConfigError
from gnomon.models.sharded import is_spread, local
from gnomon.recipe.training import PeakSpec, TrainSpec

# A module of one of these names is a scalar reward or value head, never the vocabulary head.
_SCALAR_HEADS = {"head", "score", "v_head", "value_head", "reward_head"}


OPTIMIZER = (  # of LoopOptions
    *("lr", "schedule", "min_lr_ratio", "warmup", "betas", "eps"),
    *("weight_decay", "head_weight_decay", "max_grad_norm"),
)


SIDE_PROMPTS = 16
"""Prompts whose answers are kept of a stage's beginning and of its end, whatever ``sample_every``
is: what the two are told apart by."""
_MOST_ENDS = 4


def iterations_kept(batch_size: int, iterations: int) -> int:
    """How many iterations at either end hold so many prompts; a few at the most, and no more than
    there are apart."""
    return max(1, min(_MOST_ENDS, math.ceil(SIDE_PROMPTS / batch_size), iterations // 2))


@dataclass(frozen=True)
class LoopOptions:
    """How long, how fast and how often; see ``TrainSpec`` for the units. With ``eval_first`` there
    is an evaluation before the first step, whatever ``eval_every`` is; the samples of the first and
    of the last ``sample_ends`` iterations are kept, whatever ``sample_every`` is."""

    iterations: int
    lr: float
    schedule: str = "cosine"
    warmup: float = 0.05
    min_lr_ratio: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    head_weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    eval_every: int = 0
    eval_first: bool = False
    stop_at_peak: PeakSpec | None = None
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    sample_every: int = 10
    sample_ends: int = 1
    seed: int = 0

    @classmethod
    def of(
        cls,
        train: TrainSpec,
        iterations: int,
        lr: float,
        seed: int,
        eval_first: bool = False,
    ) -> LoopOptions:
        """As a recipe asks for, with its length and rate worked out."""
        return cls(
            iterations=iterations,
            lr=lr,
            schedule=train.schedule,
            warmup=train.warmup,
            min_lr_ratio=train.min_lr_ratio,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
            head_weight_decay=train.head_weight_decay,
            max_grad_norm=train.max_grad_norm,
            eval_every=train.eval_every,
            eval_first=eval_first,
            stop_at_peak=train.stop_at_peak,
            checkpoint_every=train.checkpoint_every,
            keep_checkpoints=train.keep_checkpoints,
            sample_every=train.sample_every,
            sample_ends=iterations_kept(train.batch_size, iterations),
            seed=seed,
        )

    def optimizer(self) -> dict[str, Any]:
        """The numbers of the optimizer, as the manifest keeps them."""
        return {"name": "AdamW"} | {key: getattr(self, key) for key in OPTIMIZER}


def make_optimizer(
    named_parameters: Sequence[tuple[str, Parameter]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    head_weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) in named groups.

    ``decay`` holds the weight matrices (LoRA's too). ``no_decay`` holds what weight decay only
    harms: biases, norms and other tensors of one dimension or none, and scalar reward and value
    heads, whose scale is what they have to learn; with ``head_weight_decay`` the heads' matrices
    are in ``heads``. A frozen parameter is left out; one that occurs under several names (tied
    weights) counts once. A group without parameters is left out; one that is spread over processes
    in part (FSDP2) is two of one name.

    Raises:
        ConfigError: nothing is trainable.
    """
    decays = {"decay": weight_decay, "no_decay": 0.0, "heads": head_weight_decay}
    groups: dict[str, list[tuple[str, Parameter]]] = {group: [] for group in decays}
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        head = not _SCALAR_HEADS.isdisjoint(name.split("."))
        if parameter.ndim <= 1 or (head and head_weight_decay == 0):
            groups["no_decay"].append((name, parameter))
        else:
            groups["heads" if head else "decay"].append((name, parameter))
    if not seen:
        raise ConfigError("Nothing to train: every parameter of this stage is frozen.")
    # one pass over each tensor and no temporaries: a quarter of the plain loop's time on a CPU
    fused = all(p.device.type in ("cpu", "cuda") for m in groups.values() for _, p in m)
    return torch.optim.AdamW(
        [
            {"params": members, "name": group, "weight_decay": decays[group]}
            for group, all_members in groups.items()
            for members in _alike(all_members)
        ],
        lr=lr,
        betas=betas,
        eps=eps,
        fused=fused,
    )


def _alike(members: list[tuple[str, Parameter]]) -> list[list[tuple[str, Parameter]]]:
    """Those that are spread over processes, and those that are not: one update takes one kind."""
    kinds = [[m for m in members if is_spread(m[1]) == kind] for kind in (True, False)]
    return [kind for kind in kinds if kind]


def lr_at(
    iteration: int,
    total: int,
    *,
    peak: float,
    schedule: str = "cosine",
    warmup: float = 0.0,
    floor: float = 0.0,
) -> float:
    """The learning rate of an iteration: a linear warm-up to ``peak``, then the schedule.

    With w warm-up iterations and i < w, lr = peak (i + 1) / w: never zero, so no iteration is
    wasted. Afterwards t = (i - w) / (total - w) goes from 0 to just under 1 and lr falls from
    ``peak`` towards ``floor * peak`` along (1 + cos(pi t)) / 2, or 1 - t, or not at all.

    Args:
        iteration: 0-based; beyond ``total`` the rate stays where it ended.
        warmup: a share of ``total`` when below 1, else a number of iterations.
        schedule: cosine, linear or constant.
        floor: the lowest rate after warm-up, as a share of ``peak``.

    Raises:
        ConfigError: an unknown schedule, or a floor that is not a share.
    """
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor = {floor} is not a share of the peak rate (0 to 1)")
    warm = round(warmup * total) if warmup < 1 else round(warmup)
    if iteration < warm:
        return peak * (iteration + 1) / warm
    t = min(1.0, (iteration - warm) / max(1, total - warm))
    if schedule == "cosine":
        share = (1 + math.cos(math.pi * t)) / 2
    elif schedule == "linear":
        share = 1 - t
    elif schedule == "constant":
        share = 1.0
    else:
        raise ConfigError(f"unknown schedule {schedule!r}: cosine, linear or constant")
    return peak * (floor + (1 - floor) * share)


@torch.no_grad()
def grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The joint L2 norm of all gradients: one number, which stays on their device.

    One norm over everything that is trained (policy, value head, adapters). It is computed in
    float32 at least, and is NaN or infinite exactly when a gradient is (or overflows).
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros((), dtype=torch.float64)
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).double()
        for g in map(local, grads)
    ]
    norms = [n.to(norms[0].device) for n in norms]
    parts = [n for n, g in zip(norms, grads, strict=True) if is_spread(g)]
    if parts:  # of tensors of which each process holds a part
        square = torch.stack(parts).square().sum()
        dist.all_reduce(square)
        norms = [n for n, g in zip(norms, grads, strict=True) if not is_spread(g)]
        norms.append(square.sqrt())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


@torch.no_grad()
def clip_grads(parameters: Iterable[Tensor], norm: float, max_norm: float | None) -> None:
    """Scale all gradients together so that their joint ``norm`` is at most ``max_norm``; so the
    direction of the step never changes. None clips nothing."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads and max_norm is not None and norm > max_norm:
        torch._foreach_mul_([local(g) for g in grads], max_norm / norm)
