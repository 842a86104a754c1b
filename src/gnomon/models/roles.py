"""One trunk, many roles: policy, reference, reward and value model on one copy of the weights.

A :class:`Trunk` is a transformer with any number of LoRA adapters (Hu et al. 2021, "LoRA") side by
side on it; a :class:`Role` is one way of using a trunk: through one adapter or none, with one
scalar head or none. With LoRA the trunk is frozen, so the reference model is simply the trunk with
its adapters off, and cannot drift. With full fine-tuning each role has a trunk of its own, and
sharing one that is trained is refused.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnomon.data.batch import Batch
from gnomon.errors import ModelError
from gnomon.models import adapters as lora_adapters
from gnomon.models.adapters import LoraSettings
from gnomon.models.counting import count
from gnomon.models.heads import ScalarHead
from gnomon.models.instants import REFERENCE, instant
from gnomon.models.load import LoadedModel
from gnomon.models.logprobs import OutputHead, TokenLogprobs, token_logprobs
from gnomon.models.packed import PackedForward
from gnomon.models.precision import Precision, float32_head, narrow_matrices
from gnomon.models.recompute import Recompute
from gnomon.models.sharded import Sharding

__all__ = ["LoraSettings", "Role", "Trunk"]


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
        self._adapter: str | None = None
        self._roles: weakref.WeakSet[Role] = weakref.WeakSet()
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
            return PackedForward(self.model, compiled=self.compile)

    def shard(self, mesh: DeviceMesh) -> None:
        """Spread the weights over the processes of a mesh; no adapter can be trained that is added
        later."""
        _ = self.packed  # which tries the model out
        self.sharding = Sharding(self.model, mesh)

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
            self._switch(adapter)
            with self.precision.arithmetic(self.model, keep=keep):
                yield
        finally:
            self._switch(before)

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
                self.model.train(training)
            yield
        finally:
            if before != training:
                self.model.train(before)

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
        # peft's own set_adapter and enable_adapters also flip requires_grad on every adapter, which
        # would freeze one role's parameters while another is at work; so only the choice is set.
        for layer in self._layers:
            layer._active_adapter = [] if adapter is None else [adapter]
            layer._disable_adapters = adapter is None
        self._adapter = adapter

    def _remember(self) -> Callable[[], AbstractContextManager[None]]:
        adapter, training = self._adapter, self.model.training and _has_dropout(self.model)

        @contextmanager
        def restore() -> Iterator[None]:
            with self.active(adapter, keep=False), self.mode(training):
                yield

        return restore


class Role:
    """Policy, reference, reward model or value model: a trunk seen through an adapter and a head.

    A trainable role trains its adapter (and head); without an adapter it trains the whole trunk,
    which it then must have to itself. A role that is not trainable is always in evaluation mode
    and computes no gradients. Roles start in evaluation mode; ``train()`` switches dropout on.

    Args:
        name: what it is ("policy", "reference", ...); part of its parameters' names.
        trunk: the weights.
        adapter: name of the adapter on the trunk, or None for the plain trunk. Two roles may share
            one (a value model on the policy's hidden states).
        head: the scalar head, or None.
        trainable: whether it is trained.

    Raises:
        ModelError: unknown adapter, a head of another width, or a fully trained trunk shared.
    """

    def __init__(
        self,
        name: str,
        trunk: Trunk,
        *,
        adapter: str | None = None,
        head: ScalarHead | None = None,
        trainable: bool = False,
    ) -> None:
        if adapter is not None and adapter not in trunk.adapters:
            raise ModelError(f"role {name!r}: no adapter {adapter!r}; has {list(trunk.adapters)}")
        if head is not None and head.hidden_size != trunk.hidden_size:
            raise ModelError(
                f"role {name!r}: the head is for width {head.hidden_size}, the model has "
                f"{trunk.hidden_size}"
            )
        self.name = name
        self.trunk = trunk
        self.adapter = adapter
        self.head = None if head is None else head.to(trunk.model.device)
        self.trainable = trainable
        self.training = False
        self._refuse_shared_training()
        trunk._roles.add(self)
        if self.trains_trunk:
            trunk.model.requires_grad_(True)
        elif adapter is not None and (trainable or not self._shares_trained_adapter()):
            for parameter in trunk.adapter_parameters(adapter).values():
                parameter.requires_grad_(trainable)
        if self.head is not None:
            self.head.requires_grad_(trainable)
            self.head.eval()

    @property
    def trains_trunk(self) -> bool:
        """True when training changes the trunk itself (no adapter in between)."""
        return self.trainable and self.adapter is None

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states [N, H] of the packed tokens, as the vocabulary head takes them."""
        packed = self.trunk.packed  # made, and tried out, before the role's own settings
        with self._running():
            count(self.name, batch.num_tokens, backward=torch.is_grad_enabled())
            (hidden,) = self.trunk.together(lambda: (packed.hidden(batch),))
        assert hidden is not None
        return hidden

    def logprobs(
        self,
        batch: Batch,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        entropy_grad: bool = True,
        hidden: Tensor | None = None,
    ) -> TokenLogprobs:
        """Log-probabilities (nats) of the R response tokens under softmax(logits / temperature).

        Args:
            entropy: also give the entropy (nats) of each token's distribution.
            entropy_grad: whether the entropy has a gradient (not where it is only logged).
            hidden: [N, H] from :meth:`hidden`, when it was computed already.
        """

        def compute() -> tuple[Tensor, Tensor | None]:
            states = self.hidden(batch) if hidden is None else hidden
            with self._running():
                found = token_logprobs(
                    states,
                    OutputHead.of(self.trunk.model),
                    batch,
                    temperature=temperature,
                    entropy=entropy,
                    entropy_grad=entropy_grad,
                )
            return found.logprobs, found.entropy

        logprobs, entropies = self.trunk.together(compute)
        assert logprobs is not None
        return TokenLogprobs(logprobs, entropies)

    def scores(self, batch: Batch, *, hidden: Tensor | None = None) -> Tensor:
        """The head at each response's last token: raw scores [S], or [S, n] of an n-fold head."""
        hidden = self.hidden(batch) if hidden is None else hidden
        with self._running():
            return _squeeze(self._head("scores")(hidden[batch.last_index]))

    def values(self, batch: Batch, *, hidden: Tensor | None = None) -> Tensor:
        """V(s_t) [R]: the head at the token *before* each response token, the state it was
        sampled from (Schulman et al. 2016, "GAE": the value must not see the action)."""
        hidden = self.hidden(batch) if hidden is None else hidden
        with self._running():
            return _squeeze(self._head("values")(hidden[batch.source_index]))

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, for optimizers and checkpoints.

        Names do not depend on which other roles exist: ``adapter.<adapter>...`` (the same for two
        roles that share the adapter), ``<role>.trunk...`` and ``<role>.head...``.
        """
        if not self.trainable:
            return {}
        named: dict[str, nn.Parameter] = {}
        if self.adapter is not None:
            for key, parameter in self.trunk.adapter_parameters(self.adapter).items():
                named[f"adapter.{self.adapter}.{key}"] = parameter
        else:
            for key, parameter in self.trunk.model.named_parameters():
                named[f"{self.name}.trunk.{key}"] = parameter
        if self.head is not None:
            for key, parameter in self.head.named_parameters():
                named[f"{self.name}.head.{key}"] = parameter
        return named

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters (none when the role is not trainable)."""
        return list(self.named_parameters().values())

    def train(self, mode: bool = True) -> Role:
        """Dropout on or off; in a role that is not trainable it stays off."""
        self.training = mode and self.trainable
        return self

    def eval(self) -> Role:
        return self.train(False)

    def _head(self, wanted_for: str) -> ScalarHead:
        if self.head is None:
            raise ModelError(f"role {self.name!r} has no scalar head, so it gives no {wanted_for}")
        return self.head

    @contextmanager
    def _running(self) -> Iterator[None]:
        grad = nullcontext() if self.trainable else torch.no_grad()
        within = nullcontext() if self.trainable else instant(REFERENCE.format(role=self.name))
        with within, grad, self.trunk.running(self.adapter, training=self.training):
            yield

    def _shares_trained_adapter(self) -> bool:
        others = (r for r in self.trunk._roles if r is not self)
        return any(r.trainable and r.adapter == self.adapter for r in others)

    def _refuse_shared_training(self) -> None:
        for other in self.trunk._roles:
            for trained, shares in ((self, other), (other, self)):
                if trained.trains_trunk:
                    raise ModelError(
                        f"role {trained.name!r} trains all weights of the trunk that role "
                        f"{shares.name!r} uses too, so {shares.name!r} would drift with it. Give "
                        "one of them a copy (trunk.copy()), or train through a LoRA adapter."
                    )


def _has_dropout(model: PreTrainedModel) -> bool:
    """Whether training mode changes what a layer computes (if not, switching modes is wasted)."""
    rates = [v for k, v in vars(model.config).items() if "drop" in k and isinstance(v, float)]
    modules = (m.p for m in model.modules() if isinstance(m, nn.Dropout))
    return any(rate > 0 for rate in (*rates, *modules))


def _squeeze(scores: Tensor) -> Tensor:
    return scores.squeeze(-1) if scores.shape[-1] == 1 else scores
