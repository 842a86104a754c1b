"""Which role sits on which weights: one shared trunk with LoRA, separate copies without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.learned import reads_tokens_of
from gnomon.models.heads import ScalarHead
from gnomon.models.load import LoadedModel, dtype_of, fetch, fingerprint, load_causal_lm
from gnomon.models.memory import RoleNeed
from gnomon.models.precision import Precision
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.models.save import LoadedReward, load_reward_model
from gnomon.recipe.schema import StageSpec


class RoleBuilder:
    """Builds the roles that a stage's algorithm declared.

    Args:
        stage: the stage's specification.
        base: the model it starts from.
        seed: for the adapters' and heads' initial weights.
        locate: where the weights are of a role that has its own, from the name in the recipe.
        precision: of the stage; ``base`` is in it already. None is that of its weights.
    """

    def __init__(
        self,
        stage: StageSpec,
        base: LoadedModel,
        seed: int,
        locate: Callable[[str], str] = str,
        precision: Precision | None = None,
    ) -> None:
        self.stage = stage
        self.seed = seed
        self.locate = locate
        own = str(base.model.dtype).removeprefix("torch.")
        self.precision = precision or Precision(own)
        self.trunk = Trunk.from_loaded(
            base,
            gradient_checkpointing=stage.train.gradient_checkpointing,
            compile=stage.train.compile,
            precision=self.precision,
        )
        self.lora = lora_settings(stage)
        self._rewards: dict[Path, LoadedReward] = {}

    def reward(self, folder: Path) -> LoadedReward:
        """The reward model in ``folder``, on the stage's own trunk where it belongs there."""
        if folder not in self._rewards:
            # rewards that are computed while the policy trains need a trunk of their own
            shared = self.lora is not None and not self.stage.rollout.max_staleness
            share = self.trunk if shared else None
            self._rewards[folder] = load_reward_model(
                folder,
                share_trunk=share,
                dtype=self.precision.frozen,
                device=self.trunk.model.device,
            )
        return self._rewards[folder]

    def build(self, needs: Sequence[RoleNeed], value_from: Path | None) -> Mapping[str, Role]:
        """All roles that a method declared, by name.

        Args:
            value_from: the reward model whose trunk a role starts from that asks for one, or None
                for the policy's.
        """
        roles: dict[str, Role] = {}
        for need in needs:
            if not need.trainable:
                roles[need.name] = self._frozen(need)
            elif need.from_reward and value_from is not None:
                roles[need.name] = self._from_reward(need, value_from)
            else:
                another = any(role.trainable for role in roles.values())
                roles[need.name] = self._trained(need.name, self._head(need), own_copy=another)
        return roles

    def _head(self, need: RoleNeed, hidden_size: int | None = None) -> ScalarHead | None:
        """The role's head: a critic's starts at zero, so that the first advantages are returns."""
        if not need.outputs:
            return None
        size = hidden_size or self.trunk.hidden_size
        if need.critic:
            return ScalarHead(size, outputs=need.outputs, init_std=0.0, bias=True)
        return ScalarHead(size, outputs=need.outputs)

    def _trained(self, name: str, head: ScalarHead | None, own_copy: bool = False) -> Role:
        """A trained role: an adapter of its own on the shared trunk, or a whole trunk."""
        if self.lora is None:
            trunk = self.trunk.copy() if own_copy else self.trunk
            return Role(name, trunk, head=head, trainable=True)
        self.trunk.add_adapter(name, self.lora, seed=self.seed)
        return Role(name, self.trunk, adapter=name, head=head, trainable=True)

    def _frozen(self, need: RoleNeed) -> Role:
        """A frozen role: the plain trunk under LoRA, else a copy of the model. One that follows the
        policy (TR-DPO, on-line DPO) has an adapter of its own under LoRA."""
        if need.model is not None:
            return self._other(need.name, need.model)
        if self.lora is None:
            return Role(need.name, self.trunk.frozen_copy())
        if not need.moves:
            return Role(need.name, self.trunk)
        self.trunk.add_adapter(need.name, init_from="policy")
        return Role(need.name, self.trunk, adapter=need.name)

    def _other(self, name: str, model: str) -> Role:
        """A frozen role with weights of its own: the plain trunk under LoRA where they are the very
        same.

        Raises:
            ConfigError: the model reads other tokens than the policy.
        """
        folder, here = fetch(self.locate(model)), self.trunk
        if self.lora is not None and fingerprint(folder) == here.fingerprint:
            return Role(name, here)
        loaded = load_causal_lm(folder, dtype=self.precision.frozen, device=here.model.device)
        check_same_tokens(name, model, loaded.tokenizer, here.tokenizer)
        return Role(name, Trunk.from_loaded(loaded, precision=self.precision))

    def _from_reward(self, need: RoleNeed, folder: Path) -> Role:
        """A trained role on a reward model's trunk, where that reads the policy's own tokens."""
        name, head = need.name, self._head(need)
        source = self.reward(folder).members[0]
        if not reads_tokens_of(source.trunk.tokenizer, self.trunk.tokenizer):
            # the critic reads the policy's own tokens, which mean something else to that model
            return self._trained(name, head, own_copy=True)
        if self.lora is not None and source.trunk is self.trunk:
            if source.adapter is None:
                return self._trained(name, head)
            self.trunk.add_adapter(name, init_from=source.adapter)
            return Role(name, self.trunk, adapter=name, head=head, trainable=True)
        checkpointing = self.trunk.gradient_checkpointing  # a frozen reward model has none
        trunk = source.trunk.copy(gradient_checkpointing=checkpointing, compile=self.trunk.compile)
        head = self._head(need, trunk.hidden_size)
        if self.lora is None:
            trunk.model.to(dtype_of(self.precision.trained))
            trunk.precision = self.precision
            return Role(name, trunk, head=head, trainable=True)
        adapter = source.adapter
        if adapter is None:
            adapter = name
            trunk.add_adapter(name, self.lora, seed=self.seed)
        return Role(name, trunk, adapter=adapter, head=head, trainable=True)


def check_same_tokens(role: str, model: str, tokenizer: Any, policys: Any) -> None:
    """Check that a model's probabilities can be compared with the policy's, token by token.

    Raises:
        ConfigError: the two have different tokenizers.
    """
    if reads_tokens_of(tokenizer, policys):
        return
    there = tokenizer.get_vocab()
    token, here = next(i for i in policys.get_vocab().items() if there.get(i[0]) != i[1])
    raise ConfigError(
        f"{role} {model!r} has another tokenizer than the policy: {token!r} is token {here} of the "
        f"policy and {there.get(token, 'no token')} of the {role}, so their probabilities cannot "
        "be compared token by token. Take one with the policy's tokenizer, or let it write answers "
        "(a collect stage that starts from it) and train sft on them"
    )


def lora_settings(stage: StageSpec) -> LoraSettings | None:
    """The stage's LoRA settings, or None for full fine-tuning."""
    if stage.lora is None:
        return None
    spec = stage.lora
    targets = spec.targets if isinstance(spec.targets, str) else tuple(spec.targets)
    return LoraSettings(rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, targets=targets)
