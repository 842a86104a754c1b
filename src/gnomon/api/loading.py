"""A model for a loop of one's own: its weights, its tokens, its roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, ModelError
from gnomon.models.load import LoadedModel, load_causal_lm
from gnomon.models.memory import RoleNeed
from gnomon.models.precision import NAMES, Precision, pick_precision
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import FACTS, save_policy
from gnomon.plugins import did_you_mean
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import StageSpec
from gnomon.stages.encoder import LENGTH, context_of
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.stage import pick_device

DEVICES = ("auto", "cpu", "cuda")
ROLES: Mapping[str, RoleNeed] = {
    "policy": RoleNeed("policy", trainable=True),
    "reference": RoleNeed("reference"),
    "value_model": RoleNeed("value_model", trainable=True, outputs=1, critic=True),
    "reward_model": RoleNeed("reward_model", trainable=True, outputs=1),
}
"""What :func:`load` can set up: two trained by their log-probs or not, two with a scalar head."""


@dataclass(frozen=True)
class Model:
    """A language model with what a loop needs of it.

    Attributes:
        trunk: the weights; ``trunk.model`` is the transformers model.
        encoder: from conversations to tokens and masks; ``encoder.stop_ids`` end a response.
        roles: by name. A :class:`~gnomon.models.roles.Role` gives ``logprobs(batch)`` [R],
            ``hidden(batch)`` [N, H] and, with a head, ``values(batch)`` [R], ``scores(batch)`` [S].
    """

    trunk: Trunk
    encoder: Encoder
    roles: Mapping[str, Role]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.trunk.tokenizer

    @property
    def policy(self) -> Role:
        """The role "policy"."""
        return self["policy"]

    @property
    def reference(self) -> Role:
        """The role "reference": the weights as they were loaded."""
        return self["reference"]

    def __getitem__(self, role: str) -> Role:
        if role not in self.roles:
            raise ModelError(
                f"this model has no role {role!r}, but {', '.join(self.roles)}: "
                f"gnomon.load(..., roles=(..., {role!r}))"
            )
        return self.roles[role]

    def with_reference(self) -> Model:
        """This model with a "reference": a frozen copy of the policy as it is now."""
        frozen = Role("reference", self.trunk.frozen_copy(), adapter=self.policy.adapter)
        return replace(self, roles={**self.roles, "reference": frozen})

    def parameters(self) -> list[nn.Parameter]:
        """Everything that its roles train, once each, for an optimizer."""
        named = {k: p for role in self.roles.values() for k, p in role.named_parameters().items()}
        return list(named.values())

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Save the policy as a plain transformers folder; a LoRA adapter is merged into it.

        Args:
            folder: replaced as a whole where gnomon saved a model in it.
            overwrite: replace it whatever is in it.

        Raises:
            ConfigError: there is something else in the folder.
            RunError: the disk is full.
        """
        there = Path(folder)
        taken = there.is_file() or (there.is_dir() and any(there.iterdir()))
        if taken and not overwrite and not (there / FACTS).is_file():
            raise ConfigError(
                f"{folder} is there and holds no model that gnomon saved: choose another folder; "
                "save(..., overwrite=True) replaces all that is in it"
            )
        save_policy(Path(folder), self.policy, facts={"base": self.trunk.source})
        return Path(folder)


