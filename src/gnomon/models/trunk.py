"""One copy of a transformer's weights, with any number of LoRA adapters side by side on it, and
what a forward pass through it takes: adapter, arithmetic, mode, recomputation (Hu et al. 2021,
"LoRA").
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnomon.errors import ModelError
from gnomon.models import adapters as lora_adapters
from gnomon.models.adapters import LoraSettings
from gnomon.models.hollow import check_alike, is_hollow
from gnomon.models.load import LoadedModel
from gnomon.models.logprobs import OutputHead, trust_head
from gnomon.models.packed import PackedForward
from gnomon.models.precision import Precision, float32_head, narrow_copies, narrow_matrices
from gnomon.models.ranks import Ranks
from gnomon.models.recompute import Recompute
from gnomon.models.sharded import Sharding


class OnTrunk(Protocol):
    """A role, as the trunk that it is on knows it."""

    name: str
    adapter: str | None
    trainable: bool

    @property
    def trains_trunk(self) -> bool:
        """Whether training changes the trunk itself."""
        ...


class Trunk:
    """One copy of transformer weights and any number of LoRA adapters on it.

    Args:
        model: a causal language model of transformers (or its headless base, for reward models).
        tokenizer: its tokenizer.
        fingerprint: of the weights as loaded (see ``gnomon.models.load``); adapters are tied to it.
        source: where the weights came from, for people to read.
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its
            activations, whenever gradients are wanted (with dropout or without).
        compile: run packed passes through compiled layers (:mod:`gnomon.models.compiled`).
        precision: how its passes are computed; the weights are in it already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        fingerprint: str = "",
        source: str = "",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        precision: Precision | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.source = source
        self.gradient_checkpointing = gradient_checkpointing
        self.compile = compile
        self.precision = precision or Precision()
        if self.precision.float32_head:
            float32_head(model)
        self._layers: list[LoraLayer] = []
        self._modules: list[nn.Module] = []
        self._drops: bool | None = None
        self._adapter: str | None = None
        self._roles: weakref.WeakSet[OnTrunk] = weakref.WeakSet()
        self._recompute = Recompute(model, self._remember) if gradient_checkpointing else None
        self.sharding: Sharding | None = None

    @classmethod
    def from_loaded(
        cls,
        loaded: LoadedModel,
        *,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        precision: Precision | None = None,
    ) -> Trunk:
        """A trunk of a model that ``load_causal_lm`` returned."""
        return cls(
            loaded.model,
            loaded.tokenizer,
            fingerprint=loaded.fingerprint,
            source=loaded.source,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile,
            precision=precision,
        )

    @cached_property
    def packed(self) -> PackedForward:
        """The forward pass over packed groups, tried out in the trunk's arithmetic."""
        with self.precision.arithmetic(self.model, keep=False):
            return PackedForward(
                self.model, compiled=self.compile, deterministic=self.precision.deterministic
            )

    def shard(self, mesh: DeviceMesh, ranks: Ranks, filled: bool = False) -> None:
        """Spread the weights over the processes of a mesh; no adapter can be trained that is added
        later.

        Args:
            ranks: the processes; the first tries out how the model is run, before it gives up its
                whole weights.
            filled: some have a model without memory, and get their part from the first.

        Raises:
            ModelError: a head that is not understood, or a process with another model.
        """
        reason = ranks.first(self._tried)
        if not is_hollow(self.model):
            self._tried()
        else:  # what cannot be tried here
            trust_head(self.model)
            fixed = self.precision.deterministic
            self.packed = PackedForward(self.model, probe=False, deterministic=fixed)
            self.packed.fallback_reason, self.packed.shares_prefix = reason, reason is None
        if filled:
            check_alike(self.model, ranks)
        self.sharding = Sharding(self.model, mesh, filled)

    def _tried(self) -> str | None:
        """Why prompts cannot be shared, where they cannot; the model is run once to see it, and to
        see that its head is understood."""
        if self.model.get_output_embeddings() is not None:
            with self.precision.arithmetic(self.model, keep=False):
                OutputHead.of(self.model)
        return self.packed.fallback_reason

    def together(self, work: Callable[[], tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
        """Do ``work``, which runs the model and reads its head, where the weights are at hand."""
        return work() if self.sharding is None else self.sharding.run(work)

    @property
    def compute(self) -> torch.dtype:
        """What its passes multiply matrices in, and what a sampler of its own best holds."""
        return self.precision.compute(self.model.dtype)

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added."""
        return tuple(getattr(self.model, "peft_config", {}))

    def add_adapter(
        self,
        name: str,
        lora: LoraSettings | None = None,
        *,
        init_from: Path | str | None = None,
        seed: int = 0,
    ) -> None:
        """Put one more adapter on the trunk and freeze the trunk; adapters stay off until used.

        Args:
            name: a new name (letters, digits, ``_`` and ``-``).
            lora: its settings; may be left out when ``init_from`` brings its own.
            init_from: an adapter's name on this trunk, or the folder of a saved PEFT adapter, to
                start from. Without it the adapter starts as the identity (B = 0).
            seed: for the initial A matrices; the global random state is left as it was.

        Raises:
            ModelError: a taken or unusable name, settings that contradict ``init_from``, an
                adapter made for other weights, a trunk that some role trains in full.
        """
        for role in self._roles:
            if role.trains_trunk:
                raise ModelError(
                    f"adapter {name!r} cannot be added to this trunk: role {role.name!r} trains "
                    "all of its weights. Give the adapter a copy of its own (trunk.copy())."
                )
        try:
            lora_adapters.add(self, name, lora, init_from=init_from, seed=seed)
        finally:
            self._layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
            self._modules, self._drops = [], None
            self.model.train(self.model.training)  # new modules start in training mode
            self._switch(self._adapter)

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name; the adapter's own name is left out of the keys."""
        if name not in self.adapters:
            raise ModelError(f"no adapter {name!r} on this trunk; it has {list(self.adapters)}")
        return lora_adapters.parameters(self.model, name)

    @contextmanager
    def active(self, adapter: str | None, *, keep: bool = True) -> Iterator[None]:
        """Use ``adapter`` (None: the plain trunk) within the block, in the trunk's arithmetic; then
        what was used before.

        Args:
            keep: narrow copies of trained weights until the block ends, for many passes without
                gradients; see :meth:`Precision.arithmetic`.
        """
        if adapter is not None and adapter not in self.adapters:
            raise ModelError(f"no adapter {adapter!r} on this trunk; it has {list(self.adapters)}")
        before = self._adapter
        try:
            if adapter != before:  # not where a layer is recomputed under the adapter it ran under
                self._switch(adapter)
            with self.precision.arithmetic(self.model, keep=keep), self._copied(adapter, keep):
                yield
        finally:
            if adapter != before:
                self._switch(before)

    def _copied(self, adapter: str | None, keep: bool) -> AbstractContextManager[None]:
        """Narrow copies of an adapter's matrices, where they are to be kept."""
        if adapter is None or not keep or self.sharding is not None:
            return nullcontext()
        matrices = lora_adapters.narrow_matrices_of(self.model, adapter)
        return narrow_copies(matrices, self.model.dtype)

    @contextmanager
    def running(self, adapter: str | None, *, training: bool = False) -> Iterator[None]:
        """Everything a role's forward pass needs: adapter, arithmetic, mode, gradient
        checkpointing."""
        checkpointing = self._recompute.enabled() if self._recompute else nullcontext()
        with self.active(adapter, keep=False), self.mode(training), checkpointing:
            yield

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Run the trunk's modules in training mode (dropout) or not within the block."""
        before = self.model.training
        try:
            if before != training:
                self._set_mode(training)
            yield
        finally:
            if before != training:
                self._set_mode(before)

    def _set_mode(self, training: bool) -> None:
        """The model's own ``train``, without its walk through all modules: that took 11 ms for 28
        layers with adapters, four times a pass."""
        if getattr(self.model, "use_kernels", False):  # which are chosen by the mode
            self.model.train(training)
            return
        self._modules = self._modules or list(self.model.modules())
        for module in self._modules:
            module.__dict__["training"] = training

    def copy(
        self, *, gradient_checkpointing: bool | None = None, compile: bool | None = None
    ) -> Trunk:
        """A trunk of its own with the same weights and adapters (for full fine-tuning).

        Args:
            gradient_checkpointing, compile: of the copy; None for the same as here.
        """
        if gradient_checkpointing is None:
            gradient_checkpointing = self.gradient_checkpointing
        model = copy.deepcopy(self.model)
        twin = Trunk(
            model,
            self.tokenizer,
            fingerprint=self.fingerprint,
            source=self.source,
            gradient_checkpointing=gradient_checkpointing,
            compile=self.compile if compile is None else compile,
            precision=self.precision,
        )
        twin._layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
        for name in twin.adapters:
            for matrix in lora_adapters.narrow_matrices_of(model, name):
                matrix.narrow = None  # of this trunk, where it is copied while it samples
        twin._switch(None)
        return twin

    def frozen_copy(self) -> Trunk:
        """A copy that is never trained and computes what this one does, in less memory where
        passes are narrower than the weights."""
        twin = self.copy(gradient_checkpointing=False)
        twin.model.requires_grad_(False)
        if twin.compute != twin.model.dtype:
            narrow_matrices(twin.model, twin.compute)
        return twin

    def _switch(self, adapter: str | None) -> None:
        _choose(self._layers, adapter)
        self._adapter = adapter

    def _remember(self, layer: nn.Module) -> Callable[[], AbstractContextManager[None]]:
        if self._drops is None:  # once, and not for each layer: that takes a look at all modules
            self._drops = _has_dropout(self.model)
        adapter, training = self._adapter, self.model.training and self._drops
        inside = [m for m in layer.modules() if isinstance(m, LoraLayer)] if self._layers else []

        @contextmanager
        def restore() -> Iterator[None]:
            outside = self._adapter
            try:
                if adapter != outside:  # in this layer alone: there are many
                    _choose(inside, adapter)
                with self.precision.arithmetic(self.model, keep=False), self.mode(training):
                    yield
            finally:
                if adapter != outside:
                    _choose(inside, outside)

        return restore


def _choose(layers: Sequence[LoraLayer], adapter: str | None) -> None:
    """Make an adapter the active one of some layers.

    PEFT's own set_adapter and enable_adapters also flip requires_grad on every adapter, which would
    freeze one role's parameters while another is at work; so only the choice is set.
    """
    chosen = {
        "_active_adapter": [] if adapter is None else [adapter],
        "_disable_adapters": adapter is None,
    }
    for layer in layers:
        layer.__dict__.update(chosen)  # nn.Module's own setting takes ten times as long


def _has_dropout(model: PreTrainedModel) -> bool:
    """Whether training mode changes what a layer computes (if not, switching modes is wasted)."""
    rates = [v for k, v in vars(model.config).items() if "drop" in k and isinstance(v, float)]
    modules = (m.p for m in model.modules() if isinstance(m, nn.Dropout))
    return any(rate > 0 for rate in (*rates, *modules))
