"""A trunk whose weights are spread over processes (FSDP2: Zhao et al. 2023, arXiv:2304.11277).

Each layer, and what is left of the model (embedding, last norm, head), is gathered where it runs
and given back after; gradients are added up, not averaged, since losses are divided by the whole
step's counts. A trunk and its head run within one call of the root (:meth:`Sharding.run`), so that
the head's weight is whole when log-probs read it, and tied heads are one weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from gnomon.models.hollow import fill

Outputs = tuple[Tensor | None, ...]
_METHOD = "gnomon_run"


class Sharding:
    """Spreads a model over the processes of a mesh, in place.

    Args:
        model: its layers are those that transformers can checkpoint.
        mesh: of one dimension; its device is the model's.
        filled: whether the first process gives all of them the weights, layer by layer, since some
            have none.
    """

    def __init__(self, model: PreTrainedModel, mesh: DeviceMesh, filled: bool = False) -> None:
        # nothing is done in place to what a forward pass gives
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module.*returned a view")
        self.root: Any = model
        self._depth = 0
        self.whole_now = False
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for module in (*layers, model):
            if filled:
                fill(module, this_device(mesh))
            fully_shard(module, mesh=mesh)
        for module in self._modules():
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        setattr(model, _METHOD, lambda work: work())
        register_fsdp_forward_method(model, _METHOD)
        self.run(lambda: ())  # the first to run is taken for the root; sampling runs layers alone

    def run(self, work: Callable[[], Outputs]) -> Outputs:
        """Do ``work``, which runs the model, with the root's weights gathered.

        Every process has to do so as often as the others, but where all is gathered already.
        """
        if self._depth or self.whole_now:
            return work()
        self._depth += 1
        try:
            out: Outputs = getattr(self.root, _METHOD)(work)
        finally:
            self._depth -= 1
        if not any(t is not None and t.requires_grad for t in out):
            self.root.reshard()  # no backward pass will do so
            self._forget()
        return out

    @contextmanager
    def whole(self, keep: bool = True) -> Iterator[None]:
        """All weights gathered within the block, as plain tensors: each process may do as it likes
        with the model, but for ``state_dict()``, which would spread it again. What is changed in
        them is dropped.

        Args:
            keep: whether this process uses them; if not, it only gives its part.
        """
        modules = list(self._modules())
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
            if not keep:
                module.reshard()
        self.whole_now = True
        try:
            yield
        finally:
            self.whole_now = False
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(module is not self.root, recurse=False)
            self._forget()

    def _forget(self) -> None:
        """Drop the order in which layers ran, by which backward passes gather them ahead: forward
        passes alone would grow it for ever, and not every process may have run them."""
        for module in self._modules():
            for group in _parameter_groups(module._get_fsdp_state()):
                group._post_forward_indices.clear()
        self.root._get_fsdp_state()._comm_ctx.post_forward_order.clear()

    def _modules(self) -> Iterator[FSDPModule]:
        return (m for m in self.root.modules() if isinstance(m, FSDPModule))


def _parameter_groups(state: Any) -> list[Any]:
    """Of a module's FSDP state, which has a list of them in torch 2.13, and in 2.11 at most one."""
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def this_device(mesh: DeviceMesh) -> torch.device:
    """The device of this process in the mesh."""
    cuda = mesh.device_type == "cuda"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, to: Tensor) -> Tensor:
    """A whole tensor as ``to`` is spread; one that is spread already as it is."""
    if isinstance(to, DTensor) and not isinstance(value, DTensor):
        value = value.to(to.device)
        return distribute_tensor(value, to.device_mesh, to.placements, src_data_rank=None)
    return value


@torch.no_grad()
def assign(to: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, or one spread alike, into ``to``."""
    to.copy_(like(value, to))


def is_spread(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor."""
    return isinstance(tensor, DTensor)
