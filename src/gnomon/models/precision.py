"""In which types weights are kept and multiplied.

    float32    everything in float32
    mixed      what is trained is float32, and so are its gradients and moments; matrices multiply
               in bfloat16, whatever is frozen is kept in bfloat16 (Micikevicius et al. 2018, "Mixed
               precision training", section 3.1: small steps survive in a float32 master copy)
    bfloat16   weights, gradients and moments in bfloat16; adapters are kept in float32, and
               multiply in bfloat16 here and in mixed

Log-softmax, losses, scalar heads, the statistics of norms and optimizers' sums are float32 in all
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gnomon.errors import ConfigError, ModelError

NAMES = ("float32", "mixed", "bfloat16")


@dataclass(frozen=True)
class Precision:
    """The types of a stage's weights and of its arithmetic.

    Attributes:
        name: one of :data:`NAMES`.
        float32_head: whether logits are computed in float32 where the rest is in bfloat16.
        deterministic: whether a GPU adds gradients up in a fixed order
            (:mod:`gnomon.models.fixed_order`).
    """

    name: str = "float32"
    float32_head: bool = False
    deterministic: bool = False

    @property
    def trained(self) -> str:
        """The type of weights that are all trained."""
        return "bfloat16" if self.name == "bfloat16" else "float32"

    @property
    def frozen(self) -> str:
        """The type of weights that are not trained, the trunk under adapters among them."""
        return "float32" if self.name == "float32" else "bfloat16"

    def compute(self, weights: torch.dtype) -> torch.dtype:
        """What a model with such weights multiplies its matrices in."""
        mixed = self.name == "mixed" and weights == torch.float32
        return torch.bfloat16 if mixed else weights

    def arithmetic(self, model: PreTrainedModel, *, keep: bool) -> AbstractContextManager[None]:
        """The context of a forward pass.

        Args:
            keep: keep the narrow copy of each trained weight until the block ends, as sampling
                wants it. Not where gradients may be taken: a copy that was made without them has
                none.
        """
        if self.compute(model.dtype) == model.dtype:
            return nullcontext()
        kind = model.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=keep)


def pick_precision(
    asked: str,
    device: torch.device,
    float32_head: bool = False,
    deterministic: bool = False,
) -> Precision:
    """The precision that is asked for; "auto" is mixed where the device has bfloat16 units.

    Raises:
        ConfigError: the device cannot compute in it.
    """
    has = has_bfloat16(device)
    if asked == "auto":
        asked = "mixed" if has and device.type == "cuda" else "float32"
    if asked not in NAMES:
        raise ConfigError(f"precision {asked!r} is not known; use auto, {', '.join(NAMES)}")
    if asked != "float32" and device.type == "cuda" and not has:
        raise ConfigError(
            f"precision: {asked}, but {torch.cuda.get_device_name(device)} has no bfloat16 units "
            "(NVIDIA's GPUs have them from Ampere on). Set precision: float32, or leave it out"
        )
    return Precision(asked, float32_head, deterministic)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; others imitate it, much slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capable = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))


def as_multiplied(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values in the type that products take them in under autocast, where rotated
    ones may come in float32; as they are elsewhere."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(tensor.to(dtype) for tensor in tensors)


def narrow_matrices(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Keep the matrices of a frozen model in ``dtype``, and the rest (embedding, norms) as it is.

    Autocast rounds exactly these, so that the model computes what its float32 self would under
    autocast, from half the memory. A head that is tied to the embedding stays with it.
    """
    shared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if type(module) is nn.Linear and id(module.weight) not in shared:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class Float32Linear(nn.Linear):
    """A linear map that multiplies in float32, whatever its weight and its input are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(input.float(), self.weight.float(), bias)


def float32_head(model: PreTrainedModel) -> None:
    """Make the model compute its logits in float32, its hidden states as before.

    The last matrix decides how far apart a sampler's and a trainer's log-probs are where both are
    in bfloat16 (MiniMax 2025, "MiniMax-M1", arXiv:2506.13585, section 3.2).

    Raises:
        ModelError: its head is not a plain matrix.
    """
    head = model.get_output_embeddings()
    if head is None:
        return  # a reward model's trunk
    if type(head) not in (nn.Linear, Float32Linear):
        raise ModelError(
            f"float32_head: the head of {type(model).__name__} is a {type(head).__name__}, not a "
            "plain matrix; leave float32_head out"
        )
    head.__class__ = Float32Linear


class NarrowLinear(nn.Linear):
    """A linear map that multiplies in the type of its input, whatever its weight is kept in.

    An adapter's float32 masters beside a trunk in bfloat16: widening the trunk's activations for
    them instead would take longer than the trunk's own matrices, and hold each activation twice.

    Attributes:
        narrow: a copy of the weight for passes without gradients; see :func:`narrow_copies`.
    """

    narrow: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        weight = None if torch.is_grad_enabled() else self.narrow
        if weight is None or weight.dtype != input.dtype:
            weight = self.weight.to(input.dtype)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, weight, bias)


@contextmanager
def narrow_copies(modules: Iterable[NarrowLinear], dtype: torch.dtype) -> Iterator[None]:
    """Keep a copy of each weight in ``dtype`` until the block ends, for passes without gradients;
    the weights must not change in it."""
    before = [(module, module.narrow) for module in modules]
    try:
        for module, _ in before:
            module.narrow = module.weight.detach().to(dtype)
        yield
    finally:
        for module, copy in before:
            module.narrow = copy
