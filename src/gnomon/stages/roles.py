"""Which role sits on which weights: one shared trunk with LoRA, separate copies without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gnomon.algorithms.base import Algorithm, Settings
from gnomon.errors import ConfigError
from gnomon.judges.learned import reads_tokens_of
from gnomon.models.heads import ScalarHead
from gnomon.models.load import LoadedModel
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

    def build(
        self, algorithm: type[Algorithm], settings: Settings, value_from: Path | None
    ) -> Mapping[str, Role]:
        """All roles that ``algorithm`` needs with these settings, by name.

        Args:
            value_from: the reward model whose trunk the value model starts from, or None for the
                policy's.
        """
        roles: dict[str, Role] = {}
        for need in algorithm.roles_for(settings):
            if need == "policy":
                roles[need] = self._trained("policy", head=None)
            elif need == "reference":
                roles[need] = self._reference(moves=getattr(settings, "reference_moves", False))
            elif need == "value_model":
                roles[need] = self._value_model(value_from)
            elif need == "reward_model":
                roles.update(self._reward_models(settings))
            else:
                raise ConfigError(f"{algorithm.name} asks for an unknown role {need!r}")
        return roles

    def _trained(self, name: str, head: ScalarHead | None, own_copy: bool = False) -> Role:
        """A trained role: an adapter of its own on the shared trunk, or a whole trunk."""
        if self.lora is None:
            trunk = self.trunk.copy() if own_copy else self.trunk
            return Role(name, trunk, head=head, trainable=True)
        self.trunk.add_adapter(name, self.lora, seed=self.seed)
        return Role(name, self.trunk, adapter=name, head=head, trainable=True)

    def _reference(self, moves: bool) -> Role:
        """The frozen reference: the plain trunk under LoRA, else a copy of the model. One that
        follows the policy (TR-DPO, on-line DPO) has an adapter of its own under LoRA."""
        if self.lora is None:
            return Role("reference", self.trunk.copy())
        if not moves:
            return Role("reference", self.trunk)
        self.trunk.add_adapter("reference", init_from="policy")
        return Role("reference", self.trunk, adapter="reference")

    def _value_model(self, value_from: Path | None) -> Role:
        head = ScalarHead(self.trunk.hidden_size, init_std=0.0, bias=True)
        if value_from is None:
            return self._trained("value_model", head, own_copy=True)
        source = self.reward(value_from).members[0]
        if not reads_tokens_of(source.trunk.tokenizer, self.trunk.tokenizer):
            # the critic reads the policy's own tokens, which mean something else to that model
            return self._trained("value_model", head, own_copy=True)
        if self.lora is not None and source.trunk is self.trunk:
            if source.adapter is None:
                return self._trained("value_model", head)
            self.trunk.add_adapter("value_model", init_from=source.adapter)
            return Role("value_model", self.trunk, adapter="value_model", head=head, trainable=True)
        checkpointing = self.trunk.gradient_checkpointing  # a frozen reward model has none
        trunk = source.trunk.copy(gradient_checkpointing=checkpointing)
        head = ScalarHead(trunk.hidden_size, init_std=0.0, bias=True)
        if self.lora is None:
            return Role("value_model", trunk, head=head, trainable=True)
        if source.adapter is not None:
            return Role("value_model", trunk, adapter=source.adapter, head=head, trainable=True)
        trunk.add_adapter("value_model", self.lora, seed=self.seed)
        return Role("value_model", trunk, adapter="value_model", head=head, trainable=True)

    def _reward_models(self, settings: Settings) -> dict[str, Role]:
        members = int(getattr(settings, "members", 1))
        if members == 1 or getattr(settings, "share_trunk", True):
            head = ScalarHead(self.trunk.hidden_size, outputs=members)
            return {"reward_model": self._trained("reward_model", head)}
        roles: dict[str, Role] = {}
        for m in range(members):
            head = ScalarHead(self.trunk.hidden_size)
            name = f"reward_model_{m}"
            roles[name] = self._trained(name, head, own_copy=m > 0)
        return roles


def lora_settings(stage: StageSpec) -> LoraSettings | None:
    """The stage's LoRA settings, or None for full fine-tuning."""
    if stage.lora is None:
        return None
    spec = stage.lora
    targets = spec.targets if isinstance(spec.targets, str) else tuple(spec.targets)
    return LoraSettings(rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, targets=targets)
