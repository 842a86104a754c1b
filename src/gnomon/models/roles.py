"""One trunk, many roles: policy, reference, reward and value model on one copy of the weights.

A :class:`~gnomon.models.trunk.Trunk` is a transformer with any number of LoRA adapters side by side
on it; a :class:`Role` is one way of using a trunk: through one adapter or none, with one scalar
head or none. With LoRA the trunk is frozen, so the reference model is simply the trunk with its
adapters off, and cannot drift. With full fine-tuning each role has a trunk of its own, and sharing
one that is trained is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from gnomon.data.batch import Batch
from gnomon.errors import ModelError
from gnomon.models.adapters import LoraSettings
from gnomon.models.counting import count
from gnomon.models.heads import ScalarHead
from gnomon.models.instants import REFERENCE, instant
from gnomon.models.logprobs import OutputHead, TokenLogprobs, token_logprobs
from gnomon.models.trunk import Trunk

__all__ = ["LoraSettings", "Role", "Trunk"]


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


def _squeeze(scores: Tensor) -> Tensor:
    return scores.squeeze(-1) if scores.shape[-1] == 1 else scores
