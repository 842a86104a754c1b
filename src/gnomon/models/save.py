"""Saving policies and reward models as folders that plain transformers and PEFT load.

    policy/                          reward_model/
      config.json model.safetensors    the same, an AutoModelForSequenceClassification
      tokenizer files, generation_config.json
      adapter/                         adapter/     with LoRA: the PEFT adapter alone
      gnomon.json                      gnomon.json  what the weights were trained on; statistics

Every folder appears whole or not at all (``gnomon.files``).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from gnomon.errors import ModelError, RunError
from gnomon.files import write_folder
from gnomon.models import load, merge
from gnomon.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PEFT_PREFIX
from gnomon.models.heads import RewardNormaliser, ScalarHead
from gnomon.models.hollow import placed
from gnomon.models.merge import first_not_finite
from gnomon.models.roles import Role, Trunk

ADAPTER = "adapter"
FACTS = "gnomon.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedReward:
    """A reward model read from disk.

    Attributes:
        members: one role, or several where an ensemble's members are separate models. A role whose
            head has n outputs is n members on one trunk.
        normaliser: puts raw scores on the scale training uses; ``Role.scores`` are raw.
        facts: all of ``gnomon.json``.
    """

    members: tuple[Role, ...]
    normaliser: RewardNormaliser
    facts: Mapping[str, Any] = field(default_factory=dict)


def save_policy(folder: Path | str, role: Role, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Save a role's language model; a LoRA adapter is merged into the copy and saved by itself too.

    Args:
        folder: replaced as a whole if it exists.
        role: usually the policy. Its live weights and adapters are not touched.
        facts: more to put into ``gnomon.json`` (JSON values).

    Raises:
        RunError: the disk is full or cannot be written; the old ``folder`` is kept.
    """
    trunk = role.trunk
    model = trunk.model
    state = merge.merged_state(model, role.adapter)
    plain = load.shell(AutoModelForCausalLM, merge.plain_config(model), model.dtype)
    plain.generation_config = savable_generation_config(model)
    with _writing(folder, state) as tmp:
        with load.quietly():
            plain.save_pretrained(tmp, state_dict=state)
            trunk.tokenizer.save_pretrained(tmp)
        _finish(tmp, "policy", role, facts)
    return Path(folder)


