"""Which role sits on which weights: one shared trunk with LoRA, separate copies without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gnomon.judges.learned import reads_tokens_of
from gnomon.models.heads import ScalarHead
from gnomon.models.load import LoadedModel
from gnomon.models.memory import RoleNeed
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.models.save import LoadedReward, load_reward_model
from gnomon.recipe.schema import StageSpec


class RoleBuilder:
    """Builds the roles that a stage's algorithm declared.

    Args:
        stage: the stage's specification.
        base: the model it starts from.
        seed: for the adapters' and heads' initial weights.
    """

    def __init__(self, stage: StageSpec, base: LoadedModel, seed: int) -> None:
        self.stage = stage
        self.seed = seed
        self.trunk = Trunk.from_loaded(
            base, gradient_checkpointing=stage.train.gradient_checkpointing
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
                dtype=str(self.trunk.model.dtype).removeprefix("torch."),
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
        if self.lora is None:
            return Role(need.name, self.trunk.copy())
        if not need.moves:
            return Role(need.name, self.trunk)
        self.trunk.add_adapter(need.name, init_from="policy")
        return Role(need.name, self.trunk, adapter=need.name)

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
        trunk = source.trunk.copy(gradient_checkpointing=checkpointing)
        head = self._head(need, trunk.hidden_size)
        if self.lora is None:
            return Role(name, trunk, head=head, trainable=True)
        adapter = source.adapter
        if adapter is None:
            adapter = name
            trunk.add_adapter(name, self.lora, seed=self.seed)
        return Role(name, trunk, adapter=adapter, head=head, trainable=True)


def lora_settings(stage: StageSpec) -> LoraSettings | None:
    """The stage's LoRA settings, or None for full fine-tuning."""
    if stage.lora is None:
        return None
    spec = stage.lora
    targets = spec.targets if isinstance(spec.targets, str) else tuple(spec.targets)
    return LoraSettings(rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, targets=targets)