def load(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    roles: str | Sequence[str] = ("policy",),
    lora: int | None = None,
    max_length: int | None = None,
    template: str | None = None,
    precision: str = "auto",
    float32_head: bool = False,
    deterministic: bool = False,
    device: str = "auto",
    gradient_checkpointing: bool = False,
    compile: bool = False,
    seed: int = 0,
) -> Model:
    """Load a model and set up its roles.

    With ``lora`` all roles sit on one copy of the weights: each trained role is an adapter, and the
    reference is the same weights with adapters off. Without it the policy trains all weights, and
    each other role has a copy.

    Args:
        model: "tunnel" (the small model that comes with gnomon), a folder, a hub id; or a
            transformers model that is already in memory, which is then trained in place.
        tokenizer: of a model in memory.
        roles: of "policy", "reference", "value_model" and "reward_model".
        lora: the adapters' rank (alpha is twice that); None for full fine-tuning.
        max_length: tokens of a prompt with one response; 1024, or what the model takes.
        template: a chat template by name or as a .jinja file, where the tokenizer has none.
        precision: "float32", "mixed" (float32 weights where they are trained, bfloat16 products),
            "bfloat16", or "auto": mixed on a GPU that has it, else float32. A model in memory
            keeps the type of its weights, which "auto" is; mixed needs them in float32, with LoRA
            in bfloat16.
        float32_head: compute logits in float32 whatever the rest is computed in.
        deterministic: on a GPU, add attention's gradients up in a fixed order, so that they repeat
            to the last bit. Not where another thread uses the GPU during a backward pass.
        device: "auto", "cpu" or "cuda"; a model in memory stays where it is.
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        compile: run the layers through torch.compile: minutes at first, then faster steps.
        seed: of the adapters' and heads' first weights.

    Raises:
        ModelError: no such model, weights that would have to be unpickled, an unknown role.
        ConfigError: no such device or precision there, a rank below 1, more tokens than the model
            takes.
        DataError: a template that cannot be used.
    """
    roles = (roles,) if isinstance(roles, str) else roles
    for name in roles:
        if name not in ROLES:
            raise ModelError(f"unknown role {name!r}; {did_you_mean(name, ROLES)}")
    adapt = None if lora is None else {"rank": lora, "alpha": 2.0 * lora}
    train = {"gradient_checkpointing": gradient_checkpointing, "compile": compile}
    stage = {"name": "load", "algorithm": "sft", "lora": adapt, "train": train}
    spec = validate_as(StageSpec, stage, "load")
    asked, loaded = _loaded(model, tokenizer, precision, device, lora is not None)
    how = replace(asked, float32_head=float32_head, deterministic=deterministic)
    builder = RoleBuilder(spec, loaded, seed, precision=how)
    trunk = builder.trunk
    made = builder.build([ROLES[name] for name in roles], None)
    context = context_of(trunk.model.config)
    length = max_length or min(LENGTH, context or LENGTH)
    if context is not None and length > context:
        raise ConfigError(f"max_length is {length}, and the model takes {context} tokens")
    return Model(trunk, Encoder(trunk.tokenizer, max_length=length, template=template), made)


def _loaded(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    precision: str,
    device: str,
    lora: bool,
) -> tuple[Precision, LoadedModel]:
    if precision not in ("auto", *NAMES):
        said = did_you_mean(precision, ("auto", *NAMES), "use one of")
        raise ConfigError(f"unknown precision {precision!r}; {said}")
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise ModelError("a model that is loaded by name brings its tokenizer: leave it out")
        if device not in DEVICES:
            raise ConfigError(f"unknown device {device!r}; {did_you_mean(device, DEVICES)}")
        place = pick_device(device)
        picked = pick_precision(precision, place)
        kind = picked.frozen if lora else picked.trained
        return picked, load_causal_lm(model, dtype=kind, device=place)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"a {type(model).__name__} is no model: give a name, a folder or a transformers model"
        )
    if tokenizer is None:
        raise ModelError("a model in memory needs its tokenizer: gnomon.load(model, tokenizer)")
    own = str(model.dtype).removeprefix("torch.")
    picked = Precision(own) if precision == "auto" else pick_precision(precision, model.device)
    if precision != "auto" and own != (wanted := picked.frozen if lora else picked.trained):
        raise ModelError(
            f"precision={precision!r} needs the weights in {wanted}, and those of this model are "
            f"{own}: load it so (dtype=torch.{wanted}), or leave precision out"
        )
    return picked, LoadedModel(model, tokenizer, model.name_or_path or "memory", "")