def save_adapter(folder: Path | str, trunk: Trunk, name: str) -> Path:
    """Save one adapter as a folder that ``PeftModel.from_pretrained`` loads on the base model.

    Its ``base_model_name_or_path`` is the base's hub id, or the absolute path of its folder.
    """
    parameters = trunk.adapter_parameters(name)
    tensors = {
        PEFT_PREFIX + key: parameter.detach().cpu().contiguous()
        for key, parameter in parameters.items()
    }
    with _writing(folder, tensors) as tmp:
        config = copy.deepcopy(trunk.model.peft_config[name])
        config.base_model_name_or_path = _place(trunk.source) if trunk.source else None
        config.inference_mode = True
        config.save_pretrained(str(tmp))
        save_file(tensors, tmp / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        _write_json(tmp / FACTS, {"kind": "adapter", **_base(trunk)})
    return Path(folder)


def save_reward_model(
    folder: Path | str,
    members: Role | Sequence[Role],
    *,
    normaliser: RewardNormaliser | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Save a reward model, or an ensemble, that plain transformers and gnomon both load.

    One role gives one folder that ``AutoModelForSequenceClassification`` loads, with as many labels
    as its head has outputs. Its padding token is never EOS, so that pooling finds the last token.
    Several roles give such folders named ``member-0``, ``member-1``, ... in ``folder``.

    Raises:
        ModelError: a role without a head, or with a bias (plain reward models have none).
        RunError: the disk is full or cannot be written; the old ``folder`` is kept.
    """
    roles = [members] if isinstance(members, Role) else list(members)
    scaled = {**(facts or {}), "normaliser": asdict(normaliser or RewardNormaliser())}
    if len(roles) == 1:
        return _save_reward(Path(folder), roles[0], scaled)
    with _writing(folder, {}) as tmp:
        for index, role in enumerate(roles):
            _save_reward(tmp / f"member-{index}", role, {})
        _write_json(tmp / FACTS, {**scaled, "kind": "reward_ensemble", "members": len(roles)})
    return Path(folder)


def load_reward_model(
    source: Path | str,
    *,
    share_trunk: Trunk | None = None,
    name: str = "reward_model",
    trainable: bool = False,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
) -> LoadedReward:
    """Load a reward model: gnomon's own, or any sequence classification model of transformers.

    Args:
        source: a folder or hub id.
        share_trunk: when the reward model is an adapter trained on these very weights (equal
            fingerprints), the adapter is put on this trunk and no other copy is loaded.
        name: of the role (and its adapter); a number is added where the name is taken.
        trainable: whether the role may be trained further.
        dtype, device: of a copy of its own.

    Raises:
        ModelError: not a reward model, not safetensors, incomplete.
    """
    found = load.resolve(source)
    facts: dict[str, Any] = {}
    if isinstance(found, Path) and (found / FACTS).is_file():
        facts = load.read_json(found / FACTS)
    if facts.get("kind") == "reward_ensemble" and isinstance(found, Path):
        folders = [found / f"member-{i}" for i in range(int(facts["members"]))]
    else:
        folders = [load.fetch(source)]
    roles = []
    for index, folder in enumerate(folders):
        title = name if len(folders) == 1 else f"{name}_{index}"
        roles.append(_load_reward(folder, share_trunk, title, trainable, dtype, device))
    return LoadedReward(tuple(roles), _normaliser(facts), facts)


def _save_reward(folder: Path, role: Role, facts: Mapping[str, Any]) -> Path:
    head, trunk = role.head, role.trunk
    if head is None or head.bias is not None:
        raise ModelError(
            f"role {role.name!r} cannot be saved as a reward model: it needs a scalar head "
            "without bias (ScalarHead(hidden_size))"
        )
    config = merge.plain_config(trunk.model)
    text = config.get_text_config()
    eos = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    tokenizer, rows = merge.padding_for_pooling(
        trunk.tokenizer, text.vocab_size, {e for e in eos if e is not None}
    )
    config.num_labels = head.outputs
    config.problem_type = "regression"
    text.pad_token_id = tokenizer.pad_token_id
    merged = merge.merged_state(trunk.model, role.adapter)
    if rows > text.vocab_size:
        merge.grow_embedding(trunk.model, merged, rows)
        text.vocab_size = rows
    plain = load.shell(AutoModelForSequenceClassification, config, trunk.model.dtype)
    state = merge.reward_state(trunk.model, merged, head.weight.detach(), plain)
    with _writing(folder, state) as tmp:
        with load.quietly():
            plain.save_pretrained(tmp, state_dict=state)
            tokenizer.save_pretrained(tmp)
        _finish(tmp, "reward_model", role, facts)
    return folder


def _load_reward(
    folder: Path,
    share: Trunk | None,
    name: str,
    trainable: bool,
    dtype: str,
    device: str | torch.device,
) -> Role:
    weight, bias = _score(folder)
    head = ScalarHead(weight.shape[1], weight.shape[0], bias=bias is not None)
    head.load_state_dict({"weight": weight.float()} | ({"bias": bias} if bias is not None else {}))
    facts = load.read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    if share is not None and (folder / ADAPTER / ADAPTER_CONFIG).is_file():
        if share.fingerprint and facts.get("base_fingerprint") == share.fingerprint:
            adapter = _free_name(name, share)
            share.add_adapter(adapter, init_from=folder / ADAPTER)
            return Role(name, share, adapter=adapter, head=head, trainable=trainable)
        log.info("%s was trained on other weights: it gets a copy of its own", folder)
    config, tokenizer = load.read_model(folder)
    model = load.load_weights(AutoModel, folder, config=config, dtype=load.dtype_of(dtype))
    trunk = Trunk(
        placed(model, device),
        tokenizer,
        fingerprint=load.fingerprint(folder),
        source=str(folder),
    )
    return Role(name, trunk, head=head, trainable=trainable)


def _score(folder: Path) -> tuple[Tensor, Tensor | None]:
    """The scalar head in a sequence classification folder: weight [n, H] and bias [n] or None."""
    found: dict[str, Tensor] = {}
    for file in load.weight_files(folder):
        with load.reading(file), safe_open(file, "pt") as tensors:
            for key in {"score.weight", "score.bias"} & set(tensors.keys()):
                found[key] = tensors.get_tensor(key)
    if "score.weight" not in found:
        raise ModelError(f"{folder} is not a reward model: its weights have no score.weight")
    return found["score.weight"], found.get("score.bias")


def _normaliser(facts: Mapping[str, Any]) -> RewardNormaliser:
    stored = facts.get("normaliser", {})
    return RewardNormaliser(
        **{k: tuple(v) if isinstance(v, list) else float(v) for k, v in stored.items()}
    )


def _free_name(name: str, trunk: Trunk) -> str:
    taken, number = trunk.adapters, 2
    if name not in taken:
        return name
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _finish(tmp: Path, kind: str, role: Role, facts: Mapping[str, Any] | None) -> None:
    if role.adapter is not None:
        save_adapter(tmp / ADAPTER, role.trunk, role.adapter)
    about = {"kind": kind, "role": role.name, **_base(role.trunk), "adapter": role.adapter}
    _write_json(tmp / FACTS, {**(facts or {}), **about})


def _base(trunk: Trunk) -> dict[str, str]:
    return {"base_fingerprint": trunk.fingerprint, "base_source": trunk.source}


def savable_generation_config(model: PreTrainedModel) -> Any:
    """The model's generation settings, as ``save_pretrained`` accepts them."""
    config = copy.deepcopy(model.generation_config)
    try:
        config.validate(strict=True)
    except ValueError:
        # Some published models set a temperature but no sampling, which save_pretrained refuses.
        config.do_sample = True
    return config


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _writing(folder: Path | str, tensors: Mapping[str, Tensor]) -> Iterator[Path]:
    """``write_folder`` with the room the tensors need; weights that are not finite are refused.

    Raises:
        RunError: a tensor holds a NaN or an infinity, or the folder cannot be written.
    """
    broken = first_not_finite(tensors)
    if broken is not None:
        raise RunError(
            f"{folder} was not written: {broken} is not finite, so the model cannot be used. Train "
            "it again with a lower train.lr or a smaller train.max_grad_norm."
        )
    need = sum(t.numel() * t.element_size() for t in tensors.values())
    with write_folder(Path(folder), need=need) as tmp:
        yield tmp


def _place(source: str) -> str:
    """A model's source as another program finds it: a hub id, or a folder's absolute path."""
    try:
        found = load.resolve(source)
    except ModelError:
        return source
    return found if isinstance(found, str) else str(found.resolve())
